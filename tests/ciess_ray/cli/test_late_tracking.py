"""Folders that are sent to MLflow when all is over."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from report_folders import config_of, outcome_of, summary_of, write_search

from ciess_ray.cli.results import send
from ciess_ray.comparisons.cell import CellResult
from ciess_ray.comparisons.config import ComparisonPlan
from ciess_ray.comparisons.driver import _write_plan, cell_file
from ciess_ray.result import RESULT_FILE, ResultFolder
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.driver import SWEEP_FORMAT
from ciess_ray.sweeps.results import SweepResults
from ciess_ray.sweeps.storage import Storage
from envs.errors import ResultError

# MLflow's own store uses what SQLAlchemy 2.1 has deprecated; it says so when the store is first opened.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)
BASE = {"dataset": {"path": "log.csv"}, "recommender": {"device": "cpu"}}


@pytest.fixture
def uri(empty_store, tmp_path, monkeypatch):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def find_runs(uri):
    """Client, the run without a parent, and those that have it."""

    def find():
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        runs = client.search_runs([client.get_experiment_by_name("ciess-ray").experiment_id])
        (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
        children = [run for run in runs if run is not parent]
        assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
        return client, parent, {run.info.run_name: run for run in children}

    return find


@pytest.fixture
def folder(make_result, tmp_path):
    """Of a search that MLflow has never heard of, with a table that serves."""
    path = tmp_path / "mine"
    shutil.copytree(make_result("mf")[0], path)
    own = ResultFolder(path, resume=True)
    for step in (1, 2):
        line = {"phase": "search", "step": step, "time_ms": 1000 * step, "search/quality": step / 10}
        own.log_progress(line)
    own.write_result(summary_of(config_of(recommender={"name": "mf", "max_embedding_size": 16})))
    return path


def test_a_finished_search_is_sent_whole_and_once(folder, uri, find_runs, run_cli):
    for _ in range(2):
        status, out, _ = run_cli("track", folder, f"tracking.uri={uri}")
        assert status == 0 and f"recorded: {folder} in {uri}" in out
    client, run, children = find_runs()
    assert run.info.status == "FINISHED" and run.info.run_name == "mine" and not children
    history = client.get_metric_history(run.info.run_id, "search/quality")
    assert [(one.step, one.value, one.timestamp) for one in history] == [(1, 0.1, 1000), (2, 0.2, 2000)]
    assert run.data.params["recommender.name"] == "mf"
    summary = json.loads((folder / RESULT_FILE).read_text())
    for row, key in zip(summary["methods"], ("test_full", "test_equal", "test"), strict=True):
        assert run.data.metrics[f"{key}/recall_20"] == row["test"]["recall@20"]
        assert run.data.metrics[f"{key}/packed_bytes"] == row["packed_bytes"]
        assert run.data.metrics[f"{key}/kept_ratio"] == row["kept_ratio"]
    assert len(client.get_metric_history(run.info.run_id, "test/recall_20")) == 1
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"model", "result"}


def test_a_run_that_began_is_gone_on_with(folder, uri, find_runs):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    began = client.create_run(client.get_experiment_by_name("ciess-ray").experiment_id, run_name="began")
    client.log_metric(began.info.run_id, "search/quality", 0.1, step=1)
    summary = json.loads((folder / RESULT_FILE).read_text()) | {"mlflow_run_id": began.info.run_id}
    ResultFolder(folder, resume=True).write_result(summary)
    assert send(str(folder), [f"tracking.uri={uri}"]) == (uri, [])
    _, run, _ = find_runs()
    assert run.info.run_id == began.info.run_id and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "search/quality")
    assert sorted(one.step for one in history) == [1, 2] and run.data.params["recommender.name"] == "mf"


def test_a_search_that_broke_off_is_sent_as_far_as_it_came(folder, uri, find_runs):
    summary = json.loads((folder / RESULT_FILE).read_text())
    del summary["methods"]
    ResultFolder(folder, resume=True).write_result(summary | {"status": "interrupted"})
    send(str(folder), [f"tracking.uri={uri}"])
    client, run, _ = find_runs()
    assert run.info.status == "KILLED" and run.data.metrics == {"search/quality": 0.2}
    assert client.list_artifacts(run.info.run_id) == []


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (
            lambda folder: folder.mkdir(),
            "there is none of result.json, sweep.json, plan.json and stream.json",
        ),
        (lambda folder: write_search(folder, status="running"), "'running': wait for it.*--resume"),
    ],
)
def test_what_is_not_over_is_refused(tmp_path, write, told):
    write(tmp_path / "mine")
    with pytest.raises(ResultError, match=told):
        send(str(tmp_path / "mine"), ["tracking.uri=sqlite:///nowhere.db"])


def test_a_finished_sweep_is_sent_with_its_trials(uri, find_runs, tmp_path):
    location = tmp_path / "sweep"
    values = {"base": BASE, "space": {"budget": ["5%", "10%"]}, "output": str(location)}
    plan = SweepPlan.of(values | {"tracking": {"uri": uri}}, "sweep.yaml", Path())
    state = {"format": SWEEP_FORMAT, "id": "abc", "sweep": plan.values(), "fingerprints": {}}
    outcomes = []
    for trial, status in zip(plan.trials, ("finished", "failed"), strict=True):
        path = location / trial.name / "result"
        path.parent.mkdir(parents=True)
        (path.parent / "trial.json").write_text(json.dumps(trial.fields))
        summary = None
        if status == "finished":
            # The model of somebody's own recommender is not MLflow's to have.
            summary = summary_of(config_of("5%") | {"recommender": {"name": "own:Mine", "options": {}}})
            write_search(path, "5%")
            ResultFolder(path, resume=True).write_result(summary)
        outcomes.append(outcome_of(trial.name, trial.fields, trial.config, summary))
    (location / "sweep.json").write_text(json.dumps(state))
    SweepResults(str(location), outcomes, 60.0).write(Storage(location))
    for _ in range(2):
        assert send(str(location)) == (uri, [])
    client, parent, children = find_runs()
    finished, failed = (children[trial.name] for trial in plan.trials)
    assert (parent.info.status, finished.info.status, failed.info.status) == ("FAILED", "FINISHED", "FAILED")
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"results.parquet", "results.json", "pareto.png"}
    assert (
        finished.data.metrics["test_equal/recall_20"] == outcomes[0].row("equal sizes")["test"]["recall@20"]
    )
    steps = [one.step for one in client.get_metric_history(finished.info.run_id, "search/quality")]
    assert steps == list(range(1, 13)) and failed.data.params["budget"] == "10%"


def test_a_comparison_is_sent_with_its_cells(uri, find_runs, tmp_path):
    location = tmp_path / "comparison"
    values = {"base": BASE, "space": {"budget": ["5%"]}, "methods": ["equal sizes", "search"]}
    values |= {"output": str(location), "tracking": {"uri": uri}}
    plan = ComparisonPlan.of(values, "comparison.yaml", Path())
    (location / "cells").mkdir(parents=True)
    _write_plan(plan, location)
    row = {"key": "k", "status": "finished", "test/ndcg@20": 0.25, "packed_bytes": 6000}
    CellResult(row, {"ndcg@20": np.ones(3, np.float32)}).write(cell_file(location, plan.cells[0]))
    (location / "comparison.json").write_text("{}")
    for _ in range(2):
        assert send(str(location)) == (uri, [])
    client, parent, children = find_runs()
    assert parent.info.status == "FAILED" and list(children) == [plan.cells[0].name]
    cell = children[plan.cells[0].name]
    assert cell.data.metrics == {"test/ndcg_20": 0.25, "packed_bytes": 6000.0}
    assert len(client.get_metric_history(cell.info.run_id, "packed_bytes")) == 1
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["comparison.json"]
