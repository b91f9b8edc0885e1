"""The data of a search as a caller of Python has them: a file, a DataFrame, or what was read from one.

What is in memory becomes a file in the search's folder, where ``--resume`` finds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import pyarrow.parquet as pq

from ciess_ray.config.yaml_file import is_data, read_values
from ciess_ray.files.formats import write_parquet
from envs.data import Columns, InteractionLog, Interactions, log_from_frame, log_of_splits, table_of
from envs.errors import ConfigError, ResultError

if TYPE_CHECKING:
    import pandas as pd

Ratings: TypeAlias = Union["pd.DataFrame", str, Path, InteractionLog, Interactions]

#: What messages call data that are in memory.
_SOURCE = "ratings"


@dataclass(frozen=True, eq=False)
class GivenRatings:
    """What somebody gave as the data.

    Attributes:
        dataset: Plain values of the section ``dataset`` that it stands for.
        log: The interactions, where they are in memory.
        values: Where it is a YAML file, all that it says.
        file: That file.
    """

    dataset: dict[str, Any]
    log: InteractionLog | None = None
    values: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None

    @property
    def file_name(self) -> str:
        """Of the file in the search's folder that interactions in memory become."""
        has_splits = self.log is not None and self.log.split is not None
        return "ratings.splits.parquet" if has_splits else "ratings.parquet"

    def keep(self, folder: Path, *, overwrite: bool) -> None:
        """Leave interactions that are in memory in the folder of a search.

        Raises:
            ResultError: Others lie there already, and may not be replaced.
        """
        if self.log is None:
            return
        table, file = table_of(self.log), folder / self.file_name
        if file.exists() and not overwrite and not pq.read_table(file).equals(table):
            raise ResultError(
                f"{file}: holds other ratings than these; name another output, or overwrite it."
            )
        write_parquet(file, table)


def read_ratings(ratings: Ratings | None, names: Mapping[str, str]) -> GivenRatings:
    """See what somebody gave, under the checks that a file's rows go through.

    Args:
        ratings: A file of data or of YAML, a DataFrame, or interactions; None where fields name the data.
        names: Names of columns by role: user, item, rating, timestamp.

    Raises:
        CiessError: A column is missing, a value cannot be used, or it is nothing of the kind.
    """
    named = {"columns": dict(names)} if names else {}
    if ratings is None:
        return GivenRatings(named)
    if isinstance(ratings, str | Path):
        path = Path(ratings)
        if is_data(path):
            return GivenRatings({"path": str(path), "sample": None, **named})
        return GivenRatings(named, values=read_values(path), file=path)
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
    return GivenRatings({"sample": None, "format": "auto", "columns": None}, log)
