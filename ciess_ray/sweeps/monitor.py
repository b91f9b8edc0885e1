"""What a sweep's driver hears of its trials through Tune, and tells MLflow and whoever watches."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ray import cloudpickle, tune
from ray.exceptions import RayTaskError

from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.data import dataset_key
from ciess_ray.names import SEARCH, TRIAL_RESULT_FOLDER
from ciess_ray.result import read_steps
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.results import RESULT_FILES
from ciess_ray.sweeps.storage import Storage
from ciess_ray.sweeps.trial import (
    IS_FINISHED,
    OBJECTIVE,
    PHASE,
    ROWS,
    STEP,
    TRIAL_FILE,
    definition_of,
    read_summary_of,
)
from ciess_ray.tracking.mlflow_store import MlflowRun, MlflowStore
from ciess_ray.tracking.runs import Monitor, RunState, Watcher, result_metrics, texts_of
from envs.errors import CiessError


class SweepMonitor(Monitor):
    """Follows the trials of one sweep.

    Args:
        plan: The sweep.
        storage: Where its trials leave their results.
        sweep: What ``sweep.json`` says: the id by which MLflow finds runs again, fingerprints of the data.
        store: MLflow; None where nothing is recorded.
        work: A folder on this machine for results whose storage is on none, until the store is closed.
        on_change: Called with every piece of news.
    """

    #: What compares the trials.
    result_files: ClassVar[tuple[str, ...]] = RESULT_FILES

    def __init__(
        self,
        plan: SweepPlan,
        storage: Storage,
        sweep: Mapping[str, Any],
        store: MlflowStore | None,
        work: Path,
        on_change: Watcher | None = None,
    ) -> None:
        # A searcher draws others.
        trials = [] if plan.config.searcher == "optuna" else plan.trials
        params = {"base": plan.base_values, "sweep": plan.config.model_dump(mode="json", exclude={"base"})}
        super().__init__(
            "trials",
            [RunState(trial.name, trial.fields, trial.config) for trial in trials],
            store,
            sweep["id"],
            Path(storage.shown).name,
            params=texts_of(params),
            tags={"sweep": storage.shown},
            on_change=on_change,
        )
        self._plan, self._storage, self._work = plan, storage, work
        self._fingerprints = sweep["fingerprints"]

    def know(self, name: str, fields: dict[str, Any]) -> RunState:
        """The state of a trial, which a searcher may have drawn just now."""
        if name not in self.state.runs:
            self.state.runs[name] = RunState(name, fields, self._plan.parse(fields))
        return self.state.runs[name]

    def start(self, name: str, fields: dict[str, Any]) -> None:
        """A trial starts, or goes on after it broke off."""
        trial = self.know(name, fields)
        is_again = trial.started is not None
        trial.status, trial.phase = "running", "start"
        trial.started = trial.started or time.monotonic()
        self._record(trial)
        self.tell(name, "retried" if is_again else "started")

    def report(self, name: str, result: Mapping[str, Any]) -> None:
        """A trial tells of a step, or of the steps that it took before it broke off."""
        trial = self.state.runs[name]
        trial.phase, trial.step = result[PHASE], max(trial.step, result[STEP])
        trial.quality = result[OBJECTIVE] or trial.quality
        run = self._record(trial)
        if run is not None:
            run.log_steps(result[ROWS])
        self.tell(name, "reported")

    def break_off(self, name: str, error: str) -> None:
        """A trial broke off, for good or to be tried again."""
        trial = self.state.runs[name]
        trial.num_failures += 1
        trial.error = error

    def summary_of(self, name: str) -> dict[str, Any] | None:
        """What a trial that is finished says of its result; None for one that is not."""
        return read_summary_of(self._storage, name)

    def finish(self, name: str) -> None:
        """A trial has its result."""
        trial = self.state.runs[name]
        trial.summary = self.summary_of(name)
        assert trial.summary is not None
        trial.step, trial.quality = trial.summary["num_steps"], trial.row(SEARCH)["validation"]["quality"]
        run = self._record(trial)
        if run is not None:
            folder = self._local(f"{name}/{TRIAL_RESULT_FOLDER}")
            # What a driver that was killed had heard, and MLflow had not.
            rows = read_steps(folder)
            last_ms = max((row["time_ms"] for row in rows if row["time_ms"]), default=None)
            metrics = result_metrics(trial.summary["methods"])
            last = {"step": trial.summary["num_steps"], "time_ms": last_ms, "metrics": metrics}
            run.log_steps([*rows, last])
            run.log_folder(folder)
            run.log_model(folder)
        self.end(name, "finished")

    def recall(self, statuses: Mapping[str, Any] = {}) -> None:
        """What trials of before left in the storage; whether MLflow knows of it is not known.

        Args:
            statuses: What became of each, where all is over; what has a result is finished in any case.
        """
        for name in self._storage.names():
            fields = self._storage.read(f"{name}/{TRIAL_FILE}")
            if fields is None:
                continue
            trial = self.know(name, json.loads(fields))
            if self.summary_of(name) is not None:
                self.finish(name)
            elif statuses.get(name) in ("stopped", "failed"):
                self._record(trial)
                self.end(name, statuses[name])

    def finish_all(self) -> None:
        """What compares the trials is there."""
        self.files = [self._local(name) for name in self.result_files]

    def _record(self, trial: RunState) -> MlflowRun | None:
        fingerprint = self._fingerprints.get(self._data_key(trial), "")
        fields = {f"trial.{name}": str(value) for name, value in trial.fields.items()}
        return self.record(trial.name, tags={"dataset.fingerprint": fingerprint} | fields)

    def _data_key(self, trial: RunState) -> str:
        """By which the fingerprint of a trial's data is found."""
        return dataset_key(trial.config)

    def _local(self, name: str) -> Path:
        """A file or folder of the storage on this machine."""
        if self._storage.is_local:
            return Path(self._storage.location) / name
        self._storage.download(name, self._work / name)
        return self._work / name


class Relay(tune.Callback):
    """Hands what Tune tells of its trials to the monitor of this process.

    Tune pickles its callbacks with a sweep and brings them back when it is resumed, so that this one holds
    nothing.
    """

    monitor: ClassVar[SweepMonitor]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process is there."""
        self.monitor.start(str(trial), definition_of(trial.config)["fields"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported."""
        self.monitor.report(str(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has returned, or was stopped."""
        if trial.last_result.get(IS_FINISHED):
            self.monitor.finish(str(trial))
        else:
            self.monitor.end(str(trial), "stopped")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed and will be tried again."""
        self.monitor.break_off(str(trial), _error_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed for good."""
        self.monitor.break_off(str(trial), _error_of(trial))
        self.monitor.end(str(trial), "failed")


def reason_of(error: BaseException) -> str:
    """An error of another process in its own words."""
    cause = getattr(error, "cause", None) or error
    text = without_secrets(cause).strip()
    if isinstance(cause, RayTaskError):
        # What could not be pickled is there as a traceback in colours, which ends in the error.
        return re.sub(r"\x1b\[[0-9;]*m", "", text.rpartition("\n")[2]).strip()
    words = text if isinstance(cause, CiessError) else text.partition("\n")[0]
    return f"{type(cause).__name__}: {words}"


def _error_of(trial: Any) -> str:
    """Why a trial broke off, from this machine's files: in the sweep's storage they are not there yet."""
    pickled, text = trial.pickled_error_file, trial.error_file
    if pickled is not None and Path(pickled).exists():
        return reason_of(cloudpickle.loads(Path(pickled).read_bytes()))
    if text is not None and Path(text).exists():
        return without_secrets(Path(text).read_text(encoding="utf-8").strip().splitlines()[-1])
    return ""
