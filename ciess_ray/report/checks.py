"""What the page takes from a search's files, checked where it is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from ciess_ray.result import RESULT_FILE
from envs.errors import ResultError

#: No measure of a search is larger, and figures can still be drawn.
_LARGEST = 1e30
Number = Annotated[float, Field(strict=True, ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, le=_LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**63)]


class _Measured(BaseModel):
    quality: Number


class _Method(BaseModel):
    name: str
    num_params: Positive
    packed_bytes: Positive
    validation: _Measured
    test: dict[str, Any]


class _Retrained(BaseModel):
    name: str
    step: Count | None
    quality: Number
    quality_in_search: Number | None
    best_batch: Count | None = None
    kind: str | None = None


class _Dataset(BaseModel):
    sample: str | None
    path: str | None = None


class _Recommender(BaseModel):
    name: str


class _Config(BaseModel):
    dataset: _Dataset
    recommender: _Recommender
    seed: Count


class _Budget(BaseModel):
    asked: str
    cap_params: Positive
    num_params: Number | None = None
    kept_ratio: Number | None = None
    max_packed_bytes: Number | None = None


class _Interactions(BaseModel):
    source: str
    fingerprint: str
    num_users: Count | None = None
    num_items: Count | None = None
    num_interactions: Count | None = None
    num_duplicates: Count | None = None
    num_unevaluated_users: Count | None = None


class _Summary(BaseModel):
    status: str
    phase: str
    reason: str | None = None
    config: _Config
    dataset: _Interactions
    budget: _Budget
    looser_budgets: dict[str, str] | None = None
    seconds: dict[str, Annotated[float, Field(strict=True, ge=0, le=_LARGEST)]] = {}
    bytes: dict[str, Count] = {}
    hints: list[str] = []
    methods: list[_Method] = []
    retrained: list[_Retrained] = []
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> "_Summary":
        if self.status == "finished" and not self.methods:
            raise ValueError("finished, but no method was measured")
        return self


class _Step(BaseModel):
    phase: str
    step: Count
    note: str = ""
    kind: str = ""


def check_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Refuse a ``result.json`` that lacks what a page tells, or has it in another type.

    Raises:
        ResultError: With the field.
    """
    _check(_Summary, summary, str(folder / RESULT_FILE))


def check_folder_name(name: str, where: str) -> None:
    """Refuse what leads out of a folder.

    Raises:
        ResultError: It is no plain name.
    """
    if name in ("", ".", "..") or Path(name).name != name or "\0" in name:
        raise ResultError(f"{where}: {name!r} is no folder in this one.")


def check_progress(file: Path, lines: Sequence[Any]) -> None:
    """Refuse steps without number or phase, and measures that are no numbers.

    Raises:
        ResultError: With the line.
    """
    for number, line in enumerate(lines, 1):
        where = f"{file}, line {number}"
        _check(_Step, line, where)
        for key, value in line.items():
            if "/" in key and not is_number(value):
                raise ResultError(f"{where}: damaged ({key}: {str(value)[:50]} is no number).")


def is_number(value: object) -> bool:
    """Whether it is a finite number that can be drawn; neither text, a section nor NULL."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _check(model: type[BaseModel], values: Any, where: str) -> None:
    try:
        model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ResultError(f"{where}: damaged ({field and field + ': '}{first['msg']}).") from None
