"""A stream in MLflow: a run for all of it, and under it one for each segment."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ciess_ray.config.run import TrackingConfig
from ciess_ray.tracking.mlflow_store import End, MlflowStore, tell_problems
from ciess_ray.tracking.runs import run_tags, texts_of

#: Of every method in the run of the whole stream, where MLflow draws them from segment to segment.
_CHARTED = (
    "validation/ndcg@20",
    "test/recall@20",
    "test/ndcg@20",
    "test_cold/recall@20",
    "test_cold/ndcg@20",
    "num_bytes",
    "mean_user_size",
    "mean_item_size",
    "list_overlap@20",
    "cpu_s",
)
#: Of a segment, the same for all methods.
_SHARED = ("num_rows", "num_users", "num_items", "cold_share")
_SETTLE_S = 10.0


class StreamTracker:
    """Records the segments of a stream; a context manager, at whose end MLflow has been told of all.

    Steps are segments. One that is done anew, because the log has gone on, has its new figures in its run
    from then on, and what is told twice is recorded once.

    Args:
        tracking: Where to; nothing is recorded where ``mlflow`` is off.
        folder: Of the stream.
        key: By which MLflow finds its runs again.
        values: Plain values of its configuration.
        told: Segments that the store has already, each with its end.
        confirm: Called with a segment and its end once the store has it.

    Attributes:
        uri: Of the store, without its secret; empty where nothing is recorded.
        is_complete: Set once every segment is finished; what ends before was killed, or has failed.
        problems: Sentences on what the store did not take, after the block.

    Raises:
        ConfigError: MLflow cannot record there.
    """

    def __init__(
        self,
        tracking: TrackingConfig,
        folder: Path,
        key: str,
        values: Mapping[str, Any],
        told: Iterable[tuple[int, int]] = (),
        confirm: Callable[[int, int], None] = lambda number, end: None,
    ) -> None:
        self.uri, self.is_complete = "", False
        self.problems: list[str] = []
        self._folder, self._key, self._told, self._confirm = folder, key, {*told}, confirm
        self._params = texts_of({k: v for k, v in values.items() if k not in ("output", "tracking")})
        self._tags = run_tags()
        self._unconfirmed: list[tuple[int, int]] = []
        self._rows: list[Mapping[str, Any]] = []
        self._store = MlflowStore(tracking, folder) if tracking.mlflow else None
        if self._store is not None:
            self.uri = self._store.uri
            name = folder.absolute().name
            self._parent = self._store.run(
                key, name, params=self._params, tags=self._tags, is_newest_right=True
            )
            self._tags["mlflow.parentRunId"] = self._parent.wait()

    def segment(self, number: int, end: int, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """A segment is finished.

        Args:
            number: Its own.
            end: One past its last row.
            rows: What each method came to.
            folder: What they left, which is recorded whole.
        """
        self._rows += rows
        if self._store is None or (number, end) in self._told:
            return
        shared = {name: rows[0][name] for name in _SHARED if name in rows[0]}
        run = self._store.run(
            f"{self._key}/{number:03}",
            f"segment {number:03}",
            params={**self._params, "segment": str(number)},
            tags=self._tags,
            is_newest_right=True,
        )
        run.log_metrics(_finite(shared), number)
        for row in rows:
            own = {name: value for name, value in row.items() if name not in ("segment", *shared)}
            run.log_metrics(_of_method(row, own), number)
            charted = {name: value for name, value in own.items() if name in _CHARTED}
            self._parent.log_metrics(_of_method(row, charted), number)
        run.log_folder(folder)
        run.end("FINISHED")
        self._unconfirmed.append((number, end))
        # Its CPU seconds are none of the next segment's; a store that is slow keeps nobody waiting for long.
        if self._store.settle(_SETTLE_S):
            self._confirm_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is None:
            return
        status: End = "FINISHED" if self.is_complete else "KILLED"
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            status = "FAILED"
        self._parent.log_metrics(
            mean_metrics(self._rows), max((row["segment"] for row in self._rows), default=0)
        )
        files = (file for file in sorted(self._folder.glob("stream.*")) if file.is_file())
        self._parent.log_files(dict.fromkeys(files))
        self._parent.end(status)
        self.problems += self._store.close()
        if not self.problems:
            self._confirm_all()
        if kind is not None:
            # Nobody gets to see the results.
            tell_problems(self.problems)

    def _confirm_all(self) -> None:
        for number, end in self._unconfirmed:
            self._confirm(number, end)
        self._unconfirmed.clear()


def mean_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of every method over the segments after the first, in which no table begins with another."""
    means: dict[str, float] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        later = [row for row in rows if row["method"] == method and row["segment"] > 0]
        figures = {name: [row[name] for row in later if row.get(name) is not None] for name in _CHARTED}
        averages = {f"mean/{name}": sum(of) / len(of) for name, of in figures.items() if of}
        means |= _of_method({"method": method}, averages)
    return means


def _of_method(row: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, float]:
    """Figures under the name that a method's folder has."""
    prefix = str(row["method"]).replace(" ", "-")
    return {f"{prefix}/{name}": value for name, value in _finite(figures).items()}


def _finite(figures: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in figures.items()
        if value is not None and not isinstance(value, str) and math.isfinite(value)
    }
