"""What the page takes from the files of a folder, checked where it is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasPath, BaseModel, Field, ValidationError

from envs.errors import ResultError

#: No measure of a search is larger, and figures can still be drawn.
_LARGEST = 1e30
Number = Annotated[float, Field(strict=True, ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, le=_LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**63)]


def _at(*path: str, default: Any = ...) -> Any:
    """A field that lies within sections, and has to be there unless it has a default."""
    return Field(default, validation_alias=AliasPath(*path))


class _Method(BaseModel):
    name: str
    num_params: Positive
    packed_bytes: Positive
    quality: Number = _at("validation", "quality")
    test: dict[str, Any]


class _Retrained(BaseModel):
    name: str
    step: Count | None
    quality: Number
    quality_in_search: Number | None


class Summary(BaseModel):
    """What a page tells of a ``result.json``."""

    status: str
    phase: str
    reason: str | None = None
    seed: Count = _at("config", "seed")
    recommender: str = _at("config", "recommender", "name")
    sample: str | None = _at("config", "dataset", "sample")
    path: str | None = _at("config", "dataset", "path", default=None)
    source: str = _at("dataset", "source")
    fingerprint: str = _at("dataset", "fingerprint")
    budget: str = _at("budget", "asked")
    cap_params: Positive = _at("budget", "cap_params")
    num_params: Number | None = _at("budget", "num_params", default=None)
    looser_budgets: dict[str, str] | None = None
    seconds: dict[str, Annotated[float, Field(strict=True, ge=0, le=_LARGEST)]] = {}
    bytes: dict[str, Count] = {}
    hints: list[str] = []
    methods: list[_Method] = []
    retrained: list[_Retrained] = []
    versions: dict[str, str] = {}


class Comparison(BaseModel):
    """What a page tells of a ``comparison.json``."""

    config: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None


class ComparisonRow(BaseModel):
    """What a page has to find in a row of a comparison, whose columns may be missing."""

    seed: Annotated[int, Field(strict=True)] | None = None


class SweepRow(ComparisonRow):
    """The same of a sweep, whose trials lie in folders of their names."""

    trial: Annotated[str, Field(pattern=r"^[^./\x00][^/\x00]*$")]
    dataset: str
    recommender: str
    budget: str


class _Step(BaseModel):
    phase: str
    step: Count


def check(model: type[BaseModel], values: Any, where: str) -> None:
    """Refuse what lacks a field of a model, or has it in another type.

    Raises:
        ResultError: With the field.
    """
    try:
        model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ResultError(f"{where}: damaged ({field and field + ': '}{first['msg']}).") from None


def check_progress(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Refuse steps without number or phase, and measures that are no numbers.

    Raises:
        ResultError: With the line.
    """
    for number, line in enumerate(lines, 1):
        where = f"{file}, line {number}"
        check(_Step, line, where)
        for key, value in line.items():
            if "/" in key and not is_number(value):
                raise ResultError(f"{where}: damaged ({key}: {str(value)[:50]} is no number).")


def is_number(value: object) -> bool:
    """Whether it is a finite number that can be drawn; neither text, a section nor NULL."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
