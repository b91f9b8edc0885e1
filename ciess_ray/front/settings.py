"""What a caller of Python asks for, as the plain values of a YAML file, and the data that are given with it.

Data are a file, a DataFrame, or what was read from one; what is in memory becomes a file in the search's
folder, where ``--resume`` finds it.
"""

import copy
import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import pyarrow.parquet as pq

from ciess_ray.config.yaml_file import dotted_fields, is_data, put_field, read_values
from ciess_ray.files.formats import write_parquet
from envs.data import Columns, InteractionLog, Interactions, log_from_frame, log_of_splits, table_of
from envs.errors import ConfigError, ResultError

if TYPE_CHECKING:
    import pandas as pd

Ratings: TypeAlias = Union["pd.DataFrame", str, Path, InteractionLog, Interactions]


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
        log = log_from_frame(ratings, Columns(**names) if names else None, source="ratings")
    else:
        raise ConfigError(
            f"ratings: a {type(ratings).__name__} is none of a DataFrame, a path, or interactions of "
            "envs.data; make a DataFrame of it, with a row an interaction."
        )
    return GivenRatings({"sample": None, "format": "auto", "columns": None}, log)


class TemporaryFolder:
    """A folder that is there as long as this object, or something that keeps it.

    Attributes:
        path: The folder.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ciess-ray-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class Settings:
    """What was asked for.

    Attributes:
        values: Plain values, as a YAML file has them.
        source: What messages call them.
        folder: What the name of a further file in them is relative to.
        given: The data.
        keeper: What the output folder lives as long as, where nobody asked for one.
    """

    values: dict[str, Any]
    source: str
    folder: Path
    given: GivenRatings
    keeper: TemporaryFolder | None


def settings_of(
    verb: str,
    ratings: Ratings | None,
    columns: Mapping[str, str | None],
    output: str | Path | None,
    fields: Mapping[str, Any],
    sections: Collection[str],
) -> Settings:
    """Put what a caller gave over what its file says.

    Args:
        verb: ``search``, ``sweep`` or ``compare``.
        ratings: The data, or a YAML file.
        columns: Names of columns by role; None for one that is not named.
        output: The output folder; None for what the file says, or a temporary one.
        fields: Fields by dotted names, or sections as mappings.
        sections: Which names are sections.

    Raises:
        CiessError: The data or the file cannot be read, or fields contradict each other.
    """
    given = read_ratings(ratings, {role: name for role, name in columns.items() if name is not None})
    values, source = given.values, str(given.file or f"ciess_ray.{verb}")
    folder = given.file.parent if given.file else Path()
    # What the caller has stays as it is.
    fields = copy.deepcopy(dotted_fields(fields, sections))
    for name, value in fields.items():
        put_field(values, name, value)
    keeper = None
    if output is not None:
        values["output"] = str(output)
    elif "output" not in values:
        keeper = TemporaryFolder()
        values["output"] = str(keeper.path / verb)
    values.setdefault("tracking", {"mlflow": False})
    if given.dataset:
        prefix = "dataset" if verb == "search" else "base.dataset"
        if verb != "search" and isinstance(base := values.get("base"), str | Path):
            values["base"] = read_values(folder / base)
        if given.log is not None and "://" in str(values["output"]):
            raise ConfigError(
                f"{source}: ratings in memory are kept in a folder, which {values['output']} is not; write "
                "them to a file that every node reaches, and give its path."
            )
        path = {} if given.log is None else {"path": str(Path(values["output"]) / given.file_name)}
        for name, value in (given.dataset | path).items():
            if f"{prefix}.{name}" in fields:
                raise ConfigError(
                    f"{prefix}.{name}: the ratings that were given say it already; leave it out."
                )
            put_field(values, f"{prefix}.{name}", value)
    return Settings(values, source, folder, given, keeper)
