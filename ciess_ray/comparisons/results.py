"""What a comparison leaves: a row a cell, means over seeds, and whether the search beats each method."""

import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ciess_ray.comparisons.cell import CellResult
from ciess_ray.comparisons.config import Cell, ComparisonPlan
from ciess_ray.comparisons.figures import MethodFigures, to_frame
from ciess_ray.config.credentials import without_secrets
from ciess_ray.files.formats import write_parquet
from ciess_ray.files.whole import write_whole
from ciess_ray.names import (
    COMPARISON_FILE,
    COMPARISON_FORMAT,
    COMPARISON_ROWS_FILE,
    EQUAL_SIZES,
    FULL_SIZE,
    SEARCH,
)
from ciess_ray.result import dataset_name, versions
from ciess_ray.searches.hints import rank_hints, training_hints
from ciess_ray.statistics import Difference, Spread, column_of, paired_bootstrap
from ciess_ray.streams import Stream, rng_of
from ciess_ray.tracking.tracker import run_tags

if TYPE_CHECKING:
    import pandas as pd

#: Fields that have a column of their own.
_OWN_FIELDS = ("seed", "budget")
#: Metrics in which the search is compared with every other method.
COMPARED = ("ndcg@20", "recall@20")
#: What means are told of, beside every metric.
_FIGURES = (
    "num_params",
    "packed_bytes",
    "served_bytes",
    "served_with_histories_bytes",
    "ids_bytes",
    "kept_ratio",
    "mean_user_size",
    "mean_item_size",
    "best_batch",
    "num_steps",
    "num_trainings",
    "cpu_s",
    "cpu_s/choosing",
    "peak_bytes",
)


@dataclass(eq=False)
class ComparisonResults:
    """All cells of a comparison.

    Args:
        plan: The comparison.
        results: What each finished or failed cell came to, by its name.
        seconds: How long it took, since it was started or resumed.
        problems: Sentences on what was not recorded.
        keeper: Where the folder is a temporary one, what it lives as long as.
    """

    plan: ComparisonPlan
    results: Mapping[str, CellResult]
    seconds: float
    problems: list[str] = field(default_factory=list)
    keeper: object | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.results)} of {len(self.plan.cells)} cells)"

    @property
    def is_complete(self) -> bool:
        """Whether every cell is finished."""
        return all(self.status(cell) == "finished" for cell in self.plan.cells)

    def status(self, cell: Cell) -> str:
        """``finished``, ``failed`` or ``pending``."""
        known = self.results.get(cell.name)
        return "pending" if known is None else str(known.row["status"])

    def error(self, cell: Cell) -> str | None:
        """Why a cell failed."""
        known = self.results.get(cell.name)
        return None if known is None else known.row.get("error")

    def row(self, cell: Cell) -> dict[str, Any]:
        """What ``comparison.parquet`` says of a cell."""
        known = self.results.get(cell.name)
        return {
            "cell": cell.name,
            "dataset": dataset_name(cell.config.model_dump(mode="json")),
            "recommender": cell.config.recommender.name,
            "budget": budget_of(cell),
            "method": cell.method,
            "seed": cell.config.seed,
            "split_seed": cell.config.split_seed,
            "status": self.status(cell),
            "error": self.error(cell),
            **({} if known is None else {k: v for k, v in known.row.items() if k not in ("status", "error")}),
        }

    def to_table(self) -> pa.Table:
        """One row a cell, with NULL for what it has not got to."""
        rows = [self.row(cell) for cell in self.plan.cells]
        columns = dict.fromkeys(name for row in rows for name in row)
        return pa.table({name: column_of([row.get(name) for row in rows]) for name in columns})

    def table(self) -> "pd.DataFrame":
        """Every method at every point, by name: means over its finished seeds, and the search against it.

        Recall and NDCG are on test. ``search/relative`` is by which share of the method's NDCG@20 the search
        exceeds it, with the ends of the 95 % interval and p, paired over users and splits.
        """
        return to_frame(self.figures())

    def figures(self) -> list[MethodFigures]:
        """Means over seeds of every method at every point of the grid, and the search against each."""
        points: dict[str, dict[str, list[Cell]]] = {}
        full: dict[str, list[Cell]] = {}
        for cell in self.plan.cells:
            fields = {name: value for name, value in cell.fields.items() if name != "seed"}
            key = json.dumps(fields, sort_keys=True)
            if cell.method == FULL_SIZE:
                full.setdefault(key, []).append(cell)
            else:
                points.setdefault(key, {}).setdefault(cell.method, []).append(cell)
        told = [self._method_figures(cells, {}, cells) for cells in full.values()]
        for number, methods in enumerate(points.values()):
            rng = rng_of(0, Stream.BOOTSTRAP, number)
            for method, cells in methods.items():
                searched = methods.get(SEARCH, []) if method != SEARCH else []
                fields = {name: value for name, value in cells[0].fields.items() if name not in _OWN_FIELDS}
                whole = full.get(json.dumps(fields, sort_keys=True), [])
                told.append(self._method_figures(cells, self._differences(searched, cells, rng), whole))
        return told

    def _method_figures(
        self, cells: Sequence[Cell], differences: dict[str, Difference], full: Sequence[Cell]
    ) -> MethodFigures:
        done = [cell for cell in cells if self.status(cell) == "finished"]
        rows = [self.results[cell.name].row for cell in done]
        whole = {
            cell.config.seed: self.results[cell.name].row["test/ndcg@20"]
            for cell in full
            if self.status(cell) == "finished"
        }
        shares = [
            row["test/ndcg@20"] / whole[cell.config.seed]
            for cell, row in zip(done, rows, strict=True)
            if whole.get(cell.config.seed)
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        known = [name for name in names if name in _FIGURES or name.startswith(("validation/", "test/"))]
        first = cells[0]
        return MethodFigures(
            dataset=dataset_name(first.config.model_dump(mode="json")),
            recommender=first.config.recommender.name,
            budget=budget_of(first),
            method=first.method,
            fields={name: value for name, value in first.fields.items() if name not in _OWN_FIELDS},
            seeds=[cell.config.seed for cell in done],
            split_seeds=list(dict.fromkeys(cell.config.split_seed for cell in done)),
            num_missing=len(cells) - len(done),
            figures={name: Spread.of(float(row[name]) for row in rows) for name in known}
            | ({"share_of_full": Spread.of(shares)} if shares else {}),
            is_still_rising=any(row["is_still_rising"] for row in rows),
            differences=differences,
        )

    def _differences(
        self, searched: Sequence[Cell], others: Sequence[Cell], rng: np.random.Generator
    ) -> dict[str, Difference]:
        """The search less another method, over the seeds that both have.

        Each user's metrics are averaged over the seeds of a split of the data.
        """
        mine, theirs = self._by_seed(searched), self._by_seed(others)
        seeds_of: dict[int, list[int]] = {}
        for cell in sorted(searched, key=lambda cell: cell.config.seed):
            if cell.config.seed in mine.keys() & theirs.keys():
                seeds_of.setdefault(cell.config.split_seed, []).append(cell.config.seed)
        if not seeds_of:
            return {}
        pooled = [
            np.stack(
                [
                    np.stack(
                        [np.mean([own[seed][name] for seed in seeds], axis=0) for name in COMPARED], axis=1
                    )
                    for seeds in seeds_of.values()
                ]
            )
            for own in (mine, theirs)
        ]
        found = paired_bootstrap(pooled[0], pooled[1], self.plan.config.num_resamples, rng)
        return dict(zip(COMPARED, found, strict=True))

    def _by_seed(self, cells: Iterable[Cell]) -> dict[int, dict[str, NDArray[np.float32]]]:
        return {
            cell.config.seed: self.results[cell.name].user_metrics
            for cell in cells
            if self.status(cell) == "finished"
        }

    def hints(self) -> list[str]:
        """What a search says of its figures, said of all cells; what holds of a seed is told of once."""
        by_point: dict[str, dict[str, list[Cell]]] = {}
        for cell in self.plan.cells:
            fields = {name: value for name, value in cell.fields.items() if name not in _OWN_FIELDS}
            point = ", ".join(f"{name}={value}" for name, value in fields.items())
            by_point.setdefault(point, {}).setdefault(cell.group, []).append(cell)
        has_budgets = len({budget_of(cell) for cell in self.plan.cells if cell.method != FULL_SIZE}) > 1
        told: list[str] = []
        for point, groups in by_point.items():
            rows: list[dict[str, Any]] = []
            hints: list[str] = []
            for cells in groups.values():
                own = {(cell.method, budget_of(cell)): self._hint_row(cell, has_budgets) for cell in cells}
                known = {key: row for key, row in own.items() if row is not None}
                rows += known.values()
                full = known.get((FULL_SIZE, "100%"))
                for (method, budget), row in known.items():
                    equal = known.get((EQUAL_SIZES, budget))
                    if method == SEARCH and equal is not None:
                        at = f"{budget}: " if has_budgets else ""
                        is_packed = row["allocation"] == EQUAL_SIZES
                        found = rank_hints(full, equal, row, is_equal_packed=is_packed)
                        hints += [at + hint for hint in found]
            config = next(iter(groups.values()))[0].config
            hints += training_hints(config, rows)
            told += [f"{point}: {hint}" if len(by_point) > 1 else hint for hint in dict.fromkeys(hints)]
        return told

    def _hint_row(self, cell: Cell, has_budgets: bool) -> dict[str, Any] | None:
        """A finished cell as hints want it; None of one that is not, or that says too little."""
        row = self.row(cell)
        if row["status"] != "finished" or "best_batch" not in row:
            return None
        at = f" at {row['budget']}" if has_budgets and cell.method != FULL_SIZE else ""
        return row | {"name": cell.method + at, "validation": {"quality": row["validation/quality"]}}

    def write(self, folder: Path) -> list[MethodFigures]:
        """Leave ``comparison.json`` and ``comparison.parquet`` in a folder.

        Returns:
            What :meth:`figures` gives.
        """
        figures = self.figures()
        rows = [self.row(cell) for cell in self.plan.cells]
        statuses = [row["status"] for row in rows]
        summary = {
            "format": COMPARISON_FORMAT,
            "config": self.plan.values(),
            "versions": versions(),
            "provenance": {
                "command": without_secrets(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
                "commit": run_tags().get("mlflow.source.git.commit"),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "seconds": self.seconds,
                "hours_of_cells": sum(row.get("wall_s", 0.0) for row in rows) / 3600.0,
            },
            "num_cells": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
            "failed": {row["cell"]: row["error"] for row in rows if row["status"] == "failed"},
            "hints": self.hints(),
            "cells": [_finite(one.to_values()) for one in figures],
        }
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        write_whole(folder / COMPARISON_FILE, text)
        write_parquet(folder / COMPARISON_ROWS_FILE, self.to_table())
        return figures


def budget_of(cell: Cell) -> str:
    """As it was asked for; a full table has all of it."""
    return "100%" if cell.method == FULL_SIZE else str(cell.config.memory_budgets[0])


def _finite(value: Any) -> Any:
    """The same with None for what no JSON number is."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
