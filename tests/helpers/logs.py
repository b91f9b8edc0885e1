"""Interactions of a few rows, written out."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from envs.data import InteractionLog, log_from_frame


def log_of(
    user: Sequence[Any],
    item: Sequence[Any],
    rating: Sequence[float] | None = None,
    timestamp: Sequence[int] | None = None,
    source: str = "the DataFrame",
) -> InteractionLog:
    """The log of a DataFrame with these columns."""
    columns = {"user_id": user, "item_id": item, "rating": rating, "timestamp": timestamp}
    frame = pd.DataFrame({name: values for name, values in columns.items() if values is not None})
    return log_from_frame(frame, source=source)
