"""An MLflow tracking store and the runs in it.

One process writes: the driver of a search or of a sweep. A thread of its own does so, in the order in which
it is told, so that a tracking server that is slow, or gone for a while, keeps nobody waiting and loses
nothing.
"""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from ciess_ray.config import TrackingConfig
from ciess_ray.mlflow_model import can_model, save_model
from envs.errors import ConfigError

End = Literal["FINISHED", "KILLED", "FAILED"]

#: MLflow refuses longer values of parameters, and larger batches of metrics and of parameters.
_MAX_PARAM_LENGTH, _MAX_METRICS, _MAX_PARAMS = 6000, 1000, 100
_KEY_TAG = "ciess_ray.key"
_PARENT_TAG = "mlflow.parentRunId"
#: How MLflow is to behave; a user's own settings win. Its own retries last minutes; ours come between other
#: writes and end when the store is closed. Its bars would run through whatever else is shown.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
#: How long a search waits for a server: at first, and at its end where it does not take what it was told.
_CLOSE_S = 60.0
#: What a server answers that will answer the same next time.
_LASTING_ERRORS = frozenset(
    (
        "INVALID_PARAMETER_VALUE",
        "BAD_REQUEST",
        "PERMISSION_DENIED",
        "RESOURCE_DOES_NOT_EXIST",
        "NOT_IMPLEMENTED",
    )
)


@dataclass(frozen=True)
class _Row:
    """Metrics of one step; a write in itself, which others are merged with."""

    run: "MlflowRun"
    metrics: dict[str, float]
    step: int
    time_ms: int


class MlflowStore:
    """One tracking store and the thread that writes to it.

    Writes are taken up in order. One that fails is tried again until it succeeds, with pauses that grow, and
    what comes after it waits; one that can never succeed is given up and told of by :meth:`close`. A metric's
    time is that of its logging, so that a batch which did arrive is the same when it is written again, and
    the store keeps it once.

    Args:
        tracking: Where, and in which experiment.

    Raises:
        ConfigError: MLflow cannot record there.
    """

    def __init__(self, tracking: TrackingConfig) -> None:
        self.uri = tracking.uri
        self._client, self._experiment_id = _connect(tracking)
        self._writes: deque[_Row | Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._num_in_hand = 0
        self._is_closing = False
        self._error = ""
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Writes that the store has not taken yet."""
        return len(self._writes) + self._num_in_hand

    def run(
        self,
        key: str | None,
        name: str,
        *,
        params: Iterable[tuple[str, str]] = (),
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
        parent: "MlflowRun | None" = None,
    ) -> "MlflowRun":
        """A run, found again or begun; returns at once, and the thread does it.

        Args:
            key: A name of one's own by which it is found again.
            name: What MLflow shows.
            params: Logged where the run is new.
            tags: The same.
            run_id: MLflow's own name of a run to go on with; where the store has lost it, another is begun.
            parent: The run that it belongs to.
        """
        run = MlflowRun(self)
        params, tags = list(params), dict(tags or {})
        self._put(lambda: self._begin(run, key, name, params, tags, run_id, parent))
        return run

    def close(self, timeout_s: float = _CLOSE_S) -> list[str]:
        """Wait for what is not written yet, at most so long, and end the thread.

        Returns:
            A sentence on each thing that the store did not take; it is told once.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        with self._changed:
            problems, self._problems = self._problems, []
            if self._thread.is_alive() and self._writes:
                problems.append(
                    f"MLflow at {self.uri} did not take {self.num_waiting:,} writes within {timeout_s:g} s "
                    f"({self._error or 'it is slow'}); --resume sends them again."
                )
                self._writes.clear()
        return problems

    def _put(self, write: _Row | Callable[[], None]) -> None:
        with self._changed:
            self._writes.append(write)
            self._changed.notify_all()

    def _work(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            with self._changed:
                while not self._writes and not self._is_closing:
                    self._changed.wait()
                if not self._writes:
                    return
                first = self._writes.popleft()
                rows = self._following(first) if isinstance(first, _Row) else []
                taken: list[_Row | Callable[[], None]] = [*rows] or [first]
                self._num_in_hand = len(taken)
            try:
                if isinstance(first, _Row):
                    first.run._write(rows)
                else:
                    first()
                pause_s = _FIRST_PAUSE_S
            except Exception as error:
                self._error = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
                if _is_lasting(error):
                    self._problems.append(f"MLflow at {self.uri} refused a write: {self._error}")
                    continue
                with self._changed:
                    self._writes.extendleft(reversed(taken))
                    self._num_in_hand = 0
                    self._changed.wait(0 if self._is_closing else pause_s)
                if self._is_closing:
                    time.sleep(min(pause_s, 1.0))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            finally:
                self._num_in_hand = 0

    def _following(self, first: _Row) -> list[_Row]:
        """The row and those of the same run right behind it, as many as fit into one batch."""
        rows, size = [first], len(first.metrics)
        while self._writes:
            row = self._writes[0]
            if (
                not isinstance(row, _Row)
                or row.run is not first.run
                or size + len(row.metrics) > _MAX_METRICS
            ):
                break
            size += len(row.metrics)
            rows.append(row)
            self._writes.popleft()
        return rows

    def _begin(
        self,
        run: "MlflowRun",
        key: str | None,
        name: str,
        params: list[tuple[str, str]],
        tags: dict[str, str],
        run_id: str | None,
        parent: "MlflowRun | None",
    ) -> None:
        from mlflow.entities import Param, ViewType

        known = self._found(run_id)
        if known is None and key is not None:
            found = self._client.search_runs(
                [self._experiment_id],
                filter_string=f"tags.`{_KEY_TAG}` = '{key}'",
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1,
            )
            known = found[0] if found else None
        if known is not None:
            self._client.update_run(known.info.run_id, status="RUNNING")
            run._take(known.info.run_id, is_new=False)
            return
        tags |= {_KEY_TAG: key} if key is not None else {}
        tags |= {_PARENT_TAG: parent.run_id} if parent is not None and parent.run_id is not None else {}
        created = self._client.create_run(self._experiment_id, run_name=name, tags=tags).info.run_id
        entities = [Param(name, value[:_MAX_PARAM_LENGTH]) for name, value in params]
        for first in range(0, len(entities), _MAX_PARAMS):
            self._client.log_batch(created, params=entities[first : first + _MAX_PARAMS])
        run._take(created, is_new=True)

    def _found(self, run_id: str | None) -> Any:
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None


class _ModelError(Exception):
    """A model that cannot be written, now or later."""


class MlflowRun:
    """One run of a store; see :class:`Tracker`. Every call returns at once.

    Attributes:
        run_id: None until the store has begun it.
    """

    def __init__(self, store: MlflowStore) -> None:
        self._store = store
        self.run_id: str | None = None
        self._is_known = threading.Event()
        self._is_new = True
        self._steps_there: dict[str, set[int]] = {}

    def wait(self, timeout_s: float = _CLOSE_S) -> str | None:
        """The run's id, which takes the store a moment."""
        self._is_known.wait(timeout_s)
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        """Metrics of a step; MLflow's names allow no ``@``, so ``ndcg@20`` becomes ``ndcg_20``.

        Args:
            metrics: By name; what is not finite is left out.
            step: Their step.
            time_ms: When they were measured, in milliseconds since 1970; None for now.
        """
        known = {
            name.replace("@", "_"): float(value) for name, value in metrics.items() if math.isfinite(value)
        }
        if known:
            self._store._put(_Row(self, known, step, int(time.time() * 1000) if time_ms is None else time_ms))

    def log_folder(self, folder: Path) -> None:
        """The whole folder but its checkpoints, which are pickles, under ``result``."""
        self._store._put(lambda: self._write_folder(folder, "result"))

    def log_files(self, files: Iterable[Path]) -> None:
        """Files, side by side."""
        listed = list(files)
        self._store._put(lambda: self._write_files([(file, None) for file in listed]))

    def log_model(self, folder: Path) -> None:
        """The packed table of a result folder, as ``model``, which ``mlflow.pyfunc.load_model`` reads."""
        self._store._put(lambda: self._write_model(folder))

    def end(self, status: End) -> None:
        """The run is over."""
        self._store._put(lambda: self._store._client.set_terminated(self.run_id, status))

    def _take(self, run_id: str, *, is_new: bool) -> None:
        self.run_id, self._is_new = run_id, is_new
        self._is_known.set()

    def _write(self, rows: list[_Row]) -> None:
        from mlflow.entities import Metric

        entities = [
            Metric(name, value, row.time_ms, row.step)
            for row in rows
            for name, value in row.metrics.items()
            if row.step not in self._there(name)
        ]
        if entities:
            self._store._client.log_batch(self.run_id, metrics=entities)

    def _there(self, name: str) -> set[int]:
        """Steps that a run which was found again has of a metric from before."""
        if self._is_new:
            return set()
        if name not in self._steps_there:
            history = self._store._client.get_metric_history(self.run_id, name)
            self._steps_there[name] = {metric.step for metric in history}
        return self._steps_there[name]

    def _write_folder(self, folder: Path, place: str) -> None:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        placed = [(file, Path(place) / file.parent.relative_to(folder)) for file in files]
        self._write_files([(file, str(where)) for file, where in placed if "checkpoints" not in where.parts])

    def _write_files(self, files: list[tuple[Path, str | None]]) -> None:
        for file, place in files:
            self._store._client.log_artifact(self.run_id, str(file), place)

    def _write_model(self, folder: Path) -> None:
        if not can_model(folder):
            return
        with TemporaryDirectory(prefix="ciess-ray-") as temporary:
            model = Path(temporary) / "model"
            try:
                save_model(folder, model)
            except Exception as error:
                raise _ModelError(f"the model of {folder} ({type(error).__name__}: {error})") from error
            self._write_folder(model, "model")


def _connect(tracking: TrackingConfig) -> tuple[Any, str]:
    """A client, and the experiment's id."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    # A fresh store announces its tables and every migration, a model that it is looked at.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri=tracking.uri)
        experiment = client.get_experiment_by_name(tracking.experiment)
        return client, experiment.experiment_id if experiment else client.create_experiment(
            tracking.experiment
        )
    except MlflowException as error:
        raise ConfigError(
            f"tracking.uri={tracking.uri!r}: MLflow cannot record there ({error}); name a store such "
            "as sqlite:///mlflow.db or a server's address, or set tracking.mlflow=false."
        ) from error


def _is_lasting(error: Exception) -> bool:
    return (
        isinstance(error, FileNotFoundError | _ModelError)
        or getattr(error, "error_code", None) in _LASTING_ERRORS
    )
