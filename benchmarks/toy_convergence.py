"""How near TD3 comes to the known optimum of ToySizeEnv, by seed; writes results/toy_convergence.json.

python benchmarks/toy_convergence.py --seeds 0 1 2 --hiddens 256 256
"""

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch

from ciess_ray.td3.algorithm import TD3, TD3Config
from envs import TOY_SIZE_ENV_ID, mdp

KINDS = ("user", "item")


def greedy_errors(algo: TD3, env_config: dict[str, Any]) -> dict[str, float]:
    """Mean |greedy size - optimum| over entities and over the steps of one greedy episode."""
    env: Any = gym.make(TOY_SIZE_ENV_ID, **env_config).unwrapped
    optimum = env.optimal_sizes()
    errors: dict[str, list[float]] = {kind: [] for kind in KINDS}
    obs, _ = env.reset(seed=0)
    truncated = False
    while not truncated:
        action = {}
        for kind in KINDS:
            with torch.no_grad():
                action[kind] = algo.greedy_policy(kind).actor(torch.from_numpy(obs[kind])).numpy()
            sizes = np.rint(mdp.unscale_size(action[kind], env.min_embedding_size, env.max_embedding_size))
            errors[kind].append(float(np.abs(sizes - optimum[kind]).mean()))
        obs, _, _, truncated, _ = env.step(action)
    return {kind: float(np.mean(values)) for kind, values in errors.items()}


def run(seed: int, num_updates: int, training: dict[str, Any]) -> dict[str, Any]:
    env_config = {"num_users": 1000, "num_items": 1000, "max_embedding_size": 128, "seed": seed}
    config = (
        TD3Config()
        .environment(TOY_SIZE_ENV_ID, env_config=env_config)
        .training(**training)
        .debugging(seed=seed, log_level="ERROR")
    )
    algo = config.build_algo()
    curve = []
    started = time.perf_counter()
    while algo.num_updates < num_updates:
        algo.train()
        if algo.num_updates % 100 == 0 or algo.num_updates >= num_updates:
            curve.append({"num_updates": algo.num_updates, **greedy_errors(algo, env_config)})
    seconds = time.perf_counter() - started
    algo.stop()
    return {"seed": seed, "seconds": round(seconds, 1), "curve": curve, **greedy_errors_of(curve)}


def greedy_errors_of(curve: list[dict[str, Any]]) -> dict[str, float]:
    return {f"{kind}_error": round(curve[-1][kind], 3) for kind in KINDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--hiddens", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--num-updates", type=int, default=1000)
    parser.add_argument("--updates-per-step", type=int, default=20)
    parser.add_argument("--num-warmup-steps", type=int, default=0)
    parser.add_argument("--exploration", default="random_walk")
    parser.add_argument("--noise", default="gaussian")
    parser.add_argument("--output", type=Path, default=Path("results/toy_convergence.json"))
    args = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    print(f"{'seed':>4} {'updates':>7} {'user':>6} {'item':>6} {'seconds':>7}   mean |greedy size - optimum|")
    training = {
        "hiddens": tuple(args.hiddens),
        "updates_per_step": args.updates_per_step,
        "num_warmup_steps": args.num_warmup_steps,
        "exploration_spec": {"name": args.exploration, "noise": args.noise},
    }
    runs = []
    for seed in args.seeds:
        runs.append(run(seed, args.num_updates, training))
        last = runs[-1]
        print(
            f"{seed:>4} {args.num_updates:>7} {last['user_error']:>6.2f} {last['item_error']:>6.2f} "
            f"{last['seconds']:>7.0f}",
            flush=True,
        )
    ray.shutdown()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    result = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads",
        "training": training,
        "num_updates": args.num_updates,
        "runs": runs,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
