"""What a report is made of: the folders of searches, sweeps and comparisons, read into plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel

from ciess_ray import metric_keys
from ciess_ray.config.former import without_former
from ciess_ray.files.formats import read_json, read_parquet
from ciess_ray.names import (
    COMPARISON_FILE,
    COMPARISON_FORMAT,
    COMPARISON_ROWS_FILE,
    FULL_SIZE,
    SWEEP_FILE,
    SWEEP_RESULTS_FORMAT,
    SWEEP_ROWS_FILE,
    SWEEP_SUMMARY_FILE,
    TRIAL_RESULT_FOLDER,
)
from ciess_ray.plain_text import command
from ciess_ray.report.checks import Comparison, ComparisonRow, Summary, SweepRow, check, check_progress
from ciess_ray.report.measurements import (
    Measurement,
    comparison_cells,
    search_cells,
    sweep_cells,
    without_repeats,
)
from ciess_ray.result import (
    CHECKPOINT_FOLDER,
    PROGRESS_FILE,
    RESULT_FILE,
    SIZES_FILE,
    checkpoint_bytes,
    looser_folders,
    read_progress,
    read_retrained,
    read_summary,
)
from envs.errors import ResultError
from envs.mdp import KINDS

#: What the folder of each holds; the first that is there says what it is.
_KINDS = {
    COMPARISON_FILE: "comparison",
    SWEEP_SUMMARY_FILE: "sweep",
    SWEEP_FILE: "sweep",
    RESULT_FILE: "search",
}


@dataclass(frozen=True, eq=False)
class Entities:
    """Users or items of a packed table: what each got.

    Attributes:
        ids: As the user's own data names them, n of them; one long id takes its place once.
        sizes: Embedding sizes, shape (n,).
        popularity: Training interactions, shape (n,).
    """

    ids: pa.ChunkedArray
    sizes: NDArray[Any]
    popularity: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Search:
    """One search's folder.

    Attributes:
        label: Its name in the report.
        summary: What ``result.json`` says.
        progress: The lines of ``progress.jsonl``.
        entities: By kind; empty where no table was packed.
        retrained: What was trained to convergence, a row each.
        num_bytes: Of its files, by name.
    """

    label: str
    summary: dict[str, Any]
    progress: Sequence[Mapping[str, Any]]
    entities: Mapping[str, Entities]
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
        cells: All that was measured, and what failed.
        searches: All searches whose folders were found.
        configs: Plain values of the configurations of comparisons and searches.
        versions: Of what their figures depend on.
    """

    names: Sequence[str]
    kinds: Sequence[str]
    cells: Sequence[Measurement]
    searches: Sequence[Search]
    configs: Sequence[Mapping[str, Any]]
    versions: Sequence[Mapping[str, str]]


def read_material(folders: Sequence[Path]) -> Material:
    """Read folders of searches, sweeps and comparisons.

    Raises:
        ResultError: One is none of these, or a file of it is damaged.
    """
    if not folders:
        raise ResultError("no folder is named; name that of a search, a sweep or a comparison.")
    by_folder = {folder: kind_of(folder) for folder in folders}
    names = [folder.resolve().name for folder in by_folder]
    cells: list[Measurement] = []
    given: list[Search] = []
    within: list[Search] = []
    comparisons = []
    for (folder, kind), name in zip(by_folder.items(), names, strict=True):
        if kind == "search":
            given.append(_read_search(folder, name))
            # What it gave for looser budgets.
            given += [
                _read_search(looser, f"{name}/{looser.name}")
                for looser in looser_folders(folder, given[-1].summary)
                if (looser / RESULT_FILE).is_file()
            ]
        elif kind == "sweep":
            trials, searches = _read_sweep(folder)
            cells += trials
            within += searches
        else:
            comparisons.append(read_json(folder / COMPARISON_FILE, COMPARISON_FORMAT))
            check(Comparison, comparisons[-1], str(folder / COMPARISON_FILE))
            cells += comparison_cells(name, _read_rows(folder / COMPARISON_ROWS_FILE, ComparisonRow))
            # Those that it has kept lie in folders of their own.
            files = [*sorted(folder.glob(f"*/{RESULT_FILE}")), *sorted(folder.glob(f"*/*/{RESULT_FILE}"))]
            within += [_read_search(file.parent, str(file.parent.relative_to(folder))) for file in files]
    searches = _named_apart([*given, *within])
    cells = search_cells([(search.label, search.summary) for search in searches[: len(given)]]) + cells
    summaries = [*comparisons, *(search.summary for search in searches)]
    return Material(
        names,
        list(by_folder.values()),
        without_repeats(cells),
        searches,
        [values.get("config") or {} for values in summaries],
        [values.get("versions") or {} for values in summaries],
    )


def kind_of(folder: Path) -> str:
    """``search``, ``sweep`` or ``comparison``, by the files in it.

    Raises:
        ResultError: It is none of these.
    """
    if not folder.is_dir():
        # A path drops the second slash of a URI.
        hint = " Copy it to this machine first." if ":/" in str(folder) else ""
        raise ResultError(f"{folder}: no such folder.{hint}")
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
        f"{folder}: neither a search, a sweep nor a comparison: it holds no {RESULT_FILE}, no "
        f"{SWEEP_SUMMARY_FILE} and no {COMPARISON_FILE}.{hint}"
    )


def _read_sweep(folder: Path) -> tuple[list[Measurement], list[Search]]:
    """All trials, and the searches of those that have left a folder."""
    if not (folder / SWEEP_SUMMARY_FILE).is_file():
        files = sorted(folder.glob(f"*/{TRIAL_RESULT_FOLDER}/{RESULT_FILE}"))
        if not files:
            raise ResultError(f"{folder}: no trial of this sweep is finished yet.")
        searches = [_read_search(file.parent, file.parts[-3]) for file in files]
        return search_cells([(search.label, search.summary) for search in searches]), searches
    read_json(folder / SWEEP_SUMMARY_FILE, SWEEP_RESULTS_FORMAT)
    rows = _read_rows(folder / SWEEP_ROWS_FILE, SweepRow)
    results = {row["trial"]: folder / row["trial"] / TRIAL_RESULT_FOLDER for row in rows}
    return sweep_cells(rows), [
        _read_search(result, trial) for trial, result in results.items() if (result / RESULT_FILE).is_file()
    ]


def _read_search(folder: Path, label: str) -> Search:
    summary = read_summary(folder)
    check(Summary, summary, str(folder / RESULT_FILE))
    if summary["status"] == "finished" and not summary.get("methods"):
        raise ResultError(f"{folder / RESULT_FILE}: damaged (finished, but no method was measured).")
    # Beside folders of today it differs in nothing that is now as it was there.
    summary["config"] = without_former(summary["config"])
    progress = read_progress(folder)
    check_progress(folder / PROGRESS_FILE, progress)
    kept = checkpoint_bytes(folder)
    num_bytes = summary.get("bytes", {}) | ({CHECKPOINT_FOLDER: kept} if kept else {})
    entities = _read_entities(folder / SIZES_FILE)
    return Search(label, summary, progress, entities, read_retrained(folder, summary), num_bytes)


def _read_entities(file: Path) -> dict[str, Entities]:
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
        table = table.select(list(types)).cast(pa.schema(fields))
        parts = {kind: table.filter(pc.field("kind") == kind) for kind in KINDS}
        if not all(part.num_rows for part in parts.values()):
            return {}
        if pc.min(table["embedding_size"]).as_py() < 1 or pc.min(table["popularity"]).as_py() < 0:
            raise ValueError("a size is below 1, or a popularity below 0")
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error
    return {
        kind: Entities(part["id"], part["embedding_size"].to_numpy(), part["popularity"].to_numpy())
        for kind, part in parts.items()
    }


def _named_apart(searches: Sequence[Search]) -> list[Search]:
    """Each with a label that no other has."""
    labels = [search.label for search in searches]
    return [
        replace(search, label=f"{search.label} ({labels[: place + 1].count(search.label)})")
        if labels.count(search.label) > 1
        else search
        for place, search in enumerate(searches)
    ]


def _read_rows(file: Path, model: type[BaseModel]) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = read_parquet(file).to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error
    for number, row in enumerate(rows, 1):
        check(model, row, f"{file}, row {number}")
    return rows
