"""Streams of a small log, which take a second."""

import pytest
from stream_log import CAP, write_log

from ciess_ray.config.yaml_file import check_values
from ciess_ray.streaming.config import StreamConfig


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    write_log(path)
    return path


@pytest.fixture(scope="session")
def make(log):
    """Makes the configuration of a stream of three segments."""

    def make(output, **fields):
        values = {
            "dataset": {"path": str(log)},
            "segments": {"rows": 60},
            "budget": f"{CAP} params",
            "output": str(output),
            "recommender": {"max_embedding_size": 8, "device": "cpu"},
            "training": {"batch_size": 64, "batches": 3, "warm_batches": 2},
            "tracking": {"mlflow": False},
        }
        return check_values(StreamConfig, values | fields, "made up")

    return make
