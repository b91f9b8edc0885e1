import shutil
import sqlite3

import pytest

from ciess_ray.config_file import parse_config
from ciess_ray.tracking import MlflowTracker, flatten, track
from envs.errors import ConfigError

# MLflow's own store uses what SQLAlchemy 2.1 has deprecated; it says so when the store is first opened.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store that has been made: the migrations of a new one take seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def config(empty_store, tmp_path, monkeypatch):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    # MLflow puts the artifacts of a SQLite store into ./mlruns.
    monkeypatch.chdir(tmp_path)
    return parse_config(
        {"dataset": {"path": "a.csv"}, "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"}}
    )


@pytest.fixture
def find_run(config):
    def find():
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=config.tracking.uri)
        experiment = client.get_experiment_by_name("ciess-ray")
        (run,) = client.search_runs([experiment.experiment_id])
        return client, run

    return find


def test_a_run_is_recorded(config, find_run, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    with track(config, "mine") as tracker:
        assert isinstance(tracker, MlflowTracker)
        tracker.log_metrics({"recommender/ndcg@20": 0.25, "search/quality": float("nan")}, 1)
        tracker.log_metrics({"recommender/ndcg@20": 0.5}, 2)
        tracker.log_folder(folder)
    client, run = find_run()
    assert run.info.status == "FINISHED" and run.info.run_name == "mine"
    assert run.data.params["search.num_episodes"] == "30" and run.data.params["dataset.path"] == "a.csv"
    assert run.data.metrics == {"recommender/ndcg_20": 0.5}
    history = client.get_metric_history(run.info.run_id, "recommender/ndcg_20")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5)]
    assert [f.path for f in client.list_artifacts(run.info.run_id, "result")] == ["result/result.json"]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED"), (SystemExit, "FAILED")]
)
def test_a_run_that_breaks_off_says_so(config, find_run, error, status):
    with pytest.raises(error), track(config, "mine"):
        raise error
    assert find_run()[1].info.status == status


def test_a_second_run_joins_the_experiment(config):
    for name in ("first", "second"):
        with track(config, name):
            pass
    with sqlite3.connect("mlflow.db") as store:
        assert store.execute("select count(*) from runs").fetchone() == (2,)
        assert store.execute("select count(*) from experiments where name = 'ciess-ray'").fetchone() == (1,)
    store.close()


def test_nothing_is_written_where_it_is_off(config, empty_store, tmp_path):
    off = config.model_copy(update={"tracking": config.tracking.model_copy(update={"mlflow": False})})
    with track(off, "mine") as tracker:
        tracker.log_metrics({"a": 1.0}, 1)
        tracker.log_folder(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mlflow.db"]
    assert (tmp_path / "mlflow.db").read_bytes() == empty_store.read_bytes()


def test_nested_fields_become_dotted_names():
    assert dict(flatten({"a": {"b": 1, "c": {}}, "d": None})) == {"a.b": "1", "a.c": "{}", "d": "None"}


def test_a_store_mlflow_cannot_use_is_refused_with_the_remedy():
    values = {"dataset": {"path": "log.parquet"}, "tracking": {"uri": "foo://bar"}}
    with pytest.raises(ConfigError, match=r"tracking\.uri='foo://bar'.*tracking\.mlflow=false"):
        with track(parse_config(values), "run"):
            pass
