"""Methods side by side at every point of a grid, as Ray tasks; each cell is kept as soon as it is done.

A cell runs in a process of its own, so that its CPU seconds and its peak memory are its own. What cells
share, the full-size fit and the supernet of a data set, recommender and seed, is trained once and kept in
the folder's cache. The driver alone writes cells and talks to MLflow.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch

from ciess_ray.comparisons.cell import Board, CellResult, cell_file, run_cell
from ciess_ray.comparisons.config import Cell, ComparisonPlan
from ciess_ray.comparisons.methods import Problem
from ciess_ray.comparisons.results import ComparisonResults, budget_of
from ciess_ray.comparisons.yardsticks import run_yardstick
from ciess_ray.config.data import dataset_key, read_recorded
from ciess_ray.config.run import RunConfig
from ciess_ray.files.whole import sole_writer, write_whole
from ciess_ray.names import COMPARISON_FILE, COMPARISON_ROWS_FILE
from ciess_ray.resources import check_resources, num_threads, ray_session
from ciess_ray.result import check_output
from ciess_ray.tracking.mlflow_store import MlflowStore
from ciess_ray.tracking.runs import Monitor, News, RunState, Watcher
from ciess_ray.training.convergence import Trained
from ciess_ray.training.preparing import (
    FULL_SIZE_FIT,
    SUPERNET,
    Preparation,
    as_ready,
    claiming,
    keep,
    start_all,
    value_of,
)
from envs.data import Interactions
from envs.errors import ResultError

PLAN_FILE, CACHE_FOLDER = "plan.json", "cache"
PLAN_FORMAT = "ciess-ray comparison plan 1"


def compare(
    plan: ComparisonPlan, *, overwrite: bool = False, on_change: Watcher | None = None
) -> ComparisonResults:
    """Run every cell that the output folder does not hold yet.

    Args:
        plan: See :meth:`ciess_ray.comparisons.config.ComparisonPlan.load`.
        overwrite: Whether cells that were finished under other settings may be replaced.
        on_change: Called with every piece of news.

    Raises:
        CiessError: Before any cell starts: data, budgets, folder, tracking or cluster are not as they should.
    """
    folder, started = plan.config.output, time.monotonic()
    check_output(folder, overwrite=True)
    board = Board(plan)
    # Ray takes seconds.
    with sole_writer(folder / CACHE_FOLDER):
        if not board.finds_recipes:
            cells = _kept(board, folder, overwrite=overwrite)
        with ray_session():
            for config in {trial.config.model_dump_json(): trial.config for trial in plan.trials}.values():
                check_resources(config)
            store = MlflowStore(plan.config.tracking, folder) if plan.config.tracking.mlflow else None
            with monitor_of(plan, store, _write_plan(plan, folder), on_change) as monitor:
                if board.finds_recipes:
                    board.find_recipes(folder / CACHE_FOLDER, lambda news: monitor.tell(news, "prepared"))
                    cells = _kept(board, folder, overwrite=overwrite)
                for cell in plan.cells:
                    if cell.name in cells:
                        record(monitor, cell, cells[cell.name], "found in the cache")
                try:
                    _compute(board, folder, cells, monitor)
                finally:
                    results = ComparisonResults(plan, cells, time.monotonic() - started)
                    results.write(folder)
                    monitor.files = [folder / COMPARISON_FILE, folder / COMPARISON_ROWS_FILE]
    results.problems += monitor.problems
    return results


def _kept(board: Board, folder: Path, *, overwrite: bool) -> dict[str, CellResult]:
    """Finished cells of a folder.

    Raises:
        ResultError: Some are finished under other settings, and may not be replaced.
    """
    cells, others = board.kept(folder)
    if others and not overwrite:
        raise ResultError(
            f"{folder}: {len(others)} cells were finished under other settings or on other interactions, "
            f"e.g. {others[0]}; name another output, or compute them anew with --overwrite."
        )
    return cells


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
    content = file.read_bytes() if file.is_file() else None
    _, values = read_recorded(content, str(folder), PLAN_FILE, PLAN_FORMAT, overrides)
    return ComparisonPlan.of(values | {"output": str(folder)}, str(file), Path())


def read_id(folder: Path) -> str:
    """By which MLflow finds the runs of the comparison in a folder, in which a plan is."""
    return str(json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))["id"])


def check(plan: ComparisonPlan) -> list[tuple[Cell, str]]:
    """Every cell of a plan, and what the folder holds of it; reads the data and starts nothing.

    Raises:
        CiessError: Data cannot be read, or a budget not be met.
    """
    board = Board(plan)
    if board.finds_recipes:
        return [(cell, "to do, once it is found how to train") for cell in plan.cells]
    done, others = board.kept(plan.config.output)
    return [
        (cell, "finished" if cell.name in done else "other settings" if cell.name in others else "to do")
        for cell in plan.cells
    ]


def monitor_of(
    plan: ComparisonPlan, store: MlflowStore | None, key: str, on_change: Watcher | None = None
) -> Monitor:
    """What follows the cells of a comparison.

    Args:
        plan: The comparison.
        store: MLflow; None where nothing is recorded.
        key: By which MLflow finds the runs again.
        on_change: Called with every piece of news.
    """
    return Monitor(
        "cells",
        [RunState(cell.name, cell.fields, cell.config, budget_of(cell)) for cell in plan.cells],
        store,
        key,
        plan.config.output.name,
        params={"methods": ", ".join(plan.config.methods), "space": json.dumps(plan.config.space)},
        on_change=on_change,
    )


def record(monitor: Monitor, cell: Cell, result: CellResult, news: News | None = None) -> None:
    """A cell is finished or failed, unless other news is told; MLflow is told nothing twice."""
    row, state = result.row, monitor.state.runs[cell.name]
    state.quality, state.seconds = row.get("validation/quality"), row.get("wall_s")
    state.error = row.get("error")
    if row["status"] == "finished":
        # Cells of before have no allocation.
        chosen = row.get("options", "") if cell.is_yardstick else row.get("allocation", "")
        state.note = f"N@20 {row['test/ndcg@20']:.4f}  {chosen}".rstrip()
    run = monitor.record(
        cell.name,
        f"/{row['key']}",
        params={"method": cell.method},
        tags={f"cell.{name}": str(value) for name, value in cell.fields.items()},
    )
    if run is not None:
        run.log_metrics({name: float(v) for name, v in row.items() if isinstance(v, int | float)}, 0)
    if row["status"] == "refused":
        # It is done: to try again would not help.
        monitor.end(cell.name, "finished", "refused")
    else:
        monitor.end(cell.name, row["status"], news)


def send_comparison(folder: Path, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Record the cells of a comparison that are done.

    Runs that the store knows are gone on with and get only what they lack, so that it may be sent twice.

    Args:
        folder: Of the comparison.
        overrides: Where to, if elsewhere than it says: ``tracking.uri=...``, ``tracking.experiment=...``.

    Returns:
        The store, without its secret, and a sentence on each thing that it did not take.

    Raises:
        CiessError: There is none, or MLflow cannot record there.
    """
    plan = read_plan(folder, overrides)
    store = MlflowStore(plan.config.tracking, folder)
    with monitor_of(plan, store, read_id(folder)) as monitor:
        for cell in plan.cells:
            result = CellResult.read(cell_file(folder, cell))
            if result is not None:
                record(monitor, cell, result)
        files = (folder / COMPARISON_FILE, folder / COMPARISON_ROWS_FILE)
        monitor.files = [file for file in files if file.exists()]
    return store.uri, monitor.problems


def _write_plan(plan: ComparisonPlan, folder: Path) -> str:
    """Leave the plan in the folder, under the id of a former one.

    Returns:
        The id, by which MLflow finds runs again.
    """
    try:
        key = read_id(folder)
    except (OSError, ValueError, KeyError, TypeError):
        key = uuid.uuid4().hex[:12]
    state = {"format": PLAN_FORMAT, "id": key, "comparison": plan.values()}
    write_whole(folder / PLAN_FILE, json.dumps(state, indent=2) + "\n")
    return key


def _compute(board: Board, folder: Path, results: dict[str, CellResult], monitor: Monitor) -> None:
    """Have every cell computed that has no result, with what it needs, and keep what is done."""
    waiting = [cell for cell in board.plan.cells if cell.name not in results]
    needed = {cell.name: board.needed(cell) for cell in waiting}
    names = {
        preparation.key: shared_name(preparation, cell)
        for cell in waiting
        for preparation in needed[cell.name]
    }
    errors: dict[str, str] = {}
    num_prepared = 0
    for reference, task in as_ready(_submit(board, folder, waiting, needed)):
        if isinstance(task, Preparation):
            try:
                is_cached = keep(task, reference, folder / CACHE_FOLDER).is_cached
                news: News = "found in the cache" if is_cached else "finished"
            except Exception as error:
                # Cells that need it fail with it.
                errors[task.key], news = f"{type(error).__name__}: {error}", "failed"
            num_prepared += 1
            monitor.prepare(num_prepared, len(names), names[task.key], news)
            continue
        key = board.key(task)
        try:
            done = value_of(reference, f"the cell {task.name}")
            result = replace(done, row={"status": "finished", "key": key, **done.row})
        # Of the method's code, or of its process: the cell says so, and the others go on.
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            for preparation in needed[task.name]:
                if preparation.key in errors:
                    why = f"it needs the {names[preparation.key]}, which failed: {errors[preparation.key]}"
            result = CellResult({"status": "failed", "key": key, "error": why})
        results[task.name] = result
        result.write(cell_file(folder, task))
        record(monitor, task, result)


def shared_name(preparation: Preparation, cell: Cell) -> str:
    """What a reader calls what a cell needs: by the fields that its group has and others have not."""
    fields = ", ".join(f"{name}={value}" for name, value in json.loads(cell.group).items())
    return f"{preparation.kind} of {fields}" if fields else preparation.kind


def _submit(
    board: Board, folder: Path, waiting: Sequence[Cell], needed: Mapping[str, Sequence[Preparation]]
) -> dict[Any, Cell | Preparation]:
    """Hand everything to Ray, which starts a cell when what it needs is there."""
    # Test apart: what a cell is handed holds none.
    visible = {key: ray.put(data.without_test()) for key, data in board.data.items()}
    test = {key: ray.put(data.test) for key, data in board.data.items()}
    num_claims = len(board.plan.cells)
    preparations = {preparation.key: preparation for each in needed.values() for preparation in each}
    shared = start_all(preparations.values(), visible, folder / CACHE_FOLDER, num_claims)
    tasks: dict[Any, Cell | Preparation] = {shared[key]: each for key, each in preparations.items()}
    for cell in waiting:
        config = cell.config.model_copy(update={"cache": None})
        # In a list it is fetched when it is asked for, and not before.
        held_out = [test[dataset_key(config)]]
        if cell.is_yardstick:
            task = _yardstick.options(num_cpus=config.resources.num_cpus_per_training).remote(
                cell.method, visible[dataset_key(config)], held_out
            )
            tasks[task] = cell
            continue
        given = {preparation.kind: shared[preparation.key] for preparation in needed[cell.name]}
        task = claiming(_cell, config, num_claims).remote(
            cell.method,
            config,
            visible[dataset_key(config)],
            held_out,
            board.cap_params(cell),
            given.get(FULL_SIZE_FIT),
            given.get(SUPERNET),
        )
        tasks[task] = cell
    return tasks


@ray.remote(max_calls=1, max_retries=3)
def _cell(
    method: str,
    config: RunConfig,
    interactions: Interactions,
    test: Sequence[Any],
    cap_params: int,
    full: Trained | None,
    supernet: Trained | None,
) -> CellResult:
    """See :func:`ciess_ray.comparisons.cell.run_cell`."""
    torch.set_num_threads(num_threads(config))
    costs = [shared.cost for shared in (full, supernet) if shared and shared.cost]
    start = {None: None, "full size": full, "supernet": supernet}[config.steps.starts_from]
    with TemporaryDirectory(prefix="ciess-ray-cell-", ignore_cleanup_errors=True) as work:
        problem = Problem(config, interactions, cap_params, Path(work), full, start.state if start else None)
        return run_cell(method, problem, costs, lambda: ray.get(test[0]))


@ray.remote(max_calls=1, max_retries=3)
def _yardstick(name: str, interactions: Interactions, test: Sequence[Any]) -> CellResult:
    """See :func:`ciess_ray.comparisons.yardsticks.run_yardstick`."""
    return run_yardstick(name, interactions, lambda: ray.get(test[0]))
