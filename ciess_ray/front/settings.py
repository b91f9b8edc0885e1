"""What a caller of Python asks for, as the plain values of a YAML file, and the data that are given with it.

Data are a file, a DataFrame, or what was read from one; what is in memory becomes a file in the search's
folder, where ``--resume`` finds it.
"""

import copy
import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import pyarrow.parquet as pq

from ciess_ray.config.yaml_file import dotted_fields, is_data, put_field, read_values
from ciess_ray.files.formats import write_parquet
from envs.data import Columns, InteractionLog, Interactions, Keep, log_from_frame, log_of_splits, table_of
from envs.errors import ConfigError, ResultError

if TYPE_CHECKING:
    import pandas as pd

Ratings: TypeAlias = Union["pd.DataFrame", str, Path, InteractionLog, Interactions]

#: Of columns, in the order in which the verbs name them.
_ROLES = ("user", "item", "rating", "timestamp")


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
        keeper: What the output folder lives as long as, where nobody asked for one.
        log: The interactions, where they are in memory.
        log_file: What these become in the output folder.
    """

    values: dict[str, Any]
    source: str
    folder: Path
    keeper: TemporaryFolder | None
    log: InteractionLog | None
    log_file: Path | None

    def keep_ratings(self, *, overwrite: bool) -> None:
        """Leave interactions that are in memory in the output folder.

        Raises:
            ResultError: Others lie there already, and may not be replaced.
        """
        if self.log is None or self.log_file is None:
            return
        table, file = table_of(self.log), self.log_file
        if file.exists() and not overwrite and not pq.read_table(file).equals(table):
            raise ResultError(
                f"{file}: holds other ratings than these; name another output, or overwrite it."
            )
        write_parquet(file, table)


def settings_of(
    verb: str,
    ratings: Ratings | None,
    columns: Sequence[str | None],
    output: str | Path | None,
    fields: Mapping[str, Any],
    sections: Collection[str],
) -> Settings:
    """Put what a caller gave over what its file says.

    Args:
        verb: ``search``, ``sweep``, ``compare`` or ``stream``.
        ratings: The data, or a YAML file; None where fields name the data.
        columns: Names of the columns of users, items, ratings and times; None for one that is not named.
        output: The output folder; None for what the file says, or a temporary one.
        fields: Fields by dotted names, or sections as mappings.
        sections: Which names are sections.

    Raises:
        CiessError: The data or the file cannot be read, or fields contradict each other.
    """
    names = {role: name for role, name in zip(_ROLES, columns, strict=True) if name is not None}
    dataset: dict[str, Any] = {"columns": names} if names else {}
    file: Path | None = None
    log: InteractionLog | None = None
    if isinstance(ratings, str | Path) and is_data(ratings):
        dataset |= {"path": str(ratings), "sample": None}
    elif isinstance(ratings, str | Path):
        file = Path(ratings)
    elif ratings is not None:
        log = log_of(ratings, names, "first" if verb == "stream" else "last")
    values = {} if file is None else read_values(file)
    source = str(file or f"ciess_ray.{verb}")
    folder = file.parent if file else Path()
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
    if "tracking" in sections:
        values.setdefault("tracking", {"mlflow": False})
    log_file = None
    if log is not None:
        if "://" in str(values["output"]):
            raise ConfigError(
                f"{source}: ratings in memory are kept in a folder, which {values['output']} is not; write "
                "them to a file that every node reaches, and give its path."
            )
        name = "ratings.parquet" if log.split is None else "ratings.splits.parquet"
        log_file = Path(str(values["output"])).expanduser() / name
        dataset = {"path": str(log_file), "sample": None, "format": "auto", "columns": None}
    has_base = verb in ("sweep", "compare")
    prefix = "base.dataset" if has_base else "dataset"
    if dataset and has_base and isinstance(base := values.get("base"), str | Path):
        values["base"] = read_values(folder / base)
    for name, value in dataset.items():
        if f"{prefix}.{name}" in fields:
            raise ConfigError(f"{prefix}.{name}: the ratings that were given say it already; leave it out.")
        put_field(values, f"{prefix}.{name}", value)
    return Settings(values, source, folder, keeper, log, log_file)


def log_of(ratings: Any, names: Mapping[str, str], keep: Keep = "last") -> InteractionLog:
    """Interactions that are in memory, under the checks that a file's rows go through.

    Args:
        ratings: A DataFrame, or interactions.
        names: Names of columns by role: user, item, rating, timestamp.
        keep: Which of several rows with the same user and item.

    Raises:
        CiessError: A column is missing, a value cannot be used, or it is nothing of the kind.
    """
    if isinstance(ratings, InteractionLog | Interactions):
        if names:
            raise ConfigError(f"{', '.join(names)}: interactions of envs.data have no columns to name.")
        return ratings if isinstance(ratings, InteractionLog) else log_of_splits(ratings)
    if hasattr(ratings, "iloc") and hasattr(ratings, "columns"):
        return log_from_frame(ratings, Columns(**names) if names else None, source="ratings", keep=keep)
    raise ConfigError(
        f"ratings: a {type(ratings).__name__} is none of a DataFrame, a path, or interactions of "
        "envs.data; make a DataFrame of it, with a row an interaction."
    )
