"""How far runs are, and who is told: MLflow, and whoever watches.

A search is one run, which :func:`track` records; trials and cells are many side by side, which a
:class:`Monitor` follows.
"""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from ciess_ray import metric_keys
from ciess_ray.config.keys import digest
from ciess_ray.config.run import RunConfig, TrackingConfig
from ciess_ray.config.yaml_file import check_values, put_overrides
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH, flatten
from ciess_ray.result import RESULT_FILE, dataset_name, read_steps, read_summary
from ciess_ray.tracking.mlflow_store import End, MlflowRun, MlflowStore, tell_problems
from envs.errors import ResultError

Ended = Literal["finished", "stopped", "failed"]
News = Ended | Literal["started", "reported", "retried", "refused", "prepared", "found in the cache"]

#: What MLflow says of a run that ended so; a search says of itself that it was interrupted.
_ENDS: Mapping[str, End] = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}


@dataclass
class RunState:
    """How far a run is, and what became of it.

    Attributes:
        name: Its own, and its folder's or its file's.
        fields: What it has that others have not, by dotted name.
        config: The whole configuration, of a search or a stream.
        budget: Its budget, as asked for; unless something else is given, that of its configuration.
        status: ``stopped`` by a scheduler, before its end; ``pending`` too where all was broken off.
        summary: Of a trial that is finished, its ``result.json``.
        quality: Best mean ranking metric on validation so far; once finished, that of its result.
        step: Table steps so far.
        num_failures: How often it broke off.
        error: Why, the last time.
        phase: Of a search.
        started: When it began, by ``time.monotonic``.
        seconds: How long it took, once it has ended.
        note: What else a line says of it once it is finished.
    """

    name: str
    fields: dict[str, Any]
    config: Any
    budget: str = ""
    status: Ended | Literal["pending", "running"] = "pending"
    summary: dict[str, Any] | None = None
    quality: float | None = None
    step: int = 0
    num_failures: int = 0
    error: str | None = None
    phase: str = ""
    started: float | None = None
    seconds: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        self.budget = self.budget or str(self.config.budget)

    @property
    def dataset(self) -> str:
        """What a reader calls its data."""
        return dataset_name(self.config.model_dump(mode="json"))

    def row(self, method: str) -> dict[str, Any]:
        """What ``result.json`` says of full size, equal sizes or the search; of a trial that is finished."""
        assert self.summary is not None
        return next(row for row in self.summary["methods"] if row["name"] == method)


@dataclass
class RunsState:
    """How far many runs are, and what has just happened.

    Attributes:
        kind: What they are called, ``trials`` or ``cells``.
        runs: By name.
        started: When they began, or were gone on with, by ``time.monotonic``.
        changed: The run that the news is about, or what several runs need.
        what: The news.
        num_waiting: Metrics that the tracking server has not taken yet.
        num_prepared: How many of what several runs need has been trained, or has failed, and of how many.
    """

    kind: str
    runs: dict[str, RunState]
    started: float = field(default_factory=time.monotonic)
    changed: str | None = None
    what: News | None = None
    num_waiting: int = 0
    num_prepared: tuple[int, int] = (0, 0)

    @property
    def is_complete(self) -> bool:
        """Whether every run came to its end."""
        return all(run.status in ("finished", "stopped") for run in self.runs.values())


Watcher = Callable[[RunsState], None]


class Monitor:
    """Follows many runs; MLflow gets one run for all of them, and under it one for each.

    A context manager: at the end of the block MLflow is told of all that it has not been told yet, and that
    all is over.

    Args:
        kind: See :class:`RunsState`.
        runs: Those that are known beforehand.
        store: MLflow; None where nothing is recorded.
        key: By which MLflow finds the runs again.
        name: What MLflow calls all of them.
        params: Of all of them, in MLflow.
        tags: Of every run, beside those of :func:`run_tags`.
        on_change: Called with every piece of news.

    Attributes:
        state: How far they are.
        files: What compares them, once it is written.
        problems: Sentences on what the store did not take, after the block.
    """

    def __init__(
        self,
        kind: str,
        runs: Iterable[RunState],
        store: MlflowStore | None,
        key: str,
        name: str,
        *,
        params: Mapping[str, str],
        tags: Mapping[str, str] = {},
        on_change: Watcher | None = None,
    ) -> None:
        self.state = RunsState(kind, {run.name: run for run in runs})
        self.files: Sequence[Path] = ()
        self.problems: list[str] = []
        self._store, self._key, self._on_change = store, key, on_change
        self._tags = {**tags, **run_tags()}
        self._recorded: dict[str, MlflowRun] = {}
        if store is not None:
            self._parent = store.run(key, name, params=params, tags=self._tags)
            self._tags["mlflow.parentRunId"] = self._parent.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is None:
            return
        end: End = "FINISHED" if kind is None and self.state.is_complete else "FAILED"
        if isinstance(error, KeyboardInterrupt):
            end = "KILLED"
            for name, run in self._recorded.items():
                if self.state.runs[name].status == "running":
                    run.end(end)
        self._parent.log_files(dict.fromkeys(self.files))
        self._parent.end(end)
        self.problems += self._store.close()
        if kind is not None:
            # Nobody gets to see the results.
            tell_problems(self.problems)

    def prepare(self, num_done: int, num_all: int, name: str | None = None, what: News = "prepared") -> None:
        """What several runs need is being trained, and maybe one of it is there, by its name."""
        self.state.num_prepared = num_done, num_all
        self.tell(name, what)

    def record(
        self,
        name: str,
        key: str = "",
        *,
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
    ) -> MlflowRun | None:
        """A run in MLflow, begun or found again; None where nothing is recorded.

        Args:
            name: Of the run.
            key: What else it is found by.
            params: Beside those of its configuration.
            tags: Beside those of every run.
        """
        if self._store is not None and name not in self._recorded:
            config = self.state.runs[name].config
            values = config.model_dump(mode="json", exclude={"output", "cache", "tracking"})
            self._recorded[name] = self._store.run(
                f"{self._key}/{name}{key}",
                name,
                params={**params, **texts_of(values)},
                tags={**self._tags, **tags},
            )
        return self._recorded.get(name)

    def end(self, name: str, status: Ended, what: News | None = None) -> None:
        """A run is over, which is the news, unless something else is."""
        run = self.state.runs[name]
        run.status = status
        if run.started is not None:
            run.seconds = time.monotonic() - run.started
        if name in self._recorded:
            self._recorded[name].end(_ENDS[status])
        self.tell(name, what or status)

    def tell(self, name: str | None, what: News) -> None:
        """Whoever watches hears what has happened, and to what."""
        self.state.changed, self.state.what = name, what
        self.state.num_waiting = self._store.num_waiting if self._store is not None else 0
        if self._on_change is not None:
            self._on_change(self.state)


class NullTracker:
    """Records nothing, where :class:`ciess_ray.tracking.mlflow_store.MlflowRun` records.

    Attributes:
        run_id: By which a run is found again; None where nothing is recorded, or not yet.
    """

    run_id: str | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Called once a step; values that are not finite are left out."""

    def log_folder(self, folder: Path) -> None:
        """Called once, when the result folder is complete."""

    def log_model(self, folder: Path) -> None:
        """Called once, when the result folder is complete."""


Tracker: TypeAlias = MlflowRun | NullTracker


@contextlib.contextmanager
def track(
    config: RunConfig, run_name: str, run_id: str | None = None, tags: Mapping[str, str] = {}
) -> Iterator[Tracker]:
    """A tracker for one run, which ends FINISHED, KILLED (Ctrl-C) or FAILED as the block does.

    Args:
        config: The run.
        run_name: What MLflow shows.
        run_id: The run to go on with, of a search that is resumed; where the store has lost it, a new one
            is started.
        tags: Of the run, beside those of :func:`run_tags`.

    Raises:
        ConfigError: MLflow cannot record at ``tracking.uri``, or begins no run there.
    """
    if not config.tracking.mlflow:
        yield NullTracker()
        return
    store = MlflowStore(config.tracking, config.output)
    params = texts_of(config.model_dump(mode="json"))
    run = store.run(None, run_name, params=params, tags={**run_tags(), **tags}, run_id=run_id)
    run.wait()
    status: End = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.end(status)
        tell_problems(store.close())


def send_search(folder: Path, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Record the folder of a search that is over.

    Runs that the store knows are gone on with and get only what they lack, so that it may be sent twice.

    Args:
        folder: Of the search.
        overrides: Where to, if elsewhere than it says: ``tracking.uri=...``, ``tracking.experiment=...``.

    Returns:
        The store, without its secret, and a sentence on each thing that it did not take.

    Raises:
        CiessError: It is not over, or MLflow cannot record there.
    """
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
            digest(summary),
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


def result_metrics(methods: Iterable[Mapping[str, Any]], budget: str = "") -> dict[str, float]:
    """What MLflow is told of the tables that a search measured on test, and of their bytes.

    Args:
        methods: Rows of ``result.json``.
        budget: What tells a looser budget's keys from those of the budget that was searched.
    """
    beginnings = {
        SEARCH: metric_keys.TEST,
        EQUAL_SIZES: metric_keys.TEST_EQUAL,
        FULL_SIZE: metric_keys.TEST_FULL,
    }
    metrics: dict[str, float] = {}
    for row in methods:
        place = "_".join(filter(None, (beginnings[row["name"]], budget)))
        figures = {name: row[name] for name in metric_keys.TABLE_FIGURES if name in row}
        metrics |= {f"{place}/{name}": float(value) for name, value in (row["test"] | figures).items()}
    return metrics


def run_tags() -> dict[str, str]:
    """Where a run came from: versions, and the Git commit of the working directory if it has one."""
    tags = {f"{name}.version": version(name) for name in ("ciess-ray", "ray", "torch")}
    with contextlib.suppress(OSError):
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        if commit.returncode == 0:
            tags["mlflow.source.git.commit"] = commit.stdout.strip()
    return tags


def texts_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested fields as dotted names and text."""
    return {name: str(value) for name, value in flatten(values).items()}
