"""Many runs that differ in some fields: a base configuration, and a space of which each point is a run.

Points are plain lists of fields, drawn here and not by Tune, so that they can be shown and checked before the
first one starts and are the same when runs are gone on with.
"""

import copy
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from ciess_ray.config.keys import digest
from ciess_ray.config.run import TrackingConfig
from ciess_ray.config.section import Place, Section, refuse_equal_budgets, refuse_twice
from ciess_ray.config.yaml_file import (
    check_values,
    dotted_fields,
    parse_config,
    put_field,
    put_overrides,
    read_values,
    section_names,
)
from ciess_ray.streams import Stream, rng_of
from envs.data.places import is_uri, name_of
from envs.errors import ConfigError, within

#: Fields that are set for every run.
_OWN_FIELDS = ("output", "cache", "tracking")
_DISTRIBUTIONS = ("grid", "choice", "uniform", "loguniform")
_SQLITE = "sqlite:///"
#: More trials than anybody means; 10 ** 5 definitions are some 100 MB.
_MAX_TRIALS = 100_000
_MAX_SLUG = 120


class ManyRuns(Section):
    """What runs share that differ in some fields."""

    base: Place | dict[str, Any] = Field(
        description="configuration of a search, or for a sweep of a stream, that all of them share: a YAML "
        "file, relative to this one, or its fields"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="fields that all of them have instead, by dotted name"
    )
    space: dict[str, Any] = Field(
        min_length=1,
        description="fields that differ, by dotted name: a list is a grid; {choice: [...]}, {uniform: [a, "
        "b]} and {loguniform: [a, b]} are drawn",
    )
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @field_validator("set", "space", mode="before")
    @classmethod
    def _name_fields(cls, fields: Any, info: ValidationInfo) -> Any:
        """What stands there by dotted names; an override nests them."""
        if not isinstance(fields, Mapping):
            return fields
        return dotted_fields(fields, section_names() if info.field_name == "space" else None)

    @model_validator(mode="after")
    def _check_fields(self) -> "ManyRuns":
        names = [*self.set, *self.space]
        for name in names:
            if name.split(".")[0] in _OWN_FIELDS:
                raise ConfigError(f"a sweep sets {name} of its trials itself; leave it out.")
            # Which of two would count depends on their order.
            overlapping = [other for other in names if f"{name}.".startswith(f"{other}.")]
            if len(overlapping) > 1:
                raise ConfigError(
                    f"set and space: {name} stands there twice, or is a part of {overlapping[0]}; keep one."
                )
        for name, values in self.space.items():
            dimension_of(name, values)
        return self


@dataclass(frozen=True)
class Trial:
    """One point of a grid.

    Attributes:
        name: Its folder and what people call it.
        fields: What it has that others have not, by dotted name.
        config: The whole configuration: a search's, or what the plan reads in its place.
    """

    name: str
    fields: dict[str, Any]
    config: Any


class Grid:
    """Runs that differ in some fields, each of them checked.

    Args:
        config: What they share, and the fields that differ.
        base_values: Plain values of what all of them share.
        source: What messages call their file.
        num_samples: Draws for each point of the grid.
        seed: Of what is drawn.

    Attributes:
        model: What they are read as.
        trials: Every point, in order.

    Raises:
        ConfigError: A point is wrong; it is named by what it differs in.
    """

    model: ClassVar[type[ManyRuns]]

    def __init__(
        self,
        config: ManyRuns,
        base_values: Mapping[str, Any],
        source: str,
        *,
        num_samples: int = 1,
        seed: int = 0,
    ) -> None:
        # Runs have folders of their own.
        space = {name: absolute_paths(values, name) for name, values in config.space.items()}
        self.config, self.source = config.model_copy(update={"space": space}), source
        self.base_values = copy.deepcopy({n: v for n, v in base_values.items() if n not in _OWN_FIELDS})
        # A run of many has one.
        if isinstance(budgets := self.base_values.get("budget"), list) and budgets:
            self.base_values["budget"] = budgets[0]
        for name, value in config.set.items():
            with within(f"{source}: set"):
                put_field(self.base_values, name, value)
        self.base_values = absolute_paths(self.base_values)
        definitions = list(_definitions(space, num_samples, seed))
        digits = len(str(len(definitions) - 1))
        self.trials = []
        for number, fields in enumerate(definitions):
            # Before its name, which takes fields to be well-formed.
            run = self.parse(fields)
            if isinstance(run.budget, tuple) and len(run.budget) > 1:
                raise ConfigError(
                    f"{source}: budget={run.budget}: a trial has one; name each under space.budget."
                )
            self.trials.append(Trial(f"{number:0{digits}}_{slug(fields)}", fields, run))

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file and check every run of it.

        Args:
            path: The file.
            overrides: Fields of it to change, e.g. ``num_samples=3``.

        Raises:
            ConfigError: The file or its base is missing, or a field is wrong.
        """
        return cls.of(put_overrides(read_values(path), overrides), str(path), path.parent)

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str, folder: Path) -> Self:
        """Check every run of plain values.

        Args:
            values: As in the file.
            source: What messages call them.
            folder: What ``base`` is relative to.

        Raises:
            ConfigError: They are one search's, a field is wrong, or the base is missing.
        """
        if "dataset" in values and not {"base", "space"} & values.keys():
            raise ConfigError(
                f"{source}: it is one search's; hand it to 'ciess-ray search', or name it as the base of a "
                "file with a space."
            )
        config = check_values(cls.model, values, source)
        base = read_values(folder / config.base) if isinstance(config.base, Path) else config.base
        return cls(config, base, source)

    def values(self) -> dict[str, Any]:
        """Plain values that the same grid is made of, wherever they are read."""
        values = self.config.model_dump(mode="json", exclude={"base", "set"})
        file = values["tracking"]["uri"].removeprefix(_SQLITE)
        if file != values["tracking"]["uri"] and not file.startswith("file:"):
            values["tracking"]["uri"] = f"{_SQLITE}{Path(file).absolute()}"
        return values | {"base": self.base_values}

    def read(self, values: Mapping[str, Any], source: str) -> Any:
        """The configuration that the plain values of a point are; without a refit unless they say so."""
        search = values.get("search", {})
        # Many runs are there to be compared, and hardly one of their tables to be used.
        compared = {"search": {"refit": False, **search}} if isinstance(search, Mapping) else {}
        run = parse_config({**values, **compared}, source)
        if run.search.user_share < 1:
            raise ConfigError(
                f"{source}: search.user_share: what many runs share is trained on everybody, and so they are "
                "compared: leave it out."
            )
        return run

    def parse(self, fields: Mapping[str, Any]) -> Any:
        """The configuration of the point that differs in these fields."""
        values = copy.deepcopy(self.base_values)
        for name, value in fields.items():
            put_field(values, name, value)
        differs = ", ".join(f"{name}={value}" for name, value in fields.items())
        source = f"{self.source}: the trial of {differs}" if differs else self.source
        return self.read(values, source)


def absolute_paths(values: Any, name: str = "") -> Any:
    """Plain values with the paths of data from the root on; a relative one is of where a command is started.

    Args:
        values: Of a field, of a dimension of it, or of a whole configuration.
        name: The dotted name of the field.
    """
    return _with_paths(
        values, lambda path: str(path) if is_uri(path) else str(Path(expanduser(path)).absolute()), name
    )


def _with_paths(values: Any, change: Callable[[str | Path], str], name: str = "") -> Any:
    """Plain values with every path of data changed."""
    if isinstance(values, Mapping):
        inner = {key: name if key in _DISTRIBUTIONS else f"{name}.{key}".lstrip(".") for key in values}
        return {key: _with_paths(value, change, inner[key]) for key, value in values.items()}
    if isinstance(values, list):
        return [_with_paths(value, change, name) for value in values]
    # An empty one is refused with its field.
    is_path = name == "dataset.path" and isinstance(values, str | Path) and str(values)
    return change(values) if is_path else values


def dimension_of(name: str, values: Any) -> tuple[str, Any]:
    """How a dimension is written, ``grid`` for a list or the name of a distribution, and what it is given.

    Raises:
        ConfigError: It is neither, or has nothing to choose from, or something twice.
    """
    kind, given = "grid", values
    if isinstance(values, dict) and len(values) == 1:
        ((kind, given),) = values.items()
    if kind in ("uniform", "loguniform"):
        least, above = (0, " and above 0") if kind == "loguniform" else (-math.inf, "")
        is_pair = isinstance(given, list) and len(given) == 2 and {*map(type, given)} <= {int, float}
        if not is_pair or not least < given[0] < given[1] < math.inf:
            raise ConfigError(
                f"space.{name}: {kind} takes two numbers, the lower first{above}, not {given!r}."
            )
    elif kind not in _DISTRIBUTIONS or not isinstance(given, list):
        kinds = ", ".join(f"{{{kind}: [...]}}" for kind in _DISTRIBUTIONS)
        raise ConfigError(f"space.{name}: expected a list of values or one of {kinds}, not {values!r}.")
    elif not given:
        raise ConfigError(f"space.{name}: an empty {kind}; name at least one value, or leave the field out.")
    else:
        # Budgets are the same in any spelling.
        is_budget = name == "budget" and all(isinstance(value, str | float | int) for value in given)
        refuse = refuse_equal_budgets if is_budget else refuse_twice
        refuse(f"space.{name}", given)
    return kind, given


def _definitions(space: Mapping[str, Any], num_samples: int, seed: int) -> Iterator[dict[str, Any]]:
    """Every point of the grid with every draw; draws of the same number are the same at every point."""
    dimensions = {name: dimension_of(name, values) for name, values in space.items()}
    grids = {name: given for name, (kind, given) in dimensions.items() if kind == "grid"}
    drawn = [(name, dimension) for name, dimension in dimensions.items() if name not in grids]
    num_trials = num_samples * math.prod(len(values) for values in grids.values())
    if num_trials > _MAX_TRIALS:
        raise ConfigError(
            f"space: {num_trials:,} trials are more than the {_MAX_TRIALS:,} that are possible."
        )
    draws = [
        {
            name: _draw(*dimension, rng_of(seed, Stream.SWEEP, sample, position))
            for position, (name, dimension) in enumerate(drawn)
        }
        for sample in range(num_samples)
    ]
    for point in itertools.product(*grids.values()):
        for draw in draws:
            chosen = dict(zip(grids, point, strict=True)) | draw
            yield {name: chosen[name] for name in space}


def _draw(kind: str, given: Any, rng: np.random.Generator) -> Any:
    if kind == "choice":
        return given[int(rng.integers(len(given)))]
    if kind == "uniform":
        return float(rng.uniform(*given))
    return float(np.exp(rng.uniform(*np.log(given))))


def slug(fields: Mapping[str, Any]) -> str:
    """Fields as the end of a folder's name, in which no character needs care; what is cut ends in a hash."""
    parts = []
    for name, value in fields.items():
        value = _with_paths(value, name_of, name)
        text = (
            f"{value:.4g}"
            if isinstance(value, float)
            else value
            if isinstance(value, str)
            else json.dumps(value)
        )
        parts.append(f"{name.rsplit('.', 1)[-1] if name != 'recommender.name' else 'recommender'}-{text}")
    joined = "_".join(parts).replace("%", "-percent")
    text = re.sub(r"[^A-Za-z0-9_.-]+", "-", joined).strip("-.")
    return text if len(text) <= _MAX_SLUG else f"{text[: _MAX_SLUG - 9]}-{digest(fields)[:8]}"


def other_fields(fields: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Fields beside data, recommender, budget and seed, as cells of a table."""
    return {
        name: value if isinstance(value, str | int | float) else json.dumps(value)
        for name, value in fields.items()
        if name not in ("dataset", "dataset.path", "recommender.name", "budget", "seed")
    }
