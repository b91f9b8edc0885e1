"""Sizes of all rows, and the ways they are laid out in a table."""
