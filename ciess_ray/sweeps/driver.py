"""Many searches as one experiment of Ray Tune: started, watched, recorded, gone on with.

The driver is the only process that talks to MLflow; what trials tell it comes through Tune. A sweep's folder
holds its plan, Tune's own state, and a folder for each trial with its checkpoints and its result. Tune's
state and the checkpoints are pickles: resume no sweep of somebody whom you would not let run code on your
machine.
"""

import contextlib
import copy
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ray import tune

from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.data import check_places, put_resumed, read_data
from ciess_ray.config.former import without_former
from ciess_ray.config.grid import Trial
from ciess_ray.files.whole import sole_writer
from ciess_ray.names import SWEEP_FILE
from ciess_ray.plain_text import command
from ciess_ray.resources import ray_session
from ciess_ray.searches.checkpoints import CHECKPOINT_FORMAT
from ciess_ray.sweeps.claims import Claims, check_claims, told_claims
from ciess_ray.sweeps.config import SweepPlan, parse_sweep
from ciess_ray.sweeps.monitor import Monitor, Relay, SweepState, reason_of
from ciess_ray.sweeps.results import RESULT_FILES, Outcome, SweepResults
from ciess_ray.sweeps.schedulers import build_scheduler, build_searcher, build_space
from ciess_ray.sweeps.sharing import CACHE_FOLDER, prepare_shared
from ciess_ray.sweeps.storage import Storage
from ciess_ray.sweeps.trial import TRIAL_FILE, definition_of, read_summary_of, run_trial, work_folder
from ciess_ray.tracking.mlflow_store import End, MlflowStore
from ciess_ray.tracking.tracker import run_tags
from envs.data import Interactions
from envs.errors import ResultError

SWEEP_FORMAT = "ciess-ray sweep 1"
Watcher = Callable[[SweepState], None]

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


def sweep(plan: SweepPlan, *, overwrite: bool = False, on_change: Watcher | None = None) -> SweepResults:
    """Run every trial of a plan.

    Args:
        plan: See :func:`ciess_ray.sweeps.config.load_sweep`.
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
    data = read_data(plan.trials, plan.source)
    state = {
        "format": SWEEP_FORMAT,
        "checkpoints": CHECKPOINT_FORMAT,
        "id": uuid.uuid4().hex[:12],
        "sweep": plan.values(),
        "fingerprints": fingerprints_of(data),
        "versions": {name: version(name) for name in ("ciess-ray", "ray", "torch")},
    }
    with _prepared(plan, storage) as (store, claims):
        _remove_former(storage)
        _keep(storage, state)
        return _run(plan, data, storage, state, store, claims, on_change, is_resumed=False)


def resume_sweep(
    location: str, *, overrides: Sequence[str] = (), on_change: Watcher | None = None
) -> SweepResults:
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
    _check_checkpoints(state, storage.shown)
    check_places(plan.trials, "sweep", storage.shown)
    data = read_data(plan.trials, plan.source)
    fingerprints = fingerprints_of(data)
    if list(fingerprints.values()) != list(state["fingerprints"].values()):
        raise ResultError(
            f"{storage.shown}: the data holds other interactions than when this sweep began; bring those "
            "back to go on, or name their file by dataset.path=FILE."
        )
    # Trials read it to know where the data lie.
    state |= {"fingerprints": fingerprints, "sweep": state["sweep"] | {"base": plan.base_values}}
    with _prepared(plan, storage) as (store, claims):
        _keep(storage, state)
        return _run(plan, data, storage, state, store, claims, on_change, is_resumed=True)


def read_sweep(storage: Storage, overrides: Sequence[str] = ()) -> tuple[SweepPlan, dict[str, Any]]:
    """The plan of the sweep in a folder, and all that its ``sweep.json`` says.

    Args:
        storage: The folder.
        overrides: See :func:`resume_sweep`.

    Raises:
        CiessError: There is no sweep, or it is damaged.
    """
    location = storage.shown
    content = storage.read(SWEEP_FILE)
    if content is None:
        raise ResultError(f"{location}: no sweep: there is no {SWEEP_FILE} in it.")
    try:
        state = json.loads(content)
        known = state["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{location}/{SWEEP_FILE}: damaged ({error}).") from error
    if known != SWEEP_FORMAT:
        raise ResultError(f"{location}/{SWEEP_FILE}: of the format {known!r}, not {SWEEP_FORMAT!r}.")
    values = copy.deepcopy(state["sweep"]) | {"output": storage.location}
    put_resumed(values, overrides)
    return parse_sweep(without_former(values), f"{location}/{SWEEP_FILE}", Path()), state


def _check_checkpoints(state: Mapping[str, Any], location: str) -> None:
    """Refuse a sweep whose state another version pickled, of classes that lie elsewhere now."""
    known = state.get("checkpoints", "ciess-ray checkpoint 2")
    if known != CHECKPOINT_FORMAT:
        raise ResultError(
            f"{location}: its checkpoints are of the format {known!r}, not {CHECKPOINT_FORMAT!r}; go on with "
            "the version of ciess-ray that wrote them, or start anew with --overwrite. 'ciess-ray report' "
            "and 'ciess-ray track' read what is finished."
        )


def check(plan: SweepPlan) -> list[tuple[Trial, str, int]]:
    """What can be known before any trial starts: each trial, what it claims, and how many such run at once.

    Raises:
        CiessError: As :func:`sweep`.
    """
    read_data(plan.trials, plan.source)
    build_scheduler(plan.config, plan.trials)
    build_searcher(plan.config)
    with ray_session():
        claims = check_claims(plan)
    limit = plan.config.resources.max_concurrent_trials or len(plan.trials)
    return [
        (trial, told_claims(own), min(room, limit))
        for trial, (own, room) in zip(plan.trials, claims, strict=True)
    ]


def _keep(storage: Storage, state: Mapping[str, Any]) -> None:
    storage.write(SWEEP_FILE, json.dumps(state, indent=2).encode() + b"\n")


def fingerprints_of(data: Mapping[str, Interactions]) -> dict[str, str]:
    """Of the interactions, by the data set's fields."""
    return {key: interactions.fingerprint for key, interactions in data.items()}


def _remove_former(storage: Storage) -> None:
    """Remove what a sweep left in the folder, and nothing else."""
    if not storage.has(SWEEP_FILE):
        return
    for name in storage.names():
        is_trial = storage.has(f"{name}/{TRIAL_FILE}")
        if is_trial or name.startswith(_TUNE_FILES) or name in (*RESULT_FILES, SWEEP_FILE, CACHE_FOLDER):
            storage.remove(name)


@contextlib.contextmanager
def _prepared(plan: SweepPlan, storage: Storage) -> Iterator[tuple[MlflowStore | None, list[Claims]]]:
    """Everything that can be known to be wrong is; Ray and MLflow are there."""
    build_scheduler(plan.config, plan.trials)
    build_searcher(plan.config)
    store = MlflowStore(plan.config.tracking, storage.shown) if plan.config.tracking.mlflow else None
    try:
        for name, value in _TUNE_SETTINGS.items():
            os.environ.setdefault(name, value)
        # It tells at length of a trial that broke off, which the watcher is told in a line.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        # Ray takes seconds.
        with sole_driver(storage), ray_session():
            yield store, [claims for claims, _ in check_claims(plan)]
    finally:
        if store is not None:
            store.close_telling()


def sole_driver(storage: Storage) -> contextlib.AbstractContextManager[None]:
    """Keep a second driver from the sweep, where its storage has locks."""
    if not storage.is_local:
        return contextlib.nullcontext()
    storage.write(f"{CACHE_FOLDER}/.there", b"")
    return sole_writer(Path(storage.location) / CACHE_FOLDER)


def _run(
    plan: SweepPlan,
    data: Mapping[str, Interactions],
    storage: Storage,
    state: dict[str, Any],
    store: MlflowStore | None,
    claims: list[Claims],
    on_change: Watcher | None,
    *,
    is_resumed: bool,
) -> SweepResults:
    started = time.monotonic()
    tags = {"sweep": storage.shown, **run_tags()}
    monitor = Monitor(plan, storage, state, store, tags, on_change)
    work = work_folder(state["id"])
    Relay.monitor = monitor
    status: End = "KILLED"
    try:
        shared = prepare_shared(plan, data, storage, work, monitor.prepare)
        tuner = _tuner(plan, storage, claims, state["id"], shared, is_resumed)
        for name, fields in _finished(tuner, storage) if is_resumed else ():
            monitor.finish_earlier(name, fields)
        grid = tuner.fit()
        status = "FINISHED"
    except KeyboardInterrupt:
        monitor.interrupt()
        raise
    except BaseException:
        status = "FAILED"
        raise
    finally:
        Relay.monitor = None
        shutil.rmtree(work, ignore_errors=True)
        if status != "FINISHED":
            if monitor.parent is not None:
                monitor.parent.end(status)
            if store is not None:
                store.close_telling()
            monitor.close()
    told: list[Any] = [grid[i] for i in range(len(grid))]
    outcomes = [
        _outcome(
            Path(result.path).name, definition_of(result.config)["fields"], result, plan, storage, monitor
        )
        for result in told
    ]
    known = {outcome.name for outcome in outcomes}
    if plan.config.searcher == "random":
        # Whatever Tune has forgotten of them.
        missing = [trial for trial in plan.trials if trial.name not in known]
        outcomes += [_outcome(trial.name, trial.fields, None, plan, storage, monitor) for trial in missing]
    results = SweepResults(storage.shown, outcomes, time.monotonic() - started)
    results.write(storage)
    if monitor.parent is not None:
        monitor.log_results()
        monitor.parent.end("FINISHED" if results.is_complete else "FAILED")
    if store is not None:
        results.problems += store.close()
    monitor.close()
    return results


def _tuner(
    plan: SweepPlan,
    storage: Storage,
    claims: list[Claims],
    sweep_id: str,
    shared: dict[str, Any],
    is_resumed: bool,
) -> tune.Tuner:
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, location=storage.location, sweep=sweep_id, shared=shared),
        lambda config: tune.PlacementGroupFactory(definition_of(config)["claims"]),
    )
    space = build_space(plan.config, plan.trials, claims)
    if is_resumed and tune.Tuner.can_restore(storage.location) and _has_state(storage):
        return tune.Tuner.restore(
            storage.location,
            trainable,
            resume_unfinished=True,
            resume_errored=True,
            # Trials that had not begun cannot be brought back without it.
            param_space=space,
        )
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=build_searcher(plan.config),
            scheduler=build_scheduler(plan.config, plan.trials),
            num_samples=plan.config.num_samples if plan.config.searcher != "random" else 1,
            max_concurrent_trials=plan.config.resources.max_concurrent_trials,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
            # A new process takes seconds to import what a trial needs.
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=storage.name,
            storage_path=storage.parent,
            callbacks=[Relay()],
            failure_config=tune.FailureConfig(max_failures=plan.config.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            verbose=0,
        ),
    )


def _name_of(trial: Any) -> str:
    """Of a trial and of its folder: the plan's, or for a searcher's trials Tune's."""
    return str(definition_of(trial.config).get("name", trial.trial_id))


def _has_state(storage: Storage) -> bool:
    """Whether Tune came to save the state of its trials."""
    return any(name.startswith("experiment_state-") for name in storage.names())


def _finished(tuner: tune.Tuner, storage: Storage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and fields of the trials that were finished before."""
    try:
        before = tuner.get_results()
    except RuntimeError:
        # Tune had saved nothing.
        return
    for position in range(len(before)):
        result: Any = before[position]
        name = Path(result.path).name
        if result.config and read_summary_of(storage, name) is not None:
            yield name, definition_of(result.config)["fields"]


def _outcome(
    name: str, fields: dict[str, Any], result: Any, plan: SweepPlan, storage: Storage, monitor: Monitor
) -> Outcome:
    summary = read_summary_of(storage, name)
    known = monitor.state.trials.get(name)
    error = reason_of(result.error) if result is not None and result.error is not None else None
    return Outcome(
        name=name,
        status="finished"
        if summary
        else "failed"
        if error
        else "stopped"
        if result and result.metrics
        else "pending",
        fields=fields,
        config=plan.parse(fields).model_dump(mode="json"),
        summary=summary,
        quality_in_search=known.quality if known else None,
        num_steps=known.step if known else 0,
        num_failures=known.num_failures if known else 0,
        error=(known.error if known else None) or error,
    )
