"""Many runs that differ in some fields: a base configuration, and a space of which each point is a run.

Points are plain lists of fields, drawn here and not by Tune, so that they can be shown and checked before the
first one starts and are the same when runs are gone on with.
"""

import copy
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from ciess_ray.config.keys import digest
from ciess_ray.config.run import RunConfig, TrackingConfig
from ciess_ray.config.section import Place, Section, refuse_equal_budgets, refuse_twice
from ciess_ray.config.yaml_file import (
    check_values,
    dotted_fields,
    parse_config,
    put_field,
    read_values,
    section_names,
)
from ciess_ray.streams import Stream, rng_of
from envs.errors import ConfigError

#: Fields that are set for every run.
_OWN_FIELDS = ("output", "cache", "tracking")
_DISTRIBUTIONS = ("grid", "choice", "uniform", "loguniform")
_SQLITE = "sqlite:///"
#: More trials than anybody means; 10 ** 5 definitions are some 100 MB.
_MAX_TRIALS = 100_000
_MAX_SLUG = 120


Runs = TypeVar("Runs", bound="ManyRuns")


class ManyRuns(Section):
    """What runs share that differ in some fields."""

    base: Place | dict[str, Any] = Field(
        description="configuration of a search that all of them share: a YAML file, relative to this one, or "
        "its fields"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="fields that all of them have instead, by dotted name"
    )
    space: dict[str, Any] = Field(
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
        try:
            return dotted_fields(fields, section_names() if info.field_name == "space" else None)
        except ConfigError as error:
            raise error.within(str(info.field_name)) from None

    @field_validator("space")
    @classmethod
    def _check_space(cls, space: dict[str, Any]) -> dict[str, Any]:
        refuse_overlaps("space", space)
        for name, values in space.items():
            _check_dimension(name, values)
        if not space:
            raise ConfigError("space: names no field; one search is 'ciess-ray search'.")
        return space

    @model_validator(mode="after")
    def _check_fields(self) -> "ManyRuns":
        for section, fields in (("set", self.set), ("space", self.space)):
            for name in fields:
                if name.split(".")[0] in _OWN_FIELDS:
                    raise ConfigError(f"{section}: a sweep sets {name} of its trials itself; leave it out.")
        twice = sorted(self.set.keys() & self.space.keys())
        if twice:
            raise ConfigError(f"space: {', '.join(twice)} stands under set too; keep one of the two.")
        refuse_overlaps("set and space", [*self.set, *self.space])
        return self


@dataclass(frozen=True)
class Trial:
    """One point of a grid.

    Attributes:
        name: Its folder and what people call it.
        fields: What it has that others have not, by dotted name.
        config: The whole configuration.
    """

    name: str
    fields: dict[str, Any]
    config: RunConfig


class Grid:
    """Runs that differ in some fields, each of them checked.

    Args:
        config: What they share, and the fields that differ.
        base_values: Plain values of what all of them share.
        source: What messages call their file.
        num_samples: Draws for each point of the grid.
        seed: Of what is drawn.

    Attributes:
        trials: Every point, in order.

    Raises:
        ConfigError: A point is wrong; it is named by what it differs in.
    """

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
        space = {name: _with_absolute_paths(name, values) for name, values in config.space.items()}
        self.config, self.source = config.model_copy(update={"space": space}), source
        self.base_values = copy.deepcopy(dict(base_values))
        for name in _OWN_FIELDS:
            self.base_values.pop(name, None)
        # A run of many has one.
        if isinstance(budgets := self.base_values.get("budget"), list) and budgets:
            self.base_values["budget"] = budgets[0]
        for name, value in config.set.items():
            try:
                put_field(self.base_values, name, value)
            except ConfigError as error:
                raise error.within(f"{source}: set") from None
        if "dataset" in self.base_values:
            self.base_values["dataset"] = with_absolute_path(self.base_values["dataset"])
        definitions = list(_definitions(space, num_samples, seed))
        digits = len(str(len(definitions) - 1))
        self.trials = []
        for number, fields in enumerate(definitions):
            # Before its name, which takes fields to be well-formed.
            run = self.parse(fields)
            if len(run.memory_budgets) > 1:
                raise ConfigError(
                    f"{source}: budget={run.budget}: a trial has one; name each under space.budget."
                )
            self.trials.append(Trial(f"{number:0{digits}}_{slug(fields)}", fields, run))

    def values(self) -> dict[str, Any]:
        """Plain values of the fields of :class:`ManyRuns`, the same wherever they are read."""
        values = self.config.model_dump(mode="json", include={"space", "tracking"})
        file = values["tracking"]["uri"].removeprefix(_SQLITE)
        if file != values["tracking"]["uri"] and not file.startswith("file:"):
            values["tracking"]["uri"] = f"{_SQLITE}{Path(file).absolute()}"
        return values | {"base": self.base_values}

    def parse(self, fields: Mapping[str, Any], **own: Any) -> RunConfig:
        """The configuration of one point.

        Args:
            fields: What it differs in.
            **own: What is set for it: output and cache.
        """
        values = copy.deepcopy(self.base_values)
        for name, value in fields.items():
            put_field(values, name, value)
        told = ", ".join(f"{name}={value}" for name, value in fields.items())
        return parse_config(values | own, f"{self.source}: the trial of {told}" if told else self.source)


def read_many(
    model: type[Runs], values: Mapping[str, Any], source: str, folder: Path
) -> tuple[Runs, Mapping[str, Any]]:
    """The checked model of many runs, and plain values of what all of them share.

    Args:
        model: Of a sweep, or of a comparison.
        values: As in its file.
        source: What messages call them.
        folder: What ``base`` is relative to.

    Raises:
        ConfigError: They are one search's, a field is wrong, or the base is missing.
    """
    refuse_search(values, source)
    config = check_values(model, values, source)
    base = config.base
    return config, read_values(folder / base) if isinstance(base, Path) else base


def refuse_search(values: Mapping[str, Any], source: str) -> None:
    """Refuse the configuration of one search where that of many is expected.

    Raises:
        ConfigError: It has a data set, and neither a base nor a space.
    """
    if "dataset" in values and not {"base", "space"} & values.keys():
        raise ConfigError(
            f"{source}: it is one search's; hand it to 'ciess-ray search', or name it as the base of a "
            "file with a space."
        )


def with_absolute_path(dataset: Any) -> Any:
    """A data set's plain values, its path from the root on; what is no such values is refused elsewhere."""
    if not isinstance(dataset, Mapping) or not isinstance(dataset.get("path"), str | Path):
        return dataset
    return {**dataset, "path": absolute_path(dataset["path"])}


def _with_absolute_paths(name: str, values: Any) -> Any:
    """A dimension with the paths of its data sets from the root on."""
    if name not in ("dataset", "dataset.path"):
        return values
    if isinstance(values, dict):
        return {kind: _with_absolute_paths(name, inner) for kind, inner in values.items()}
    if name == "dataset":
        return [with_absolute_path(value) for value in values]
    return [absolute_path(value) if isinstance(value, str) else value for value in values]


def absolute_path(path: str | Path) -> str:
    """A path from the root on; a relative one is of the folder that a command was started in."""
    # An empty one is refused with its field.
    return str(Path(expanduser(path)).absolute()) if str(path) else ""


def refuse_points_twice(name: str, values: Sequence[Any]) -> None:
    """Refuse a grid, or a choice, that has a value twice; budgets are the same in any spelling.

    Raises:
        ConfigError: It has one, or two spellings of one.
    """
    if name == "budget" and all(isinstance(value, str | float | int) for value in values):
        refuse_equal_budgets(f"space.{name}", values)
    refuse_twice(f"space.{name}", values)


def refuse_overlaps(where: str, names: Iterable[str]) -> None:
    """Refuse fields one of which is a part of another: which of the two would count depends on their order.

    Raises:
        ConfigError: Naming both.
    """
    names = set(names)
    for name in sorted(names):
        parts = name.split(".")
        whole = next((w for w in (".".join(parts[:i]) for i in range(1, len(parts))) if w in names), None)
        if whole is not None:
            raise ConfigError(f"{where}: {name} is a part of {whole}, which stands there too; keep one.")


def _check_dimension(name: str, values: Any) -> None:
    kind = kind_of(values)
    given = values if isinstance(values, list) else values[kind]
    if kind in ("grid", "choice"):
        if not isinstance(given, list) or not given:
            raise ConfigError(
                f"space.{name}: an empty {kind}; name at least one value, or leave the field out."
            )
        refuse_points_twice(name, given)
        return
    is_pair = isinstance(given, list) and len(given) == 2
    if not is_pair or not all(_is_number(bound) for bound in given) or not given[0] < given[1]:
        raise ConfigError(f"space.{name}: {kind} takes two numbers, the lower first, not {given!r}.")
    if kind == "loguniform" and given[0] <= 0:
        raise ConfigError(f"space.{name}: loguniform takes positive numbers, not {given!r}.")


def kind_of(values: Any) -> str:
    """How a dimension is written: ``grid`` for a list, or the name of a distribution.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(values, list):
        return "grid"
    if isinstance(values, dict) and len(values) == 1 and next(iter(values)) in _DISTRIBUTIONS:
        return str(next(iter(values)))
    kinds = ", ".join(f"{{{kind}: [...]}}" for kind in _DISTRIBUTIONS)
    raise ConfigError(f"space: expected a list of values or one of {kinds}, not {values!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _definitions(space: Mapping[str, Any], num_samples: int, seed: int) -> Iterator[dict[str, Any]]:
    """Every point of the grid with every draw; draws of the same number are the same at every point."""
    grids = {name: _values(values) for name, values in space.items() if kind_of(values) == "grid"}
    drawn = {name: values for name, values in space.items() if name not in grids}
    num_trials = num_samples * math.prod(len(values) for values in grids.values())
    if num_trials > _MAX_TRIALS:
        raise ConfigError(
            f"space: {num_trials:,} trials are more than the {_MAX_TRIALS:,} that are possible."
        )
    draws = [
        {
            name: _draw(values, rng_of(seed, Stream.SWEEP, sample, position))
            for position, (name, values) in enumerate(drawn.items())
        }
        for sample in range(num_samples)
    ]
    for point in itertools.product(*grids.values()):
        for draw in draws:
            chosen = dict(zip(grids, point, strict=True)) | draw
            yield {name: chosen[name] for name in space}


def _values(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list) else list(next(iter(values.values())))


def _draw(values: dict[str, Any], rng: np.random.Generator) -> Any:
    kind, given = kind_of(values), _values(values)
    if kind == "choice":
        return given[int(rng.integers(len(given)))]
    if kind == "uniform":
        return float(rng.uniform(*given))
    return float(np.exp(rng.uniform(*np.log(given))))


def slug(fields: Mapping[str, Any]) -> str:
    """Fields as the end of a folder's name, in which no character needs care; what is cut ends in a hash."""
    parts = []
    for name, value in fields.items():
        if name == "dataset.path":
            value = Path(value).name
        elif name == "dataset" and value.get("path") is not None:
            value = {**value, "path": Path(value["path"]).name}
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
    return text if len(text) <= _MAX_SLUG else f"{text[: _MAX_SLUG - 9]}-{digest_of(fields)}"


def digest_of(fields: Mapping[str, Any]) -> str:
    """A few characters that tell fields from others whose :func:`slug` is the same."""
    return digest(fields)[:8]
