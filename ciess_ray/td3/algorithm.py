"""TD3 on RLlib's new API stack, acting on whole embedding tables."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.columns import Columns
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import LEARNER_RESULTS

from ciess_ray import metric_keys
from ciess_ray.streams import Stream, seed_of
from ciess_ray.td3.config import TD3Config
from ciess_ray.td3.env_runner import NO_PROGRESS
from ciess_ray.td3.replay import BestTable, ReplayBuffer
from ciess_ray.td3.rollout import TableRollout, TableStep, rollouts_of
from ciess_ray.td3.warmup import WarmUp
from envs.errors import ConfigError
from envs.mdp import KINDS

#: Parts of a checkpoint, beside those of RLlib.
_REPLAY_BUFFER, _SEARCH = "replay_buffer", "search"
# Far below any λ that matters where quality is at most 1; above it λ moves by factors, below it by sums.
_MEMORY_WEIGHT_OFFSET = 0.01
_BATCH_COLUMNS = {
    "obs": Columns.OBS,
    "action": Columns.ACTIONS,
    "reward": Columns.REWARDS,
    "next_obs": Columns.NEXT_OBS,
    "terminated": Columns.TERMINATEDS,
}
_LEARNER_KEYS = (
    metric_keys.CRITIC_LOSS,
    metric_keys.ACTOR_LOSS,
    metric_keys.CRITIC_1_VALUE,
    metric_keys.CRITIC_2_VALUE,
    metric_keys.TD_ERROR,
)


def _mean(values: Iterable[float]) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else float("nan")


def mean_metrics(steps: Sequence[TableStep]) -> dict[str, float]:
    """Means of what is told of steps; nothing where there are none."""
    each = [step.metrics() for step in steps]
    return {key: _mean(metrics[key] for metrics in each) for key in each[0]} if each else {}


class TD3(Algorithm):
    """One iteration: a table step an env runner, replay buffers, λ, ``updates_per_step`` updates, weights.

    Attributes:
        last_steps: The table steps of the last iteration, by worker index; empty where every runner failed.
        last_evaluation_steps: The table steps of the evaluation in the last iteration, by worker index; empty
            where there was none.
        memory_weight: λ as it stands.
        num_table_steps: Table steps so far.
        num_updates: Updates so far.
        replay_buffers: The transitions of users, and those of items.
    """

    # RLlib declares these optional, or as their base classes.
    config: Any
    metrics: Any
    env_runner_group: Any
    eval_env_runner_group: Any
    learner_group: Any

    @classmethod
    def get_default_config(cls) -> TD3Config:
        """The defaults."""
        return TD3Config(cls)

    def setup(self, config: Any) -> None:
        """Called once by RLlib."""
        self.last_steps: list[TableStep] = []
        self.last_evaluation_steps: list[TableStep] = []
        self.num_table_steps = self.num_updates = 0
        self._runner_progress: dict[int, dict[str, Any]] = {}
        super().setup(config)
        self.memory_weight = float(self.config.memory_weight)
        seed = seed_of(self.config.seed, Stream.REPLAY)
        self.replay_buffers = {
            kind: ReplayBuffer(
                self.config.replay_buffer_capacity,
                int(np.random.SeedSequence((seed, index)).generate_state(1)[0]),
            )
            for index, kind in enumerate(KINDS)
        }
        self._best_table = BestTable(seed_of(self.config.seed, Stream.IMITATION))
        self._warmup = WarmUp(self.config.num_warmup_steps, self.config.seed)

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Means over table steps of new episodes that the actors take alone, on the driver.

        RLlib's own evaluation drops the steps and keeps their metrics.

        Raises:
            ConfigError: There is no env runner for evaluation.
            TrainingError: The environment failed.
        """
        if self.eval_env_runner is None:
            raise ConfigError(
                "there is no env runner to evaluate on; set one up with TD3.get_default_config().evaluation("
                "evaluation_interval=...)."
            )
        self.eval_env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, inference_only=True
        )
        # Every evaluation makes the same draws, so that two of them differ by their weights.
        self.eval_env_runner.set_progress(NO_PROGRESS)
        sampled = self.eval_env_runner.sample(
            **{f"num_{self.config.evaluation_duration_unit}": self.config.evaluation_duration},
            explore=False,
            memory_weight=self.memory_weight,
        )
        self.last_evaluation_steps = [rollout.step for rollout in rollouts_of([sampled])]
        return mean_metrics(self.last_evaluation_steps)

    def training_step(self) -> None:
        """See the class."""
        self.last_evaluation_steps = []
        group, memory_weight = self.env_runner_group, self.memory_weight
        with self.metrics.log_time(metric_keys.SAMPLE_S, reduce="mean", window=1):
            is_local = group.num_remote_workers() == 0
            dealt = self._warmup.deal([0] if is_local else group.healthy_worker_ids())
            sampled: Any = group.foreach_env_runner(
                lambda runner: runner.sample(
                    policy=dealt.get(runner.worker_index), memory_weight=memory_weight
                ),
                local_env_runner=is_local,
                timeout_seconds=self.config.sample_timeout_s,
            )
        rollouts = rollouts_of(sampled)
        self.last_steps = [rollout.step for rollout in rollouts]
        self._warmup.settle(dealt, {step.worker_index: step.quality for step in self.last_steps})
        if not rollouts:
            return
        self._remember(rollouts)
        self._ascend()
        with self.metrics.log_time(metric_keys.LEARN_S, reduce="mean", window=1):
            self._learn()
        with self.metrics.log_time(metric_keys.SYNC_WEIGHTS_S, reduce="mean", window=1):
            group.sync_weights(
                from_worker_or_learner_group=self.learner_group, policies=list(KINDS), inference_only=True
            )
        self._log()

    def _remember(self, rollouts: list[TableRollout]) -> None:
        for rollout in rollouts:
            for kind, replay_buffer in self.replay_buffers.items():
                replay_buffer.add(rollout.transitions[kind])
            self._best_table.tell(rollout)
            step = rollout.step
            self._runner_progress[step.worker_index] = NO_PROGRESS | {
                "num_steps": step.runner_step + 1,
                "num_resets": step.episode + 1,
            }
        self.num_table_steps += len(rollouts)

    def _ascend(self) -> None:
        """Dual ascent: λ ← (λ + c) (mean size / target size)^lr - c, within its bounds; c is 0.01.

        In ln λ the steps suit any λ: where quality falls by κ (d / d_max - s)² off its best size s, the mean
        size goes with κ / (κ + λ), so that ln λ moves its logarithm by -λ / (κ + λ), between -1 and 0 for any
        κ. c lets λ leave 0, and come back to it.

        The actors' own mean is used, since noise near d_min pushes the explored mean up. Warm-up steps tell
        nothing about the actors' choice of size and leave λ alone.
        """
        ratios = [step.greedy_ratio for step in self.last_steps if not step.is_warmup]
        if self.config.target_ratio is None or not ratios:
            return
        factor = (_mean(ratios) / self.config.target_ratio) ** self.config.memory_weight_lr
        ascended = (self.memory_weight + _MEMORY_WEIGHT_OFFSET) * factor - _MEMORY_WEIGHT_OFFSET
        low, high = self.config.memory_weight_bounds
        self.memory_weight = float(min(max(ascended, low), high))

    def _learn(self) -> None:
        batch_size = self.config.train_batch_size_per_learner
        sample_batch: Any = SampleBatch
        # A kind whose entities all lack a quality has no transitions, and no batch.
        filled = {kind: replay_buffer for kind, replay_buffer in self.replay_buffers.items() if replay_buffer}
        num_iterations = math.ceil(self.num_table_steps / max(self.config.num_env_runners, 1))
        is_learning = filled and num_iterations > self.config.num_idle_iterations
        for _ in range(self.config.updates_per_step if is_learning else 0):
            drawn = {
                kind: replay_buffer.sample(batch_size, self.memory_weight)
                for kind, replay_buffer in filled.items()
            }
            if self.config.imitation_weight:
                self._best_table.add_to(drawn)
            batch = MultiAgentBatch(
                {
                    kind: sample_batch(
                        {_BATCH_COLUMNS.get(name, name): column for name, column in columns.items()}
                    )
                    for kind, columns in drawn.items()
                },
                env_steps=batch_size,
            )
            results = self.learner_group.update(batch=batch)
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
            self.num_updates += 1

    def _log(self) -> None:
        values = {
            **mean_metrics(self.last_steps),
            metric_keys.MEMORY_WEIGHT: self.memory_weight,
            metric_keys.NUM_TABLE_STEPS: self.num_table_steps,
            metric_keys.NUM_UPDATES: self.num_updates,
        }
        for key in _LEARNER_KEYS:
            # RLlib takes a default of None for none given.
            latest = [self.metrics.peek((LEARNER_RESULTS, kind, key), default=np.nan) for kind in KINDS]
            values[key] = _mean(value for value in latest if not np.isnan(value))
        for key, value in values.items():
            self.metrics.log_value(key, value, window=1)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Gives a runner that was started anew its counters, so that it repeats no draw."""
        restored: list[int] = super().restore_env_runners(env_runner_group)
        if restored and env_runner_group is self.env_runner_group:
            self._push_progress(restored)
        return restored

    def _push_progress(self, indices: list[int] | None = None) -> None:
        progress = self._runner_progress
        self.env_runner_group.foreach_env_runner(
            lambda runner: runner.set_progress(progress.get(runner.worker_index, NO_PROGRESS)),
            remote_worker_ids=indices,
            local_env_runner=indices is None,
        )

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Adds the replay buffers, λ, warm-up, progress of every env runner with its environment's state."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(_SEARCH, components, not_components):
            progress = self.env_runner_group.foreach_env_runner(
                lambda runner: (runner.worker_index, runner.get_progress())
            )
            state[_REPLAY_BUFFER] = {kind: each.get_state() for kind, each in self.replay_buffers.items()}
            state[_SEARCH] = {
                "memory_weight": self.memory_weight,
                "num_table_steps": self.num_table_steps,
                "num_updates": self.num_updates,
                "runner_progress": dict(progress),
                "best_table": self._best_table.get_state(),
                "warmup": self._warmup.get_state(),
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`get_state` returned; into an algorithm that has not trained yet."""
        super().set_state(state)
        if _SEARCH in state:
            search = state[_SEARCH]
            for kind, replay_buffer in self.replay_buffers.items():
                replay_buffer.set_state(state[_REPLAY_BUFFER][kind])
            self.memory_weight = search["memory_weight"]
            self.num_table_steps, self.num_updates = search["num_table_steps"], search["num_updates"]
            self._runner_progress = search["runner_progress"]
            self._best_table.set_state(search["best_table"])
            self._warmup.set_state(search["warmup"])
            self._push_progress()
