"""The candidates of a search: TD3 sets the sizes of a whole table, step after step."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import ray

from ciess_ray import metric_keys
from ciess_ray.config import RunConfig
from ciess_ray.full_size import FullSizeFit
from ciess_ray.journal import Journal
from ciess_ray.result import Candidate
from ciess_ray.td3.algorithm import TD3, TableStep, TD3Config
from envs import EMBEDDING_SIZE_ENV_ID
from envs.budget import EmbeddingSizes, MemoryBudget
from envs.data import Interactions
from envs.errors import ConfigError
from envs.step_modes import State


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """The Ray that is running, or one on this machine for the length of the block."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # RLlib warns at every start that its new API stack, the only one used here, is new.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def check_env_runners(config: RunConfig) -> None:
    """Refuse more env runners than the cluster has CPUs for.

    Raises:
        ConfigError: With the arithmetic.
    """
    num_env_runners, num_cpus = config.search.num_env_runners, ray.cluster_resources().get("CPU", 0.0)
    if num_env_runners > num_cpus:
        raise ConfigError(
            f"search.num_env_runners={num_env_runners} asks for as many CPUs, and this cluster has "
            f"{num_cpus:g}: the runners would wait for ever. Ask for {num_cpus:.0f} or fewer."
        )


def _td3_config(
    config: RunConfig,
    interactions: Interactions,
    full: FullSizeFit,
    pretrained: State | None,
    cap_params: int,
) -> TD3Config:
    recommender, agent, settings = config.recommender, config.agent, config.search
    is_auto = settings.memory_weight == "auto"
    full_params = interactions.num_entities * recommender.max_embedding_size * recommender.num_tables
    target_ratio = cap_params / full_params
    env_config = {
        # In the object store once, and mapped by every runner instead of copied.
        "interactions": ray.put(interactions),
        "full_quality": ray.put(full.quality),
        "recommender": recommender.name,
        "recommender_options": recommender.options,
        "training": replace(
            config.training.settings(),
            learning_rate=settings.step_learning_rate or config.training.learning_rate,
        ),
        "step_mode": settings.resolved_step_mode,
        "pretrained": None if pretrained is None else ray.put(pretrained),
        "epochs_per_step": settings.epochs_per_step,
        "batches_per_step": settings.batches_per_step,
        "budget": MemoryBudget(cap_params, "params") if settings.mode == "projected" else None,
        "min_embedding_size": recommender.min_embedding_size,
        "max_embedding_size": recommender.max_embedding_size,
        "episode_length": settings.episode_length,
        "quality_ceiling": settings.quality_ceiling,
        "device": recommender.device,
    }
    td3 = TD3Config()
    td3.environment(EMBEDDING_SIZE_ENV_ID, env_config=env_config)
    td3.env_runners(num_env_runners=settings.num_env_runners)
    td3.debugging(seed=config.seed, log_level="ERROR")
    td3.training(
        hiddens=agent.hiddens,
        actor_lr=agent.actor_lr,
        critic_lr=agent.critic_lr,
        gamma=agent.gamma,
        tau=agent.tau,
        train_batch_size_per_learner=agent.batch_size,
        updates_per_step=agent.updates_per_step,
        replay_buffer_capacity=agent.replay_buffer_capacity,
        exploration_spec=agent.exploration,
        num_warmup_steps=settings.num_warmup_steps,
        memory_weight=settings.initial_memory_weight if is_auto else settings.memory_weight,
        target_ratio=target_ratio if is_auto else None,
        memory_weight_lr=settings.memory_weight_lr,
    )
    return td3


def find_candidates(
    config: RunConfig,
    interactions: Interactions,
    full: FullSizeFit,
    pretrained: State | None,
    cap_params: int,
    candidates: list[Candidate],
    journal: Journal,
) -> None:
    """Take every step of the search; ``candidates`` grows as they come."""
    settings = config.search
    algorithm = cast(TD3, _td3_config(config, interactions, full, pretrained, cap_params).build_algo())
    try:
        while len(candidates) < settings.num_steps:
            outcome = algorithm.train()  # type: ignore[no-untyped-call]
            steps = algorithm.last_steps[: settings.num_steps - len(candidates)]
            td3 = {k: v for k, v in outcome.items() if k.startswith("td3/")}
            _remember(config, steps, candidates, journal, td3, is_greedy=False)
        if settings.num_greedy_steps:
            steps = _greedy_steps(algorithm, settings.num_greedy_steps)
            _remember(config, steps, candidates, journal, {}, is_greedy=True)
    finally:
        algorithm.stop()  # type: ignore[no-untyped-call]


def _greedy_steps(algorithm: TD3, num_steps: int) -> list[TableStep]:
    """Steps of a new episode that the actors take alone, on one env runner."""
    group = algorithm.env_runner_group
    is_local = group.num_remote_workers() == 0
    rollouts = group.foreach_env_runner(
        lambda runner: runner.sample(num_timesteps=num_steps, explore=False, force_reset=True),
        local_env_runner=is_local,
        remote_worker_ids=None if is_local else group.healthy_worker_ids()[:1],
        timeout_seconds=None,
    )
    return [rollout.step for rollout in rollouts[0]]


def _remember(
    config: RunConfig,
    steps: Sequence[TableStep],
    candidates: list[Candidate],
    journal: Journal,
    td3: dict[str, float],
    *,
    is_greedy: bool,
) -> None:
    recommender = config.recommender
    bounds = recommender.min_embedding_size, recommender.max_embedding_size
    for step in steps:
        sizes = EmbeddingSizes(
            step.embedding_sizes["user"], step.embedding_sizes["item"], *bounds, recommender.num_tables
        )
        candidates.append(
            Candidate(len(candidates), sizes, step.info["quality"], step.info["proposed_ratio"], is_greedy)
        )
        journal.advance(
            len(candidates),
            {
                metric_keys.KEPT_RATIO: sizes.kept_ratio,
                metric_keys.PROPOSED_RATIO: step.info["proposed_ratio"],
                metric_keys.GREEDY_RATIO: step.greedy_ratio,
                metric_keys.QUALITY: step.info["quality"],
                metric_keys.REWARD: step.reward,
                metric_keys.MEMORY_WEIGHT: step.memory_weight,
                **{f"recommender/{k}": v for k, v in step.info.items() if "@" in k},
                "recommender/train_s": step.info["train_s"],
                "recommender/evaluate_s": step.info["evaluate_s"],
                **td3,
            },
            note="warm-up" if step.is_warmup else "greedy" if is_greedy else "",
        )
