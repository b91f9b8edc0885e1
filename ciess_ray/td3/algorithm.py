"""TD3 on RLlib's new API stack, acting on whole embedding tables."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.from_config import NotProvided
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)

from ciess_ray import metric_keys
from ciess_ray.env_runner import KINDS, TableEnvRunner, TableRollout, TableStep
from ciess_ray.exploration import build_exploration
from ciess_ray.td3.learner import TD3TorchLearner
from ciess_ray.td3.module import TD3Module
from ciess_ray.td3.replay import ReplayBuffer
from envs.errors import ConfigError

__all__ = ["TD3", "TD3Config", "TableStep"]

COMPONENT_REPLAY_BUFFER = "replay_buffer"
COMPONENT_SEARCH = "search"
_REPLAY_STREAM = 1
_BATCH_COLUMNS = {
    "obs": Columns.OBS,
    "action": Columns.ACTIONS,
    "reward": Columns.REWARDS,
    "next_obs": Columns.NEXT_OBS,
    "terminated": Columns.TERMINATEDS,
}


def _mean(values: Iterable[float]) -> float:
    known = [float(value) for value in values]
    return sum(known) / len(known) if known else float("nan")


def _module_of_agent(agent_id: Any, episode: Any, **kwargs: Any) -> str:
    return str(agent_id)


class TD3Config(AlgorithmConfig):
    """Configuration of :class:`TD3`; the fields below are set with :meth:`training`.

    Networks and learning (CIESS, arXiv 2304.03501, section 3, unless said):
        hiddens: Widths of the hidden layers of actors and critics.
        actor_lr, critic_lr: Learning rates of Adam.
        gamma: Discount.
        tau: Share of the network that a target takes on at each of its updates.
        policy_delay: Critic updates to one of the actor; Fujimoto et al. 2018 section 5.2.
        target_noise, target_noise_clip: Target-policy smoothing, in action units; ibid. section 6.1.
        train_batch_size_per_learner: Transitions drawn for users, and as many for items, an update.
        replay_buffer_capacity: Transitions kept of users, and as many of items; 37 bytes each.
        updates_per_step: Updates an iteration. The paper makes 1; here 20, because a table step costs minutes
            and an update milliseconds (README.md).

    Exploration:
        exploration_spec: See :func:`ciess_ray.exploration.build_exploration`.
        num_warmup_steps: Table steps, over all env runners, with random table-level policies instead of the
            actors: :func:`envs.allocations.random_table_sizes`. None in the paper.

    Memory:
        memory_weight: λ, what a squared kept ratio of 1 costs in quality; the initial one under dual ascent.
            0.4 is the paper's for LightGCN on ML-1M.
        target_ratio: Kept ratio that the actors' own mean size is held to by dual ascent on λ; None keeps λ.
        memory_weight_lr: Change of λ an iteration where the mean size is twice the target or more.
        memory_weight_bounds: Smallest and largest λ.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or TD3)
        self.hiddens: tuple[int, ...] = (256, 256)
        self.actor_lr = 1e-3
        self.critic_lr = 3e-3
        self.gamma = 0.99
        self.tau = 0.005
        self.policy_delay = 2
        self.target_noise = 0.2
        self.target_noise_clip = 0.5
        self.train_batch_size_per_learner = 4096
        self.replay_buffer_capacity = 1_000_000
        self.updates_per_step = 20

        self.exploration_spec: Mapping[str, Any] = {
            "name": "random_walk",
            "noise": {"name": "gaussian", "sigma": 6.0},
            "num_steps": 5,
            "max_step": 5,
        }
        self.num_warmup_steps = 0

        self.memory_weight = 0.4
        self.target_ratio: float | None = None
        self.memory_weight_lr = 0.05
        self.memory_weight_bounds = (0.0, 10.0)

        self.debugging(seed=0)
        # A table step may take minutes; the default of 60 s would drop it.
        self.env_runners(env_runner_cls=TableEnvRunner, rollout_fragment_length=1, sample_timeout_s=None)
        # There are no connectors whose states could differ.
        self._dont_auto_sync_env_runner_states = True
        # A tuple: the order of a set, and with it the initial weights, would differ between processes.
        self.multi_agent(policies=KINDS, policy_mapping_fn=_module_of_agent)
        self.framework("torch")

    def training(
        self,
        *,
        hiddens: Any = NotProvided,
        actor_lr: Any = NotProvided,
        critic_lr: Any = NotProvided,
        tau: Any = NotProvided,
        policy_delay: Any = NotProvided,
        target_noise: Any = NotProvided,
        target_noise_clip: Any = NotProvided,
        replay_buffer_capacity: Any = NotProvided,
        updates_per_step: Any = NotProvided,
        exploration_spec: Any = NotProvided,
        num_warmup_steps: Any = NotProvided,
        memory_weight: Any = NotProvided,
        target_ratio: Any = NotProvided,
        memory_weight_lr: Any = NotProvided,
        memory_weight_bounds: Any = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets fields of the class, and by ``kwargs`` RLlib's: gamma, train_batch_size_per_learner."""
        given = {name: value for name, value in locals().items() if name in _FIELDS}
        super().training(**kwargs)
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def validate(self) -> None:
        """Refuses what cannot work, before anything is built.

        Raises:
            ConfigError: A field cannot work; the message says what to change.
        """
        super().validate()
        low, high = self.memory_weight_bounds
        for is_wrong, message in (
            (self.num_learners > 1, "num_learners > 1 is not supported: the nets are small; use 0 or 1."),
            (self.grad_clip is not None, "grad_clip is not applied by this learner; leave it None."),
            (self.seed is None, "seed must be a whole number: every draw depends on it."),
            (
                not self.create_local_env_runner,
                "create_local_env_runner must stay True; RLlib needs it here.",
            ),
            (not self.hiddens, "hiddens needs at least one width, e.g. (256, 256)."),
            (self.policy_delay < 1, f"policy_delay must be at least 1, not {self.policy_delay}."),
            (not 0 < self.tau <= 1, f"tau must lie in (0, 1], not {self.tau}."),
            (
                not 0 <= self.gamma < 1,
                f"gamma must lie in [0, 1), not {self.gamma}: episodes never terminate.",
            ),
            (self.updates_per_step < 0, f"updates_per_step must not be negative: {self.updates_per_step}."),
            (self.num_warmup_steps < 0, f"num_warmup_steps must not be negative: {self.num_warmup_steps}."),
            (self.train_batch_size_per_learner < 1, "train_batch_size_per_learner must be at least 1."),
            (
                not 0 <= low <= self.memory_weight <= high,
                f"memory_weight {self.memory_weight} must lie in memory_weight_bounds {low, high}, >= 0.",
            ),
            (
                self.target_ratio is not None and not 0 < self.target_ratio <= 1,
                f"target_ratio is a share of the full table, in (0, 1], not {self.target_ratio}.",
            ),
        ):
            if is_wrong:
                raise ConfigError(message)
        ReplayBuffer(self.replay_buffer_capacity, 0)
        build_exploration(self.exploration_spec, 1, 2)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Networks of users and of items; the env runner adds the sizes its environment knows."""
        return RLModuleSpec(
            module_class=TD3Module,
            model_config={"hiddens": tuple(self.hiddens), "exploration": dict(self.exploration_spec)},
        )

    def get_default_learner_class(self) -> type[TD3TorchLearner]:
        """The learner."""
        return TD3TorchLearner


_FIELDS = frozenset(TD3Config.training.__kwdefaults__ or ())


class CheckpointableReplayBuffer(ReplayBuffer, Checkpointable):
    """What RLlib asks of a component of a checkpoint."""

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """See :meth:`ReplayBuffer.get_state`."""
        return super().get_state()

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A buffer that :meth:`set_state` fills, capacity and seed included."""
        return (1, 0), {}


class TD3(Algorithm):
    """One iteration: a table step an env runner, the replay buffer, λ, ``updates_per_step`` updates, weights.

    Attributes:
        last_steps: The table steps of the last iteration, by worker index; empty where every runner failed.
        memory_weight: λ as it stands.
        num_table_steps: Table steps so far.
        num_updates: Updates so far.
    """

    # RLlib declares these optional, or as their base classes.
    config: Any
    metrics: Any
    env_runner_group: Any
    learner_group: Any

    @classmethod
    def get_default_config(cls) -> TD3Config:
        """The defaults."""
        return TD3Config()

    def setup(self, config: Any) -> None:
        """Called once by RLlib."""
        self.last_steps: list[TableStep] = []
        self.num_table_steps = self.num_updates = 0
        self.memory_weight = 0.0
        self._runner_progress: dict[int, dict[str, Any]] = {}
        super().setup(config)
        self.memory_weight = float(self.config.memory_weight)
        seed = int(np.random.SeedSequence((self.config.seed, _REPLAY_STREAM)).generate_state(1)[0])
        self.replay_buffer = CheckpointableReplayBuffer(self.config.replay_buffer_capacity, seed, KINDS)

    def training_step(self) -> None:
        """See the class."""
        sampled: Any = synchronous_parallel_sample(
            worker_set=self.env_runner_group,
            concat=True,
            sample_timeout_s=self.config.sample_timeout_s,
            _uses_new_env_runners=True,
            _return_metrics=True,
        )
        rollouts, results = sampled
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        rollouts.sort(key=lambda rollout: (rollout.step.worker_index, rollout.step.runner_step))
        self.last_steps = [rollout.step for rollout in rollouts]
        if not rollouts:
            return
        self._remember(rollouts)
        self._ascend()
        self._learn()
        self._log()

    def greedy_policy(self, kind: str) -> TD3Module:
        """Actor and critic 1 of users or of items, as the learner left them after the last iteration."""
        module: TD3Module = self.env_runner.module[kind]
        return module

    def _remember(self, rollouts: list[TableRollout]) -> None:
        for rollout in rollouts:
            self.replay_buffer.add(rollout.transitions)
            step = rollout.step
            self._runner_progress[step.worker_index] = {
                "worker_index": step.worker_index,
                "num_steps": step.runner_step + 1,
                "num_resets": step.episode + 1,
                "episode_step": 0,
                "memory_weight": self.memory_weight,
                "env": None,
            }
        self.num_table_steps += len(rollouts)

    def _ascend(self) -> None:
        """Dual ascent: λ rises while the actors ask for more than the target, and falls while for less.

        The actors' own mean is used, since noise near d_min pushes the explored mean up. Warm-up steps tell
        nothing about the actors' choice of size and leave λ alone.
        """
        ratios = [step.greedy_ratio for step in self.last_steps if not step.is_warmup]
        if self.config.target_ratio is None or not ratios:
            return
        # Bounded to both sides alike: before λ has worked, actors may ask for ten times the target.
        excess = min(_mean(ratios) / self.config.target_ratio - 1.0, 1.0)
        low, high = self.config.memory_weight_bounds
        ascended = self.memory_weight + self.config.memory_weight_lr * excess
        self.memory_weight = float(min(max(ascended, low), high))
        self._push_memory_weight()

    def _push_memory_weight(self) -> None:
        memory_weight = self.memory_weight
        self.env_runner_group.foreach_env_runner(lambda runner: runner.set_memory_weight(memory_weight))

    def _learn(self) -> None:
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_table_steps}
        batch_size = self.config.train_batch_size_per_learner
        sample_batch: Any = SampleBatch
        for _ in range(self.config.updates_per_step if len(self.replay_buffer) else 0):
            drawn = self.replay_buffer.sample(batch_size, self.memory_weight)
            batch = MultiAgentBatch(
                {
                    kind: sample_batch({_BATCH_COLUMNS[name]: column for name, column in columns.items()})
                    for kind, columns in drawn.items()
                },
                env_steps=batch_size,
            )
            results = self.learner_group.update(batch=batch, timesteps=timesteps)
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
            self.num_updates += 1
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, policies=list(KINDS), inference_only=True
        )

    def _log(self) -> None:
        values = {
            metric_keys.KEPT_RATIO: _mean(step.info["kept_ratio"] for step in self.last_steps),
            metric_keys.PROPOSED_RATIO: _mean(step.info["proposed_ratio"] for step in self.last_steps),
            metric_keys.GREEDY_RATIO: _mean(step.greedy_ratio for step in self.last_steps),
            metric_keys.QUALITY: _mean(step.info["quality"] for step in self.last_steps),
            metric_keys.REWARD: _mean(step.reward for step in self.last_steps),
            metric_keys.MEMORY_WEIGHT: self.memory_weight,
            metric_keys.NUM_TABLE_STEPS: self.num_table_steps,
            metric_keys.NUM_UPDATES: self.num_updates,
        }
        for key in (metric_keys.CRITIC_LOSS, metric_keys.ACTOR_LOSS, metric_keys.CRITIC_VALUE):
            # RLlib takes a default of None for none given.
            latest = [self.metrics.peek((LEARNER_RESULTS, kind, key), default=np.nan) for kind in KINDS]
            values[key] = _mean(value for value in latest if not np.isnan(value))
        for key, value in values.items():
            self.metrics.log_value(key, value, window=1)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Gives a runner that was started anew its counters and λ, so that it repeats no draw."""
        restored: list[int] = super().restore_env_runners(env_runner_group)
        if restored and env_runner_group is self.env_runner_group:
            known = {
                index: {**self._runner_progress[index], "memory_weight": self.memory_weight}
                for index in restored
                if index in self._runner_progress
            }
            self._push_progress(known, restored)
        return restored

    def _push_progress(self, progress: dict[int, dict[str, Any]], indices: list[int] | None = None) -> None:
        def push(runner: Any) -> None:
            if runner.worker_index in progress:
                runner.set_progress(progress[runner.worker_index])

        self.env_runner_group.foreach_env_runner(
            push, remote_worker_ids=indices, local_env_runner=indices is None
        )

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Adds the replay buffer, λ, and the progress of every env runner with its environment's state."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(COMPONENT_REPLAY_BUFFER, components, not_components):
            state[COMPONENT_REPLAY_BUFFER] = self.replay_buffer.get_state()
        if self._check_component(COMPONENT_SEARCH, components, not_components):
            progress = self.env_runner_group.foreach_env_runner(lambda runner: runner.get_progress())
            state[COMPONENT_SEARCH] = {
                "memory_weight": self.memory_weight,
                "num_table_steps": self.num_table_steps,
                "num_updates": self.num_updates,
                "runner_progress": {entry["worker_index"]: entry for entry in progress},
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`get_state` returned; into an algorithm that has not trained yet."""
        super().set_state(state)
        if COMPONENT_REPLAY_BUFFER in state:
            self.replay_buffer.set_state(state[COMPONENT_REPLAY_BUFFER])
        if COMPONENT_SEARCH in state:
            search = state[COMPONENT_SEARCH]
            self.memory_weight = search["memory_weight"]
            self.num_table_steps, self.num_updates = search["num_table_steps"], search["num_updates"]
            self._runner_progress = search["runner_progress"]
            self._push_progress(self._runner_progress)
            self._push_memory_weight()

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """Adds the replay buffer, which RLlib leaves out."""
        components: list[tuple[str, Any]] = super().get_checkpointable_components()
        return [*components, (COMPONENT_REPLAY_BUFFER, self.replay_buffer)]
