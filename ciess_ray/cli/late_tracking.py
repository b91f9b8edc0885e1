"""What a folder holds, sent to MLflow afterwards: for whom no store was there, or not for long enough.

Runs that the store knows are gone on with and get only what they lack, so that a folder may be sent twice.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ciess_ray.comparisons.board import cell_file
from ciess_ray.comparisons.cell import CellResult
from ciess_ray.comparisons.driver import PLAN_FILE, read_id, read_plan
from ciess_ray.comparisons.recorder import Recorder
from ciess_ray.config.run import TrackingConfig
from ciess_ray.config.yaml_file import check_values, put_override
from ciess_ray.names import COMPARISON_FILE, COMPARISON_ROWS_FILE, SWEEP_FILE, SWEEP_ROWS_FILE
from ciess_ray.result import RESULT_FILE, read_steps, read_summary
from ciess_ray.sweeps.driver import read_sweep, sole_driver
from ciess_ray.sweeps.monitor import Monitor
from ciess_ray.sweeps.storage import Storage
from ciess_ray.sweeps.trial import TRIAL_FILE, read_summary_of
from ciess_ray.tracking.mlflow_store import End, MlflowStore
from ciess_ray.tracking.tracker import result_metrics, run_tags, texts_of
from envs.errors import ResultError

_ENDS: Mapping[str, End] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


def send(location: str, overrides: Sequence[str] = ()) -> tuple[str, list[str]]:
    """Record the folder of a search, a sweep or a comparison that is over.

    Args:
        location: The folder; for a sweep it may be a URI.
        overrides: Where to, if elsewhere than it says: ``tracking.uri=...``, ``tracking.experiment=...``.

    Returns:
        The store, without its secret, and a sentence on each thing that it did not take.

    Raises:
        CiessError: The folder holds nothing that is over, or MLflow cannot record there.
    """
    storage, folder = Storage(location), Path(location)
    if storage.has(SWEEP_FILE):
        return _send_sweep(storage, overrides)
    if storage.has(PLAN_FILE):
        return _send_comparison(folder, overrides)
    if storage.has(RESULT_FILE):
        return _send_search(folder, overrides)
    raise ResultError(
        f"{storage.shown}: there is none of {RESULT_FILE}, {SWEEP_FILE} and {PLAN_FILE} in it; name the "
        "folder of a search, a sweep or a comparison."
    )


@contextlib.contextmanager
def _recording(tracking: TrackingConfig, folder: Path | str) -> Iterator[tuple[MlflowStore, list[str]]]:
    """A store, and a list that has what it did not take once the block is over."""
    store, problems = MlflowStore(tracking, folder), list[str]()
    try:
        yield store, problems
    finally:
        problems += store.close()


def _send_search(folder: Path, overrides: Sequence[str]) -> tuple[str, list[str]]:
    summary = read_summary(folder)
    status = _ENDS.get(summary["status"])
    if status is None:
        raise ResultError(
            f"{folder}: this search is {summary['status']!r}: wait for it, or where it was killed go on with "
            f"'ciess-ray search --resume {folder}'."
        )
    values = {"tracking": dict(summary["config"]["tracking"])}
    for override in overrides:
        put_override(values, override)
    tracking = check_values(TrackingConfig, values["tracking"], f"{folder / RESULT_FILE}: tracking")
    with _recording(tracking, folder) as (store, problems):
        run = store.run(
            # A store that knows no run by its id is given one, and knows it by this the next time.
            hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).hexdigest(),
            folder.absolute().name,
            params=texts_of(summary["config"]),
            tags={
                "dataset.fingerprint": summary["dataset"]["fingerprint"],
                **{f"{name}.version": summary["versions"][name] for name in ("ciess-ray", "ray", "torch")},
            },
            run_id=summary.get("mlflow_run_id"),
        )
        for row in read_steps(folder):
            run.log_metrics(row["metrics"], row["step"], row["time_ms"])
        if status == "FINISHED":
            for name in ("", *summary["looser_budgets"].values()):
                budget = read_summary(folder / name)
                run.log_metrics(result_metrics(budget["methods"], name), budget["num_steps"])
            run.log_folder(folder)
            run.log_model(folder)
        run.end(status)
    return store.uri, problems


def _send_sweep(storage: Storage, overrides: Sequence[str]) -> tuple[str, list[str]]:
    plan, state = read_sweep(storage, overrides)
    rows = storage.read(SWEEP_ROWS_FILE)
    if rows is None:
        raise ResultError(
            f"{storage.shown}: this sweep has not come to its end; go on with 'ciess-ray sweep --resume "
            f"{storage.shown}'."
        )
    # Without threads, see read_ids.
    table = pq.read_table(pa.BufferReader(rows), columns=["trial", "status"], use_threads=False)
    statuses = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    with sole_driver(storage), _recording(plan.config.tracking, storage.shown) as (store, problems):
        monitor = Monitor(plan, storage, state, store, {"sweep": storage.shown, **run_tags()}, on_change=None)
        for name, status in statuses.items():
            fields = storage.read(f"{name}/{TRIAL_FILE}")
            if fields is None:
                continue
            if read_summary_of(storage, name) is not None:
                monitor.finish_earlier(name, json.loads(fields))
            elif status in ("stopped", "failed"):
                monitor.end_earlier(name, json.loads(fields), status)
        monitor.log_results()
        assert monitor.parent is not None
        monitor.parent.end("FINISHED" if set(statuses.values()) <= {"finished", "stopped"} else "FAILED")
    monitor.close()
    return store.uri, problems


def _send_comparison(folder: Path, overrides: Sequence[str]) -> tuple[str, list[str]]:
    plan = read_plan(folder, overrides)
    with _recording(plan.config.tracking, folder) as (store, problems):
        recorder = Recorder(plan, store, read_id(folder))
        results = [CellResult.read(cell_file(folder, cell)) for cell in plan.cells]
        for cell, result in zip(plan.cells, results, strict=True):
            if result is not None:
                recorder.record(cell, result)
        files = [folder / name for name in (COMPARISON_FILE, COMPARISON_ROWS_FILE)]
        is_complete = all(result is not None and result.row["status"] == "finished" for result in results)
        problems += recorder.close([file for file in files if file.exists()], is_complete)
    return store.uri, problems
