"""How table steps a second grow with env runners, on a simulated cluster and beside plain processes.

    python benchmarks/scaling.py

``sleep``: 1, 2, 4 and 8 env runners on a Ray cluster of several nodes, all on this machine, with an environment
whose step sleeps, so that no core is short. What is left of the ideal is what the loop costs: rollouts that
travel, waiting for the slowest, learning between two steps. ``busy``: steps that train a recommender on one
thread, by 1 and 2 env runners, beside the same steps by 1 and 2 plain processes that know nothing of Ray. Cores
are shared and may be taken by others, so the four are measured in turn, several rounds of them, and the ratios are
medians over the rounds.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from provenance import provenance
from ray.cluster_utils import Cluster
from ray.tune.registry import register_env

from ciess_ray.resources import ray_session
from ciess_ray.td3.algorithm import TD3, TD3Config
from envs import EMBEDDING_SIZE_ENV_ID
from envs.data import generate_interactions, split_interactions
from envs.embedding_size import EmbeddingSizeEnv
from envs.metrics import EntityQuality
from envs.recommenders.training import TrainingSettings
from envs.toy import ToySizeEnv

SLEEPING_ENV = "sleeping_table"
NUM_RUNNERS = (1, 2, 4, 8)
WIDTH = 64
#: The agent of the files in configs/.
TRAINING: dict[str, Any] = {"hiddens": (64, 64), "gamma": 0.0, "updates_per_step": 20}


class SleepingEnv(ToySizeEnv):
    """Waits at each step, as for a recommender that trains elsewhere."""

    def __init__(self, sleep_s: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sleep_s = sleep_s

    def step(self, action: Any) -> Any:
        """See the class."""
        time.sleep(self.sleep_s)
        return super().step(action)


@contextmanager
def simulated_cluster(num_nodes: int, cpus_per_node: int) -> Iterator[None]:
    """A head node for the driver and ``num_nodes`` nodes for env runners, which are processes here."""
    # A folder of its own: in the common one Ray notes the cluster's address, and any program on this machine
    # that starts Ray without an address would join this cluster.
    folder = tempfile.mkdtemp(prefix="ray-")
    former = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = folder
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(num_nodes):
            cluster.add_node(num_cpus=cpus_per_node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ.pop("RAY_TMPDIR")
        if former is not None:
            os.environ["RAY_TMPDIR"] = former
        shutil.rmtree(folder, ignore_errors=True)


def build(env: str, env_config: dict[str, Any], num_env_runners: int, cpus_of_driver: float) -> TD3:
    config = (
        TD3Config()
        .environment(env, env_config=env_config)
        .training(**TRAINING)
        .env_runners(num_env_runners=num_env_runners, num_cpus_per_env_runner=1)
        .resources(num_cpus_for_main_process=cpus_of_driver)
        .debugging(seed=0, log_level="ERROR")
    )
    algo: TD3 = config.build_algo()
    return algo


def steps_per_s(algo: TD3, num_iterations: int) -> float:
    """Table steps a second, from the median over iterations; the first of them warms up."""
    algo.train()
    seconds = []
    for _ in range(num_iterations):
        before, started = algo.num_table_steps, time.perf_counter()
        algo.train()
        seconds.append((time.perf_counter() - started) / (algo.num_table_steps - before))
    return 1.0 / statistics.median(seconds)


def nodes_of_runners(algo: TD3) -> int:
    """How many nodes of the cluster the env runners are on."""
    nodes = algo.env_runner_group.foreach_env_runner(
        lambda runner: ray.get_runtime_context().get_node_id(), local_env_runner=False
    )
    return len(set(nodes))


def measure_sleep(rounds: int, num_iterations: int, sleep_s: float, num_entities: int) -> dict[str, Any]:
    register_env(SLEEPING_ENV, lambda context: SleepingEnv(**context))
    half = num_entities // 2
    env_config = {"sleep_s": sleep_s, "num_users": half, "num_items": num_entities - half}
    rows = []
    with simulated_cluster(num_nodes=4, cpus_per_node=2):
        for position in range(rounds):
            for num_runners in NUM_RUNNERS:
                algo = build(SLEEPING_ENV, env_config, num_runners, cpus_of_driver=1)
                rate, num_nodes = steps_per_s(algo, num_iterations), nodes_of_runners(algo)
                algo.stop()
                rows.append(
                    {"round": position, "runners": num_runners, "nodes": num_nodes, "steps_per_s": rate}
                )
                print(json.dumps(rows[-1]), flush=True)
    return {
        "sleep_s": sleep_s,
        "num_entities": num_entities,
        "speedup": {str(n): median_ratio(rows, "runners", n, 1) for n in NUM_RUNNERS},
        "rows": rows,
    }


def median_ratio(rows: list[dict[str, Any]], key: str, many: Any, one: Any) -> float:
    """Steps a second of ``many`` over those of ``one``, the median over the rounds."""
    rates = {(row["round"], row[key]): row["steps_per_s"] for row in rows}
    rounds = sorted({row["round"] for row in rows})
    return statistics.median(rates[r, many] / rates[r, one] for r in rounds)


def busy_arguments(num_batches: int) -> dict[str, Any]:
    """An environment whose sizes are all one, so that every step costs the same."""
    log = generate_interactions(2_000, 1_500, 100_000, seed=0)
    interactions = split_interactions(log, seed=0)
    return {
        "interactions": interactions,
        "training": TrainingSettings(batch_size=4096, evaluate_every=50, patience=2, max_batches=100),
        "batches_per_step": num_batches,
        "min_embedding_size": WIDTH,
        "max_embedding_size": WIDTH,
        "full_quality": EntityQuality(np.full(2_000, 0.2), np.full(1_500, 0.2)),
    }


def step_repeatedly(arguments: dict[str, Any], num_steps: int, barrier: Any, seconds: Any) -> None:
    """What a plain process does: a step that warms up, then the steps that count, between two clocks."""
    torch.set_num_threads(1)
    env = EmbeddingSizeEnv(**arguments)
    env.reset(seed=0)
    action = {kind: np.zeros(space.shape, np.float32) for kind, space in env.action_space.items()}
    env.step(action)
    barrier.wait()
    started = time.monotonic()
    for _ in range(num_steps):
        env.step(action)
    seconds.put((started, time.monotonic()))


def plain_steps_per_s(arguments: dict[str, Any], num_processes: int, num_steps: int) -> float:
    """Table steps a second of processes that each take ``num_steps`` on their own."""
    context = multiprocessing.get_context("spawn")
    barrier, seconds = context.Barrier(num_processes), context.Queue()
    processes = [
        context.Process(target=step_repeatedly, args=(arguments, num_steps, barrier, seconds))
        for _ in range(num_processes)
    ]
    for process in processes:
        process.start()
    spans = [seconds.get() for _ in processes]
    for process in processes:
        process.join()
    return num_processes * num_steps / (max(end for _, end in spans) - min(start for start, _ in spans))


def measure_busy(rounds: int, num_iterations: int, num_batches: int) -> dict[str, Any]:
    arguments = busy_arguments(num_batches)
    rows = []
    with ray_session():
        env_config = {key: ray.put(value) for key, value in arguments.items() if key == "interactions"}
        env_config = arguments | env_config
        for position in range(rounds):
            for count in (1, 2):
                rate = plain_steps_per_s(arguments, count, num_iterations)
                rows.append({"round": position, "who": f"{count} processes", "steps_per_s": rate})
                print(json.dumps(rows[-1]), flush=True)
                algo = build(EMBEDDING_SIZE_ENV_ID, env_config, count, cpus_of_driver=0)
                rate = steps_per_s(algo, num_iterations)
                algo.stop()
                rows.append({"round": position, "who": f"{count} runners", "steps_per_s": rate})
                print(json.dumps(rows[-1]), flush=True)
    processes = median_ratio(rows, "who", "2 processes", "1 processes")
    runners = median_ratio(rows, "who", "2 runners", "1 runners")
    return {
        "num_batches": num_batches,
        "speedup_of_processes": processes,
        "speedup_of_runners": runners,
        "share": runners / processes,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=["sleep", "busy"], default=["sleep", "busy"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-iterations", type=int, default=8)
    parser.add_argument("--sleep-s", type=float, default=1.0)
    parser.add_argument("--num-entities", type=int, default=10_000)
    parser.add_argument("--num-batches", type=int, default=30, help="that a busy step trains")
    parser.add_argument("--output", type=Path, default=Path("results/scaling.json"))
    arguments = parser.parse_args()
    result: dict[str, Any] = provenance() | {"training": TRAINING}
    if "sleep" in arguments.parts:
        result["sleep"] = measure_sleep(
            arguments.rounds, arguments.num_iterations, arguments.sleep_s, arguments.num_entities
        )
        print("steps a second over those of one runner:", result["sleep"]["speedup"])
    if "busy" in arguments.parts:
        result["busy"] = measure_busy(arguments.rounds, arguments.num_iterations, arguments.num_batches)
        print(
            f"busy steps: 2 processes {result['busy']['speedup_of_processes']:.2f}x, "
            f"2 runners {result['busy']['speedup_of_runners']:.2f}x"
        )
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
