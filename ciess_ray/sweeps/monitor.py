"""What a sweep's driver knows of its trials, and whom it tells: MLflow, and whoever watches."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

from ray import cloudpickle, tune
from ray.exceptions import RayTaskError

from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.data import dataset_key
from ciess_ray.config.run import RunConfig
from ciess_ray.names import TRIAL_RESULT_FOLDER
from ciess_ray.result import read_steps, read_summary
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.results import RESULT_FILES
from ciess_ray.sweeps.storage import Storage
from ciess_ray.sweeps.trial import IS_FINISHED, OBJECTIVE, PHASE, ROWS, STEP, definition_of
from ciess_ray.tracking.mlflow_store import MlflowRun, MlflowStore
from ciess_ray.tracking.tracker import result_metrics, texts_of
from envs.errors import CiessError

Status = Literal["pending", "running", "finished", "stopped", "failed"]
News = Literal["started", "reported", "finished", "stopped", "failed", "retried", "resumed", "prepared"]

#: What MLflow says of a trial that ended so.
_ENDS: dict[str, Literal["FINISHED", "FAILED", "KILLED"]] = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "failed": "FAILED",
}


@dataclass
class TrialState:
    """How far a trial is.

    Attributes:
        name: Its own.
        fields: What it has that others have not.
        budget: Its budget, as asked for.
        recommender: Its recommender.
        status: Where it stands.
        phase: Of its search.
        step: Table steps so far.
        num_steps: Table steps in all.
        quality: Best mean ranking metric on validation so far; once finished, that of its result.
        started: When it began, by ``time.monotonic``.
        seconds: How long it took, once it has ended.
        num_failures: How often it broke off.
        error: Why, the last time.
    """

    name: str
    fields: dict[str, Any]
    budget: str
    recommender: str
    num_steps: int
    status: Status = "pending"
    phase: str = ""
    step: int = 0
    quality: float | None = None
    started: float | None = None
    seconds: float | None = None
    num_failures: int = 0
    error: str | None = None


@dataclass
class SweepState:
    """How far a sweep is, and what has just happened.

    Attributes:
        trials: By name.
        started: When the sweep, or its resumption, began, by ``time.monotonic``.
        changed: The trial that the news is about.
        what: The news.
        num_waiting: Metrics that the tracking server has not taken yet.
        num_prepared: How many of what several trials need has been trained, or has failed, and of how many.
    """

    trials: dict[str, TrialState]
    started: float = field(default_factory=time.monotonic)
    changed: str | None = None
    what: News | None = None
    num_waiting: int = 0
    num_prepared: tuple[int, int] = (0, 0)


class Monitor:
    """Follows the trials of one sweep.

    Args:
        plan: The sweep.
        storage: Where its trials leave their results.
        sweep: What ``sweep.json`` says: the id by which MLflow finds runs again, fingerprints of the data.
        store: MLflow; None where nothing is recorded.
        tags: Of every run in MLflow.
        on_change: Called with every piece of news.
    """

    def __init__(
        self,
        plan: SweepPlan,
        storage: Storage,
        sweep: Mapping[str, Any],
        store: MlflowStore | None,
        tags: Mapping[str, str],
        on_change: Callable[[SweepState], None] | None,
    ) -> None:
        self._plan, self._storage, self._id = plan, storage, sweep["id"]
        self._fingerprints = sweep["fingerprints"]
        self._store, self._tags, self._on_change = store, dict(tags), on_change
        known = [] if plan.config.searcher == "optuna" else plan.trials
        self.state = SweepState(
            {trial.name: _state_of(trial.name, trial.fields, trial.config) for trial in known}
        )
        self.parent: MlflowRun | None = None
        self._runs: dict[str, MlflowRun] = {}
        self._last_steps: dict[tuple[str, str], int] = {}
        self._downloads = TemporaryDirectory(prefix="ciess-ray-")
        if store is not None:
            shared = texts_of(
                {"base": plan.base_values, "sweep": plan.config.model_dump(mode="json", exclude={"base"})}
            )
            self.parent = store.run(self._id, Path(storage.shown).name, params=shared, tags=self._tags)
            self.parent.wait()

    def prepare(self, num_done: int, num_all: int) -> None:
        """What several trials need is being trained."""
        self.state.num_prepared = num_done, num_all
        self._tell(None, "prepared")

    def start(self, name: str, fields: dict[str, Any]) -> None:
        """A trial starts, or goes on after it broke off."""
        trial = self._know(name, fields)
        is_again = trial.started is not None
        trial.status, trial.phase = "running", "start"
        trial.started = trial.started or time.monotonic()
        self._run_of(name)
        self._tell(name, "retried" if is_again else "started")

    def report(self, name: str, result: Mapping[str, Any]) -> None:
        """A trial tells of a step, or of the steps that it took before it broke off."""
        trial, run = self.state.trials[name], self._run_of(name)
        trial.phase, trial.step = result[PHASE], max(trial.step, result[STEP])
        trial.quality = result[OBJECTIVE] or trial.quality
        if run is not None:
            self._log(name, run, result[ROWS])
        self._tell(name, "reported")

    def end(self, name: str, result: Mapping[str, Any]) -> None:
        """A trial is over: finished, or stopped by the scheduler."""
        if result.get(IS_FINISHED):
            self._finish(name)
        else:
            self._close(name, "stopped")

    def break_off(self, name: str, error: str, *, is_final: bool) -> None:
        """A trial failed; unless this is final, it is tried again."""
        trial = self.state.trials[name]
        trial.num_failures += 1
        trial.error = error
        if is_final:
            self._close(name, "failed")

    def finish_earlier(self, name: str, fields: dict[str, Any]) -> None:
        """A trial that was finished before the sweep was resumed; whether MLflow knows is not known."""
        trial = self._know(name, fields)
        if trial.status == "finished":
            return
        self._finish(name)

    def end_earlier(self, name: str, fields: dict[str, Any], status: Literal["stopped", "failed"]) -> None:
        """A trial that came to no result before, where the driver is another's."""
        self._know(name, fields)
        self._run_of(name)
        self._close(name, status)

    def interrupt(self) -> None:
        """The sweep is broken off; what runs is killed."""
        for name, trial in self.state.trials.items():
            if trial.status == "running" and name in self._runs:
                self._runs[name].end("KILLED")

    def log_results(self) -> None:
        """What compares the trials is there."""
        if self.parent is not None:
            for name in RESULT_FILES:
                if not self._storage.is_local:
                    self._storage.download(name, Path(self._downloads.name) / name)
            folder = Path(self._storage.location if self._storage.is_local else self._downloads.name)
            self.parent.log_files([folder / name for name in RESULT_FILES])

    def close(self) -> None:
        """Nothing waits to be recorded any more."""
        self._downloads.cleanup()

    def _know(self, name: str, fields: dict[str, Any]) -> TrialState:
        if name not in self.state.trials:
            self.state.trials[name] = _state_of(name, fields, self._plan.parse(fields))
        return self.state.trials[name]

    def _finish(self, name: str) -> None:
        run = self._run_of(name)
        if run is not None:
            folder = self._local(name)
            # What a driver that was killed had heard, and MLflow had not.
            rows = read_steps(folder)
            summary = read_summary(folder)
            metrics = result_metrics(summary["methods"])
            last_ms = max((row["time_ms"] for row in rows if row["time_ms"]), default=None)
            last = {"step": summary["num_steps"], "time_ms": last_ms, "metrics": metrics}
            self._log(name, run, [*rows, last])
            run.log_folder(folder)
            run.log_model(folder)
        self._close(name, "finished")

    def _close(self, name: str, status: Literal["finished", "stopped", "failed"]) -> None:
        trial = self.state.trials[name]
        trial.status = status
        if trial.started is not None:
            trial.seconds = time.monotonic() - trial.started
        if name in self._runs:
            self._runs[name].end(_ENDS[status])
        self._tell(name, status)

    def _run_of(self, name: str) -> MlflowRun | None:
        if self._store is not None and name not in self._runs:
            trial = self.state.trials[name]
            config = self._plan.parse(trial.fields)
            self._runs[name] = self._store.run(
                f"{self._id}/{name}",
                name,
                params=texts_of(config.model_dump(mode="json", exclude={"output", "cache", "tracking"})),
                tags=self._tags
                | {"dataset.fingerprint": self._fingerprints.get(dataset_key(config), "")}
                | {f"trial.{key}": str(value) for key, value in trial.fields.items()},
                parent=self.parent,
            )
        return self._runs.get(name)

    def _log(self, name: str, run: MlflowRun, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            step = row["step"]
            # A trial that was tried again tells its first steps once more.
            new = {k: v for k, v in row["metrics"].items() if self._last_steps.get((name, k), -1) < step}
            if new:
                run.log_metrics(new, step, row["time_ms"])
                self._last_steps |= {(name, key): step for key in new}

    def _local(self, name: str) -> Path:
        """The result of a trial on this machine; until the monitor is gone, because MLflow is told later."""
        place = f"{name}/{TRIAL_RESULT_FOLDER}"
        if self._storage.is_local:
            return Path(self._storage.location) / place
        folder = Path(self._downloads.name) / name
        self._storage.download(place, folder)
        return folder

    def _tell(self, name: str | None, what: News) -> None:
        self.state.changed, self.state.what = name, what
        self.state.num_waiting = self._store.num_waiting if self._store is not None else 0
        if self._on_change is not None:
            self._on_change(self.state)


class Relay(tune.Callback):
    """Hands what Tune tells of its trials to the monitor of this process.

    Tune pickles its callbacks with a sweep and brings them back when it is resumed, so that this one holds
    nothing.
    """

    monitor: ClassVar[Monitor | None] = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process is there."""
        self._known().start(str(trial), definition_of(trial.config)["fields"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported."""
        self._known().report(str(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has returned, or was stopped."""
        self._known().end(str(trial), trial.last_result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed and will be tried again."""
        self._known().break_off(str(trial), _error_of(trial), is_final=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed for good."""
        self._known().break_off(str(trial), _error_of(trial), is_final=True)

    def _known(self) -> Monitor:
        assert self.monitor is not None
        return self.monitor


def _state_of(name: str, fields: dict[str, Any], config: RunConfig) -> TrialState:
    num_steps = config.search.num_steps + config.search.num_greedy_steps
    return TrialState(name, fields, str(config.budget), config.recommender.name, num_steps)


def reason_of(error: BaseException) -> str:
    """An error of another process in its own words."""
    cause = getattr(error, "cause", None) or error
    lines = without_secrets(cause).strip().splitlines() or [""]
    if isinstance(cause, CiessError):
        return f"{type(cause).__name__}: {without_secrets(cause)}"
    if isinstance(cause, RayTaskError):
        # What could not be pickled is there as a traceback in colours, which ends in the error.
        return re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]).strip()
    return f"{type(cause).__name__}: {lines[0]}"


def _error_of(trial: Any) -> str:
    """Why a trial broke off, from this machine's files: in the sweep's storage they are not there yet."""
    pickled, text = trial.pickled_error_file, trial.error_file
    if pickled is not None and Path(pickled).exists():
        return reason_of(cloudpickle.loads(Path(pickled).read_bytes()))
    if text is not None and Path(text).exists():
        return without_secrets(Path(text).read_text(encoding="utf-8").strip().splitlines()[-1])
    return ""
