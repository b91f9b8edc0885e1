"""Recommenders that are trained on as a log goes on, within a budget that stays."""
