"""What a comparison leaves: a row a cell, means over seeds, and whether the search beats each method."""

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.comparisons.cell import CellResult
from ciess_ray.comparisons.config import Cell, ComparisonPlan
from ciess_ray.comparisons.method_figures import COMPARED, FIGURES, HEADINGS, NO_BUDGET, MethodFigures
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
from ciess_ray.statistics import Difference, Spread, paired_bootstrap, table_of
from ciess_ray.streams import Stream, rng_of
from ciess_ray.terminal import TextTable
from ciess_ray.tracking.runs import run_tags

if TYPE_CHECKING:
    import pandas as pd


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

    @cached_property
    def finished(self) -> dict[str, CellResult]:
        """Those that came to their end, by name."""
        return {name: result for name, result in self.results.items() if result.row["status"] == "finished"}

    @property
    def is_complete(self) -> bool:
        """Whether every cell is finished, or was refused."""
        done = (result.row["status"] in ("finished", "refused") for result in self.results.values())
        return sum(done) == len(self.plan.cells)

    def row(self, cell: Cell) -> dict[str, Any]:
        """What ``comparison.parquet`` says of a cell."""
        row = {
            "cell": cell.name,
            "dataset": dataset_name(cell.config.model_dump(mode="json")),
            "recommender": recommender_of(cell),
            "budget": budget_of(cell),
            "method": cell.method,
            "seed": cell.config.seed,
            "split_seed": cell.config.split_seed,
            "status": "pending",
            "error": None,
        }
        return row | self.results[cell.name].row if cell.name in self.results else row

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of all cells, in order."""
        return [self.row(cell) for cell in self.plan.cells]

    def table(self) -> "pd.DataFrame":
        """Every method at every point, by name: means over its finished seeds, and the search against it.

        Recall and NDCG are on test. ``search/relative`` is by which share of the method's NDCG@20 the search
        exceeds it, with the ends of the 95 % interval and p, paired over users and splits.
        """
        # It takes a while to import.
        import pandas as pd

        return pd.DataFrame([entry.row() for entry in self.figures]).set_index("method")

    def to_rich(self) -> TextTable:
        """What people read: a row a method, budget after budget, yardsticks after the full size."""
        has_datasets = len({entry.dataset for entry in self.figures}) > 1
        points = []
        for entry in self.figures:
            others = [
                f"{name.rpartition('.')[2]}={value}"
                for name, value in entry.fields.items()
                if name.split(".")[0] not in ("dataset", "recommender")
            ]
            dataset = [entry.dataset] if has_datasets else []
            points.append(" ".join(filter(None, [*dataset, entry.recommender, *others, entry.budget])))
        rows = [
            ("" if point == before else point, entry.method, *entry.cells())
            for before, point, entry in zip(["", *points], points, self.figures, strict=False)
        ]
        headings = ["budget", *HEADINGS, "trainings", "CPU s", "peak MB", "options"]
        if not any(entry.options for entry in self.figures):
            headings, rows = headings[:-1], [row[:-1] for row in rows]
        return TextTable(*headings, first_number=2, rows=rows)

    @cached_property
    def figures(self) -> list[MethodFigures]:
        """Means over seeds of every method at every point of the grid, and the search against each."""
        points: dict[str, dict[str, list[Cell]]] = {}
        # What keeps to no budget is told of beside the budgets, and not with any.
        full: dict[str, list[Cell]] = {}
        yardsticks: dict[str, list[Cell]] = {}
        for cell in self.plan.cells:
            key = json.dumps({name: value for name, value in cell.fields.items() if name != "seed"})
            if cell.method == FULL_SIZE:
                full.setdefault(key, []).append(cell)
            elif cell.is_yardstick:
                yardsticks.setdefault(key + cell.method, []).append(cell)
            else:
                points.setdefault(key, {}).setdefault(cell.method, []).append(cell)
        beside = (*full.values(), *yardsticks.values())
        figures = [self._method_figures(cells, {}) for cells in beside]
        for number, methods in enumerate(points.values()):
            rng = rng_of(0, Stream.BOOTSTRAP, number)
            for method, cells in methods.items():
                searched = methods.get(SEARCH, []) if method != SEARCH else []
                figures.append(self._method_figures(cells, self._differences(searched, cells, rng)))
        return figures

    def _method_figures(self, cells: Sequence[Cell], differences: dict[str, Difference]) -> MethodFigures:
        first, finished = cells[0], [cell for cell in cells if cell.name in self.finished]
        rows = [self.finished[cell.name].row | self._shares_of_full.get(cell.name, {}) for cell in finished]
        names = dict.fromkeys(name for row in rows for name in row)
        return MethodFigures(
            dataset=dataset_name(first.config.model_dump(mode="json")),
            recommender=recommender_of(first),
            budget=budget_of(first),
            method=first.method,
            fields=_fields_of(first),
            seeds=[cell.config.seed for cell in finished],
            split_seeds=list(dict.fromkeys(cell.config.split_seed for cell in finished)),
            num_missing=len(cells) - len(finished),
            figures={
                name: Spread.of(float(row[name]) for row in rows if name in row)
                for name in names
                if name in FIGURES or name.startswith(("validation/", "test/"))
            },
            is_still_rising=any(row.get("is_still_rising") for row in rows),
            differences=differences,
            options=_options_of(rows),
            refused=next(
                (
                    self.results[cell.name].row["error"]
                    for cell in cells
                    if cell.name in self.results and self.results[cell.name].row["status"] == "refused"
                ),
                "",
            ),
        )

    @cached_property
    def _shares_of_full(self) -> dict[str, dict[str, float]]:
        """By the name of a finished cell, its N@20 as a share of full size's where that is finished too."""
        ndcg = {
            cell: self.finished[cell.name].row["test/ndcg@20"]
            for cell in self.plan.cells
            if cell.name in self.finished
        }
        full = {cell.group: value for cell, value in ndcg.items() if cell.method == FULL_SIZE}
        of_splits: dict[tuple[str, int], list[float]] = {}
        for cell, value in ndcg.items():
            if cell.method == FULL_SIZE:
                of_splits.setdefault(cell.split, []).append(value)
        shares = {}
        for cell, value in ndcg.items():
            wholes = of_splits.get(cell.split, []) if cell.is_yardstick else [full.get(cell.group, 0.0)]
            # Of several recommenders, or trainings, a yardstick is a share of none.
            if len(wholes) == 1 and wholes[0]:
                shares[cell.name] = {"share_of_full": value / wholes[0]}
        return shares

    def _differences(
        self, searched: Sequence[Cell], others: Sequence[Cell], rng: np.random.Generator
    ) -> dict[str, Difference]:
        """The search less another method, over the seeds that both have.

        Each user's metrics are averaged over the seeds of a split of the data.
        """
        finished = self.finished
        theirs = {cell.config.seed: finished[cell.name] for cell in others if cell.name in finished}
        pairs: dict[int, list[list[NDArray[np.float32]]]] = {}
        for cell in sorted(searched, key=lambda cell: cell.config.seed):
            if cell.name in finished and cell.config.seed in theirs:
                pair = finished[cell.name], theirs[cell.config.seed]
                metrics = [np.stack([result.user_metrics[k] for k in COMPARED], axis=1) for result in pair]
                pairs.setdefault(cell.config.split_seed, []).append(metrics)
        if not pairs:
            return {}
        first, second = np.stack([np.mean(of_seeds, axis=0) for of_seeds in pairs.values()], axis=1)
        differences = paired_bootstrap(first, second, self.plan.config.num_resamples, rng)
        return dict(zip(COMPARED, differences, strict=True))

    def hints(self) -> list[str]:
        """What a search says of its figures, said of all cells; what holds of a seed is told of once."""
        points: dict[str, list[Cell]] = {}
        methods = [cell for cell in self.plan.cells if not cell.is_yardstick]
        for cell in methods:
            point = ", ".join(f"{name}={value}" for name, value in _fields_of(cell).items())
            points.setdefault(point, []).append(cell)
        has_budgets = len({budget_of(cell) for cell in methods if cell.method != FULL_SIZE}) > 1
        all_hints: list[str] = []
        for point, cells in points.items():
            rows: dict[tuple[str, str, str], dict[str, Any]] = {}
            for cell in cells:
                row, budget = self.row(cell), budget_of(cell)
                # What is older says too little.
                if row["status"] == "finished" and "best_batch" in row:
                    end = f" at {budget}" if has_budgets and cell.method != FULL_SIZE else ""
                    validation = {"quality": row["validation/quality"]}
                    rows[cell.group, cell.method, budget] = row | {
                        "name": cell.method + end,
                        "validation": validation,
                    }
            hints: list[str] = []
            for (group, method, budget), row in rows.items():
                equal = rows.get((group, EQUAL_SIZES, budget))
                if method == SEARCH and equal is not None:
                    full = rows.get((group, FULL_SIZE, "100%"))
                    ranks = rank_hints(full, equal, row, is_equal_packed=row["allocation"] == EQUAL_SIZES)
                    hints += [f"{budget}: {hint}" if has_budgets else hint for hint in ranks]
            hints += training_hints(cells[0].config, list(rows.values()))
            all_hints += [f"{point}: {hint}" if len(points) > 1 else hint for hint in dict.fromkeys(hints)]
        return all_hints

    def write(self, folder: Path) -> None:
        """Leave ``comparison.json`` and ``comparison.parquet`` in a folder."""
        rows = self.rows
        # None takes the place of what no JSON number is.
        cells = json.dumps([asdict(method) for method in self.figures])
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
            "num_cells": Counter(row["status"] for row in rows),
            "failed": {row["cell"]: row["error"] for row in rows if row["status"] == "failed"},
            "hints": self.hints(),
            "cells": json.loads(cells, parse_constant=lambda constant: None),
        }
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        write_whole(folder / COMPARISON_FILE, text)
        write_parquet(folder / COMPARISON_ROWS_FILE, table_of(rows))


def _fields_of(cell: Cell) -> dict[str, Any]:
    """What a cell has that others have not, seed and budget aside."""
    return {name: value for name, value in cell.fields.items() if name not in ("seed", "budget")}


def budget_of(cell: Cell) -> str:
    """As it was asked for; a full table has all of it, and a yardstick none."""
    if cell.is_yardstick:
        return NO_BUDGET
    return "100%" if cell.method == FULL_SIZE else str((cell.asked or cell.config).memory_budgets[0])


def recommender_of(cell: Cell) -> str:
    """Its name; empty of a yardstick, which stands beside every recommender."""
    return "" if cell.is_yardstick else cell.config.recommender.name


def _options_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What was chosen of options, each once; what is searched with has no text of its own."""
    chosen = dict.fromkeys(row.get("options") or "" for row in rows)
    return [text or "as searched with" for text in chosen] if any(chosen) else []
