"""What a configuration of TD3 must keep to: each rule is whether it is broken, and what to change."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from ciess_ray.td3.env_runner import TableEnvRunner
from ciess_ray.td3.rollout import KINDS

Rules = Iterator[tuple[bool, str]]

# What RLlib offers and TD3 has no use for, and what takes its place.
_UNUSED_FIELDS = {
    "grad_clip": "gradients are not clipped",
    "lr": "set actor_lr and critic_lr",
    "minibatch_size": "set train_batch_size_per_learner",
    "num_epochs": "set updates_per_step",
    "train_batch_size": "set train_batch_size_per_learner",
}


def rules(config: Any) -> Rules:
    """Every rule, of a ``TD3Config``: whether it is broken, and what to say."""
    yield from _env_runner_rules(config)
    yield from _learner_rules(config)
    low, high = config.memory_weight_bounds
    yield from (
        (
            config.seed is None or config.seed < 0,
            f"seed must be a whole number from 0 on, not {config.seed}.",
        ),
        (
            not config.hiddens or min(config.hiddens) < 1,
            f"hiddens needs one width or more, each at least 1, e.g. (256, 256), not {config.hiddens}.",
        ),
        (config.policy_delay < 1, f"policy_delay must be at least 1, not {config.policy_delay}."),
        (not 0 < config.tau <= 1, f"tau must lie in (0, 1], not {config.tau}."),
        (
            not 0 <= config.gamma < 1,
            f"gamma must lie in [0, 1), not {config.gamma}: episodes never terminate.",
        ),
        (config.updates_per_step < 0, f"updates_per_step must not be negative: {config.updates_per_step}."),
        (config.imitation_weight < 0, f"imitation_weight must not be negative: {config.imitation_weight}."),
        (config.num_warmup_steps < 0, f"num_warmup_steps must not be negative: {config.num_warmup_steps}."),
        (
            not 0 <= low <= config.memory_weight <= high,
            f"memory_weight {config.memory_weight} must lie in memory_weight_bounds {low, high}, >= 0.",
        ),
        (
            config.target_ratio is not None and not 0 < config.target_ratio <= 1,
            f"target_ratio is a share of the full table, in (0, 1], not {config.target_ratio}.",
        ),
    )


def _env_runner_rules(config: Any) -> Rules:
    yield (
        not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2),
        "TD3 runs on RLlib's new API stack alone; leave api_stack() as it is.",
    )
    yield (
        not issubclass(config.env_runner_cls, TableEnvRunner),
        f"env_runner_cls must be TableEnvRunner or made from it, not {config.env_runner_cls}.",
    )
    yield (
        set(config.policies) != set(KINDS),
        f"policies must be {KINDS}, not {tuple(config.policies)}; leave multi_agent() as it is.",
    )
    yield not config.create_local_env_runner, "create_local_env_runner must stay True; RLlib needs it here."
    yield (
        config.num_envs_per_env_runner != 1,
        f"an env runner steps one table: num_envs_per_env_runner must be 1, not "
        f"{config.num_envs_per_env_runner}; raise num_env_runners to step several.",
    )
    # RLlib sets these itself for evaluation, where they mean nothing.
    yield (
        not config.in_evaluation
        and (config.rollout_fragment_length != 1 or config.batch_mode != "truncate_episodes"),
        "an iteration is one table step an env runner: rollout_fragment_length must be 1 and batch_mode "
        f"'truncate_episodes', not {config.rollout_fragment_length!r} and {config.batch_mode!r}; raise "
        "num_env_runners for more steps an iteration.",
    )
    for name in ("sample_timeout_s", "evaluation_sample_timeout_s"):
        yield (
            getattr(config, name) is not None,
            f"{name} must be None, not {getattr(config, name)}: a step that takes longer would be lost.",
        )
    yield (
        config.evaluation_duration == "auto",
        "evaluation_duration must be a number: 'auto' takes as many steps as the clock allows.",
    )
    yield (
        config.evaluation_duration_unit not in ("episodes", "timesteps"),
        "evaluation_duration_unit must be 'episodes' or 'timesteps', not "
        f"{config.evaluation_duration_unit!r}.",
    )
    yield (
        config.evaluation_parallel_to_training and config.evaluation_num_env_runners == 0,
        "evaluation_parallel_to_training needs an env runner beside the driver: set "
        "evaluation_num_env_runners to 1 or more.",
    )
    yield (
        isinstance(config.evaluation_config, Mapping) and bool(config.evaluation_config.get("explore")),
        "evaluation is of the actors alone: leave explore out of evaluation_config.",
    )


def _learner_rules(config: Any) -> Rules:
    defaults = AlgorithmConfig()
    for name, remedy in _UNUSED_FIELDS.items():
        is_set = getattr(config, name) != getattr(defaults, name)
        yield is_set, f"{name} is not used by TD3: {remedy}; leave {name} alone."
    yield config.framework_str != "torch", f"framework must be 'torch', not {config.framework_str!r}."
    yield config.num_learners > 1, "num_learners > 1 is not supported: the nets are small; use 0 or 1."
    yield (
        config.num_learners == 0 and config.num_gpus_per_learner > 0 and not torch.cuda.is_available(),
        f"num_gpus_per_learner is {config.num_gpus_per_learner} and the driver, which learns where "
        "num_learners is 0, has no GPU that PyTorch can use; set it to 0.",
    )
    yield (
        min(config.actor_lr, config.critic_lr) <= 0,
        f"actor_lr and critic_lr must be positive, not {config.actor_lr} and {config.critic_lr}.",
    )
    yield (
        min(config.target_noise, config.target_noise_clip) < 0,
        "target_noise and target_noise_clip must not be negative, but are "
        f"{config.target_noise} and {config.target_noise_clip}.",
    )
    batch_size = config.train_batch_size_per_learner
    yield batch_size < 1, f"train_batch_size_per_learner must be at least 1, not {batch_size}."
    yield (
        1 <= config.replay_buffer_capacity < batch_size,
        f"a replay_buffer_capacity of {config.replay_buffer_capacity} cannot fill a batch of {batch_size} "
        "transitions without repeating some: raise it, or lower train_batch_size_per_learner.",
    )
