"""How table steps a second grow with env runners, on a simulated cluster and beside plain processes.

    python benchmarks/scaling.py

``sleep``: 1, 2, 4 and 8 env runners on a Ray cluster of several nodes, all on this machine, with an
environment whose step sleeps, so that no core is short. What is left of the ideal is what the loop costs:
rollouts that travel, waiting for the slowest. The updates between two steps are as many for any number of
runners, and nothing is sampled meanwhile. ``busy``: steps that train a recommender on one thread, by 1 and 2
env runners, beside the same steps by 1 and 2 plain processes that know nothing of Ray. Cores are shared and
may be taken by others, so the four are measured in turn, a few steps at a time, and the ratios are medians
over many such rounds.
"""

import argparse
import json
import multiprocessing
import os
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Nodes of a cluster, all of them here: on loopback alone, behind a token. Ray reads the first when imported.
os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}

import numpy as np
import ray
import torch
from provenance import provenance
from ray.cluster_utils import Cluster
from ray.tune.registry import register_env

from ciess_ray import metric_keys
from ciess_ray.resources import ray_session
from ciess_ray.td3.algorithm import TD3
from envs import EMBEDDING_SIZE_ENV_ID
from envs.data import generate_interactions, split_interactions
from envs.embedding_size import EmbeddingSizeEnv
from envs.recommenders.training import TrainingSettings
from envs.toy import ToySizeEnv

SLEEPING_ENV = "sleeping_table"
NUM_RUNNERS = (1, 2, 4, 8)
WIDTH = 64
#: The agent of the files in configs/.
TRAINING: dict[str, Any] = {"hiddens": (64, 64), "imitation_weight": 0.0, "updates_per_step": 20}


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


def build(env: str, env_config: dict[str, Any], num_env_runners: int) -> TD3:
    config = (
        TD3.get_default_config()
        .environment(env, env_config=env_config)
        .training(**TRAINING)
        .env_runners(num_env_runners=num_env_runners, num_cpus_per_env_runner=1)
        .debugging(seed=0, log_level="ERROR")
    )
    algo: TD3 = config.build_algo()
    return algo


def rate_of(algo: TD3, num_iterations: int) -> dict[str, float]:
    """Table steps a second over some iterations, and where an iteration's seconds went."""
    parts: dict[str, list[float]] = {"sample_s": [], "learn_s": []}
    before, started = algo.num_table_steps, time.perf_counter()
    for _ in range(num_iterations):
        result = algo.train()
        parts["sample_s"].append(result[metric_keys.SAMPLE_S])
        parts["learn_s"].append(result[metric_keys.LEARN_S])
    rate = (algo.num_table_steps - before) / (time.perf_counter() - started)
    return {"steps_per_s": rate, **{name: statistics.median(seconds) for name, seconds in parts.items()}}


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
                algo = build(SLEEPING_ENV, env_config, num_runners)
                algo.train()
                row = {"round": position, "runners": num_runners, "nodes": nodes_of_runners(algo)}
                rows.append(row | rate_of(algo, num_iterations))
                algo.stop()
                print(json.dumps(rows[-1]), flush=True)
    return {
        "sleep_s": sleep_s,
        "num_entities": num_entities,
        "speedup": {str(n): median_ratio(rows, "runners", n, 1) for n in NUM_RUNNERS},
        "rows": rows,
    }


def median_ratio(
    rows: list[dict[str, Any]], key: str, many: Any, one: Any, value: str = "steps_per_s"
) -> float:
    """Steps a second of ``many`` over those of ``one``, the median over the rounds."""
    values = {(row["round"], row[key]): row.get(value) for row in rows}
    rounds = sorted({row["round"] for row in rows})
    return statistics.median(values[r, many] / values[r, one] for r in rounds)


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
        "full_quality": {"user": np.full(2_000, 0.2), "item": np.full(1_500, 0.2)},
    }


def serve_steps(arguments: dict[str, Any], commands: Any) -> None:
    """What a plain process does: as many steps as it is told, and says when they began and ended."""
    torch.set_num_threads(1)
    env = EmbeddingSizeEnv(**arguments)
    env.reset(seed=0)
    action = {kind: np.zeros(space.shape, np.float32) for kind, space in env.action_space.items()}
    while (num_steps := commands.recv()) is not None:
        started = time.monotonic()
        for _ in range(num_steps):
            env.step(action)
        commands.send((started, time.monotonic()))


class PlainProcesses:
    """Processes that know nothing of Ray, each with an environment of its own."""

    def __init__(self, arguments: dict[str, Any], num_processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(num_processes)]
        self._ends = [mine for mine, _ in pipes]
        self._processes = [
            context.Process(target=serve_steps, args=(arguments, theirs)) for _, theirs in pipes
        ]
        for process in self._processes:
            process.start()
        self.steps_per_s(num_processes, 1)

    def steps_per_s(self, num_processes: int, num_steps: int) -> float:
        """Table steps a second of so many of them, each taking ``num_steps``."""
        ends = self._ends[:num_processes]
        for end in ends:
            end.send(num_steps)
        spans = [end.recv() for end in ends]
        seconds = max(ended for _, ended in spans) - min(started for started, _ in spans)
        return num_processes * num_steps / seconds

    def stop(self) -> None:
        """Ends them."""
        for end, process in zip(self._ends, self._processes, strict=True):
            end.send(None)
            process.join()


def measure_busy(rounds: int, num_iterations: int, num_batches: int) -> dict[str, Any]:
    arguments = busy_arguments(num_batches)
    rows: list[dict[str, Any]] = []
    # Three env runners live at a time, and at most two of them work.
    with ray_session(num_cpus=3):
        plain = PlainProcesses(arguments, 2)
        env_config = arguments | {"interactions": ray.put(arguments["interactions"])}
        algos = {count: build(EMBEDDING_SIZE_ENV_ID, env_config, count) for count in (1, 2)}
        try:
            for algo in algos.values():
                algo.train()
            for position in range(rounds):
                for count, algo in algos.items():
                    rate = plain.steps_per_s(count, num_iterations)
                    rows.append({"round": position, "who": f"{count} processes", "steps_per_s": rate})
                    rows.append(
                        {"round": position, "who": f"{count} runners", **rate_of(algo, num_iterations)}
                    )
                print(json.dumps(rows[-4:]), flush=True)
        finally:
            plain.stop()
            for algo in algos.values():
                algo.stop()
    processes = median_ratio(rows, "who", "2 processes", "1 processes")
    runners = median_ratio(rows, "who", "2 runners", "1 runners")
    sampling = 2 * median_ratio(rows, "who", "1 runners", "2 runners", "sample_s")
    return {
        "num_batches": num_batches,
        "speedup_of_processes": processes,
        "speedup_of_runners": runners,
        "share": runners / processes,
        # Without the seconds of learning, which are as many for one runner as for two.
        "speedup_of_sampling": sampling,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=["sleep", "busy"], default=["sleep", "busy"])
    parser.add_argument("--sleep-rounds", type=int, default=3)
    parser.add_argument("--busy-rounds", type=int, default=20)
    parser.add_argument("--sleep-s", type=float, default=1.0)
    parser.add_argument("--num-entities", type=int, default=10_000)
    parser.add_argument("--num-batches", type=int, default=80, help="that a busy step trains")
    parser.add_argument("--output", type=Path, default=Path("results/scaling.json"))
    arguments = parser.parse_args()
    result: dict[str, Any] = provenance() | {"training": TRAINING}
    if "sleep" in arguments.parts:
        result["sleep"] = measure_sleep(arguments.sleep_rounds, 8, arguments.sleep_s, arguments.num_entities)
        print("steps a second over those of one runner:", result["sleep"]["speedup"])
    if "busy" in arguments.parts:
        result["busy"] = measure_busy(arguments.busy_rounds, 3, arguments.num_batches)
        print(
            f"busy steps: 2 processes {result['busy']['speedup_of_processes']:.2f}x, "
            f"2 runners {result['busy']['speedup_of_runners']:.2f}x, "
            f"their sampling alone {result['busy']['speedup_of_sampling']:.2f}x"
        )
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
