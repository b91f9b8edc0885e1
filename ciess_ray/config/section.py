"""What the parts of every configuration have in common, and kinds of field."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from os.path import expanduser
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)
from pydantic_core import PydanticCustomError

from ciess_ray.config.credentials import without_secrets
from envs.budget import MemoryBudget
from envs.data.places import is_uri
from envs.errors import ConfigError, check_name, within

#: The smallest part of a CPU or a GPU that Ray knows.
_LEAST_CLAIM = 1e-4
#: A URI, or what becomes of one that is made a path.
_ANY_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def refuse_equal_budgets(where: str, budgets: Iterable[str | float]) -> None:
    """Refuse a list that names a budget twice, be it in two spellings.

    Raises:
        BudgetError: One cannot be read.
        ConfigError: Two are the same.
    """
    with within(where):
        read = [str(MemoryBudget.parse(budget)) for budget in budgets]
    refuse_twice(where, read)


def refuse_twice(where: str, values: Iterable[Any]) -> None:
    """Refuse a list that has a value twice.

    Raises:
        ConfigError: It has one.
    """
    # 1 and 1.0 are one seed.
    whole = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    counts = Counter(json.dumps(value, sort_keys=True) for value in whole)
    twice = sorted(value for value, count in counts.items() if count > 1)
    if twice:
        raise ConfigError(f"{where}: {', '.join(twice)} stands there twice; once is enough.")


def _refuse_empty(path: Any) -> Any:
    """To the operating system an empty name is the folder that a command was started in."""
    if path == "":
        raise PydanticCustomError("empty_name", "an empty name; name a file or a folder")
    return path


def _refuse_uri(path: Any) -> Any:
    """As a path it would be a folder by the name of its scheme, where a command was started."""
    if _ANY_URI.match(str(path)):
        raise PydanticCustomError("uri", "a URI, where only a path does; name a folder, or mount it as one")
    return path


def _as_data_place(path: Any) -> Any:
    """A path of data, or a URI as it is."""
    if not isinstance(path, str | Path) or path == "":
        return _refuse_empty(path)
    if not is_uri(path):
        return Path(expanduser(path))
    if without_secrets(path) != path:
        raise PydanticCustomError(
            "secret", "a URI with credentials in it, which a result would tell; leave them to the environment"
        )
    return path


#: A field that names a file or a folder.
Place = Annotated[
    Path,
    BeforeValidator(_refuse_uri),
    BeforeValidator(_refuse_empty),
    AfterValidator(lambda path: Path(expanduser(path))),
]
#: One that names data: a path, or a URI, which as a path would lose a stroke.
DataPlace = Annotated[Path | str, BeforeValidator(_as_data_place)]
#: One that names a service. What is written anywhere is read by others.
Uri = Annotated[str, PlainSerializer(without_secrets, when_used="json")]
#: A folder, or a URI in its place.
Location = Annotated[Uri, BeforeValidator(_refuse_empty)]


def one_of(where: str, names: Iterable[str]) -> AfterValidator:
    """For a name of a table; what pydantic says of a wrong one lacks the nearest that is right."""
    return AfterValidator(lambda name: check_name(where, name, names))


def _check_gpus(amount: float) -> float:
    if 0 < amount < _LEAST_CLAIM or (amount > 1 and not amount.is_integer()):
        raise PydanticCustomError(
            "gpus", f"Ray deals in no less than {_LEAST_CLAIM:g} of a GPU, and above 1 in whole GPUs"
        )
    return amount


#: A list of names; one alone is a list of it.
Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda names: [names] if isinstance(names, str) else names)
]
#: Amounts that are claimed of a Ray cluster.
CpuClaim = Annotated[float, Field(ge=_LEAST_CLAIM)]
GpuClaim = Annotated[float, Field(ge=0), AfterValidator(_check_gpus)]


#: Seconds of the units of a duration.
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)")


def seconds_of(duration: str) -> float:
    """Seconds of a duration such as ``10m``.

    Raises:
        PydanticCustomError: It is none, or 0.
    """
    match = _DURATION.fullmatch(duration.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not seconds:
        raise PydanticCustomError("duration", "no duration; write 90s, 10m or 1h")
    return seconds


def _check_duration(duration: str) -> str:
    seconds_of(duration)
    return duration


#: A duration, with its unit.
Duration = Annotated[str, AfterValidator(_check_duration)]
