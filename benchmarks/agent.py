"""What TD3 itself costs on a table of 70,000 entities, against the bare networks.

    python benchmarks/agent.py

For each number of threads and each width of the networks, with both sides measured in turns:

* a step of the env runner, in an environment whose own step only hands back arrays made before, against the
  forward pass of the critics over the six candidates of every entity, inputs laid out before: the fastest of
  our own and of plain ones in chunks of several sizes;
* an update of 4,096 users and 4,096 items, on a batch given and with the batch drawn from a full replay
  buffer, against a plain PyTorch loop on a batch given. Even and odd updates differ, so two are timed as one.

Then the memory of a replay buffer of a million transitions. Writes results/agent.json.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from machine import baseline_bytes
from provenance import provenance
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.tune.registry import register_env

from ciess_ray.resources import ray_session
from ciess_ray.td3 import learner
from ciess_ray.td3.algorithm import _BATCH_COLUMNS, TD3
from ciess_ray.td3.config import TD3Config
from ciess_ray.td3.env_runner import TableEnvRunner
from ciess_ray.td3.exploration import SizeGraph, seeded_generator
from ciess_ray.td3.replay import ReplayBuffer
from envs import TOY_SIZE_ENV_ID
from envs.mdp import KINDS

NUM_CANDIDATES = 6
CHUNKS = (1024, 2048, 4096, 8192, 16384)
BATCH_SIZE = 4096
CAPACITY = 1_000_000
SEED = 0


class StillEnv(gym.Env):
    """Always the same arrays, of the shapes and types that ``EmbeddingSizeEnv`` hands back."""

    min_embedding_size, max_embedding_size, memory_weight = 1, 128, 0.4

    def __init__(self, num_users: int, num_items: int) -> None:
        rng = np.random.default_rng(SEED)
        self.obs, info = {}, {}
        for kind, count in (("user", num_users), ("item", num_items)):
            self.obs[kind] = rng.uniform(-1, 1, (count, 3)).astype(np.float32)
            sizes = rng.integers(1, 129, count).astype(np.int32)
            info[kind] = {
                "quality": rng.random(count, np.float32),
                "memory_cost": rng.random(count, np.float32),
                "proposed_sizes": sizes,
                "embedding_sizes": sizes,
            }
        self.info = info | {"kept_ratio": 0.5, "proposed_ratio": 0.5, "quality": 0.5}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        """See the class."""
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        """See the class."""
        return self.obs, 0.5, False, False, self.info


def in_turns(repeats: int, **runs: Callable[[], Any]) -> dict[str, dict[str, Any]]:
    """Seconds of each, one after the other in every repeat; the first repeat warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {
        name: {"median_s": round(statistics.median(s), 5), "seconds": [round(x, 5) for x in s]}
        for name, s in seconds.items()
    }


def ratio(of: dict[str, Any], to: dict[str, Any]) -> float:
    return round(of["median_s"] / to["median_s"], 3)


def measure_step(num_entities: int, hiddens: tuple[int, ...], repeats: int) -> dict[str, Any]:
    count = {"num_users": num_entities // 2, "num_items": num_entities - num_entities // 2}
    register_env("still", lambda context: StillEnv(**context))
    config = TD3.get_default_config().environment("still", env_config=count).training(hiddens=hiddens)
    runner = TableEnvRunner(config=config, worker_index=0)
    inputs = {}
    for kind in KINDS:
        obs = torch.from_numpy(runner.env.obs[kind]).repeat_interleave(NUM_CANDIDATES, dim=0)
        action = torch.rand(len(obs), 1, generator=seeded_generator(SEED)) * 2 - 1
        inputs[kind] = torch.cat([obs, action], dim=1)

    @torch.inference_mode()
    def forward(chunk: int) -> None:
        for kind in KINDS:
            net = runner.module[kind].critic_1.net
            torch.cat([net(rows) for rows in inputs[kind].split(chunk)])

    def infer() -> None:
        for kind in KINDS:
            runner.module[kind].critic_1.infer(inputs[kind])

    passes: dict[str, Callable[[], None]] = {"infer": infer}
    passes |= {f"forward, {chunk} rows": lambda chunk=chunk: forward(chunk) for chunk in CHUNKS}
    trials = in_turns(3, **passes)
    best = min(trials, key=lambda name: min(trials[name]["seconds"]))
    timed = in_turns(
        repeats,
        bare=passes[best],
        step=lambda: runner.sample(num_timesteps=1),
        actors_alone=lambda: runner.sample(num_timesteps=1, explore=False),
        environment=lambda: runner.env.step(None),
        metrics=lambda: runner.sample(num_timesteps=1, explore=False)[0].step.metrics(),
    )
    return {"bare_pass": best, "step_over_bare": ratio(timed["step"], timed["bare"]), **timed}


class BareTD3:
    """TD3 of one kind of entity as a plain loop."""

    def __init__(self, module: Any, config: TD3Config) -> None:
        self.config = config
        self.actor, self.critic_1, self.critic_2 = (
            copy.deepcopy(network) for network in (module.actor, module.critic_1, module.critic_2)
        )
        self.targets = copy.deepcopy(torch.nn.ModuleList([self.actor, self.critic_1, self.critic_2]))
        self.actor_params = list(self.actor.parameters())
        self.critic_params = [*self.critic_1.parameters(), *self.critic_2.parameters()]
        self.actor_adam = torch.optim.Adam(self.actor_params, config.actor_lr)
        self.critic_adam = torch.optim.Adam(self.critic_params, config.critic_lr)
        self.generator = seeded_generator(SEED)
        self.num_updates = 0

    def minimise(self, loss: torch.Tensor, params: list[Any], adam: torch.optim.Adam) -> None:
        """One step of Adam on the parameters given, and no gradient of others."""
        for param, gradient in zip(params, torch.autograd.grad(loss, params), strict=True):
            param.grad = gradient
        adam.step()

    def update(self, batch: dict[str, torch.Tensor]) -> None:
        """Fujimoto et al. 2018, algorithm 1."""
        config = self.config
        target_actor, target_critic_1, target_critic_2 = self.targets
        with torch.no_grad():
            next_action = learner.smoothed_action(
                target_actor(batch["next_obs"]), config.target_noise, config.target_noise_clip, self.generator
            )
            target = learner.critic_target(
                batch["reward"],
                batch["terminated"],
                config.gamma,
                target_critic_1(batch["next_obs"], next_action),
                target_critic_2(batch["next_obs"], next_action),
            )
        value_1 = self.critic_1(batch["obs"], batch["action"])
        value_2 = self.critic_2(batch["obs"], batch["action"])
        loss = learner.critic_loss(value_1, value_2, target)
        self.minimise(loss, self.critic_params, self.critic_adam)
        self.num_updates += 1
        if self.num_updates % config.policy_delay:
            return
        loss = -self.critic_1(batch["obs"], self.actor(batch["obs"])).mean()
        self.minimise(loss, self.actor_params, self.actor_adam)
        with torch.no_grad():
            for network, target_network in zip(
                (self.actor, self.critic_1, self.critic_2), self.targets, strict=True
            ):
                for param, slow in zip(network.parameters(), target_network.parameters(), strict=True):
                    slow.lerp_(param, config.tau)


def transitions(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "obs": rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, count).astype(np.float32),
        "quality": rng.random(count, np.float32),
        "memory_cost": rng.random(count, np.float32),
        "next_obs": rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        "terminated": np.zeros(count, bool),
    }


def measure_update(num_entities: int, hiddens: tuple[int, ...], repeats: int) -> dict[str, Any]:
    config = (
        TD3.get_default_config()
        .environment(TOY_SIZE_ENV_ID, env_config={"num_users": 100, "num_items": 100})
        .training(
            hiddens=hiddens,
            gamma=0.99,
            imitation_weight=0.0,
            updates_per_step=1,
            train_batch_size_per_learner=BATCH_SIZE,
        )
        .debugging(seed=SEED, log_level="ERROR")
    )
    algo: Any = config.build_algo()
    rng = np.random.default_rng(SEED)
    count = num_entities // 2
    for _ in range(-(-CAPACITY // count)):
        for buffer in algo.replay_buffers.values():
            buffer.add(transitions(count, rng))
    algo.train()
    drawn = {
        kind: buffer.sample(BATCH_SIZE, algo.memory_weight) for kind, buffer in algo.replay_buffers.items()
    }
    batch = MultiAgentBatch(
        {
            kind: SampleBatch({_BATCH_COLUMNS[name]: column for name, column in columns.items()})
            for kind, columns in drawn.items()
        },
        env_steps=BATCH_SIZE,
    )
    modules = algo.learner_group._learner.module
    bare = {kind: BareTD3(modules[kind], config) for kind in KINDS}

    def twice(run: Callable[[], Any]) -> Callable[[], None]:
        def pair() -> None:
            run()
            run()

        return pair

    timed = in_turns(
        repeats,
        bare=twice(lambda: [bare[kind].update(drawn[kind]) for kind in KINDS]),
        update=twice(lambda: algo.learner_group.update(batch=batch, timesteps={})),
        draw_and_update=twice(algo._learn),
    )
    for row in timed.values():
        row["seconds"] = [round(s / 2, 5) for s in row["seconds"]]
        row["median_s"] = round(row["median_s"] / 2, 5)
    timed |= in_turns(repeats, log=algo._log)
    algo.stop()
    return {
        "update_over_bare": ratio(timed["update"], timed["bare"]),
        "draw_and_update_over_bare": ratio(timed["draw_and_update"], timed["bare"]),
        **timed,
    }


def measure_buffer(num_entities: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    step = transitions(num_entities // 2, rng)
    before = baseline_bytes()
    buffer = ReplayBuffer(CAPACITY, SEED)
    while len(buffer) < CAPACITY:
        buffer.add(step)
    filled = baseline_bytes()
    buffer.sample(BATCH_SIZE, 0.4)
    return {
        "num_transitions": len(buffer),
        "allocated_bytes": buffer.get_state()["transitions"].nbytes,
        "resident_bytes": filled - before,
    }


def measure_walk(num_entities: int, repeats: int) -> dict[str, Any]:
    generator = seeded_generator(SEED)
    start = torch.randint(1, 129, (num_entities,), generator=generator)
    graph = SizeGraph(1, 128)
    return in_turns(repeats, walk=lambda: graph.random_walk(start, 5, generator))["walk"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-entities", type=int, default=70_000)
    parser.add_argument(
        "--hiddens", type=int, nargs="+", default=[256, 64], help="widths of two equal layers"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("results/agent.json"))
    args = parser.parse_args()
    # Before anything else has taken memory and given it back.
    buffer = measure_buffer(args.num_entities)
    rows = []
    with ray_session():
        for threads in args.threads:
            torch.set_num_threads(threads)
            walk = measure_walk(args.num_entities, args.repeats)
            for width in args.hiddens:
                hiddens = (width, width)
                rows.append(
                    {
                        "threads": threads,
                        "hiddens": hiddens,
                        "walk": walk,
                        "step": measure_step(args.num_entities, hiddens, args.repeats),
                        "update": measure_update(args.num_entities, hiddens, args.repeats),
                    }
                )
                step, update = rows[-1]["step"], rows[-1]["update"]
                print(
                    f"{threads} threads, {width}x{width}: step {step['step']['median_s']:.4f} s, "
                    f"{step['step_over_bare']:.2f} of bare; update {update['update']['median_s']:.4f} s, "
                    f"{update['update_over_bare']:.2f}, with its draw "
                    f"{update['draw_and_update_over_bare']:.2f}",
                    flush=True,
                )
    print(f"buffer of a million: {buffer['allocated_bytes'] / 1e6:.1f} MB")
    result = provenance() | {
        "seed": SEED,
        "num_entities": args.num_entities,
        "batch_size": BATCH_SIZE,
        "replay_buffer": buffer,
        "rows": rows,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
