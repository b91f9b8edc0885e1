"""Table steps that each exploration needs to bring TD3 to the known optimum of ToySizeEnv.

    OMP_NUM_THREADS=1 python benchmarks/findings/toy_convergence.py

Ten thousand entities, half of them users; every noise of ``td3.exploration``, with the walk and without,
several seeds. After each table step the actors take an episode alone. The optimum counts as reached
at the first of five such episodes in a row whose sizes are within 2 of it, the mean over all entities, users
and items, and over the episode. A row is appended to the .jsonl file as soon as a run is done and none is run
twice, so the command can be broken off and resumed.
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

from ciess_ray.resources import ray_session
from ciess_ray.td3.algorithm import TD3
from ciess_ray.td3.exploration import NOISES
from envs import TOY_SIZE_ENV_ID, mdp

# What all measurements share lies a folder above.
sys.path.append(str(Path(__file__).parents[1]))
from measurements import Measurements  # noqa: E402
from provenance import provenance  # noqa: E402

KINDS = ("user", "item")
EXPLORATIONS = {"walk": "random_walk", "no walk": "noise"}
NEAR = 2.0
NUM_IN_A_ROW = 5
MAX_STEPS = 150
#: One for all variants; discount and batch are CIESS's. On batches of 1,024 sizes keep wandering by 2 to 4.
TRAINING: dict[str, Any] = {
    "hiddens": (64, 64),
    "gamma": 0.99,
    "imitation_weight": 0.0,
    "updates_per_step": 20,
    "train_batch_size_per_learner": 4096,
}


def greedy_errors(algo: TD3, env: Any) -> dict[str, float]:
    """Mean |greedy size - optimum| over entities and over the steps of one greedy episode."""
    optimum = env.optimal_sizes()
    errors: dict[str, list[float]] = {kind: [] for kind in KINDS}
    obs, _ = env.reset(seed=0)
    is_over = False
    while not is_over:
        action = {}
        for kind in KINDS:
            with torch.no_grad():
                action[kind] = algo.get_module(kind).actor(torch.from_numpy(obs[kind])).numpy()
            sizes = np.rint(mdp.unscale_size(action[kind], env.min_embedding_size, env.max_embedding_size))
            errors[kind].append(float(np.abs(sizes - optimum[kind]).mean()))
        obs, _, _, is_over, _ = env.step(action)
    return {kind: round(float(np.mean(values)), 3) for kind, values in errors.items()}


def run(
    variant: dict[str, Any], num_entities: int, training: dict[str, Any], max_steps: int
) -> dict[str, Any]:
    """Trains until the optimum is reached and held, or for ``max_steps`` table steps."""
    seed = variant["seed"]
    half = num_entities // 2
    env_config = {"num_users": half, "num_items": half, "seed": seed}
    env = gym.make(TOY_SIZE_ENV_ID, **env_config).unwrapped
    spec = {"name": EXPLORATIONS[variant["walk"]], "noise": variant["noise"]}
    config = (
        TD3.get_default_config()
        .environment(TOY_SIZE_ENV_ID, env_config=env_config)
        .training(**training, exploration_spec=spec)
        .debugging(seed=seed, log_level="ERROR")
    )
    algo = config.build_algo()
    curve, num_near, started = [], 0, time.perf_counter()
    while num_near < NUM_IN_A_ROW and algo.num_table_steps < max_steps:
        algo.train()
        curve.append({"num_table_steps": algo.num_table_steps, **greedy_errors(algo, env)})
        num_near = num_near + 1 if error(curve[-1]) <= NEAR else 0
    algo.stop()
    return variant | {
        "num_steps": curve[-NUM_IN_A_ROW]["num_table_steps"] if num_near == NUM_IN_A_ROW else None,
        "best_error": round(min(map(error, curve)), 3),
        "seconds": round(time.perf_counter() - started, 1),
        "curve": curve,
    }


def error(point: dict[str, float]) -> float:
    """The mean over all entities: users and items are as many."""
    return statistics.mean(point[kind] for kind in KINDS)


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a variant, those that reached the optimum most often and soonest first."""
    summary = []
    for noise in NOISES:
        for walk in EXPLORATIONS:
            runs = [row for row in rows if (row["noise"], row["walk"]) == (noise, walk)]
            steps = [row["num_steps"] for row in runs if row["num_steps"] is not None]
            if runs:
                summary.append(
                    {
                        "noise": noise,
                        "walk": walk,
                        "num_seeds": len(runs),
                        "num_never": len(runs) - len(steps),
                        "mean_steps": statistics.mean(steps) if steps else None,
                        "sd_steps": statistics.stdev(steps) if len(steps) > 1 else None,
                        "least_steps": min(steps, default=None),
                        "most_steps": max(steps, default=None),
                        "mean_best_error": statistics.mean(row["best_error"] for row in runs),
                    }
                )
    return sorted(summary, key=lambda row: (row["num_never"], row["mean_steps"] or 0.0))


def as_table(summary: list[dict[str, Any]], max_steps: int) -> str:
    """The summary in Markdown."""

    def number(value: float | None, digits: int = 0) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    lines = [
        f"Table steps until the actors' sizes come within {NEAR:g} of the optimum and stay there for "
        f"{NUM_IN_A_ROW} steps, at most",
        f"{max_steps}; mean, standard deviation and range over the seeds that got there.",
        "",
        "| noise | walk | steps | ± | least | most | never | best error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in summary:
        cells = [row["noise"].replace("_", "-"), row["walk"]]
        cells += [number(row["mean_steps"], 1), number(row["sd_steps"], 1)]
        cells += [number(row["least_steps"]), number(row["most_steps"])]
        cells += [f"{row['num_never']} of {row['num_seeds']}", number(row["mean_best_error"], 2)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--noises", nargs="+", choices=list(NOISES), default=list(NOISES))
    parser.add_argument("--walks", nargs="+", choices=list(EXPLORATIONS), default=list(EXPLORATIONS))
    parser.add_argument("--num-entities", type=int, default=10_000)
    parser.add_argument("--max-steps", type=int, default=MAX_STEPS)
    parser.add_argument("--gamma", type=float, default=TRAINING["gamma"])
    parser.add_argument("--updates-per-step", type=int, default=TRAINING["updates_per_step"])
    parser.add_argument("--batch-size", type=int, default=TRAINING["train_batch_size_per_learner"])
    parser.add_argument("--output", type=Path, default=Path("results/exploration.jsonl"))
    arguments = parser.parse_args()
    training = TRAINING | {
        "gamma": arguments.gamma,
        "updates_per_step": arguments.updates_per_step,
        "train_batch_size_per_learner": arguments.batch_size,
    }
    table = Measurements(arguments.output)
    with ray_session():
        for seed in arguments.seeds:
            for noise in arguments.noises:
                for walk in arguments.walks:
                    variant = {"noise": noise, "walk": walk, "seed": seed}
                    if not table.has(**variant):
                        table.add(run(variant, arguments.num_entities, training, arguments.max_steps))
    summary = summarise(table.rows)
    result = provenance() | {
        "training": training,
        "num_entities": arguments.num_entities,
        "max_steps": arguments.max_steps,
        "near": NEAR,
        "variants": summary,
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    text = as_table(summary, arguments.max_steps)
    arguments.output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
