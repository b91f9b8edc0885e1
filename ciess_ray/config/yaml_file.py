"""YAML in, a checked configuration out.

An unknown key is refused with the nearest valid one; every mistake is named by its file and field.
"""

import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.keys import FORMER
from ciess_ray.config.recommender import AUTO
from ciess_ray.config.run import PRESETS, RunConfig
from ciess_ray.config.yaml_values import MAX_BYTES, read_yaml
from envs.data import guess_format
from envs.data.places import is_uri
from envs.errors import ConfigError, DataError, unknown_name, within

Model = TypeVar("Model", bound=BaseModel)

#: Fields whose values are of several kinds, which pydantic names where it says where a mistake is.
_OF_SEVERAL_KINDS = (("base",), ("budget",), ("dataset", "path"), ("search", "memory_weight"))

#: How fields begin that are of one recommender, which is lightgcn where it has no name.
_OF_ONE_RECOMMENDER = (
    "recommender.name",
    "recommender.options",
    "training",
    "search.mode",
    "search.step_mode",
    "search.tried_",
    "search.user_share",
)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, or take a file of data with every default, and put ``section.field=value`` over it.

    Args:
        path: The file, or the URI of data.
        overrides: E.g. ``training.batch_size=2048``; values are read as YAML.

    Raises:
        ConfigError: The file is missing or no YAML mapping, an override is unreadable, or a field is wrong.
    """
    values = {"dataset": {"path": str(path)}} if is_data(path) else read_values(path)
    return parse_config(choosing(put_overrides(values, overrides)), str(path))


def choosing(values: dict[str, Any]) -> dict[str, Any]:
    """Plain values of a search that leave its recommender to validation where they say nothing of one."""
    names = dotted_fields(values)
    if "recommender" not in names and not any(name.startswith(_OF_ONE_RECOMMENDER) for name in names):
        put_field(values, "recommender.name", AUTO)
    return values


def is_data(path: str | Path) -> bool:
    """Whether a file is one of data, by its name; Parquet may be a folder of parts, or lie behind a URI."""
    try:
        return is_uri(path) or Path(path).is_dir() or bool(guess_format(path))
    except DataError:
        return False


def read_values(path: str | Path) -> dict[str, Any]:
    """The plain values of a YAML file.

    Raises:
        ConfigError: The file is missing or no YAML mapping.
    """
    path = Path(path)
    try:
        # What is no file, such as a pipe, may never end, or never begin.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path}: cannot be read as text (it is no file).")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such configuration; the ones that come along lie in configs/."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}).") from error
    with within(path):
        values = read_yaml(text)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected fields such as 'dataset:' and 'budget:', not {text[:40]!r}.")
    return values


def put_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Put each ``section.field=value`` over plain values; what stands behind ``=`` is read as YAML.

    Raises:
        ConfigError: One cannot be read.
    """
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or not name:
            raise ConfigError(f"cannot read the override {override!r}: write section.field=value.")
        with within(f"the override {override[:80]!r}"):
            put_field(values, name, read_yaml(text))
    return values


def put_field(values: dict[str, Any], name: str, value: Any) -> None:
    """Put one field, by its dotted name, over plain values, which may have it by that name or nested.

    Raises:
        ConfigError: The name goes into something that is no section, or a part of it is empty.
    """
    if not all(name.split(".")):
        raise ConfigError(f"the field {name!r} has an empty name in it; write section.field.")
    rest = name
    while "." in rest and rest not in values:
        section, _, rest = rest.partition(".")
        inner = values.setdefault(section, {})
        if section == "recommender" and isinstance(inner, str):
            # One that is named and nothing else.
            inner = values[section] = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"the field {name!r} goes into {section!r}, which is no section.")
        values = inner
    values[rest] = value


def dotted_fields(fields: Mapping[str, Any], sections: Collection[str] | None = None) -> dict[str, Any]:
    """Fields by their dotted names, so that one put over others leaves its neighbours as they are.

    Args:
        fields: By dotted names, or nested: ``{a: {b: 1}}`` for ``{a.b: 1}``.
        sections: Names whose mappings are fields; None for all. Other mappings are values.

    Raises:
        ConfigError: A field stands there both ways.
    """
    dotted: dict[str, Any] = {}
    for name, value in fields.items():
        named = {name: value}
        if isinstance(value, Mapping) and value and (sections is None or name in sections):
            named = dotted_fields({f"{name}.{field}": inner for field, inner in value.items()}, sections)
        twice = sorted(named.keys() & dotted.keys())
        if twice:
            raise ConfigError(
                f"{', '.join(twice)} stands there twice, by its dotted name and nested; keep one."
            )
        dotted |= named
    return dotted


def section_names(model: type[BaseModel] = RunConfig) -> set[str]:
    """The sections of a configuration: dataset, training, ..."""
    return {name.partition(".")[0] for name, _, _ in field_table(model) if "." in name}


def parse_config(values: Mapping[str, Any], source: str = "config") -> RunConfig:
    """The checked model of plain values; see :func:`check_values`.

    Raises:
        ConfigError: As there; or they are those of a sweep, a comparison or a stream.
    """
    if "space" in values:
        which = "compare" if "methods" in values else "sweep' or 'ciess-ray compare"
        raise ConfigError(f"{source}: it has a space, as many searches have; hand it to 'ciess-ray {which}'.")
    if "segments" in values:
        raise ConfigError(f"{source}: it has segments, as a stream has; hand it to 'ciess-ray stream'.")
    return check_values(RunConfig, values, source)


def check_values(model: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """Plain values as a model.

    Raises:
        ConfigError: A field is unknown, missing or wrong; each is named with its remedy.
    """
    try:
        with within(source):
            return model.model_validate(values)
    except ValidationError as error:
        meanings = {name: meaning for name, _, meaning in field_table(model)}
        by_field: dict[str, list[Any]] = {}
        for problem in error.errors():
            by_field.setdefault(_field_of(problem), []).append(problem)
        lines = (
            f"{source}: {_explain(meanings, where, problems)}"
            for where, problems in by_field.items()
            # A list without an item that is wrong may be too short; the item says enough.
            if not any(other.startswith(f"{where}.") for other in by_field)
        )
        raise ConfigError(without_secrets("\n".join(lines))) from error


def field_table(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every field as its dotted name, behind a prefix, its default and its meaning."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from field_table(section, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            shown = "required" if field.is_required() else _shown(default)
            yield f"{prefix}{name}", shown + _in_modes(f"{prefix}{name}", shown), field.description or ""


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _in_modes(name: str, default: str) -> str:
    """What the modes set instead of a default, e.g. `` (paper: 0.4; reference: 0.01)``."""
    section, _, field = name.partition(".")
    values = {mode: _shown(preset.get(section, {}).get(field, default)) for mode, preset in PRESETS.items()}
    listed = "; ".join(f"{mode}: {value}" for mode, value in values.items() if value != default)
    return f" ({listed})" if listed else ""


def _field_of(problem: Any) -> str:
    """The dotted name of where a problem is, without the kinds of value that pydantic tells apart there."""
    place = tuple(map(str, problem["loc"]))
    field = next((field for field in _OF_SEVERAL_KINDS if place[: len(field)] == field), place)
    return ".".join(field).removesuffix(".[key]")


def _explain(meanings: Mapping[str, str], where: str, problems: Sequence[Any]) -> str:
    problem = problems[0]
    if problem["type"] == "extra_forbidden" and where in FORMER:
        return f"there is no field {where!r} any more: {FORMER[where].why}."
    if problem["type"] == "extra_forbidden":
        sections = {name.rsplit(".", 1)[0] for name in meanings if "." in name}
        return str(unknown_name("field", where, [*meanings, *sections]))
    if problem["type"] == "missing":
        return (
            f"the field {where!r} is missing; 'ciess-ray fields' explains every field, with --sweep, "
            "--comparison or --stream those of such a file."
        )
    given = f"{where}={problem['input']!r}"
    if problem["type"] == "model_type":
        example = next(name for name in meanings if name.startswith(f"{where}."))
        return f"{given}: {where} is a section; write its fields, e.g. {example}=..., or none of it."
    # Of a field of several kinds, the kind that the value has knows what is wrong with it.
    of_its_kind = [p for p in problems if not p["type"].endswith(("_type", "_parsing", "literal_error"))]
    if len(problems) > 1 and not of_its_kind:
        return f"{given}: expected {meanings[where]}."
    return f"{given}: {(of_its_kind or problems)[0]['msg']}."
