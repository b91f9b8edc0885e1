"""Recommenders that are trained for a search: full size, the supernet, candidates."""
