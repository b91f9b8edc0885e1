"""Sweeps whose driver, node or tracking server is killed."""

import json
import socket
import subprocess
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from processes import PATIENCE_S, finish, kill, start, wait_for
from secrets_left import SECRET, holding

from ciess_ray.sweeps import driver as sweeps
from ciess_ray.sweeps.config import SweepPlan
from envs.data import generate_interactions
from envs.errors import CiessError

NUM_STEPS = 14
BUDGETS = ["20%", "30%"]
#: Without the processes for evaluation jobs, which take as much as all the rest.
SERVER = """
import os, sys
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
from mlflow.cli import cli
cli(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("sweep") / "log.parquet"
    log = generate_interactions(300, 200, 8_000, seed=0, rank=4)
    pq.write_table(pa.table({"user_id": log.user, "item_id": log.item}), file)
    return file


def uri_of(folder):
    """SQLite takes the secret in it and does nothing with it."""
    return f"sqlite:///file:{folder}/mlflow.db?uri=true&token={SECRET}"


@pytest.fixture
def write_sweep(data, tmp_path):
    def write(batches_per_step=30, uri=None, **fields):
        base = {
            "dataset": {"path": str(data)},
            "recommender": {"max_embedding_size": 16, "device": "cpu"},
            "training": {"batch_size": 256, "evaluate_every": 20, "patience": 2, "max_batches": 40},
            "search": {
                "num_episodes": 4,
                "episode_length": 3,
                "step_mode": "fresh",
                "batches_per_step": batches_per_step,
                "num_warmup_steps": 2,
                "num_candidates": 2,
                "checkpoint_interval_s": 0.1,
            },
            "agent": {"hiddens": [16, 16], "updates_per_step": 2},
        }
        values = {
            "base": base,
            "space": {"budget": BUDGETS, "seed": [0]},
            "output": str(tmp_path / "sweep"),
            "tracking": {"uri": uri or uri_of(tmp_path)},
        }
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(values | fields))
        return file

    return write


def finished(sweep):
    """Names of the trials that are finished, with when."""
    files = sweep.glob("*/result/result.json")
    return {file.parent.parent.name: file.stat().st_mtime_ns for file in files}


def check_mlflow(uri, num_trials, num_steps=NUM_STEPS):
    """One parent, a FINISHED child a trial, and each step of each once."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("ciess-ray")
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if run not in children]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert len(children) == num_trials and len({run.info.run_name for run in children}) == num_trials
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in children:
        for name in ("search/quality", "td3/critic_loss", "recommender/ndcg_20"):
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
            first = num_steps if name.startswith("td3/") else 1
            assert sorted(steps) == list(range(min(first, 1), num_steps + 1))[: len(steps)], (name, steps)
            assert len(steps) >= num_steps - 2, (name, steps)
        assert run.data.params["search.num_episodes"] == "4" and "test/ndcg_20" in run.data.metrics
        artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert artifacts == {"result", "model"}
    assert {"results.parquet", "results.json", "pareto.png"} <= {
        file.path for file in client.list_artifacts(parent.info.run_id)
    }
    return client, children


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_driver_that_is_killed_leaves_a_sweep_to_go_on_with(
    write_sweep, tmp_path, monkeypatch, ray_cluster
):
    log, sweep = tmp_path / "log.txt", tmp_path / "sweep"
    # One after the other, so that the second is under way when the first is finished.
    config = write_sweep(resources={"max_concurrent_trials": 1})

    def stop(state):
        # The full-size fit that all trials share is under way.
        assert state.num_prepared == (0, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweeps.sweep(SweepPlan.load(config), on_change=stop)
    assert not list(sweep.glob("cache/*.npz"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(tmp_path))
    process = start("sweep", "--resume", sweep, log=log, cwd=tmp_path)
    # One trial is finished, and another has left a checkpoint.
    wait_for(
        lambda: (
            finished(sweep)
            and {file.parent.name for file in sweep.glob("*/checkpoint_*")} - finished(sweep).keys()
        ),
        process,
        log,
    )
    before = finished(sweep)
    kill(process)
    config.unlink()
    assert holding(SECRET, tmp_path) == []
    assert sweeps.resume_sweep(str(sweep)).is_complete
    assert holding(SECRET, tmp_path) == []

    after = finished(sweep)
    assert len(before) == 1 and len(after) == 2
    assert len(list(sweep.glob("cache/full-size-*.npz"))) == 1
    for summary in sweep.glob("*/result/result.json"):
        assert json.loads(summary.read_text())["full_size_fit"]["is_cached"]
    assert {name: after[name] for name in before} == before
    table = pq.read_table(sweep / "results.parquet")
    assert table["status"].to_pylist() == ["finished"] * 2
    assert sorted(table["budget"].to_pylist()) == BUDGETS
    # Of trials that were finished under the former driver too.
    assert table["num_steps"].to_pylist() == [NUM_STEPS] * 2
    assert table["quality_in_search"].equals(table["search/validation/quality"])
    for row in table.to_pylist():
        assert row["search/num_params"] <= row["cap_params"]
    check_mlflow(f"sqlite:///{tmp_path}/mlflow.db", 2)
    with pytest.raises(CiessError, match="holds a sweep"):
        sweeps.sweep(SweepPlan.load(write_sweep()))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_server(port, folder, log):
    process = start(
        *("server", "--host", "127.0.0.1", "--port", port, "--workers", 1),
        *(
            "--backend-store-uri",
            f"sqlite:///{folder}/server.db",
            "--default-artifact-root",
            folder / "artifacts",
        ),
        log=log,
        code=SERVER,
        cwd=folder,
    )
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process
        except OSError:
            time.sleep(0.2)


def stop_server(process):
    """It and the processes that it started."""
    subprocess.run(["pkill", "-KILL", "-P", str(process.pid)])
    process.kill()
    process.wait(timeout=30)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tracking_server_that_is_gone_while_a_trial_ends_misses_nothing(write_sweep, tmp_path, ray_cluster):
    server_log, folder, port = tmp_path / "server.txt", tmp_path / "sweep", free_port()
    servers, ended = [start_server(port, tmp_path, server_log)], []

    def take_the_server_away():
        """From the trial's first checkpoint to its end."""
        while not list(folder.glob("*/checkpoint_*")):
            time.sleep(0.02)
        stop_server(servers[0])
        ended.append(bool(finished(folder)))
        while not finished(folder):
            time.sleep(0.02)
        servers.append(start_server(port, tmp_path, server_log))

    config = write_sweep(60, f"http://127.0.0.1:{port}", space={"budget": BUDGETS[:1], "seed": [0]})
    meanwhile = threading.Thread(target=take_the_server_away, daemon=True)
    meanwhile.start()
    try:
        results = sweeps.sweep(SweepPlan.load(config))
        meanwhile.join(PATIENCE_S)
        assert ended == [False] and results.is_complete and results.problems == []
        check_mlflow(f"sqlite:///{tmp_path}/server.db", 1)
    finally:
        for server in servers:
            stop_server(server)


ON_A_CLUSTER = """
import os, secrets, sys, tempfile
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on loopback alone; read when Ray is imported
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-")
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ciess_ray.sweeps.driver import sweep
from ciess_ray.sweeps.config import SweepPlan

def follow(state):
    running = [trial for trial in state.runs.values() if trial.status == "running"]
    # One a node, both of them busy, and one surely on its way.
    if not changes and len(running) == 2 and max(trial.step for trial in running) >= 2:
        cluster.remove_node(doomed, allow_graceful=False)
        changes.append("killed")
        print("killed a node", flush=True)
    if changes == ["killed"] and state.what == "retried":
        cluster.add_node(num_cpus=1)
        changes.append("added")
        print("added a node", flush=True)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
try:
    doomed = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    changes = []
    results = sweep(SweepPlan.load(Path(sys.argv[1])), on_change=follow)
    print([(outcome.name, outcome.status, outcome.num_failures) for outcome in results.outcomes])
    assert [outcome.status for outcome in results.outcomes] == ["finished"] * 2
    assert sum(outcome.num_failures for outcome in results.outcomes) == 1
    assert changes == ["killed", "added"]
    print("all is well")
finally:
    ray.shutdown()
    cluster.shutdown()
"""


def test_a_node_that_is_killed_and_another_that_joins_do_not_end_a_sweep(write_sweep, tmp_path):
    log = tmp_path / "log.txt"
    # One a node: the one that is lost waits for the node that joins.
    config = write_sweep(batches_per_step=60, tracking={"mlflow": False})
    finish(start(config, log=log, code=ON_A_CLUSTER, cwd=tmp_path), log)
    assert "all is well" in log.read_text()
    for summary in (tmp_path / "sweep").glob("*/result/result.json"):
        assert json.loads(summary.read_text())["num_steps"] == NUM_STEPS
