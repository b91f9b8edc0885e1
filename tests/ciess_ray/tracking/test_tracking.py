import logging
import shutil
import sqlite3
import threading
import traceback

import pytest

from ciess_ray.config.yaml_file import parse_config
from ciess_ray.tracking.mlflow_store import MlflowRun, MlflowStore
from ciess_ray.tracking.runs import texts_of, track
from envs.errors import ConfigError

# MLflow's own store uses what SQLAlchemy 2.1 has deprecated; it says so when the store is first opened.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)


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
        assert isinstance(tracker, MlflowRun) and tracker.run_id is not None
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
        tracker.log_model(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mlflow.db"]
    assert (tmp_path / "mlflow.db").read_bytes() == empty_store.read_bytes()


@pytest.fixture
def store(config):
    store = MlflowStore(config.tracking, "runs/mine")
    yield store
    store.close()


def history(store, run_id, name):
    return [(m.step, m.value) for m in store.client.get_metric_history(run_id, name)]


def test_a_run_that_is_found_again_gets_only_what_it_lacks(config, store):
    first = store.run("sweep/trial", "trial", params={"budget": "5%"}, tags={"who": "me"})
    for step in (1, 2):
        first.log_metrics({"search/quality": step / 10}, step)
    first.end("FAILED")
    assert store.close() == []
    again = MlflowStore(config.tracking, "runs/mine")
    run = again.run("sweep/trial", "another name", params={"budget": "7%"})
    for step in (1, 2, 3):
        run.log_metrics({"search/quality": step / 5, "search/reward": 1.0}, step)
    run.end("FINISHED")
    assert again.close() == [] and run.run_id == first.run_id
    known = store.client.get_run(run.run_id)
    assert known.info.status == "FINISHED" and known.info.run_name == "trial"
    assert known.data.params == {"budget": "5%"} and known.data.tags["who"] == "me"
    assert history(store, run.run_id, "search/quality") == [(1, 0.1), (2, 0.2), (3, 0.6)]
    assert [step for step, _ in history(store, run.run_id, "search/reward")] == [1, 2, 3]


def test_a_run_that_the_store_has_lost_is_begun_anew(store):
    run = store.run(None, "mine", run_id="0" * 32)
    assert run.wait(30.0) not in (None, "0" * 32)


def test_a_failing_write_is_tried_again_in_order_and_nothing_is_lost(store, monkeypatch):
    run = store.run("key", "mine")
    run.wait(30.0)
    log_batch, calls, all_told = store.client.log_batch, [], threading.Event()

    def fail_twice(run_id, **entities):
        all_told.wait()
        calls.append(len(entities["metrics"]))
        if len(calls) < 3:
            raise ConnectionError("gone")
        log_batch(run_id, **entities)

    monkeypatch.setattr(store.client, "log_batch", fail_twice)
    # Telling waits for no write, of which none ends before all is told.
    for step in range(5):
        run.log_metrics({"a": step, "b": 0.0}, step)
    all_told.set()
    run.end("FINISHED")
    assert store.close() == [] and len(calls) < 8
    assert history(store, run.run_id, "a") == [(step, float(step)) for step in range(5)]
    assert store.client.get_run(run.run_id).info.status == "FINISHED"


def test_a_batch_that_did_arrive_is_not_there_twice(store, monkeypatch):
    run = store.run("key", "mine")
    run.wait(30.0)
    log_batch, calls = store.client.log_batch, []

    def arrive_and_fail(run_id, **entities):
        log_batch(run_id, **entities)
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("no answer")

    monkeypatch.setattr(store.client, "log_batch", arrive_and_fail)
    run.log_metrics({"a": 1.0}, 1)
    assert store.close() == [] and len(calls) == 2
    assert history(store, run.run_id, "a") == [(1, 1.0)]


def test_what_never_arrives_is_told(store, monkeypatch):
    run = store.run("key", "mine")
    run.wait(30.0)

    def fail(*arguments, **entities):
        raise ConnectionError("gone for good")

    monkeypatch.setattr(store.client, "log_batch", fail)
    run.log_metrics({"a": 1.0}, 1)
    run.end("FINISHED")
    (problem,) = store.close(timeout_s=1.0)
    assert (
        "did not take the last 2 writes: gone for good. Send what is left: ciess-ray track runs/mine"
        in problem
    )
    assert store.close() == []


def test_what_can_never_be_written_is_told_and_does_not_hold_up_the_rest(store, tmp_path):
    run = store.run("key", "mine")
    run.log_files({tmp_path / "nothing.txt": None})
    run.log_metrics({"a": 1.0}, 1)
    (problem,) = store.close()
    assert "refused a write" in problem and "nothing.txt" in problem
    assert history(store, run.run_id, "a") == [(1, 1.0)]


def test_a_model_that_cannot_be_made_does_not_hold_up_the_rest(store, tmp_path, monkeypatch):
    monkeypatch.setattr("ciess_ray.tracking.mlflow_store.can_model", lambda folder: True)
    run = store.run("key", "mine")
    run.log_model(tmp_path)
    run.end("FINISHED")
    (problem,) = store.close()
    assert f"refused a write: the model of {tmp_path}" in problem
    assert store.client.get_run(run.run_id).info.status == "FINISHED"


def test_a_server_that_is_not_there_is_named_soon():
    values = {"dataset": {"path": "log.parquet"}, "tracking": {"uri": "http://127.0.0.1:9"}}
    with pytest.raises(ConfigError, match=r"tracking\.uri='http://127\.0\.0\.1:9'"):
        MlflowStore(parse_config(values).tracking, "runs/mine")


def test_a_database_that_is_not_there_is_named_at_once_without_its_password():
    uri = "postgresql+psycopg2://me:sesame@127.0.0.1:9/mlflow?sslpassword=sesame"
    values = {"dataset": {"path": "log.parquet"}, "tracking": {"uri": uri}}
    with pytest.raises(ConfigError, match=r"tracking\.uri='postgresql\+psycopg2://…@127") as caught:
        MlflowStore(parse_config(values).tracking, "runs/mine")
    assert "sesame" not in "".join(traceback.format_exception(caught.value))


def test_a_deleted_experiment_is_named_before_any_work(config, store):
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(
        ConfigError, match=f"was deleted from .*restore --experiment-id {store.experiment_id}'"
    ):
        with track(config, "mine"):
            pytest.fail("it began")
    with track(
        config.model_copy(update={"tracking": config.tracking.model_copy(update={"experiment": "b"})}), "x"
    ):
        pass


def test_a_run_that_the_store_refuses_to_begin_is_an_error_at_once(config, store, monkeypatch):
    store.client.delete_experiment(store.experiment_id)
    run = store.run(None, "mine")
    run.log_metrics({"a": 1.0}, 1)
    with pytest.raises(ConfigError, match="refused a write: .*must be in the 'active' state"):
        run.wait()
    # The error has told of it, and what the run was told beside is not told of.
    assert store.close() == []


def test_two_processes_make_one_store(made_by_two):
    path, told = made_by_two
    assert [status for status, _ in told] == [0, 0], told
    with sqlite3.connect(path) as store:
        assert store.execute("select count(*) from experiments where name = 'ciess-ray'").fetchone() == (1,)
    store.close()


def test_an_upload_may_take_longer_than_a_store_may_fail(store, tmp_path, monkeypatch):
    file = tmp_path / "large.bin"
    file.write_bytes(b"0")
    run = store.run("key", "mine")
    run.wait(30.0)
    log_artifact, may_go_on = store.client.log_artifact, threading.Event()

    def upload(*arguments):
        may_go_on.wait()
        log_artifact(*arguments)

    monkeypatch.setattr(store.client, "log_artifact", upload)
    # It is told to whoever waits, who answers by letting it go on.
    monkeypatch.setattr("ciess_ray.tracking.mlflow_store._NOTICE_S", 0.0)
    told = []
    monkeypatch.setattr(
        logging.getLogger("ciess_ray.tracking.mlflow_store"),
        "warning",
        lambda text: (told.append(text), may_go_on.set()),
    )
    run.log_files({file: None})
    assert store.close(timeout_s=0.0) == []
    assert (
        "1 writes are still under way; Ctrl-C leaves them. Send what is left: ciess-ray track runs/mine"
        in told[0]
    )
    assert [one.path for one in store.client.list_artifacts(run.run_id)] == ["large.bin"]


def test_a_write_in_hand_that_is_left_is_told(store, monkeypatch):
    run = store.run("key", "mine")
    run.wait(30.0)
    is_in_hand, may_end = threading.Event(), threading.Event()

    def hang(*arguments, **entities):
        is_in_hand.set()
        may_end.wait()

    monkeypatch.setattr(store.client, "log_batch", hang)
    run.log_metrics({"a": 1.0}, 1)
    is_in_hand.wait()

    def press_ctrl_c(timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(store._writes.all_tasks_done, "wait", press_ctrl_c)
    (problem,) = store.close()
    may_end.set()
    assert "did not take the last 1 writes. Send what is left: ciess-ray track runs/mine" in problem


def test_a_run_whose_beginning_was_not_answered_is_begun_once(config, store, monkeypatch):
    create_run, calls = store.client.create_run, []

    def begin_and_fail(*arguments, **tags):
        made = create_run(*arguments, **tags)
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("no answer")
        return made

    monkeypatch.setattr(store.client, "create_run", begin_and_fail)
    run = store.run(None, "mine", params={"budget": "5%"})
    run.wait(30.0)
    assert store.close() == [] and len(calls) == 1
    (known,) = store.client.search_runs([store.experiment_id])
    assert known.info.run_id == run.run_id and known.data.params == {"budget": "5%"}


def test_a_run_that_was_deleted_is_begun_anew(store):
    first = store.run(None, "mine").wait(30.0)
    store.client.delete_run(first)
    assert store.run(None, "mine", run_id=first).wait(30.0) != first


def test_a_refusal_of_the_server_is_not_tried_again(store, monkeypatch, tmp_path):
    import requests

    answer = requests.Response()
    answer.status_code = 413
    monkeypatch.setattr(
        store.client,
        "log_artifact",
        lambda *arguments: (_ for _ in ()).throw(requests.HTTPError(response=answer)),
    )
    run = store.run("key", "mine")
    run.log_files({tmp_path / "large.bin": None})
    run.end("FINISHED")
    (problem,) = store.close()
    assert "refused a write" in problem and store.client.get_run(run.run_id).info.status == "FINISHED"


def test_nested_fields_become_dotted_names():
    assert dict(texts_of({"a": {"b": 1, "c": {}}, "d": None})) == {"a.b": "1", "a.c": "{}", "d": "None"}


def test_a_store_mlflow_cannot_use_is_refused_with_the_remedy():
    values = {"dataset": {"path": "log.parquet"}, "tracking": {"uri": "foo://bar"}}
    with pytest.raises(ConfigError, match=r"tracking\.uri='foo://bar'.*tracking\.mlflow=false"):
        with track(parse_config(values), "run"):
            pass
