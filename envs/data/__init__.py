"""Interactions: read, generated, thinned and split."""

from envs.data.columns import Columns
from envs.data.interactions import InteractionLog, Interactions, Keep
from envs.data.readers import (
    READERS,
    SAMPLES,
    Reader,
    guess_format,
    read_column_names,
    read_interactions,
    read_sample,
)
from envs.data.split import TEST_SHARE, k_core, split_by_time, split_interactions
from envs.data.synthetic import generate_interactions
from envs.data.tables import log_from_frame, log_of_splits, table_of

__all__ = [
    "READERS",
    "SAMPLES",
    "TEST_SHARE",
    "Columns",
    "InteractionLog",
    "Interactions",
    "Keep",
    "Reader",
    "generate_interactions",
    "guess_format",
    "k_core",
    "log_from_frame",
    "log_of_splits",
    "read_column_names",
    "read_interactions",
    "read_sample",
    "split_by_time",
    "split_interactions",
    "table_of",
]
