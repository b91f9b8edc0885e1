"""What a folder holds, sent to MLflow afterwards: for whom no store was there, or not for long enough.

Runs that the store knows are gone on with and get only what they lack, so that a folder may be sent twice.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from ciess_ray.comparisons.cell import CellResult, cell_file
from ciess_ray.comparisons.driver import PLAN_FILE, monitor_of, read_id, read_plan, record
from ciess_ray.config.run import TrackingConfig
from ciess_ray.config.yaml_file import check_values, put_overrides
from ciess_ray.names import COMPARISON_FILE, COMPARISON_ROWS_FILE, SWEEP_FILE, SWEEP_ROWS_FILE
from ciess_ray.result import RESULT_FILE, read_steps, read_summary
from ciess_ray.sweeps.driver import sole_driver
from ciess_ray.sweeps.monitor import SweepMonitor
from ciess_ray.sweeps.storage import Storage
from ciess_ray.sweeps.trial import read_sweep
from ciess_ray.tracking.mlflow_store import End, MlflowStore
from ciess_ray.tracking.runs import result_metrics, texts_of
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


def _send_search(folder: Path, overrides: Sequence[str]) -> tuple[str, list[str]]:
    summary = read_summary(folder)
    status = _ENDS.get(summary["status"])
    if status is None:
        raise ResultError(
            f"{folder}: this search is {summary['status']!r}: wait for it, or where it was killed go on with "
            f"'ciess-ray search --resume {folder}'."
        )
    values = put_overrides({"tracking": dict(summary["config"]["tracking"])}, overrides)
    tracking = check_values(TrackingConfig, values["tracking"], f"{folder / RESULT_FILE}: tracking")
    store = MlflowStore(tracking, folder)
    try:
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
        run.log_steps(read_steps(folder))
        if status == "FINISHED":
            for name in ("", *summary["looser_budgets"].values()):
                budget = read_summary(folder / name)
                run.log_metrics(result_metrics(budget["methods"], name), budget["num_steps"])
            run.log_folder(folder)
            run.log_model(folder)
        run.end(status)
    finally:
        problems = store.close()
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
    statuses = dict(zip(*table.to_pydict().values(), strict=True))
    with sole_driver(storage), TemporaryDirectory(prefix="ciess-ray-") as work:
        store = MlflowStore(plan.config.tracking, storage.shown)
        with SweepMonitor(plan, storage, state, store, Path(work)) as monitor:
            monitor.recall(statuses)
            monitor.finish_all()
    return store.uri, monitor.problems


def _send_comparison(folder: Path, overrides: Sequence[str]) -> tuple[str, list[str]]:
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
