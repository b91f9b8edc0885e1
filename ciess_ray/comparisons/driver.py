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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from ciess_ray.comparisons.board import Board, cell_file
from ciess_ray.comparisons.cell import CellResult, Shared, run_cell
from ciess_ray.comparisons.config import Cell, ComparisonPlan, parse_comparison
from ciess_ray.comparisons.figures import MethodFigures
from ciess_ray.comparisons.recorder import Recorder
from ciess_ray.comparisons.results import ComparisonResults
from ciess_ray.config.data import dataset_key, put_resumed
from ciess_ray.config.former import without_former
from ciess_ray.config.run import RunConfig
from ciess_ray.files.whole import read_arrays, sole_writer, write_arrays, write_whole
from ciess_ray.names import COMPARISON_FILE, COMPARISON_ROWS_FILE
from ciess_ray.resources import check_resources, gpus_of_each, num_threads, ray_session
from ciess_ray.result import check_output
from ciess_ray.tracking.mlflow_store import MlflowStore, tell_problems
from ciess_ray.training.preparing import Arrays, Done, Prepared, file_of, next_of, start
from ciess_ray.training.pretrained import FULL_SIZE_FIT, SUPERNET, Preparation
from envs.data import Interactions
from envs.errors import ResultError

PLAN_FILE, CACHE_FOLDER = "plan.json", "cache"
PLAN_FORMAT = "ciess-ray comparison plan 1"


@dataclass(frozen=True)
class News:
    """What became of a cell, or of what cells share.

    Attributes:
        name: Its own.
        status: ``finished``, ``failed``, or ``found in the cache``.
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
        plan: See :func:`ciess_ray.comparisons.config.load_comparison`.
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
    # Ray takes seconds.
    with sole_writer(folder / CACHE_FOLDER):
        known, others = board.known(folder)
        if others and not overwrite:
            raise ResultError(
                f"{folder}: {len(others)} cells were finished under other settings or on other interactions, "
                f"e.g. {others[0]}; name another output, or compute them anew with --overwrite."
            )
        started = time.monotonic()
        with ray_session():
            configs = {trial.config.model_dump_json(): trial.config for trial in plan.grid.trials}
            for config in configs.values():
                check_resources(config)
            store = MlflowStore(plan.config.tracking, folder) if plan.config.tracking.mlflow else None
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
        overrides: Where the same interactions lie now, e.g. ``dataset.path=elsewhere/log.csv``; where it
            is recorded, e.g. ``tracking.uri=...`` whose password no folder keeps.

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
    put_resumed(values, overrides)
    return parse_comparison(without_former(values), str(file), Path())


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
        #: By key, what was trained for several cells, and what a reader calls it.
        self._shared: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._errors: dict[str, str] = {}
        self._running: dict[Any, Cell | Preparation] = {}

    def run(self) -> None:
        """Until every cell is finished or failed."""
        waiting = {cell.name: cell for cell in self._board.plan.cells if cell.name not in self._results}
        needed = {name: self._needed(cell) for name, cell in waiting.items()}
        try:
            for cell in waiting.values():
                for preparation in needed[cell.name]:
                    if preparation.key not in self._names:
                        self._prepare(preparation, cell)
            while waiting or self._running:
                for cell in list(waiting.values()):
                    if self._start_or_fail(cell, needed[cell.name]):
                        del waiting[cell.name]
                if self._running:
                    self._take_one()
        finally:
            for reference in self._running:
                ray.cancel(reference, force=True)

    def _needed(self, cell: Cell) -> list[Preparation]:
        """What is trained beforehand for a cell."""
        board, needed = self._board, []
        interactions = board.interactions(cell)
        if board.needs_full(cell):
            needed.append(Preparation.full_size(cell.config, interactions, keeps_state=True))
        if board.needs_supernet(cell):
            needed.append(Preparation.supernet(cell.config, interactions, board.shared_caps(cell)))
        return needed

    def _prepare(self, preparation: Preparation, cell: Cell) -> None:
        fields = ", ".join(f"{name}={value}" for name, value in json.loads(cell.group).items())
        name = f"{preparation.kind} of {fields}" if fields else preparation.kind
        self._names[preparation.key] = name
        kept = read_arrays(file_of(preparation, self._folder / CACHE_FOLDER))
        if kept is not None:
            self._shared[preparation.key] = ray.put(kept)
            self._tell(name, "found in the cache")
            return
        config, count = cell.config, len(self._board.plan.cells)
        data = self._visible[dataset_key(config)]
        stream = start(preparation, data, num_threads(config), num_claims=count, is_alone=True)
        self._running[stream] = preparation

    def _start_or_fail(self, cell: Cell, needed: Sequence[Preparation]) -> bool:
        """Whether a cell need not wait any longer."""
        names = [self._names[preparation.key] for preparation in needed]
        failed = next((name for name in names if name in self._errors), None)
        if failed is not None:
            self._fail(cell, f"it needs the {failed}, which failed: {self._errors[failed]}")
            return True
        if any(preparation.key not in self._shared for preparation in needed):
            return False
        config = cell.config.model_copy(update={"cache": None})
        key = dataset_key(config)
        shared = {preparation.kind: self._shared[preparation.key] for preparation in needed}
        reference = _cell.options(**self._claims(config)).remote(
            cell.method,
            config,
            self._visible[key],
            # In a list it is fetched when it is asked for, and not before.
            [self._test[key]],
            self._board.cap_params(cell),
            shared.get(FULL_SIZE_FIT),
            shared.get(SUPERNET),
        )
        self._running[reference] = cell
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
        what = self._running[reference]
        if isinstance(what, Preparation):
            self._follow(reference, what)
            return
        del self._running[reference]
        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            self._fail(what, f"{type(cause).__name__}: {cause}")
        except ray.exceptions.RayError as error:
            self._fail(what, f"its process died ({type(error).__name__}: {error}); is there memory for it?")
        else:
            self._keep(what, result)

    def _follow(self, stream: Any, preparation: Preparation) -> None:
        """The next news of a training."""
        name = self._names[preparation.key]
        try:
            news = next_of(stream, f"the {name}")
        except Exception as error:
            # Cells that need it fail with it.
            del self._running[stream]
            self._errors[name] = f"{type(error).__name__}: {error}"
            self._tell(name, "failed", error=self._errors[name])
            return
        if isinstance(news, Done):
            del self._running[stream]
            write_arrays(file_of(preparation, self._folder / CACHE_FOLDER), news.value)
            self._shared[preparation.key] = ray.put(news.value)
            self._tell(name, "finished")

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


@ray.remote(max_calls=1, max_retries=3)
def _cell(
    method: str,
    config: RunConfig,
    interactions: Interactions,
    test: Sequence[Any],
    cap_params: int,
    full: Arrays | None,
    supernet: Arrays | None,
) -> CellResult:
    """See :func:`ciess_ray.comparisons.cell.run_cell`."""
    torch.set_num_threads(num_threads(config))
    given = [Prepared(arrays) for arrays in (full, supernet) if arrays is not None]
    fit = None if full is None else Prepared(full).full
    is_full = config.search.steps_start_from == "full size"
    pretrained = fit.state if is_full and fit else None if supernet is None else Prepared(supernet).state
    shared = Shared(fit, pretrained, [one.cost for one in given])
    work = Path(tempfile.mkdtemp(prefix="ciess-ray-cell-"))
    try:
        return run_cell(method, config, interactions, lambda: ray.get(test[0]), cap_params, shared, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
