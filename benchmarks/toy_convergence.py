"""Table steps that each exploration needs to bring TD3 to the known optimum of ToySizeEnv.

    OMP_NUM_THREADS=1 python benchmarks/toy_convergence.py

Ten thousand entities, half of them users; every noise of ``ciess_ray.exploration``, with the random walk and
without, several seeds. The optimum counts as reached at the first greedy episode whose sizes are within 2 of it,
the mean over all entities, users and items, and all steps of the episode. A row is appended to the .jsonl file as
soon as a run is done and none is run twice, so the command can be broken off and resumed.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from measurements import Measurements
from provenance import provenance

from ciess_ray.resources import ray_session
from ciess_ray.exploration import NOISES
from ciess_ray.td3.algorithm import TD3, TD3Config
from envs import TOY_SIZE_ENV_ID, mdp

KINDS = ("user", "item")
EXPLORATIONS = {"walk": "random_walk", "no walk": "noise"}
NEAR = 2.0


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
                action[kind] = algo.greedy_policy(kind).actor(torch.from_numpy(obs[kind])).numpy()
            sizes = np.rint(mdp.unscale_size(action[kind], env.min_embedding_size, env.max_embedding_size))
            errors[kind].append(float(np.abs(sizes - optimum[kind]).mean()))
        obs, _, _, is_over, _ = env.step(action)
    return {kind: round(float(np.mean(values)), 3) for kind, values in errors.items()}


def run(
    variant: dict[str, Any], num_entities: int, training: dict[str, Any], max_steps: int
) -> dict[str, Any]:
    """Trains until the optimum is reached, or for ``max_steps`` table steps."""
    seed = variant["seed"]
    half = num_entities // 2
    env_config = {"num_users": half, "num_items": half, "seed": seed}
    env = gym.make(TOY_SIZE_ENV_ID, **env_config).unwrapped
    spec = {"name": EXPLORATIONS[variant["walk"]], "noise": variant["noise"]}
    config = (
        TD3Config()
        .environment(TOY_SIZE_ENV_ID, env_config=env_config)
        .training(**training, exploration_spec=spec)
        .debugging(seed=seed, log_level="ERROR")
    )
    algo = config.build_algo()
    curve, started = [], time.perf_counter()
    reached = None
    while reached is None and algo.num_table_steps < max_steps:
        algo.train()
        errors = greedy_errors(algo, env)
        error = sum(errors.values()) / 2
        curve.append({"num_table_steps": algo.num_table_steps, **errors})
        if error <= NEAR:
            reached = algo.num_table_steps
    algo.stop()
    return variant | {
        "num_steps": reached,
        "best_error": round(min(sum(point[kind] for kind in KINDS) / 2 for point in curve), 3),
        "seconds": round(time.perf_counter() - started, 1),
        "curve": curve,
    }
