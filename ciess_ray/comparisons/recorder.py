"""MLflow's account of a comparison."""

import json
from collections.abc import Iterable
from pathlib import Path

from ciess_ray.comparisons.cell import CellResult
from ciess_ray.comparisons.config import Cell, ComparisonPlan
from ciess_ray.tracking.mlflow_store import MlflowRun, MlflowStore
from ciess_ray.tracking.tracker import run_tags, texts_of


class Recorder:
    """One run for a comparison, and under it one for each cell.

    Args:
        plan: The comparison.
        store: Where to; None for nowhere.
        comparison_id: By which runs are found again.
    """

    def __init__(self, plan: ComparisonPlan, store: MlflowStore | None, comparison_id: str) -> None:
        self._store, self._id, self._tags = store, comparison_id, run_tags()
        self._parent: MlflowRun | None = None
        if store is not None:
            params = [("methods", ", ".join(plan.config.methods)), ("space", json.dumps(plan.config.space))]
            self._parent = store.run(comparison_id, plan.config.output.name, params=params, tags=self._tags)
            self._parent.wait()

    def record(self, cell: Cell, result: CellResult) -> None:
        """A cell is finished or failed; one that the store knows is told nothing twice."""
        if self._store is None:
            return
        row = result.row
        told = cell.config.model_dump(mode="json", exclude={"output", "cache", "tracking"})
        run = self._store.run(
            f"{self._id}/{cell.name}/{row['key']}",
            cell.name,
            params=[("method", cell.method), *texts_of(told)],
            tags=self._tags | {f"cell.{name}": str(value) for name, value in cell.fields.items()},
            parent=self._parent,
        )
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, int | float)}
        run.log_metrics(numbers, 0)
        run.end("FINISHED" if row["status"] == "finished" else "FAILED")

    def close(self, files: Iterable[Path], is_complete: bool) -> list[str]:
        """All is over.

        Args:
            files: What compares the cells.
            is_complete: Whether every cell is finished.

        Returns:
            Sentences on what the store did not take.
        """
        if self._store is None or self._parent is None:
            return []
        self._parent.log_files(files)
        self._parent.end("FINISHED" if is_complete else "FAILED")
        return self._store.close()
