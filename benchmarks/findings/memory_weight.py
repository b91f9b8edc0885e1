"""Dual ascent on λ: does the actors' own mean size end at the budget, and stay there?

    OMP_NUM_THREADS=1 python benchmarks/findings/memory_weight.py

ToySizeEnv, whose sizes nothing projects, from λ = 0, three budgets, several seeds. A run has arrived at the
first episode from which on the mean of every episode, ``TableStep.greedy_ratio``, is within 2 % of the
budget. The λ that the known optimum needs is there to compare with. A row is appended to the .jsonl file as
soon as a run is done and none is run twice, so the command can be broken off and resumed.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import brentq

from ciess_ray.resources import ray_session
from ciess_ray.td3.algorithm import TD3
from envs import TOY_SIZE_ENV_ID

# What all measurements share lies a folder above.
sys.path.append(str(Path(__file__).parents[1]))
from measurements import Measurements  # noqa: E402
from provenance import provenance  # noqa: E402

NEAR = 0.02
EPISODE_LENGTH = 10
NUM_LAST_EPISODES = 10
#: The agent of the files in configs/.
TRAINING: dict[str, Any] = {
    "hiddens": (64, 64),
    "gamma": 0.0,
    "imitation_weight": 0.0,
    "updates_per_step": 20,
    "train_batch_size_per_learner": 4096,
    "memory_weight": 0.0,
}


def optimal_memory_weight(env: Any, budget: float) -> float:
    """The λ under which the optimal sizes have the budget for their mean."""

    def excess(memory_weight: float) -> float:
        env.memory_weight = memory_weight
        mean = np.concatenate(list(env.optimal_sizes().values())).mean()
        return float(mean / env.max_embedding_size - budget)

    return float(brentq(excess, 0.0, 1e4))


def run(budget: float, seed: int, num_steps: int) -> dict[str, Any]:
    env_config = {"seed": seed, "episode_length": EPISODE_LENGTH}
    config = (
        TD3.get_default_config()
        .environment(TOY_SIZE_ENV_ID, env_config=env_config)
        .training(**TRAINING, target_ratio=budget)
        .debugging(seed=seed, log_level="ERROR")
    )
    algo = config.build_algo()
    memory_weights, ratios, started = [], [], time.perf_counter()
    while algo.num_table_steps < num_steps:
        algo.train()
        ratios.append(round(algo.last_steps[0].greedy_ratio, 5))
        memory_weights.append(round(algo.memory_weight, 4))
    algo.stop()
    env = gym.make(TOY_SIZE_ENV_ID, **env_config).unwrapped
    return {
        "budget": budget,
        "seed": seed,
        "optimal_memory_weight": round(optimal_memory_weight(env, budget), 3),
        "seconds": round(time.perf_counter() - started, 1),
        "memory_weights": memory_weights,
        "greedy_ratios": ratios,
    }


def episode_errors(row: dict[str, Any]) -> NDArray[np.float64]:
    """Deviation of each episode's mean greedy ratio from the budget, as a share of it, shape (episodes,)."""
    ratios = np.array(row["greedy_ratios"]).reshape(-1, EPISODE_LENGTH)
    return ratios.mean(axis=1) / row["budget"] - 1.0


def summarise(row: dict[str, Any]) -> dict[str, Any]:
    errors = episode_errors(row)
    is_far = np.flatnonzero(np.abs(errors) > NEAR)
    arrived = int(is_far[-1]) + 1 if is_far.size else 0
    return {
        "budget": row["budget"],
        "seed": row["seed"],
        "arrived_after_steps": arrived * EPISODE_LENGTH if arrived < len(errors) else None,
        "error_of_last_episode": round(float(errors[-1]), 4),
        "largest_error_of_last_episodes": round(float(np.abs(errors[-NUM_LAST_EPISODES:]).max()), 4),
        "memory_weight": row["memory_weights"][-1],
        "optimal_memory_weight": row["optimal_memory_weight"],
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """λ, and the greedy ratio over the budget, against table steps; a colour a budget, a line a seed."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    budgets = sorted({row["budget"] for row in rows})
    for row in rows:
        colour = f"C{budgets.index(row['budget'])}"
        steps = np.arange(1, len(row["memory_weights"]) + 1)
        label = f"{row['budget']:.0%}" if row["seed"] == min(r["seed"] for r in rows) else None
        left.plot(steps, row["memory_weights"], color=colour, linewidth=1, label=label)
        left.axhline(row["optimal_memory_weight"], color=colour, linewidth=0.6, linestyle=":")
        right.plot(steps, np.array(row["greedy_ratios"]) / row["budget"], color=colour, linewidth=0.8)
    left.set_yscale("log")
    left.set_ylabel("λ (dotted: the optimum's)")
    left.legend(title="budget")
    right.set_yscale("log")
    right.axhspan(1.0 - NEAR, 1.0 + NEAR, color="0.85")
    right.set_ylabel("greedy ratio / budget")
    for axes in (left, right):
        axes.set_xlabel("table steps")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path("results/memory_weight.jsonl"))
    arguments = parser.parse_args()
    table = Measurements(arguments.output)
    with ray_session():
        for seed in arguments.seeds:
            for budget in arguments.budgets:
                if not table.has(budget=budget, seed=seed):
                    table.add(run(budget, seed, arguments.num_steps))
    summary = [summarise(row) for row in table.rows]
    result = provenance() | {"training": TRAINING, "num_steps": arguments.num_steps, "runs": summary}
    arguments.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(table.rows, arguments.output.with_suffix(".png"))
    for row in summary:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
