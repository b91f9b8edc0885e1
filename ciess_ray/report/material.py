"""What a report is made of: the folders of searches, sweeps and comparisons, read into plain values."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ciess_ray import metric_keys
from ciess_ray.config.former import without_former
from ciess_ray.files.foreign import read_json, read_parquet
from ciess_ray.names import (
    COMPARISON_FILE,
    COMPARISON_FORMAT,
    COMPARISON_ROWS_FILE,
    FULL_SIZE,
    SEARCH,
    SWEEP_FILE,
    SWEEP_RESULTS_FORMAT,
    SWEEP_ROWS_FILE,
    SWEEP_SUMMARY_FILE,
    TRIAL_RESULT_FOLDER,
)
from ciess_ray.plain_text import command
from ciess_ray.report.cells import Measurement, comparison_cells, search_cells, sweep_cells, without_repeats
from ciess_ray.report.checks import check_folder_name, check_progress, check_summary
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

_LARGEST_SIZE = 2**31


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
    """

    label: str
    summary: Mapping[str, Any]
    progress: Sequence[Mapping[str, Any]]
    entities: Mapping[str, Entities]
    retrained: Sequence[Mapping[str, Any]] = ()

    def row(self, method: str) -> Mapping[str, Any] | None:
        """What was measured of a method; None before it was."""
        return next((row for row in self.summary.get("methods", ()) if row["name"] == method), None)

    @property
    def quality(self) -> float | None:
        """Of the packed table on validation."""
        row = self.row(SEARCH)
        return None if row is None else row["validation"]["quality"]

    @property
    def full_quality(self) -> float | None:
        """Of the full table on validation; of a search under way, as far as it was trained."""
        row = self.row(FULL_SIZE)
        if row is not None:
            return float(row["validation"]["quality"])
        fits = [line for line in self.progress if line.get("phase") == "full-size fit"]
        return max((line[metric_keys.QUALITY] for line in fits if metric_keys.QUALITY in line), default=None)

    @property
    def cap_ratio(self) -> float | None:
        """Its budget as a share of the full table."""
        row = self.row(FULL_SIZE)
        return None if row is None else self.summary["budget"]["cap_params"] / row["num_params"]


@dataclass(frozen=True)
class Source:
    """A folder that was given.

    Attributes:
        name: Its last part.
        kind: ``search``, ``sweep`` or ``comparison``.
    """

    name: str
    kind: str


@dataclass(frozen=True)
class About:
    """How something came about.

    Attributes:
        label: What it is called.
        config: Plain values of its configuration.
        versions: Of what its figures depend on.
    """

    label: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Material:
    """All that a report tells of.

    Attributes:
        sources: The folders.
        cells: All that was measured, and what failed.
        searches: All searches whose folders were found.
        about: How they came about.
    """

    sources: Sequence[Source]
    cells: Sequence[Measurement]
    searches: Sequence[Search]
    about: Sequence[About]


def read_material(folders: Sequence[Path]) -> Material:
    """Read folders of searches, sweeps and comparisons.

    Raises:
        ResultError: One is none of these, or a file of it is damaged.
    """
    if not folders:
        raise ResultError("no folder is named; name that of a search, a sweep or a comparison.")
    sources, cells, about = [], [], []
    given: list[Search] = []
    found: list[Search] = []
    for folder in dict.fromkeys(folders):
        kind, name = kind_of(folder), folder.resolve().name
        sources.append(Source(name, kind))
        if kind == "search":
            given += _read_family(folder, name)
        elif kind == "sweep":
            its_cells, its_searches = _read_sweep(folder)
            cells += its_cells
            found += its_searches
        else:
            comparison = read_json(folder / COMPARISON_FILE, COMPARISON_FORMAT)
            cells += comparison_cells(name, _read_rows(folder / COMPARISON_ROWS_FILE))
            found += _read_below(folder)
            config, versions = (_section(comparison, part, folder) for part in ("config", "versions"))
            about.append(About(name, config, versions))
    searches = _named_apart([*given, *found])
    own = search_cells([(search.label, search.summary) for search in searches[: len(given)]])
    about += [
        About(search.label, search.summary["config"], search.summary.get("versions", {}))
        for search in searches
    ]
    return Material(sources, without_repeats([*own, *cells]), searches, about)


def kind_of(folder: Path) -> str:
    """``search``, ``sweep`` or ``comparison``, by the files in it.

    Raises:
        ResultError: It is none of these.
    """
    if not folder.is_dir():
        # A path drops the second slash of a URI.
        hint = " Copy it to this machine first." if ":/" in str(folder) else ""
        raise ResultError(f"{folder}: no such folder.{hint}")
    for name, kind in (
        (COMPARISON_FILE, "comparison"),
        (SWEEP_SUMMARY_FILE, "sweep"),
        (SWEEP_FILE, "sweep"),
        (RESULT_FILE, "search"),
    ):
        if (folder / name).is_file():
            return kind
    within = sorted(file.parent.name for file in folder.glob(f"*/{RESULT_FILE}"))
    hint = f" Searches lie in its folders {', '.join(within[:5])}: name these." if within else ""
    if (folder / "cells").is_dir():
        # A comparison under way, or one of which the cells alone were kept.
        again = command("ciess-ray", "compare", "--resume", folder)
        known = (folder / "plan.json").is_file()
        hint = " It holds cells of a comparison; its summary is written once these are done: " + (
            again if known else f"run its 'ciess-ray compare' with {command('--output', folder)} again."
        )
    raise ResultError(
        f"{folder}: neither a search, a sweep nor a comparison: it holds no {RESULT_FILE}, no "
        f"{SWEEP_SUMMARY_FILE} and no {COMPARISON_FILE}.{hint}"
    )


def _read_family(folder: Path, label: str) -> list[Search]:
    """A search, and what it gave for looser budgets."""
    search = _read_search(folder, label)
    return [search] + [
        _read_search(looser, f"{label}/{looser.name}")
        for looser in looser_folders(folder, search.summary)
        if (looser / RESULT_FILE).is_file()
    ]


def _read_below(folder: Path) -> list[Search]:
    """Searches that a comparison has kept in folders of their own."""
    files = sorted(folder.glob(f"*/{RESULT_FILE}")) + sorted(folder.glob(f"*/*/{RESULT_FILE}"))
    return [_read_search(file.parent, file.parent.relative_to(folder).as_posix()) for file in files]


def _read_sweep(folder: Path) -> tuple[list[Measurement], list[Search]]:
    """All trials; of a sweep under way, what those that are finished have left."""
    if not (folder / SWEEP_SUMMARY_FILE).is_file():
        files = sorted(folder.glob(f"*/{TRIAL_RESULT_FOLDER}/{RESULT_FILE}"))
        if not files:
            raise ResultError(f"{folder}: no trial of this sweep is finished yet.")
        searches = [_read_search(file.parent, file.parts[-3]) for file in files]
        return search_cells([(search.label, search.summary) for search in searches]), searches
    read_json(folder / SWEEP_SUMMARY_FILE, SWEEP_RESULTS_FORMAT)
    rows = _read_rows(folder / SWEEP_ROWS_FILE, ("trial", "dataset", "recommender", "budget"))
    trials = [Path(str(row["trial"])).name for row in rows]
    for trial in trials:
        check_folder_name(trial, f"{folder / SWEEP_ROWS_FILE}: trial")
    searches = [
        _read_search(folder / trial / TRIAL_RESULT_FOLDER, trial)
        for trial in trials
        if (folder / trial / TRIAL_RESULT_FOLDER / RESULT_FILE).is_file()
    ]
    return sweep_cells(rows), searches


def _read_search(folder: Path, label: str) -> Search:
    summary = read_summary(folder)
    check_summary(folder, summary)
    # Beside folders of today it differs in nothing that is now as it was there.
    summary["config"] = without_former(summary["config"])
    kept = checkpoint_bytes(folder)
    if kept:
        summary["bytes"] = summary.get("bytes", {}) | {CHECKPOINT_FOLDER: kept}
    entities = _read_entities(folder / SIZES_FILE)
    progress = read_progress(folder)
    check_progress(folder / PROGRESS_FILE, progress)
    return Search(label, summary, progress, entities, read_retrained(folder, summary))


def _read_entities(file: Path) -> dict[str, Entities]:
    if not file.exists():
        return {}
    names = ("kind", "id", "embedding_size", "popularity")
    table = read_parquet(file, names, texts=("kind", "id"))
    try:
        kinds, ids, sizes, popularity = (table.column(name) for name in names)
        is_whole = pa.types.is_integer(sizes.type) and pa.types.is_integer(popularity.type)
        if not is_whole or any(column.null_count for column in (kinds, ids, sizes, popularity)):
            raise ValueError("sizes and popularity are whole numbers, and nothing is left out")
        kinds, sizes, popularity = (column.to_numpy() for column in (kinds, sizes, popularity))
        if len(sizes) and (sizes.min() < 1 or sizes.max() > _LARGEST_SIZE or popularity.min() < 0):
            raise ValueError("a size is below 1, or a popularity below 0")
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error
    chosen = {kind: np.asarray(kinds == kind) for kind in KINDS}
    if not all(own.any() for own in chosen.values()):
        return {}
    return {
        kind: Entities(ids.filter(pa.array(own)), sizes[own], popularity[own]) for kind, own in chosen.items()
    }


def _named_apart(searches: Sequence[Search]) -> list[Search]:
    """Each with a label that no other has."""
    counts, numbers = Counter(search.label for search in searches), Counter[str]()
    named = []
    for search in searches:
        numbers[search.label] += 1
        label = f"{search.label} ({numbers[search.label]})" if counts[search.label] > 1 else search.label
        named.append(replace(search, label=label))
    return named


def _section(values: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    section = values.get(name) or {}
    if not isinstance(section, dict):
        raise ResultError(f"{folder / COMPARISON_FILE}: damaged ({name} is no section).")
    return section


def _read_rows(file: Path, needed: Sequence[str] = ()) -> list[dict[str, Any]]:
    try:
        table = read_parquet(file)
    except FileNotFoundError:
        raise ResultError(f"{file}: no such file; {file.parent} is incomplete.") from None
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise ResultError(f"{file}: damaged (it has no column {missing[0]!r}).")
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error
    for number, row in enumerate(rows, 1):
        seed = row.get("seed")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise ResultError(f"{file}, row {number}: damaged (seed: {str(seed)[:50]!r} is no whole number).")
    return rows
