"""Streams in MLflow: one run for all, one for each segment, and nothing twice."""

import shutil

import pyarrow.parquet as pq
import pytest

from ciess_ray.cli.results import send
from ciess_ray.files.formats import read_json_lines
from ciess_ray.streaming.driver import resume_stream, run_stream
from ciess_ray.tracking.mlflow_store import MlflowRun
from envs.errors import ConfigError, ResultError

# MLflow's own store uses what SQLAlchemy 2.1 has deprecated; it says so when the store is first opened.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)
METHODS = ["last sizes", "popular ever"]


@pytest.fixture
def tracking(empty_store, tmp_path, monkeypatch):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    # MLflow puts the artifacts of a SQLite store into ./mlruns.
    monkeypatch.chdir(tmp_path)
    return {"uri": f"sqlite:///{tmp_path}/mlflow.db"}


@pytest.fixture
def find_runs(tracking):
    """Client, the run without a parent, and those that have it, by name."""

    def find():
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=tracking["uri"])
        runs = client.search_runs([client.get_experiment_by_name("ciess-ray").experiment_id])
        (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
        children = [run for run in runs if run is not parent]
        assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
        assert len({run.info.run_name for run in children}) == len(children)
        return client, parent, {run.info.run_name: run for run in children}

    return find


def history(client, run, name):
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]


def recorded(config):
    lines = read_json_lines(config.output / "journal.jsonl")
    return [(line["segment"], line["end"]) for line in lines if line["event"] == "segment recorded"]


def test_a_stream_and_its_segments_are_recorded_once_while_the_log_goes_on(
    make, log, tracking, find_runs, tmp_path, monkeypatch
):
    whole = pq.read_table(log)
    dataset = {"path": str(tmp_path / "log.parquet")}
    pq.write_table(whole.slice(0, 160), dataset["path"])
    config = make(tmp_path / "stream", dataset=dataset, methods=METHODS, tracking=tracking)
    before = run_stream(config)
    client, parent, children = find_runs()
    assert parent.info.run_name == "stream" and parent.info.status == "FINISHED"
    assert sorted(children) == [f"segment {row['segment']:03}" for row in before[::2]]
    assert parent.data.params["budget"] == "150 params" and "output" not in parent.data.params
    child = children["segment 001"]
    row = next(row for row in before if (row["segment"], row["method"]) == (1, "last sizes"))
    for name in ("test/ndcg@20", "validation/recall@20", "num_bytes", "num_grown", "cpu_s/choosing"):
        assert child.data.metrics[f"last-sizes/{name.replace('@', '_')}"] == row[name]
    assert child.data.metrics["num_users"] == row["num_users"] and child.data.params["segment"] == "1"
    files = {file.path for file in client.list_artifacts(child.info.run_id, "result/last-sizes")}
    assert files >= {"result/last-sizes/table.safetensors", "result/last-sizes/result.json"}
    first, charted = recorded(config), history(client, parent, "popular-ever/test/ndcg_20")
    assert charted == [(row["segment"], row["test/ndcg@20"]) for row in before[1::2]] and len(first) == 2

    uploaded = []
    log_folder = MlflowRun.log_folder
    monkeypatch.setattr(
        MlflowRun, "log_folder", lambda run, folder: (uploaded.append(folder.name), log_folder(run, folder))
    )
    pq.write_table(whole, dataset["path"])
    rows = resume_stream(config.output)
    client, parent, again = find_runs()
    # Segments that are as they were are not sent again, the last one has become longer.
    assert uploaded == [f"{number:03}" for number in range(len(before) // 2 - 1, len(rows) // 2)]
    assert parent.info.status == "FINISHED" and len(again) == len(rows) // 2 > len(children)
    assert {name: again[name].info.run_id for name in children} == {
        name: run.info.run_id for name, run in children.items()
    }
    # What was left over of the log belonged to it.
    assert (before[-1]["num_rows"], rows[3]["num_rows"]) == (100, 60)
    assert again["segment 001"].data.metrics["num_rows"] == 60
    assert again["segment 001"].data.metrics["popular-ever/test/ndcg_20"] == rows[3]["test/ndcg@20"]
    assert len(history(client, again["segment 000"], "popular-ever/cpu_s")) == 1
    later = [row["test/ndcg@20"] for row in rows if row["method"] == "last sizes" and row["segment"]]
    assert parent.data.metrics["last-sizes/mean/test/ndcg_20"] == pytest.approx(sum(later) / len(later))
    assert len(recorded(config)) == len(first) + len(uploaded)


def test_what_a_server_did_not_take_is_told_and_sent_later(
    make, tracking, find_runs, tmp_path, monkeypatch, run_cli, caplog
):
    monkeypatch.setattr("ciess_ray.tracking.streams._SETTLE_S", 0.0)

    def refused(*_):
        raise ResultError("it is full")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowRun, "_write_files", refused)
        config = make(tmp_path / "stream", methods=["popular ever"], tracking=tracking)
        rows = run_stream(config)
    assert "refused a write: it is full" in caplog.text and not recorded(config)
    client, _, children = find_runs()
    assert not client.list_artifacts(children["segment 000"].info.run_id)
    status, said, _ = run_cli("track", config.output)
    assert status == 0 and f"recorded: {config.output} in {tracking['uri']}" in said
    # For the seconds that figures take.
    monkeypatch.setattr("ciess_ray.report.page.draw_stream", lambda material: [])
    status, said, _ = run_cli("stream", "--resume", config.output)
    assert status == 0 and f"compare runs: mlflow ui --backend-store-uri {tracking['uri']}" in said
    client, parent, children = find_runs()
    assert len(children) == len(rows) and parent.info.status == "FINISHED"
    assert client.list_artifacts(children["segment 000"].info.run_id)
    charted = history(client, parent, "popular-ever/test/ndcg_20")
    assert [number for number, _ in recorded(config)] == [step for step, _ in charted]
    # One that is not at its end is sent as far as it came.
    shutil.rmtree(config.output / "segments" / f"{rows[-1]['segment']:03}")
    assert send(str(config.output)) == (tracking["uri"], [])
    assert find_runs()[1].info.status == "KILLED"
    shutil.rmtree(config.output / "segments")
    with pytest.raises(ResultError, match="no segment of this stream is finished.*--resume"):
        send(str(config.output))


def test_a_store_that_cannot_record_is_named_before_a_stream_begins(make, tmp_path):
    config = make(tmp_path / "stream", tracking={"uri": f"sqlite:///{tmp_path}/none/mlflow.db"})
    with pytest.raises(ConfigError, match="tracking.uri: the folder"):
        run_stream(config)
    assert not (config.output / "stream.json").exists()
