"""An MLflow tracking store and the runs in it.

One process writes: the driver of a search or of a sweep. A thread of its own does so, in the order in which
it is told, so that a tracking server that is slow, or gone for a while, keeps nobody waiting and loses
nothing.
"""

import contextlib
import logging
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.run import TrackingConfig
from ciess_ray.plain_text import command
from ciess_ray.tracking.mlflow_connection import connect, first_line, patiently
from ciess_ray.tracking.mlflow_model import can_model, save_model
from envs.errors import CiessError, ConfigError, ResultError

End = Literal["FINISHED", "KILLED", "FAILED"]

#: How long a server may fail: as a run begins, and at the end with what it was told.
CLOSE_S = 60.0
#: MLflow refuses longer values of parameters, and batches of more metrics.
_MAX_PARAM_LENGTH, _MAX_METRICS = 6000, 1000
_KEY_TAG = "ciess_ray.key"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
#: After how long somebody who waits for uploads is told so; how often it is seen whether time is up.
_NOTICE_S, _LOOK_S = 10.0, 0.2
#: What a server answers that will answer the same next time.
_LASTING_ERRORS = frozenset(
    (
        "INVALID_PARAMETER_VALUE",
        "BAD_REQUEST",
        "PERMISSION_DENIED",
        "RESOURCE_DOES_NOT_EXIST",
        "NOT_IMPLEMENTED",
        "INVALID_STATE",
    )
)
#: HTTP's request timeout, conflict, too early, and too many requests; what else is the asker's fault lasts.
_PASSING_STATUSES = (408, 409, 425, 429)


class MlflowRun:
    """One run of a store; see :class:`Tracker`. Every call but :meth:`wait` returns at once.

    Attributes:
        run_id: None until the store has begun it.
        error: Why it never will.
        is_known: Set once either is.
    """

    def __init__(self, store: "MlflowStore", *, is_newest_right: bool = False) -> None:
        self._store, self._is_newest_right = store, is_newest_right
        self.run_id: str | None = None
        self.error: str | None = None
        self.is_known = threading.Event()
        self._metrics: list[Any] = []
        self._there: dict[tuple[str, int], float] = {}

    def wait(self, timeout_s: float = CLOSE_S) -> str:
        """The run's id, which takes the store a moment.

        Raises:
            ConfigError: The store refuses to begin it, or does not for so long; then it is closed.
        """
        store = self._store
        try:
            self.is_known.wait(timeout_s)
            if self.run_id is None:
                why = self.error or f"MLflow at {store.uri} began no run ({store.last_error or 'it is slow'})"
                raise ConfigError(f"tracking.uri: {why}. Try again, or set tracking.mlflow=false.")
        except BaseException:
            store.close(timeout_s=0.0)
            raise
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        """Metrics of a step, each once; MLflow's names allow no ``@``, so ``ndcg@20`` becomes ``ndcg_20``.

        Args:
            metrics: By name; what is not finite is left out.
            step: Their step.
            time_ms: When they were measured, in milliseconds since 1970; None for now.
        """
        from mlflow.entities import Metric

        time_ms = int(time.time() * 1000) if time_ms is None else time_ms
        self._metrics += [
            Metric(name.replace("@", "_"), float(value), time_ms, step)
            for name, value in metrics.items()
            if math.isfinite(value)
        ]
        self._store.put(self, self._write_metrics)

    def log_steps(self, steps: Iterable[Mapping[str, Any]]) -> None:
        """Metrics of many steps, as :func:`ciess_ray.result.read_steps` reads them."""
        for row in steps:
            self.log_metrics(row["metrics"], row["step"], row["time_ms"])

    def log_folder(self, folder: Path) -> None:
        """The whole folder but its checkpoints, which are pickles, under ``result``."""
        files = (file for file in sorted(folder.rglob("*")) if file.is_file())
        places = {file: Path("result") / file.parent.relative_to(folder) for file in files}
        self.log_files({file: str(at) for file, at in places.items() if "checkpoints" not in at.parts})

    def log_files(self, places: Mapping[Path, str | None]) -> None:
        """Files, each into a folder of the run, or beside its folders."""
        self._store.put(self, lambda: self._write_files(places))

    def log_model(self, folder: Path) -> None:
        """The packed table of a result folder, as ``model``, which ``mlflow.pyfunc.load_model`` reads."""
        if can_model(folder):
            self._store.put(self, lambda: self._write_model(folder))

    def end(self, status: End) -> None:
        """The run is over."""
        self._store.put(self, lambda: self._store.client.set_terminated(self.run_id, status))

    def begin(
        self, name: str, params: Mapping[str, str], tags: Mapping[str, str], run_id: str | None
    ) -> None:
        """Find or begin it in the store, see :meth:`MlflowStore.run`; called by the store's thread."""
        from mlflow.entities import Param

        client, experiments = self._store.client, [self._store.experiment_id]
        ways = [] if run_id is None else [f"attributes.run_id = '{run_id}'"]
        ways.append(f"tags.`{_KEY_TAG}` = '{tags[_KEY_TAG]}'")
        run = next((run for way in ways for run in client.search_runs(experiments, way, max_results=1)), None)
        if run is None:
            run = client.create_run(*experiments, run_name=name, tags=tags)
        else:
            client.update_run(run.info.run_id, status="RUNNING")
            histories = (client.get_metric_history(run.info.run_id, key) for key in run.data.metrics)
            there = sorted((m for history in histories for m in history), key=lambda m: m.timestamp)
            self._there = {(metric.key, metric.step): metric.value for metric in there}
        missing = [
            Param(name, value[:_MAX_PARAM_LENGTH])
            for name, value in params.items()
            if name not in run.data.params
        ]
        client.log_batch(run.info.run_id, params=missing)
        self.run_id = run.info.run_id
        self.is_known.set()

    def _write_metrics(self) -> None:
        """All that wait, those of later steps too."""
        batch = self._metrics[:_MAX_METRICS]
        # Of what is tried again the first steps are told once more; what was told first counts.
        new = {(m.key, m.step): m for m in reversed(batch) if self._is_new(m)}
        if new:
            self._store.client.log_batch(self.run_id, metrics=list(reversed(new.values())))
        self._there |= {place: metric.value for place, metric in new.items()}
        del self._metrics[: len(batch)]

    def _is_new(self, metric: Any) -> bool:
        there = self._there.get((metric.key, metric.step))
        return there is None or (self._is_newest_right and there != metric.value)

    def _write_files(self, places: Mapping[Path, str | None]) -> None:
        with patiently():
            for file, place in places.items():
                self._store.client.log_artifact(self.run_id, str(file), place)

    def _write_model(self, folder: Path) -> None:
        with TemporaryDirectory(prefix="ciess-ray-") as temporary, patiently():
            model = Path(temporary) / "model"
            try:
                save_model(folder, model)
            # Whatever MLflow raises as it writes a model; the run has its files all the same.
            except Exception as error:
                raise ResultError(f"the model of {folder} ({type(error).__name__}: {error})") from error
            self._store.client.log_artifacts(self.run_id, str(model), "model")


class MlflowStore:
    """One tracking store and the thread that writes to it.

    Writes are taken up in order. One that fails is tried again until it succeeds, with pauses that grow, and
    what comes after it waits; one that can never succeed is given up and told of by :meth:`close`. A metric's
    time is that of its logging, so that a batch which did arrive is the same when it is written again, and
    the store keeps it once.

    Args:
        tracking: Where, and in which experiment.
        folder: Of the search, sweep or comparison, from which ``ciess-ray track`` sends what was not taken.

    Attributes:
        uri: As it may be shown, without its secret.
        client: MLflow's.
        experiment_id: Of the experiment that runs belong to.
        last_error: What it said of the write that is tried again.

    Raises:
        ConfigError: MLflow cannot record there.
    """

    def __init__(self, tracking: TrackingConfig, folder: Path | str) -> None:
        self.uri, self._folder = without_secrets(tracking.uri), folder
        self.client, self.experiment_id = connect(tracking)
        self._writes: queue.Queue[tuple[MlflowRun, Callable[[], None]] | None] = queue.Queue()
        self._is_given_up = threading.Event()
        self._failing_since: float | None = None
        self.last_error = ""
        self._problems: list[str] = []
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    @property
    def num_waiting(self) -> int:
        """Writes that the store has not taken yet."""
        return self._writes.unfinished_tasks

    def run(
        self,
        key: str | None,
        name: str,
        *,
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
        run_id: str | None = None,
        is_newest_right: bool = False,
    ) -> MlflowRun:
        """A run, found again or begun; returns at once, and the thread does it.

        Args:
            key: A name of one's own by which it is found again; None for one that nobody else knows.
            name: What MLflow shows.
            params: Logged where the run does not have them.
            tags: Of a run that is new.
            run_id: MLflow's own name of a run to go on with; where the experiment has lost it, another is
                begun.
            is_newest_right: Whether a metric of a step that is told again, and is another, counts from then
                on; otherwise what was told first does.
        """
        run = MlflowRun(self, is_newest_right=is_newest_right)
        # A run that was begun, and whose store's answer was lost, is found by its key too.
        tags = {**tags, _KEY_TAG: key or uuid.uuid4().hex}
        self.put(run, lambda: run.begin(name, params, tags, run_id))
        return run

    def put(self, run: MlflowRun, write: Callable[[], None]) -> None:
        """Have something of a run written once all that came before it is."""
        self._writes.put((run, write))

    def settle(self, timeout_s: float) -> bool:
        """Wait a little for what is not written yet, and not at all for a store that fails.

        Returns:
            Whether everything that it was told has been written.
        """
        until = time.monotonic() + timeout_s
        with self._writes.all_tasks_done:
            while self.num_waiting and self._failing_since is None and time.monotonic() < until:
                self._writes.all_tasks_done.wait(_LOOK_S)
        return not self.num_waiting and not self._problems

    def close(self, timeout_s: float = CLOSE_S) -> list[str]:
        """Wait for what is not written yet and end the thread; Ctrl-C ends the waiting.

        It takes as long as it takes, however large the files are, unless the store fails for so long.

        Args:
            timeout_s: Seconds of nothing but failures after which the rest is given up.

        Returns:
            A sentence on each thing that the store did not take; it is told once.
        """
        if self._is_given_up.is_set():
            return []
        with contextlib.suppress(KeyboardInterrupt):
            self._wait_for_writes(timeout_s)
        problems, num_left = self._problems.copy(), self.num_waiting
        if num_left:
            why = f": {self.last_error}" if self._failing_since is not None else ""
            problems.append(
                f"MLflow at {self.uri} did not take the last {num_left:,} writes{why}. {self._remedy()}"
            )
        self._is_given_up.set()
        self._writes.put(None)
        return problems

    def _wait_for_writes(self, timeout_s: float) -> None:
        """Until everything is written, or the store has failed for so long."""
        started = time.monotonic()
        notice_at = started + _NOTICE_S
        with self._writes.all_tasks_done:
            while self.num_waiting:
                now = time.monotonic()
                if self._failing_since is not None and now >= max(self._failing_since, started) + timeout_s:
                    return
                if now >= notice_at:
                    notice_at = math.inf
                    logging.getLogger(__name__).warning(
                        f"MLflow at {self.uri}: {self.num_waiting:,} writes are still under way; Ctrl-C "
                        f"leaves them. {self._remedy()}"
                    )
                self._writes.all_tasks_done.wait(_LOOK_S)

    def _remedy(self) -> str:
        return f"Send what is left: {command('ciess-ray', 'track', self._folder)}"

    def _work(self) -> None:
        for run, write in iter(self._writes.get, None):
            pause_s = _FIRST_PAUSE_S
            # Of a run that never began it is told already.
            while run.error is None and not self._is_given_up.is_set():
                try:
                    write()
                    break
                # It is tried again, or told where the store is closed.
                except Exception as error:
                    self.last_error = first_line(error)
                    if _is_lasting(error):
                        self._refuse(run)
                        break
                self._failing_since = self._failing_since or time.monotonic()
                self._is_given_up.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self._failing_since = None
            self._writes.task_done()

    def _refuse(self, run: MlflowRun) -> None:
        """A write of a run can never succeed, for the last error."""
        problem = f"MLflow at {self.uri} refused a write: {self.last_error}"
        self._problems.append(problem)
        if run.run_id is None:
            # The write that was to begin it.
            run.error = problem
            run.is_known.set()


def _is_lasting(error: Exception) -> bool:
    """Whether a write that failed so will fail so next time."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return (
        isinstance(error, FileNotFoundError | PermissionError | CiessError)
        or getattr(error, "error_code", None) in _LASTING_ERRORS
        or (status is not None and 400 <= status < 500 and status not in _PASSING_STATUSES)
    )


def tell_problems(problems: Iterable[str]) -> None:
    """What a store did not take, where nobody else would tell it."""
    for problem in problems:
        logging.getLogger(__name__).warning(problem)
