"""Many searches as one experiment of Ray Tune: started, watched, recorded, gone on with.

The driver is the only process that talks to MLflow; what trials tell it comes through Tune. A sweep's folder
holds its plan, Tune's own state, and a folder for each trial with its checkpoints and its result. Tune's
state and the checkpoints are pickles: resume no sweep of somebody whom you would not let run code on your
machine.
"""

import contextlib
import json
import logging
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import tune

from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.data import check_places, dataset_key, read_data
from ciess_ray.config.grid import Trial
from ciess_ray.files.whole import sole_writer
from ciess_ray.names import SWEEP_FILE, SWEEP_ROWS_FILE
from ciess_ray.plain_text import command
from ciess_ray.resources import ray_session
from ciess_ray.searches.checkpoints import CHECKPOINT_FORMAT
from ciess_ray.sweeps.claims import check_claims, told_claims
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.monitor import Relay, SweepMonitor
from ciess_ray.sweeps.results import RESULT_FILES, SweepResults
from ciess_ray.sweeps.schedulers import build_space, build_tune_config
from ciess_ray.sweeps.storage import Storage
from ciess_ray.sweeps.streams import (
    STREAMS_FILE,
    StreamSweepMonitor,
    StreamSweepResults,
    read_logs,
    run_stream_trial,
)
from ciess_ray.sweeps.trial import (
    SWEEP_FORMAT,
    TRIAL_FILE,
    definition_of,
    read_summary_of,
    read_sweep,
    run_trial,
    work_folder,
)
from ciess_ray.tracking.mlflow_store import MlflowStore
from ciess_ray.tracking.runs import Watcher
from ciess_ray.training.auto import check_rivals
from ciess_ray.training.preparing import as_ready, file_of, keep, preparations_of, start_all
from envs.data import Interactions
from envs.errors import ResultError

#: Within the storage of a sweep, what several of its trials need.
CACHE_FOLDER = "cache"
#: How the names of what Tune itself leaves begin.
_TUNE_FILES = (
    "tuner.pkl",
    "experiment_state-",
    "basic-variant-state-",
    "search_gen_state-",
    "searcher-state-",
)
#: How Tune is to behave; a user's own settings win.
_TUNE_SETTINGS = {
    # A line of JSON and one of CSV for each result of each trial, and a TensorBoard file: MLflow has it all.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C ends a sweep at once, as it ends a search.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Results without the metric that trials are compared by are those of trials that have none yet.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # State is saved whenever a checkpoint is about to be dropped, which Tune thinks is often.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def sweep(
    plan: SweepPlan, *, overwrite: bool = False, on_change: Watcher | None = None
) -> SweepResults | StreamSweepResults:
    """Run every trial of a plan.

    Args:
        plan: See :meth:`ciess_ray.sweeps.config.SweepPlan.load`.
        overwrite: Whether a sweep in the output folder may be replaced.
        on_change: Called with every piece of news.

    Raises:
        CiessError: Before any trial starts: data, budgets, storage, tracking or cluster are not as they
        should.
    """
    storage = Storage(plan.config.output)
    if storage.has(SWEEP_FILE) and not overwrite:
        raise ResultError(
            f"{storage.shown}: holds a sweep; name another output, replace it with --overwrite, or go on "
            f"with it: {command('ciess-ray', 'sweep', '--resume', without_secrets(plan.config.output))}"
        )
    data = _read(plan)
    state = {
        "format": SWEEP_FORMAT,
        "checkpoints": CHECKPOINT_FORMAT,
        "id": uuid.uuid4().hex[:12],
        "sweep": plan.values(),
        "fingerprints": fingerprints_of(data),
        "versions": {name: version(name) for name in ("ciess-ray", "ray", "torch")},
    }
    return _run(plan, data, storage, state, on_change, is_resumed=False)


def resume_sweep(
    location: str, *, overrides: Sequence[str] = (), on_change: Watcher | None = None
) -> SweepResults | StreamSweepResults:
    """Go on with a sweep whose driver was killed or interrupted, or some of whose trials failed.

    Trials that are finished are kept, those that had started go on from their last checkpoint, failed ones
    are tried again, the others run.

    Args:
        location: Folder or URI of the sweep.
        overrides: Where the same interactions lie now, e.g. ``dataset.path=elsewhere/log.csv``; where it
            is recorded, e.g. ``tracking.uri=...`` whose password no folder keeps.
        on_change: Called with every piece of news.

    Raises:
        CiessError: There is no sweep, its data has changed, or the cluster cannot hold it.
    """
    storage = Storage(location)
    plan, state = read_sweep(storage, overrides)
    kept = state.get("checkpoints", "ciess-ray checkpoint 2")
    if kept != CHECKPOINT_FORMAT:
        # Pickles of classes that lie elsewhere now.
        raise ResultError(
            f"{storage.shown}: its checkpoints are of the format {kept!r}, not {CHECKPOINT_FORMAT!r}; go on "
            "with the version of ciess-ray that wrote them, or start anew with --overwrite. 'ciess-ray "
            "report' and 'ciess-ray track' read what is finished."
        )
    check_places((trial.config for trial in plan.trials), "sweep", storage.shown)
    data = _read(plan)
    fingerprints = fingerprints_of(data)
    if list(fingerprints.values()) != list(state["fingerprints"].values()):
        raise ResultError(
            f"{storage.shown}: the data holds other interactions than when this sweep began; bring those "
            "back to go on, or name their file by dataset.path=FILE."
        )
    # Trials read it to know where the data lie.
    state |= {"fingerprints": fingerprints, "sweep": state["sweep"] | {"base": plan.base_values}}
    return _run(plan, data, storage, state, on_change, is_resumed=True)


def check(plan: SweepPlan) -> list[tuple[Trial, str, int]]:
    """What can be known before any trial starts: each trial, what it claims, and how many such run at once.

    Raises:
        CiessError: As :func:`sweep`.
    """
    _read(plan)
    build_tune_config(plan, _name_of)
    with ray_session():
        claims = check_claims(plan)
    limit = plan.config.resources.max_concurrent_trials or len(plan.trials)
    return [
        (trial, told_claims(bundles), min(room, limit))
        for trial, (bundles, room) in zip(plan.trials, claims, strict=True)
    ]


def send_sweep(storage: Storage, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Record a sweep that is over, with its trials.

    Runs that the store knows are gone on with and get only what they lack, so that it may be sent twice.

    Args:
        storage: Of the sweep.
        overrides: Where to, if elsewhere than it says: ``tracking.uri=...``, ``tracking.experiment=...``.

    Returns:
        The store, without its secret, and a sentence on each thing that it did not take.

    Raises:
        CiessError: It is not over, or MLflow cannot record there.
    """
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
        with _monitor_of(plan)(plan, storage, state, store, Path(work)) as monitor:
            monitor.recall(statuses)
            monitor.finish_all()
    return store.uri, monitor.problems


def _read(plan: SweepPlan) -> Mapping[str, Any]:
    """The data of all trials, each with its fingerprint.

    Raises:
        CiessError: Some cannot be read, or a budget not be met.
    """
    if plan.is_of_streams:
        return read_logs(plan.trials, plan.source)
    data = read_data(plan.trials, plan.source)
    check_rivals(plan.trials, data, plan.source)
    return data


def _monitor_of(plan: SweepPlan) -> type[SweepMonitor]:
    return StreamSweepMonitor if plan.is_of_streams else SweepMonitor


def fingerprints_of(data: Mapping[str, Any]) -> dict[str, str]:
    """Of the interactions, by the data set's fields."""
    return {key: interactions.fingerprint for key, interactions in data.items()}


def _remove_former(storage: Storage) -> None:
    """Remove what a sweep left in the folder, and nothing else."""
    if not storage.has(SWEEP_FILE):
        return
    for name in storage.names():
        is_trial = storage.has(f"{name}/{TRIAL_FILE}")
        if (
            is_trial
            or name.startswith(_TUNE_FILES)
            or name in (*RESULT_FILES, STREAMS_FILE, SWEEP_FILE, CACHE_FOLDER)
        ):
            storage.remove(name)


def sole_driver(storage: Storage) -> contextlib.AbstractContextManager[None]:
    """Keep a second driver from the sweep, where its storage has locks."""
    if not storage.is_local:
        return contextlib.nullcontext()
    storage.write(f"{CACHE_FOLDER}/.there", b"")
    return sole_writer(Path(storage.location) / CACHE_FOLDER)


def _run(
    plan: SweepPlan,
    data: Mapping[str, Any],
    storage: Storage,
    state: dict[str, Any],
    on_change: Watcher | None,
    *,
    is_resumed: bool,
) -> SweepResults | StreamSweepResults:
    started, work = time.monotonic(), work_folder(state["id"])
    tune_config = build_tune_config(plan, _name_of)
    for name, value in _TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    # It tells at length of a trial that broke off, which the watcher is told in a line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        # Ray takes seconds.
        stack.enter_context(sole_driver(storage))
        stack.enter_context(ray_session())
        claims = [bundles for bundles, _ in check_claims(plan)]
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        store = MlflowStore(plan.config.tracking, storage.shown) if plan.config.tracking.mlflow else None
        monitor = stack.enter_context(_monitor_of(plan)(plan, storage, state, store, work, on_change))
        if not is_resumed:
            _remove_former(storage)
        storage.write(SWEEP_FILE, json.dumps(state, indent=2).encode() + b"\n")
        Relay.monitor = monitor
        if plan.is_of_streams:
            shared, run = {}, run_stream_trial
        else:
            shared, run = prepare_shared(plan, data, storage, work, monitor.prepare), run_trial
        trainable = tune.with_resources(
            tune.with_parameters(run, location=storage.location, sweep=state["id"], shared=shared),
            lambda config: tune.PlacementGroupFactory(definition_of(config)["claims"]),
        )
        space = build_space(plan.config, plan.trials, claims)
        tuner = _tuner(plan, storage, trainable, space, tune_config, is_resumed)
        if is_resumed:
            monitor.recall()
        grid: Any = tuner.fit()
        for result in grid:
            trial = monitor.know(Path(result.path).name, definition_of(result.config)["fields"])
            if trial.status == "pending" and result.metrics:
                # While another driver was there.
                trial.status = "stopped"
        outcomes, seconds = list(monitor.state.runs.values()), time.monotonic() - started
        kind = StreamSweepResults if plan.is_of_streams else SweepResults
        results = kind(storage.shown, outcomes, seconds)
        results.write(storage)
        monitor.finish_all()
    results.problems += monitor.problems
    return results


def prepare_shared(
    plan: SweepPlan,
    data: Mapping[str, Interactions],
    storage: Storage,
    work: Path,
    tell: Callable[[int, int], None],
) -> dict[str, Any]:
    """Train what more than one unfinished trial needs; what the sweep's storage holds is not trained again.

    A trial trains itself what it alone needs, and what a searcher tries that no draw of the plan foresaw.

    Args:
        plan: The sweep.
        data: Interactions by :func:`ciess_ray.config.data.dataset_key`.
        storage: Of the sweep.
        work: A folder on this machine, for a storage that is on none.
        tell: Called with how many are there, or have failed, and how many there are in all.

    Returns:
        By key, references for :func:`ciess_ray.training.preparing.prepare`.
    """
    needed = [
        preparation
        for trial in plan.trials
        if plan.config.searcher != "random" or read_summary_of(storage, trial.name) is None
        # Each trial finds its own recipe first.
        if not trial.config.finds_recipe
        for preparation in preparations_of(trial.config, data[dataset_key(trial.config)])
    ]
    folder = Path(storage.location) / CACHE_FOLDER if storage.is_local else work / CACHE_FOLDER
    if not storage.is_local and storage.has(CACHE_FOLDER):
        storage.download(CACHE_FOLDER, folder)
    counts = Counter(preparation.key for preparation in needed)
    shared = [
        preparation
        for key, preparation in {preparation.key: preparation for preparation in needed}.items()
        if counts[key] > 1 or file_of(preparation, folder).exists()
    ]
    references = {key: ray.put(data[key]) for key in {dataset_key(each.config) for each in shared}}
    tasks = start_all(shared, references, folder, len(shared))
    tell(0, len(shared))
    ready = as_ready({tasks[preparation.key]: preparation for preparation in shared})
    for num_done, (reference, preparation) in enumerate(ready, 1):
        # Whoever needs it fails with what it failed with.
        with contextlib.suppress(Exception):
            keep(preparation, reference, folder)
        file = file_of(preparation, folder)
        if not storage.is_local and file.exists():
            storage.upload(file, f"{CACHE_FOLDER}/{file.name}")
        tell(num_done, len(shared))
    return tasks


def _tuner(
    plan: SweepPlan,
    storage: Storage,
    trainable: Any,
    space: dict[str, Any],
    tune_config: tune.TuneConfig,
    is_resumed: bool,
) -> tune.Tuner:
    """Tune's own, brought back where it came to save the state of its trials."""
    has_state = any(name.startswith("experiment_state-") for name in storage.names())
    if is_resumed and has_state and tune.Tuner.can_restore(storage.location):
        return tune.Tuner.restore(
            storage.location,
            trainable,
            resume_unfinished=True,
            resume_errored=True,
            # Trials that had not begun cannot be brought back without it.
            param_space=space,
        )
    parent, _, name = storage.location.rpartition("/")
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune_config,
        run_config=tune.RunConfig(
            name=name,
            storage_path=parent or "/",
            callbacks=[Relay()],
            failure_config=tune.FailureConfig(max_failures=plan.config.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            verbose=0,
        ),
    )


# Here, because the state of sweeps that are under way names it so.
def _name_of(trial: Any) -> str:
    """Of a trial and of its folder: the plan's, or for a searcher's trials Tune's."""
    return str(definition_of(trial.config).get("name", trial.trial_id))
