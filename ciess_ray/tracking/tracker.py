"""Where a run is recorded: MLflow, and nothing where it is off."""

import contextlib
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from ciess_ray import metric_keys
from ciess_ray.config.run import RunConfig
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH, flatten
from ciess_ray.tracking.mlflow_store import End, MlflowRun, MlflowStore


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
    config: RunConfig, run_name: str, run_id: str | None = None, tags: Mapping[str, str] | None = None
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
    run = store.run(None, run_name, params=params, tags={**run_tags(), **(tags or {})}, run_id=run_id)
    try:
        run.wait()
    except BaseException:
        store.close(timeout_s=0.0)
        raise
    status: End = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.end(status)
        store.close_telling()


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


def texts_of(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Nested fields as dotted names and text."""
    return ((name, str(value)) for name, value in flatten(values).items())
