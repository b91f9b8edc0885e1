"""Steps of the table that the actors take alone, on RLlib's evaluation workers."""

import itertools
from collections.abc import Iterable
from typing import Any

import ray
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, EVALUATION_RESULTS

from ciess_ray.td3.rollout import StepFailure, TableRollout
from envs.errors import ConfigError, TrainingError


def rollouts_of(sampled: Iterable[list[TableRollout | StepFailure]]) -> list[TableRollout]:
    """The steps that env runners have taken.

    Raises:
        TrainingError: The environment of one failed.
    """
    rollouts = []
    for rollout in itertools.chain.from_iterable(sampled):
        if isinstance(rollout, StepFailure):
            raise TrainingError(rollout.message)
        rollouts.append(rollout)
    return rollouts


def evaluate_greedily(algorithm: Any, env_runner_group: Any) -> tuple[dict[str, Any], int, int]:
    """``custom_evaluation_function`` of ``TD3Config``: fills ``algorithm.last_evaluation_steps``.

    RLlib's own evaluation drops the steps and keeps their metrics.

    Returns:
        No metrics, table steps taken, entities that acted.

    Raises:
        ConfigError: There are no env runners for evaluation.
        TrainingError: An environment failed.
    """
    if env_runner_group is None:
        raise ConfigError(
            "there is no env runner to evaluate on; set one up with TD3.get_default_config().evaluation("
            "evaluation_interval=...)."
        )
    config = algorithm.config
    is_local = env_runner_group.num_remote_workers() == 0
    indices = [0] if is_local else env_runner_group.healthy_worker_ids()
    if not indices:
        # All have died; the next evaluation may find them back.
        return {}, 0, 0
    shares = {
        index: config.evaluation_duration // len(indices) + (i < config.evaluation_duration % len(indices))
        for i, index in enumerate(indices)
    }
    unit = f"num_{config.evaluation_duration_unit}"
    weights, memory_weight = algorithm.policy_to_evaluate()

    def evaluate(runner: Any) -> tuple[list[TableRollout | StepFailure], Any]:
        state = ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights
        share = {unit: shares[runner.worker_index]}
        return runner.evaluate(state, memory_weight, **share), runner.get_metrics()

    sampled = env_runner_group.foreach_env_runner(
        evaluate,
        local_env_runner=is_local,
        remote_worker_ids=None if is_local else [index for index, share in shares.items() if share],
        timeout_seconds=config.evaluation_sample_timeout_s,
    )
    algorithm.metrics.aggregate(
        [metrics for _, metrics in sampled], key=(EVALUATION_RESULTS, ENV_RUNNER_RESULTS)
    )
    rollouts = rollouts_of(samples for samples, _ in sampled)
    rollouts.sort(key=lambda rollout: (rollout.step.worker_index, rollout.step.runner_step))
    algorithm.last_evaluation_steps = [rollout.step for rollout in rollouts]
    return {}, len(rollouts), sum(rollout.agent_steps() for rollout in rollouts)
