"""What a report is made of: the folders of searches, sweeps and comparisons, checked as they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pyarrow as pa
from pydantic import AliasPath, BaseModel, Field, RootModel, ValidationError

from ciess_ray import metric_keys
from ciess_ray.config.keys import without_former
from ciess_ray.files.formats import read_json, read_parquet
from ciess_ray.names import (
    COMPARISON_FILE,
    COMPARISON_FORMAT,
    COMPARISON_ROWS_FILE,
    FULL_SIZE,
    STREAM_FILE,
    SWEEP_FILE,
    SWEEP_RESULTS_FORMAT,
    SWEEP_ROWS_FILE,
    SWEEP_SUMMARY_FILE,
    TRIAL_RESULT_FOLDER,
)
from ciess_ray.plain_text import command
from ciess_ray.report.measurements import (
    LARGEST,
    Row,
    comparison_cells,
    search_cells,
    sweep_cells,
    table_of_cells,
)
from ciess_ray.result import (
    CHECKPOINT_FOLDER,
    PROGRESS_FILE,
    RESULT_FILE,
    SIZES_FILE,
    checkpoint_bytes,
    looser_folders,
    read_progress,
    read_summary,
)
from envs.errors import ResultError
from envs.mdp import KINDS

#: What the folder of each holds; the first that is there says what it is.
_KINDS = {
    STREAM_FILE: "stream",
    COMPARISON_FILE: "comparison",
    SWEEP_SUMMARY_FILE: "sweep",
    SWEEP_FILE: "sweep",
    RESULT_FILE: "search",
}

_Number = Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
_Positive = Annotated[float, Field(strict=True, gt=0, le=LARGEST, allow_inf_nan=False)]
_Count = Annotated[int, Field(strict=True, ge=0, le=2**63)]


def at(*path: str, default: Any = ...) -> Any:
    """A field that lies within sections, and has to be there unless it has a default."""
    return Field(default, validation_alias=AliasPath(*path))


class _Method(BaseModel):
    name: str
    num_params: _Positive
    packed_bytes: _Positive
    quality: _Number = at("validation", "quality")
    test: dict[str, Any]


class _Retrained(BaseModel):
    name: str
    step: _Count | None
    quality: _Number
    quality_in_search: _Number | None


class _Refit(BaseModel):
    num_interactions: _Count
    num_left_out: _Count


class _Tried(BaseModel):
    recipe: str
    table: str
    share: _Number
    quality: _Number


class _Recipe(BaseModel):
    tried: list[_Tried]


class _Clock(BaseModel):
    predicted: dict[str, _Number] | None
    taken: dict[str, _Number]


class _Summary(BaseModel):
    """What a page tells of a ``result.json``."""

    status: str
    phase: str
    reason: str | None = None
    seed: _Count = at("config", "seed")
    recommender: str = at("config", "recommender", "name")
    sample: str | None = at("config", "dataset", "sample")
    path: str | None = at("config", "dataset", "path", default=None)
    source: str = at("dataset", "source")
    fingerprint: str = at("dataset", "fingerprint")
    budget: str = at("budget", "asked")
    cap_params: _Positive = at("budget", "cap_params")
    num_params: _Number | None = at("budget", "num_params", default=None)
    looser_budgets: dict[str, str] | None = None
    seconds: dict[str, Annotated[float, Field(strict=True, ge=0, le=LARGEST)]] = {}
    bytes: dict[str, _Count] = {}
    hints: list[str] = []
    methods: list[_Method] = []
    refit: _Refit | None = None
    num_searched_users: _Count | None = at("sample", "num_users", default=None)
    recipe: _Recipe | None = None
    clock: _Clock | None = None
    retrained: list[_Retrained] = []
    versions: dict[str, str] = {}


class _Step(BaseModel):
    phase: str
    step: _Count


_Measures = RootModel[dict[str, _Number]]


class _Comparison(BaseModel):
    """What a page tells of a ``comparison.json``."""

    config: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None


class _ComparisonRow(BaseModel):
    """What a page has to find in a row of a comparison, whose columns may be missing."""

    seed: Annotated[int, Field(strict=True)] | None = None


class _SweepRow(_ComparisonRow):
    trial: Annotated[str, Field(pattern=r"^[^./\x00][^/\x00]*$")]
    dataset: str
    recommender: str
    budget: str


@dataclass(frozen=True, eq=False)
class Search:
    """One search's folder.

    Attributes:
        label: Its name in the report.
        summary: What ``result.json`` says.
        progress: The lines of ``progress.jsonl``.
        entities: By kind ``id``, ``embedding_size`` and ``popularity``, a row an entity; kinds without rows
            of the table are left out, and it is empty where no table was packed.
        retrained: What was trained to convergence, a row each.
        num_bytes: Of its files, by name.
    """

    label: str
    summary: dict[str, Any]
    progress: Sequence[Mapping[str, Any]]
    entities: Mapping[str, pd.DataFrame]
    retrained: Sequence[dict[str, Any]]
    num_bytes: dict[str, int]

    @property
    def methods(self) -> dict[str, Mapping[str, Any]]:
        """What was measured, by method; nothing before it was."""
        return {row["name"]: row for row in self.summary.get("methods", ())}

    def quality(self, method: str) -> float | None:
        """Of a method on validation; of a full table that is not measured yet, as far as it was trained."""
        if method in self.methods:
            return float(self.methods[method]["validation"]["quality"])
        fits = [line for line in self.progress if method == FULL_SIZE and line["phase"] == "full-size fit"]
        return max((line[metric_keys.QUALITY] for line in fits if metric_keys.QUALITY in line), default=None)

    @property
    def cap_ratio(self) -> float | None:
        """Its budget as a share of the full table."""
        full = self.methods.get(FULL_SIZE)
        return None if full is None else self.summary["budget"]["cap_params"] / full["num_params"]


@dataclass(frozen=True, eq=False)
class Material:
    """All that a report tells of.

    Attributes:
        names: Of the folders, their last parts.
        kinds: Of each: ``search``, ``sweep`` or ``comparison``.
        cells: All that was measured, and what failed, see :func:`table_of_cells`.
        searches: All searches whose folders were found.
        configs: Plain values of the configurations of comparisons and searches.
        versions: Of what their figures depend on.
    """

    names: Sequence[str]
    kinds: Sequence[str]
    cells: pd.DataFrame
    searches: Sequence[Search]
    configs: Sequence[Mapping[str, Any]]
    versions: Sequence[Mapping[str, str]]


def read_material(folders: Sequence[Path]) -> Material:
    """Read folders of searches, sweeps and comparisons.

    Raises:
        ResultError: One is none of these, or a file of it is damaged.
    """
    if not folders:
        raise ResultError("no folder is named; name that of a search, a sweep, a comparison or a stream.")
    kinds = {folder: kind_of(folder) for folder in folders}
    cells: list[Row] = []
    given: list[Search] = []
    within: list[Search] = []
    comparisons = []
    for folder, kind in kinds.items():
        name = folder.resolve().name
        if kind == "search":
            given.append(_read_search(folder, name))
            # What it gave for looser budgets.
            given += [
                _read_search(looser, f"{name}/{looser.name}")
                for looser in looser_folders(folder, given[-1].summary)
                if (looser / RESULT_FILE).is_file()
            ]
        elif kind == "sweep":
            files = sorted(folder.glob(f"*/{TRIAL_RESULT_FOLDER}/{RESULT_FILE}"))
            trials = [_read_search(file.parent, file.parts[-3]) for file in files]
            within += trials
            if (folder / SWEEP_SUMMARY_FILE).is_file():
                read_json(folder / SWEEP_SUMMARY_FILE, SWEEP_RESULTS_FORMAT)
                cells += sweep_cells(read_rows(folder / SWEEP_ROWS_FILE, _SweepRow))
            elif trials:
                cells += search_cells([(trial.label, trial.summary) for trial in trials])
            else:
                streams = sorted(folder.glob(f"*/{TRIAL_RESULT_FOLDER}/{STREAM_FILE}"))
                if streams:
                    raise ResultError(
                        f"{folder}: its trials are streams, of which a report shows one; name its "
                        f"folder, e.g. {streams[0].parent}."
                    )
                raise ResultError(f"{folder}: no trial of this sweep is finished yet.")
        else:
            comparisons.append(read_json(folder / COMPARISON_FILE, COMPARISON_FORMAT))
            check(_Comparison, comparisons[-1], str(folder / COMPARISON_FILE))
            cells += comparison_cells(name, read_rows(folder / COMPARISON_ROWS_FILE, _ComparisonRow))
            # Those that it has kept lie in folders of their own.
            files = [*sorted(folder.glob(f"*/{RESULT_FILE}")), *sorted(folder.glob(f"*/*/{RESULT_FILE}"))]
            within += [_read_search(file.parent, str(file.parent.relative_to(folder))) for file in files]
    searches = _named_apart([*given, *within])
    cells = search_cells([(search.label, search.summary) for search in searches[: len(given)]]) + cells
    summaries = [*comparisons, *(search.summary for search in searches)]
    return Material(
        [folder.resolve().name for folder in kinds],
        list(kinds.values()),
        table_of_cells(cells),
        searches,
        [values.get("config") or {} for values in summaries],
        [values.get("versions") or {} for values in summaries],
    )


def kind_of(folder: Path) -> str:
    """``search``, ``sweep``, ``comparison`` or ``stream``, by the files in it.

    Raises:
        ResultError: It is none of these, or a part of a stream.
    """
    if not folder.is_dir():
        # A path drops the second slash of a URI.
        hint = " Copy it to this machine first." if ":/" in str(folder) else ""
        raise ResultError(f"{folder}: no such folder.{hint}")
    for above in folder.resolve().parents[:3]:
        if (above / STREAM_FILE).is_file():
            raise ResultError(f"{folder}: of a stream, of which a page tells as a whole; name {above}.")
    for file, kind in _KINDS.items():
        if (folder / file).is_file():
            return kind
    hint = ""
    if (folder / "cells").is_dir():
        # A comparison under way, or one of which the cells alone were kept.
        again = command("ciess-ray", "compare", "--resume", folder)
        if not (folder / "plan.json").is_file():
            again = f"run its 'ciess-ray compare' with {command('--output', folder)} again."
        hint = f" It holds cells of a comparison; its summary is written once these are done: {again}"
    elif within := sorted(file.parent.name for file in folder.glob(f"*/{RESULT_FILE}")):
        hint = f" Searches lie in its folders {', '.join(within[:5])}: name these."
    raise ResultError(
        f"{folder}: neither a search, a sweep, a comparison nor a stream: it holds no {RESULT_FILE}, no "
        f"{SWEEP_SUMMARY_FILE}, no {COMPARISON_FILE} and no {STREAM_FILE}.{hint}"
    )


def _read_search(folder: Path, label: str) -> Search:
    summary = read_summary(folder)
    check(_Summary, summary, str(folder / RESULT_FILE))
    if summary["status"] == "finished" and not summary.get("methods"):
        raise ResultError(f"{folder / RESULT_FILE}: damaged (finished, but no method was measured).")
    # Beside folders of today it differs in nothing that is now as it was there.
    summary["config"] = without_former(summary["config"])
    progress = read_progress(folder)
    for number, line in enumerate(progress, 1):
        where = f"{folder / PROGRESS_FILE}, line {number}"
        check(_Step, line, where)
        check(_Measures, {key: value for key, value in line.items() if "/" in key}, where)
    kept = checkpoint_bytes(folder)
    num_bytes = summary.get("bytes", {}) | ({CHECKPOINT_FOLDER: kept} if kept else {})
    retrained = [
        # Before steps said what they were they were numbered from 0.
        row if row["step"] is None or "kind" in row else row | {"step": row["step"] + 1}
        for row in summary.get("retrained", ())
    ]
    return Search(label, summary, progress, read_entities(folder / SIZES_FILE), retrained, num_bytes)


def read_entities(file: Path) -> dict[str, pd.DataFrame]:
    """Users and items of a ``sizes.parquet`` by kind, in its order; empty where there is none.

    Raises:
        ResultError: It is damaged.
    """
    if not file.exists():
        return {}
    types = {"kind": pa.string(), "id": None, "embedding_size": pa.int32(), "popularity": pa.int64()}
    table = read_parquet(file, list(types), texts=("kind", "id"))
    try:
        # Whole numbers, and nothing left out.
        fields = [
            pa.field(name, kind or table.schema.field(name).type, nullable=False)
            for name, kind in types.items()
        ]
        entities = table.select(list(types)).cast(pa.schema(fields)).to_pandas(use_threads=False)
        if (entities["embedding_size"] < 1).any() or (entities["popularity"] < 0).any():
            raise ValueError("a size is below 1, or a popularity below 0")
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error
    of_kinds = {kind: entities[entities["kind"] == kind] for kind in KINDS}
    return {kind: of_kind for kind, of_kind in of_kinds.items() if len(of_kind)}


def _named_apart(searches: Sequence[Search]) -> list[Search]:
    """Each with a label that no other has."""
    labels = [search.label for search in searches]
    return [
        replace(search, label=f"{search.label} ({labels[: place + 1].count(search.label)})")
        if labels.count(search.label) > 1
        else search
        for place, search in enumerate(searches)
    ]


def read_rows(file: Path, model: type[BaseModel]) -> list[dict[str, Any]]:
    """The rows of a Parquet file, each checked against a model.

    Raises:
        ResultError: The file is damaged, with the row and the field.
    """
    try:
        rows: list[dict[str, Any]] = read_parquet(file).to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error
    for number, row in enumerate(rows, 1):
        check(model, row, f"{file}, row {number}")
    return rows


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
