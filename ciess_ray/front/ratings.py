"""The data of a search as a caller of Python has them: a file, a DataFrame, or what was read from one.

What is in memory becomes a file in the search's folder, where ``--resume`` finds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from ciess_ray.config.yaml_file import values_of_file
from envs.data import Columns, InteractionLog, Interactions, log_from_frame, log_of_splits
from envs.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

Ratings: TypeAlias = Union["pd.DataFrame", str, Path, InteractionLog, Interactions]

#: What messages call such data.
_SOURCE = "ratings"


@dataclass(frozen=True, eq=False)
class GivenRatings:
    """Data that have been read, or the file that has them.

    Attributes:
        values: Plain values of the configuration that they stand for.
        source: What messages call that configuration.
        log: The interactions, where they are in memory.
    """

    values: dict[str, Any]
    source: str
    log: InteractionLog | None = None

    @property
    def file_name(self) -> str:
        """Of the file in the search's folder that interactions in memory become."""
        has_splits = self.log is not None and self.log.split is not None
        return "ratings.splits.parquet" if has_splits else "ratings.parquet"


def read_ratings(ratings: Ratings | None, names: Mapping[str, str]) -> GivenRatings:
    """See what somebody gave, under the checks that a file's rows go through.

    Args:
        ratings: A file of data or of YAML, a DataFrame, or interactions; None where fields name the data.
        names: Names of columns by role: user, item, rating, timestamp.

    Raises:
        CiessError: A column is missing, a value cannot be used, or it is nothing of the kind.
    """
    if isinstance(ratings, str | Path):
        values = values_of_file(Path(ratings))
        if names:
            values["dataset"] = {**(values.get("dataset") or {}), "columns": dict(names)}
        return GivenRatings(values, str(ratings))
    if ratings is None:
        return GivenRatings({"dataset": {"columns": dict(names)}} if names else {}, "ciess_ray.search")
    if isinstance(ratings, InteractionLog | Interactions):
        if names:
            raise ConfigError(f"{', '.join(names)}: interactions of envs.data have no columns to name.")
        log = ratings if isinstance(ratings, InteractionLog) else log_of_splits(ratings)
    elif hasattr(ratings, "iloc") and hasattr(ratings, "columns"):
        log = log_from_frame(ratings, Columns(**names) if names else None, source=_SOURCE)
    else:
        raise ConfigError(
            f"ratings: a {type(ratings).__name__} is none of a DataFrame, a path, or interactions of "
            "envs.data; make a DataFrame of it, with a row an interaction."
        )
    return GivenRatings({}, "ciess_ray.search", log)
