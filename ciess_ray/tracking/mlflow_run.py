"""One run of an MLflow tracking store, and what a store is told to write of it."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

from ciess_ray.tracking.mlflow_connection import patiently
from ciess_ray.tracking.mlflow_model import can_model, save_model
from envs.errors import CiessError, ConfigError

End = Literal["FINISHED", "KILLED", "FAILED"]

#: How long a server may fail: as a run begins, and at the end with what it was told.
CLOSE_S = 60.0
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


@dataclass(frozen=True)
class Row:
    """Metrics of one step, which those of the next are merged with."""

    run: "MlflowRun"
    metrics: dict[str, float]
    step: int
    time_ms: int


@dataclass(frozen=True)
class Write:
    """Anything else that a run is told."""

    run: "MlflowRun"
    do: Callable[[], None]


class Writer(Protocol):
    """What a run asks of its store, :class:`ciess_ray.tracking.mlflow_store.MlflowStore`."""

    uri: str
    client: Any
    last_error: str

    def put(self, write: Row | Write) -> None:
        """Have it written once all that came before it is."""


class _ModelError(Exception):
    """A model that cannot be written, now or later."""


class MlflowRun:
    """One run of a store; see :class:`Tracker`. Every call returns at once.

    Attributes:
        run_id: None until the store has begun it.
        error: Why it never will.
    """

    def __init__(self, store: Writer) -> None:
        self._store = store
        self.run_id: str | None = None
        self.error: str | None = None
        self._is_known = threading.Event()
        self._is_new = True
        self._steps_there: dict[str, set[int]] = {}

    def wait(self, timeout_s: float = CLOSE_S) -> str:
        """The run's id, which takes the store a moment.

        Raises:
            ConfigError: The store refuses to begin it, or does not for so long.
        """
        self._is_known.wait(timeout_s)
        if self.run_id is None:
            why = (
                self.error
                or f"MLflow at {self._store.uri} began no run ({self._store.last_error or 'it is slow'})"
            )
            raise ConfigError(f"tracking.uri: {why}. Try again, or set tracking.mlflow=false.")
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
            self._store.put(Row(self, known, step, int(time.time() * 1000) if time_ms is None else time_ms))

    def log_folder(self, folder: Path) -> None:
        """The whole folder but its checkpoints, which are pickles, under ``result``."""
        self._store.put(Write(self, lambda: self._write_folder(folder, "result")))

    def log_files(self, files: Iterable[Path]) -> None:
        """Files, side by side."""
        listed = list(files)
        self._store.put(Write(self, lambda: self._write_files([(file, None) for file in listed])))

    def log_model(self, folder: Path) -> None:
        """The packed table of a result folder, as ``model``, which ``mlflow.pyfunc.load_model`` reads."""
        self._store.put(Write(self, lambda: self._write_model(folder)))

    def end(self, status: End) -> None:
        """The run is over."""
        self._store.put(Write(self, lambda: self._store.client.set_terminated(self.run_id, status)))

    def take(self, run_id: str, *, is_new: bool) -> None:
        """The store has begun it, or found it again."""
        self.run_id, self._is_new = run_id, is_new
        self._is_known.set()

    def fail(self, error: str) -> None:
        """The store never will."""
        self.error = error
        self._is_known.set()

    def write(self, rows: list[Row]) -> None:
        """Metrics of some steps, in one batch."""
        from mlflow.entities import Metric

        entities = [
            Metric(name, value, row.time_ms, row.step)
            for row in rows
            for name, value in row.metrics.items()
            if row.step not in self._there(name)
        ]
        if entities:
            self._store.client.log_batch(self.run_id, metrics=entities)

    def _there(self, name: str) -> set[int]:
        """Steps that a run which was found again has of a metric from before."""
        if self._is_new:
            return set()
        if name not in self._steps_there:
            history = self._store.client.get_metric_history(self.run_id, name)
            self._steps_there[name] = {metric.step for metric in history}
        return self._steps_there[name]

    def _write_folder(self, folder: Path, place: str) -> None:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        placed = [(file, Path(place) / file.parent.relative_to(folder)) for file in files]
        self._write_files([(file, str(where)) for file, where in placed if "checkpoints" not in where.parts])

    def _write_files(self, files: list[tuple[Path, str | None]]) -> None:
        with patiently():
            for file, place in files:
                self._store.client.log_artifact(self.run_id, str(file), place)

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


def is_lasting(error: Exception) -> bool:
    """Whether a write that failed so will fail so next time."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return (
        isinstance(error, FileNotFoundError | PermissionError | CiessError | _ModelError)
        or getattr(error, "error_code", None) in _LASTING_ERRORS
        or (status is not None and 400 <= status < 500 and status not in _PASSING_STATUSES)
    )
