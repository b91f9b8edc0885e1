"""What a caller of Python asks for, as the plain values of a YAML file."""

import copy
import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciess_ray.config.yaml_file import dotted_fields, put_field, read_values
from ciess_ray.front.ratings import GivenRatings, Ratings, read_ratings
from envs.errors import ConfigError


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
