"""MLflow, and nothing where it is off. The driver alone writes."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from ciess_ray.config import RunConfig
from envs.errors import ConfigError

#: MLflow refuses longer values of parameters.
_MAX_PARAM_LENGTH = 6000


class Tracker(Protocol):
    """Where a run is recorded.

    Attributes:
        run_id: By which it is found again; None where nothing is recorded.
    """

    run_id: str | None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Called once a step; values that are not finite are left out."""

    def log_folder(self, folder: Path) -> None:
        """Called once, when the result folder is complete."""


class NullTracker:
    """Records nothing."""

    run_id: str | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Does nothing."""

    def log_folder(self, folder: Path) -> None:
        """Does nothing."""


class MlflowTracker:
    """Records one MLflow run: one batch of metrics a step, the result folder as artifacts."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id: str | None = run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One write for all; MLflow's names allow no ``@``, so ``ndcg@20`` becomes ``ndcg_20``."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        entities = [
            Metric(name.replace("@", "_"), float(value), now_ms, step)
            for name, value in metrics.items()
            if math.isfinite(value)
        ]
        self._client.log_batch(self.run_id, metrics=entities)

    def log_folder(self, folder: Path) -> None:
        """The whole folder but its checkpoints, which are pickles, under ``result``."""
        for file in sorted(folder.rglob("*")):
            place = file.parent.relative_to(folder)
            if file.is_file() and "checkpoints" not in place.parts:
                self._client.log_artifact(self.run_id, str(file), str(Path("result") / place))


@contextlib.contextmanager
def track(config: RunConfig, run_name: str, run_id: str | None = None) -> Iterator[Tracker]:
    """A tracker for one run, which ends FINISHED, KILLED (Ctrl-C) or FAILED as the block does.

    Args:
        config: The run.
        run_name: What MLflow shows.
        run_id: The run to go on with, of a search that is resumed; where the store has lost it, a new one
            is started.

    Raises:
        ConfigError: MLflow cannot record at ``tracking.uri``.
    """
    if not config.tracking.mlflow:
        yield NullTracker()
        return
    client, run_id = _start_run(config, run_name, run_id)
    status: Literal["FINISHED", "KILLED", "FAILED"] = "FAILED"
    try:
        yield MlflowTracker(client, run_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run_id, status)


def _start_run(config: RunConfig, run_name: str, run_id: str | None) -> tuple[Any, str]:
    from mlflow import MlflowClient
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    # A fresh store announces its tables and every migration, lines that tell a user nothing.
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    fields = flatten(config.model_dump(mode="json"))
    try:
        client = MlflowClient(tracking_uri=config.tracking.uri)
        if run_id is not None:
            with contextlib.suppress(MlflowException):
                client.update_run(run_id, status="RUNNING")
                return client, run_id
        experiment = client.get_experiment_by_name(config.tracking.experiment)
        experiment_id = (
            experiment.experiment_id if experiment else client.create_experiment(config.tracking.experiment)
        )
        run = client.create_run(experiment_id, run_name=run_name)
        client.log_batch(run.info.run_id, params=[Param(k, v[:_MAX_PARAM_LENGTH]) for k, v in fields])
    except MlflowException as error:
        raise ConfigError(
            f"tracking.uri={config.tracking.uri!r}: MLflow cannot record there ({error}); name a store such "
            "as sqlite:///mlflow.db or a server's address, or set tracking.mlflow=false."
        ) from error
    return client, run.info.run_id


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested fields as dotted names and text."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
