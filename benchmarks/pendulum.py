"""TD3 on Gymnasium's Pendulum-v1, through the env runner, replay buffer and learner of a search.

    OMP_NUM_THREADS=1 python benchmarks/pendulum.py

Sixteen pendula are the entities of one table, eight of them users and eight items, each with an actor and
critics of its kind (``tests/helpers/pendulum_table.py``). The return is that of the actors alone, the mean
over all sixteen and over several starts. A row is appended to the .jsonl file as soon as a seed is done and
none is run twice, so the command can be broken off and resumed.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from measurements import Measurements
from provenance import provenance

from ciess_ray.resources import ray_session
from ciess_ray.td3.algorithm import TD3

# The environment is of the tests.
sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from pendulum_table import PENDULUM_TABLE_ENV_ID  # noqa: E402

SOLVED = -200.0
NUM_ENTITIES = 16
STEPS_A_POINT = 100
#: An update to every transition of users, and of items; tau is four times CIESS's, to learn in fewer updates.
TRAINING: dict[str, Any] = {
    "hiddens": (64, 64),
    "gamma": 0.99,
    "imitation_weight": 0.0,
    "tau": 0.02,
    "train_batch_size_per_learner": 256,
    "updates_per_step": 8,
    # The Gaussian of TD3, arXiv 1802.09477 section 6.1: 10 of 200 size units are 0.1 of the largest torque.
    "exploration_spec": {"name": "noise", "noise": {"name": "gaussian", "sigma": 10.0}},
    "memory_weight": 0.0,
}


def greedy_return(algo: TD3, start_seeds: list[int]) -> float:
    """Mean return of an episode that the actors take alone, over all pendula and starts."""
    env: Any = gym.make(PENDULUM_TABLE_ENV_ID)
    returns = []
    for seed in start_seeds:
        obs, _ = env.reset(seed=seed)
        is_over, total = False, 0.0
        while not is_over:
            with torch.no_grad():
                action = {
                    kind: algo.get_module(kind).actor(torch.from_numpy(columns)).numpy()
                    for kind, columns in obs.items()
                }
            obs, reward, _, is_over, _ = env.step(action)
            total += reward
        returns.append(total)
    env.close()
    return float(np.mean(returns))


def run(seed: int, num_points: int, start_seeds: list[int]) -> dict[str, Any]:
    config = (
        TD3.get_default_config()
        .environment(PENDULUM_TABLE_ENV_ID)
        .training(**TRAINING)
        .debugging(seed=seed, log_level="ERROR")
    )
    algo = config.build_algo()
    curve, started = [], time.perf_counter()
    for point in range(num_points + 1):
        while algo.num_table_steps < STEPS_A_POINT * point:
            algo.train()
        curve.append(
            {
                "num_transitions": NUM_ENTITIES * algo.num_table_steps,
                "num_updates": algo.num_updates,
                "return": round(greedy_return(algo, start_seeds), 2),
            }
        )
        print(f"seed {seed} {curve[-1]}", flush=True)
    algo.stop()
    return {
        "seed": seed,
        "return": curve[-1]["return"],
        "seconds": round(time.perf_counter() - started, 1),
        "curve": curve,
    }


def solved_at(row: dict[str, Any]) -> dict[str, int] | None:
    """From where on the return stayed above the threshold, if it did."""
    found = None
    for point in reversed(row["curve"]):
        if point["return"] <= SOLVED:
            break
        found = {key: point[key] for key in ("num_transitions", "num_updates")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--start-seeds", type=int, nargs="+", default=[1000, 1001, 1002, 1003, 1004])
    parser.add_argument("--num-points", type=int, default=12, help="of the curve, each after 100 table steps")
    parser.add_argument("--output", type=Path, default=Path("results/pendulum.jsonl"))
    arguments = parser.parse_args()
    table = Measurements(arguments.output)
    with ray_session():
        for seed in arguments.seeds:
            if not table.has(seed=seed):
                table.add(run(seed, arguments.num_points, arguments.start_seeds))
    rows = [row for row in table.rows if row["seed"] in arguments.seeds]
    returns = [row["return"] for row in rows]
    result = provenance() | {
        "training": TRAINING,
        "num_entities": NUM_ENTITIES,
        "start_seeds": arguments.start_seeds,
        "solved_above": SOLVED,
        "mean_return": statistics.mean(returns),
        "worst_return": min(returns),
        "runs": [{**row, "solved_at": solved_at(row)} for row in rows],
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"mean return {result['mean_return']:.1f}, worst seed {result['worst_return']:.1f}")


if __name__ == "__main__":
    main()
