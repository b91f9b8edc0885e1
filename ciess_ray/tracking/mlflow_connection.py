"""The way to an MLflow tracking store: what can be known to be wrong with it is said before any work."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from ciess_ray.config.credentials import with_secret, without_secrets
from ciess_ray.config.run import TrackingConfig
from ciess_ray.files.whole import check_writable
from envs.errors import ConfigError, within

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
#: How MLflow is to behave; a user's own settings win. Its own retries last minutes; ours come between other
#: writes and end when the store is closed. Its bars would run through whatever else is shown.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    _TIMEOUT: "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
#: Seconds that an upload may wait for its answer.
_UPLOAD_TIMEOUT = "600"
#: Databases whose own client MLflow would try for an hour.
_DATABASE_SERVERS = ("postgresql", "mysql", "mssql")


def connect(tracking: TrackingConfig) -> tuple[Any, str]:
    """A client of the store, and the experiment's id; both are made where they are not there.

    Raises:
        CiessError: MLflow cannot record there.
    """
    uri = with_secret(tracking.uri)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # A fresh store announces its tables and every migration, a model that it is looked at.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    with _sole_maker(uri):
        try:
            _check_database_server(uri)
            client = MlflowClient(tracking_uri=uri)
            experiment = _experiment(client, tracking.experiment)
        # MLflow lets through whatever its database, a driver or its HTTP client raises, secrets included.
        except Exception as error:
            raise ConfigError(
                f"tracking.uri={without_secrets(uri)!r}: MLflow cannot record there ({first_line(error)}); "
                "name a store such as sqlite:///mlflow.db or a server, or set tracking.mlflow=false."
            ) from None
    if experiment.lifecycle_stage != "active":
        raise ConfigError(
            f"tracking.experiment={tracking.experiment!r} was deleted from {without_secrets(uri)}: name "
            "another, or set MLFLOW_TRACKING_URI to that store and bring it back with 'mlflow experiments "
            f"restore --experiment-id {experiment.experiment_id}'."
        )
    return client, experiment.experiment_id


def _experiment(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            client.create_experiment(name)
        except MlflowException as error:
            # Another process was quicker.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)
    return experiment


@contextlib.contextmanager
def _sole_maker(uri: str) -> Iterator[None]:
    """Of several processes that open a SQLite store at once, one makes its tables, and the others wait.

    Raises:
        CiessError: Its folder is not there, or cannot be written.
    """
    file = uri.partition(":///")[2].partition("?")[0].removeprefix("file:")
    if not uri.startswith("sqlite") or file in ("", ":memory:"):
        yield
        return
    if not Path(file).parent.is_dir():
        raise ConfigError(
            f"tracking.uri: the folder {Path(file).parent} of the MLflow store does not exist; make it."
        )
    with within("tracking.uri"):
        check_writable(Path(file).parent)
    with FileLock(f"{file}.lock"):
        yield


def _check_database_server(uri: str) -> None:
    """Reach a database once, or raise what its driver does."""
    if uri.partition(":")[0].partition("+")[0] in _DATABASE_SERVERS:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        create_engine(uri, poolclass=NullPool).connect().close()


@contextlib.contextmanager
def patiently() -> Iterator[None]:
    """A server that hands a large file on answers late, which is no failure."""
    usual = os.environ[_TIMEOUT]
    os.environ[_TIMEOUT] = _UPLOAD_TIMEOUT if usual == _SETTINGS[_TIMEOUT] else usual
    try:
        yield
    finally:
        os.environ[_TIMEOUT] = usual


def first_line(error: Exception) -> str:
    """The first line of an error's message, without secrets."""
    text = str(error).strip()
    return without_secrets(text.splitlines()[0][:300] if text else repr(error))
