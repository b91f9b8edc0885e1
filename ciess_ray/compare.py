"""Methods side by side at every point of a grid, as Ray tasks; each cell is kept as soon as it is done.

A cell runs in a process of its own, so that its CPU seconds and its peak memory are its own. What cells
share, the full-size fit and the supernet of a data set, recommender and seed, is trained once and kept in
the folder's cache. The driver alone writes cells and talks to MLflow.
"""

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from ciess_ray.cell import CellResult, Shared, prepare_full_size, prepare_supernet, run_cell
from ciess_ray.comparison_board import CELLS_FOLDER, Board, cell_file
from ciess_ray.comparison_config import Cell, ComparisonPlan, parse_comparison
from ciess_ray.comparison_results import ComparisonResults, MethodFigures
from ciess_ray.comparison_tracking import Recorder
from ciess_ray.config import RunConfig
from ciess_ray.config_file import put_override
from ciess_ray.costs import Cost
from ciess_ray.full_size import FullSizeFit
from ciess_ray.mlflow_store import MlflowStore, tell_problems
from ciess_ray.plan_data import dataset_key
from ciess_ray.resources import check_resources, gpus_of_each, ray_session
from ciess_ray.result import check_output
from ciess_ray.result_names import COMPARISON_FILE, COMPARISON_ROWS_FILE
from ciess_ray.trainings import num_threads
from ciess_ray.whole_files import sole_writer, write_whole
from envs.data import Interactions
from envs.errors import ResultError
from envs.step_modes import State

PLAN_FILE, CACHE_FOLDER = "plan.json", "cache"
PLAN_FORMAT = "ciess-ray comparison plan 1"
_FULL, _SUPERNET = "full-size fit", "supernet"


@dataclass(frozen=True)
class News:
    """What became of a cell, or of what cells share.

    Attributes:
        name: Its own.
        status: ``finished`` or ``failed``.
        num_done: Cells that are finished or failed by now.
        num_cells: Cells in all.
        row: Figures of a cell that is finished.
        error: Why it failed.
    """

    name: str
    status: str
    num_done: int
    num_cells: int
    row: Mapping[str, Any] | None = None
    error: str | None = None


Watcher = Callable[[News], None]


def compare(
    plan: ComparisonPlan, *, overwrite: bool = False, on_change: Watcher | None = None
) -> tuple[ComparisonResults, list[MethodFigures]]:
    """Run every cell that the output folder does not hold yet.

    Args:
        plan: See :func:`ciess_ray.comparison_config.load_comparison`.
        overwrite: Whether cells that were finished under other settings may be replaced.
        on_change: Called with every piece of news.

    Returns:
        All cells, and their means over seeds.

    Raises:
        CiessError: Before any cell starts: data, budgets, folder, tracking or cluster are not as they should.
    """
    folder = plan.config.output
    check_output(folder, overwrite=True)
    board = Board(plan)
    known, others = board.known(folder)
    if others and not overwrite:
        raise ResultError(
            f"{folder}: {len(others)} cells were finished under other settings, e.g. {others[0]}; name "
            "another output, or compute them anew with --overwrite."
        )
    started = time.monotonic()
    with ray_session():
        for config in {trial.config.model_dump_json(): trial.config for trial in plan.grid.trials}.values():
            check_resources(config)
        store = MlflowStore(plan.config.tracking, folder) if plan.config.tracking.mlflow else None
        try:
            (folder / CELLS_FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultError(
                f"{folder}: cannot be made ({error}); name a folder that you may write."
            ) from error
        with sole_writer(folder / CACHE_FOLDER):
            recorder = Recorder(plan, store, _write_plan(plan, folder))
            for cell in plan.cells:
                if cell.name in known:
                    recorder.record(cell, known[cell.name])
            is_over = False
            try:
                _Driver(board, folder, known, recorder, on_change).run()
                is_over = True
            finally:
                results = ComparisonResults(plan, known, time.monotonic() - started)
                figures = results.write(folder)
                files = [folder / name for name in (COMPARISON_FILE, COMPARISON_ROWS_FILE)]
                results.problems += recorder.close(files, results.is_complete)
                if not is_over:
                    # Nobody gets to see the results.
                    tell_problems(results.problems)
    return results, figures


def read_plan(folder: Path, overrides: Sequence[str] = ()) -> ComparisonPlan:
    """The plan of the comparison in a folder; :func:`compare` goes on with it.

    Args:
        folder: Of the comparison.
        overrides: Where it is recorded, e.g. ``tracking.uri=...`` whose password no folder keeps.

    Raises:
        ResultError: There is none, or it is damaged.
    """
    file = folder / PLAN_FILE
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        known, values = state["format"], state["comparison"]
    except FileNotFoundError:
        raise ResultError(f"{folder}: no comparison: there is no {PLAN_FILE} in it.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error
    if known != PLAN_FORMAT:
        raise ResultError(f"{file}: of the format {known!r}, not {PLAN_FORMAT!r}.")
    # Of before, when a random search had seconds or steps of its own.
    values.pop("random_search", None)
    values |= {"output": str(folder)}
    for override in overrides:
        put_override(values, override)
    return parse_comparison(values, str(file), Path())


def read_id(folder: Path) -> str:
    """By which MLflow finds the runs of the comparison in a folder, in which a plan is."""
    return str(json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))["id"])


def check(plan: ComparisonPlan) -> list[tuple[Cell, str]]:
    """Every cell of a plan, and what the folder holds of it; reads the data and starts nothing.

    Raises:
        CiessError: Data cannot be read, or a budget not be met.
    """
    known, others = Board(plan).known(plan.config.output)
    done = {name for name, result in known.items() if result.row["status"] == "finished"}
    return [
        (cell, "finished" if cell.name in done else "other settings" if cell.name in others else "to do")
        for cell in plan.cells
    ]


def _write_plan(plan: ComparisonPlan, folder: Path) -> str:
    """Leave the plan in the folder, under the id of a former one.

    Returns:
        The id, by which MLflow finds runs again.
    """
    file = folder / PLAN_FILE
    try:
        known = str(json.loads(file.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        known = uuid.uuid4().hex[:12]
    state = {"format": PLAN_FORMAT, "id": known, "comparison": plan.values()}
    write_whole(file, json.dumps(state, indent=2) + "\n")
    return known


class _Driver:
    """Submits what is ready, and keeps what is done."""

    def __init__(
        self,
        board: Board,
        folder: Path,
        results: dict[str, CellResult],
        recorder: Recorder,
        on_change: Watcher | None,
    ) -> None:
        self._board, self._folder, self._results = board, folder, results
        self._recorder, self._on_change = recorder, on_change
        # Test apart: what a cell is handed holds none.
        self._visible = {key: ray.put(data.without_test()) for key, data in board.data.items()}
        self._test = {key: ray.put(data.test) for key, data in board.data.items()}
        self._shared: dict[str, tuple[Any, Any]] = {}
        self._errors: dict[str, str] = {}
        self._running: dict[Any, str] = {}

    def run(self) -> None:
        """Until every cell is finished or failed."""
        waiting = {cell.name: cell for cell in self._board.plan.cells if cell.name not in self._results}
        fits = {fit: cell for cell in waiting.values() for fit in self._fits(cell)}
        try:
            for (kind, name), cell in fits.items():
                self._submit_fit(kind, name, cell)
            while waiting or self._running:
                for cell in list(waiting.values()):
                    if self._start_or_fail(cell):
                        del waiting[cell.name]
                if self._running:
                    self._take_one()
        finally:
            for reference in self._running:
                ray.cancel(reference, force=True)

    def _fits(self, cell: Cell) -> Iterator[tuple[str, str]]:
        """Kind and name of what is trained beforehand for a cell."""
        fields = ", ".join(f"{name}={value}" for name, value in json.loads(cell.group).items())
        of = f" of {fields}" if fields else ""
        if self._board.needs_full(cell):
            yield _FULL, f"{_FULL}{of}"
        if self._board.needs_supernet(cell):
            yield _SUPERNET, f"{_SUPERNET}{of}"

    def _submit_fit(self, kind: str, name: str, cell: Cell) -> None:
        cache = (self._folder / CACHE_FOLDER).absolute()
        config = cell.config.model_copy(update={"cache": cache})
        data = self._visible[dataset_key(config)]
        caps = self._board.shared_caps(cell) if kind == _SUPERNET else None
        task: Any = _fit.options(**self._claims(config))
        value, cost = task.remote(config, data, caps)
        self._shared[name] = value, cost
        # The small one tells when both are there.
        self._running[cost] = name

    def _start_or_fail(self, cell: Cell) -> bool:
        """Whether a cell need not wait any longer."""
        fits = dict(self._fits(cell))
        needed = list(fits.values())
        failed = next((name for name in needed if name in self._errors), None)
        if failed is not None:
            self._fail(cell, f"it needs the {failed}, which failed: {self._errors[failed]}")
            return True
        under_way = set(self._running.values())
        if any(name in under_way for name in needed):
            return False
        config = cell.config.model_copy(update={"cache": None})
        key = dataset_key(config)
        nothing = None, None
        (full, full_cost), (supernet, supernet_cost) = (
            self._shared[fits[kind]] if kind in fits else nothing for kind in (_FULL, _SUPERNET)
        )
        reference = _cell.options(**self._claims(config)).remote(
            cell.method,
            config,
            self._visible[key],
            # In a list it is fetched when it is asked for, and not before.
            [self._test[key]],
            self._board.cap_params(cell),
            full,
            supernet,
            [cost for cost in (full_cost, supernet_cost) if cost is not None],
        )
        self._running[reference] = cell.name
        return True

    def _claims(self, config: RunConfig) -> dict[str, float]:
        resources = config.resources
        num_cells = len(self._board.plan.cells)
        return {
            "num_cpus": resources.num_cpus_per_training,
            "num_gpus": gpus_of_each(config, resources.num_gpus_per_training, num_cells),
        }

    def _take_one(self) -> None:
        (reference,), _ = ray.wait(list(self._running), num_returns=1)
        name = self._running.pop(reference)
        cell = next((cell for cell in self._board.plan.cells if cell.name == name), None)
        try:
            value = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            self._told_failure(name, cell, f"{type(cause).__name__}: {cause}")
        except ray.exceptions.RayError as error:
            died = f"its process died ({type(error).__name__}: {error}); is there memory for it?"
            self._told_failure(name, cell, died)
        else:
            if cell is not None:
                self._keep(cell, value)
            else:
                self._tell(name, "finished")

    def _told_failure(self, name: str, cell: Cell | None, error: str) -> None:
        if cell is not None:
            self._fail(cell, error)
        else:
            self._errors[name] = error
            self._tell(name, "failed", error=error)

    def _keep(self, cell: Cell, result: CellResult) -> None:
        row = {"status": "finished", "key": self._board.key(cell), **result.row}
        self._results[cell.name] = CellResult(row, result.user_metrics, result.sizes)
        self._results[cell.name].write(cell_file(self._folder, cell))
        self._recorder.record(cell, self._results[cell.name])
        self._tell(cell.name, "finished", row)

    def _fail(self, cell: Cell, error: str) -> None:
        self._errors[cell.name] = error
        row = {"status": "failed", "key": self._board.key(cell), "error": error}
        self._results[cell.name] = CellResult(row)
        self._results[cell.name].write(cell_file(self._folder, cell))
        self._recorder.record(cell, self._results[cell.name])
        self._tell(cell.name, "failed", error=error)

    def _tell(
        self, name: str, status: str, row: Mapping[str, Any] | None = None, error: str | None = None
    ) -> None:
        if self._on_change is not None:
            num_cells = len(self._board.plan.cells)
            self._on_change(News(name, status, len(self._results), num_cells, row, error))


@ray.remote(num_returns=2, max_calls=1, max_retries=3)
def _fit(
    config: RunConfig, interactions: Interactions, caps_params: Sequence[int] | None
) -> tuple[FullSizeFit | State, Cost]:
    """The supernet for some budgets, or the full-size fit, with its cost."""
    torch.set_num_threads(num_threads(config))
    if caps_params is None:
        return prepare_full_size(config, interactions)
    return prepare_supernet(config, interactions, caps_params)


@ray.remote(max_calls=1, max_retries=3)
def _cell(
    method: str,
    config: RunConfig,
    interactions: Interactions,
    test: Sequence[Any],
    cap_params: int,
    full: FullSizeFit | None,
    supernet: State | None,
    costs: Sequence[Any],
) -> CellResult:
    """See :func:`ciess_ray.cell.run_cell`."""
    torch.set_num_threads(num_threads(config))
    is_full = config.search.steps_start_from == "full size"
    pretrained = full.state if is_full and full is not None else supernet
    shared = Shared(full, pretrained, ray.get(list(costs)))
    work = Path(tempfile.mkdtemp(prefix="ciess-ray-cell-"))
    try:
        return run_cell(method, config, interactions, lambda: ray.get(test[0]), cap_params, shared, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
