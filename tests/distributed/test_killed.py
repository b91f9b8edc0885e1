"""SIGKILL an env runner in mid-step, and the driver at random moments."""

import json
import os
import random
import re
import signal
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from processes import PATIENCE_S, descendants, finish, kill, start, wait_for

from envs.data import generate_interactions

NUM_STEPS = 24


@pytest.fixture(scope="module")
def write_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    log = generate_interactions(300, 200, 8_000, seed=0, rank=4)
    pq.write_table(pa.table({"user_id": log.user, "item_id": log.item}), folder / "log.parquet")

    def write(name, **settings):
        values = {
            "dataset": {"path": str(folder / "log.parquet")},
            "budget": "20%",
            "output": str(folder / name),
            "cache": str(folder / "cache"),
            "recommender": {"max_embedding_size": 16, "device": "cpu"},
            "training": {"batch_size": 256, "evaluate_every": 20, "patience": 2, "max_batches": 40},
            "search": {
                "num_episodes": 8,
                "episode_length": 3,
                "step_mode": "fresh",
                "batches_per_step": 60,
                "num_warmup_steps": 4,
                "num_candidates": 2,
                "checkpoint_interval_s": 0.2,
            }
            | settings,
            "agent": {"hiddens": [16, 16], "updates_per_step": 2},
            "resources": {"num_cpus_per_env_runner": 0.5},
            "tracking": {"mlflow": False},
        }
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        return file, folder / name

    return write


def num_steps_told(folder):
    try:
        lines = (folder / "progress.jsonl").read_text().splitlines()
    except OSError:
        return 0
    return sum('"search"' in line for line in lines)


def test_a_driver_killed_twice_ends_where_an_uninterrupted_one_does(write_config, tmp_path, ray_cluster):
    from ciess_ray.config.yaml_file import load_config
    from ciess_ray.searches.driver import resume, search

    log = tmp_path / "log.txt"
    config, whole = write_config("whole")
    search(load_config(config))

    config, killed = write_config("killed")
    rng = random.Random(0)
    # A moment somewhere within each half of the search.
    for part in range(2):
        process = start("search", *((config,) if part == 0 else ("--resume", killed)), log=log)
        moment = NUM_STEPS * part // 2 + rng.randrange(1, NUM_STEPS // 2)
        wait_for(lambda moment=moment: num_steps_told(killed) >= moment, process, log)
        if part == 1:
            # As a container is ended.
            process.terminate()
            finish(process, log, status=143)
            assert "SIGTERM received" not in log.read_text() and "Traceback" not in log.read_text()
        else:
            kill(process)
        status = json.loads((killed / "result.json").read_text())["status"]
        assert status == ("interrupted" if part == 1 else "running")
    resume(killed)

    for name in ("sizes.parquet", "candidates.parquet"):
        assert pq.read_table(killed / name).equals(pq.read_table(whole / name)), name
    mine, theirs = (json.loads((folder / "result.json").read_text()) for folder in (killed, whole))
    assert mine["methods"] == theirs["methods"] and mine["num_steps"] == theirs["num_steps"]


def test_a_driver_with_env_runners_loses_only_steps_in_flight_and_so_does_a_killed_runner(
    write_config, tmp_path, ray_cluster
):
    from ciess_ray.searches.driver import resume

    log = tmp_path / "log.txt"
    config, killed = write_config("killed_remote", num_env_runners=2, checkpoint_interval_s=0.0)
    process = start("search", config, log=log)
    wait_for(lambda: num_steps_told(killed) >= 9, process, log)
    kill(process)
    told = num_steps_told(killed)
    news, runners = [], []

    def kill_one(progress):
        news.append(progress)
        if progress.phase == "search" and progress.is_step and progress.step >= told + 3 and not runners:
            runners.append(descendants("ray::TableEnvRunner")[0])
            os.kill(runners[0], signal.SIGKILL)

    resume(killed, on_progress=kill_one)
    assert runners
    (went_on_after,) = re.findall(r"goes on after step (\d+)", " ".join(one.note for one in news))
    # Every iteration is kept; one that had been told may have been on its way to the disk.
    assert told - int(went_on_after) in (0, 1, 2)
    summary = json.loads((killed / "result.json").read_text())
    assert summary["status"] == "finished" and summary["num_steps"] == NUM_STEPS + 2
    assert pq.read_table(killed / "candidates.parquet")["step"].to_pylist() == list(range(1, NUM_STEPS + 3))


@pytest.fixture
def gates(tmp_path):
    """Where steps announce themselves, and wait for leave to end."""
    (tmp_path / "gates").mkdir()
    return tmp_path / "gates"


@pytest.fixture
def gated_algo(ray_cluster, gates):
    """TD3 with two env runners whose steps begin and end with a file."""
    from ray.tune.registry import register_env

    from ciess_ray.td3.algorithm import TD3

    def create(context):
        # A class of this module could not be imported by the runners.
        from envs.toy import ToySizeEnv

        class GatedEnv(ToySizeEnv):
            def step(self, action):
                (gates / f"began-{os.getpid()}").touch()
                while not (gates / "open").exists():
                    time.sleep(0.01)
                return super().step(action)

        return GatedEnv(**context)

    register_env("gated", create)
    config = (
        TD3.get_default_config()
        .environment("gated", env_config={"num_users": 60, "num_items": 40, "episode_length": 4})
        .training(hiddens=(16,), updates_per_step=2, train_batch_size_per_learner=32)
        .env_runners(num_env_runners=2, num_cpus_per_env_runner=0.5)
        .resources(num_cpus_for_main_process=0.5)
        .debugging(seed=0, log_level="ERROR")
    )
    algo = config.build_algo()
    yield algo
    algo.stop()


def test_of_an_env_runner_killed_in_mid_step_exactly_that_step_is_lost(gated_algo, gates):
    pids = dict(
        gated_algo.env_runner_group.foreach_env_runner(
            lambda runner: (runner.worker_index, os.getpid()), local_env_runner=False
        )
    )
    (gates / "open").touch()
    gated_algo.train()
    assert [s.worker_index for s in gated_algo.last_steps] == [1, 2]
    for file in gates.iterdir():
        file.unlink()

    def kill_in_mid_step():
        while not all((gates / f"began-{pid}").exists() for pid in pids.values()):
            time.sleep(0.01)
        os.kill(pids[1], signal.SIGKILL)
        (gates / "open").touch()

    killer = threading.Thread(target=kill_in_mid_step)
    killer.start()
    gated_algo.train()
    killer.join()
    assert [s.worker_index for s in gated_algo.last_steps] == [2]
    taken = []
    deadline = time.monotonic() + PATIENCE_S
    while not any(s.worker_index == 1 for s in gated_algo.last_steps) and time.monotonic() < deadline:
        gated_algo.train()
        taken += gated_algo.last_steps
    (first,) = (s for s in taken if s.worker_index == 1)
    # The lost step, its number and its draws, is taken again; the episode starts anew.
    assert (first.runner_step, first.episode, first.step) == (1, 1, 0)
    others = [s.runner_step for s in taken if s.worker_index == 2]
    assert others == list(range(2, 2 + len(others)))
    states = gated_algo.env_runner_group.foreach_env_runner(
        lambda runner: (
            os.getpid(),
            runner.memory_weight,
            {k: v.numpy() for k, v in runner.module["user"].state_dict().items()},
        ),
        local_env_runner=False,
    )
    learned = gated_algo.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"][
        "user"
    ]
    assert len(states) == 2 and pids[1] not in {pid for pid, *_ in states}
    for _, memory_weight, weights in states:
        assert memory_weight == gated_algo.memory_weight
        for name, value in weights.items():
            np.testing.assert_array_equal(value, learned[name], err_msg=name)
