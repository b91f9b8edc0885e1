"""The Ray actor that steps a whole embedding table and hands back columns of entity transitions."""

import logging
from collections.abc import Collection
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.columns import Columns
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    WEIGHTS_SEQ_NO,
)
from ray.tune.registry import ENV_CREATOR, _global_registry

from ciess_ray.streams import Stream, key_of
from ciess_ray.td3.exploration import seeded_generator
from ciess_ray.td3.module import PROTO_ACTIONS, WALK_GAINS
from ciess_ray.td3.rollout import Arrays, PopularityDeciles, StepFailure, TableRollout, TableStep
from ciess_ray.td3.warmup import SPREAD, Policy
from envs import mdp
from envs.errors import ConfigError
from envs.mdp import KINDS
from envs.sizes.by_popularity import draw_policy, table_sizes

logger = logging.getLogger(__name__)

#: Parts of the warm-up's stream; in part 0 the search draws its policies.
_NOISE_PART, _RANDOM_PART = 1, 2


class TableEnvRunner(EnvRunner, Checkpointable):
    """Steps one environment that follows the contract of ``EmbeddingSizeEnv``, all entities at once.

    Every draw depends on (seed, worker index, counter), so there is no generator to checkpoint. Built by
    RLlib from ``config``: ``env`` is a Gymnasium id that starts with ``CIESS/`` or a name registered with
    Tune, and object references among the values of ``env_config`` are fetched before the environment is
    built.
    """

    # RLlib declares the base class of each, or None.
    config: Any
    env: Any

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.worker_index = self.worker_index or 0
        self.spaces = kwargs.get("spaces")
        self.memory_weight = float(self.config.memory_weight)
        self.module: Any = None
        self._weights_seq_no = 0
        self._num_steps = 0
        self._num_resets = 0
        self._episode_step = 0
        self._obs: dict[str, NDArray[np.float32]] | None = None
        self._deciles: dict[str, PopularityDeciles] = {}
        if self.worker_index > 0:
            torch.set_num_threads(max(int(self.config.num_cpus_per_env_runner), 1))
        self.make_env()
        self.make_module()

    def make_env(self) -> None:
        """Builds the environment, anew where there is one; a runner that never samples has none."""
        if self.env is not None:
            self.env.close()
            self.env = None
        self._obs = None
        is_idle = self.worker_index == 0 and self.config.num_env_runners > 0
        if is_idle and not self.config.create_env_on_local_worker:
            return
        name = self.config.env
        registry: Any = _global_registry
        arguments = {
            key: ray.get(value) if isinstance(value, ray.ObjectRef) else value
            for key, value in self.config.env_config.items()
        }
        if isinstance(name, str) and registry.contains(ENV_CREATOR, name):
            context = EnvContext(arguments, self.worker_index, num_workers=self.num_workers)
            self.env = registry.get(ENV_CREATOR, name)(context)
        elif isinstance(name, str):
            # Its order-enforcing wrapper would refuse to step an episode that a checkpoint restored.
            self.env = gym.make(name, disable_env_checker=True, **arguments).unwrapped
        else:
            raise ConfigError(f"environment must be a registered name, not {name!r}.")
        self._table.memory_weight = self.memory_weight

    def make_module(self) -> None:
        """Builds both policies, without what only the learner needs."""
        spec = self.config.get_multi_rl_module_spec(env=None, spaces=self.get_spaces(), inference_only=True)
        if self.env is not None:
            for module_spec in spec.rl_module_specs.values():
                module_spec.model_config = {
                    **module_spec.model_config,
                    "min_embedding_size": self._table.min_embedding_size,
                    "max_embedding_size": self._table.max_embedding_size,
                }
        self.module = spec.build()

    def get_spaces(self) -> Any:
        """Spaces of one entity, for users and for items."""
        if self.env is None and self.spaces is not None:
            return self.spaces
        obs = gym.spaces.Box(-1.0, 1.0, (mdp.NUM_STATE_FEATURES,), np.float32)
        action = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        return {kind: (obs, action) for kind in KINDS}

    def assert_healthy(self) -> None:
        """Raises AssertionError where the constructor did not finish."""
        assert self.module is not None

    def stop(self) -> None:
        """Closes the environment."""
        if self.env is not None:
            self.env.close()

    def set_memory_weight(self, memory_weight: float) -> None:
        """The λ of the steps to come; it enters the rewards reported, not the transitions."""
        self.memory_weight = memory_weight
        if self.env is not None:
            self._table.memory_weight = memory_weight

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
        policy: Policy | None = None,
        **kwargs: Any,
    ) -> list[TableRollout | StepFailure]:
        """Steps the table.

        Args:
            num_timesteps: Table steps to take; ``rollout_fragment_length`` where neither number is given.
            num_episodes: Episodes to finish instead.
            explore: Explore, or act greedily; ``config.explore`` where not given.
            random_actions: Act with random policies of the whole table.
            force_reset: Start a new episode first.
            policy: That of the warm-up, which takes the first step in the actors' place.
            **kwargs: RLlib's forward compatibility.

        Returns:
            The steps taken; a :class:`StepFailure` is the last where the environment failed twice at a step.
        """
        explore = bool(self.config.explore if explore is None else explore)
        if num_timesteps is None and num_episodes is None:
            num_timesteps = int(self.config.rollout_fragment_length)
        if force_reset:
            self._obs = None
        rollouts: list[TableRollout | StepFailure] = []
        num_ended = 0
        while (num_timesteps is not None and len(rollouts) < num_timesteps) or (
            num_episodes is not None and num_ended < num_episodes
        ):
            if policy is None and random_actions:
                policy = {kind: draw_policy(self._rng(_RANDOM_PART)) for kind in KINDS}
            rollout, has_ended = self._step(explore, policy)
            policy = None
            rollouts.append(rollout)
            num_ended += has_ended
            if isinstance(rollout, StepFailure):
                break
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, len(rollouts), reduce="sum")
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, len(rollouts), reduce="lifetime_sum")
        self.metrics.log_value(NUM_EPISODES, num_ended, reduce="sum")
        return rollouts

    def evaluate(
        self,
        weights: dict[str, Any],
        memory_weight: float,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
    ) -> list[TableRollout | StepFailure]:
        """Steps of new episodes that the actors take alone; for a runner that does nothing else.

        Every evaluation makes the same draws, so that two of them differ by their weights.

        Args:
            weights: States of both policies.
            memory_weight: λ.
            num_timesteps: Table steps to take.
            num_episodes: Episodes to finish instead.

        Returns:
            See :meth:`sample`.
        """
        self.module.set_state(weights)
        self.set_memory_weight(memory_weight)
        self._num_steps = self._num_resets = 0
        return self.sample(
            num_timesteps=num_timesteps, num_episodes=num_episodes, explore=False, force_reset=True
        )

    def get_metrics(self) -> Any:
        """What was logged since the last call."""
        return self.metrics.reduce()

    @property
    def _table(self) -> Any:
        return self.env.unwrapped

    def _key(self, stream: Stream, counter: int, part: int = 0) -> tuple[int, ...]:
        # Evaluation has a worker 0 of its own, which must not repeat the training worker's draws.
        if self.config.in_evaluation:
            stream = Stream[f"EVALUATION_{stream.name}"]
        return key_of(int(self.config.seed), stream, self.worker_index, counter, part=part)

    def _reset(self) -> None:
        seed = int(np.random.SeedSequence(self._key(Stream.RESET, self._num_resets)).generate_state(1)[0])
        self._obs, _ = self.env.reset(seed=seed)
        self._num_resets += 1
        self._episode_step = 0
        for kind in KINDS:
            if self.module[kind].exploration is not None:
                self.module[kind].exploration.reset()

    def _step(self, explore: bool, policy: Policy | None) -> tuple[TableRollout | StepFailure, bool]:
        if self._obs is None:
            self._reset()
        obs = self._obs
        assert obs is not None
        actions, proto_actions, walk_gain = self._act(obs, explore, policy)
        result = self._try_step(actions)
        if isinstance(result, StepFailure):
            self._obs = None
            return result, False
        next_obs, reward, terminated, truncated, info = result
        transitions = {
            kind: {
                "obs": obs[kind],
                # Under a budget the sizes executed earn the quality, not the ones asked for.
                "action": info[kind].get("action", actions[kind]),
                "quality": np.asarray(info[kind]["quality"], np.float32),
                "memory_cost": np.asarray(info[kind]["memory_cost"], np.float32),
                "next_obs": next_obs[kind],
                "terminated": np.full(len(actions[kind]), terminated),
            }
            for kind in KINDS
        }
        step = TableStep.of(
            obs,
            info,
            proto_actions,
            (self._table.min_embedding_size, self._table.max_embedding_size),
            self._deciles,
            reward=float(reward),
            walk_gain=walk_gain,
            memory_weight=self.memory_weight,
            is_warmup=policy is not None,
            worker_index=self.worker_index,
            episode=self._num_resets - 1,
            step=self._episode_step,
            runner_step=self._num_steps,
        )
        rollout = TableRollout(step, transitions)
        self._num_steps += 1
        self._episode_step += 1
        has_ended = bool(terminated or truncated)
        self._obs = None if has_ended else next_obs
        return rollout, has_ended

    def _try_step(self, actions: Arrays) -> Any | StepFailure:
        """One step, taken once more from the same state where it fails."""
        before = self._table.get_state() if hasattr(self._table, "get_state") else None
        try:
            return self.env.step(actions)
        except Exception as error:
            logger.warning("env runner %s takes its step again: %r", self.worker_index, error)
        try:
            if before is not None:
                self._table.set_state(before)
            return self.env.step(actions)
        except Exception as error:
            return StepFailure(self.worker_index, self._num_resets - 1, self._episode_step, error)

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng(self._key(Stream.WARMUP, self._num_steps, part))

    def _act(self, obs: Arrays, explore: bool, policy: Policy | None) -> tuple[Arrays, Arrays, float]:
        """Actions, what the actors alone would do, and the walk's gain.

        Args:
            obs: What the actors see.
            explore: Whether they explore.
            policy: That of the warm-up, which acts in their place; None for none.
        """
        bounds = self._table.min_embedding_size, self._table.max_embedding_size
        noise = self._rng(_NOISE_PART)
        generator = seeded_generator(*self._key(Stream.EXPLORATION, self._num_steps))
        actions, proto_actions, walk_gains = {}, {}, []
        for kind in KINDS:
            batch = {Columns.OBS: torch.from_numpy(obs[kind])}
            if explore and policy is None:
                output = self.module[kind].forward_exploration(batch, generator=generator)
            else:
                output = self.module[kind].forward_inference(batch)
            actions[kind] = output[Columns.ACTIONS].numpy()
            proto_actions[kind] = output[PROTO_ACTIONS].numpy()
            walk_gains.append(output[WALK_GAINS].numpy())
            if policy is not None:
                sizes = table_sizes(
                    policy[kind], obs[kind][:, 0], noise, *bounds, self.config.target_ratio, SPREAD
                )
                actions[kind] = mdp.scale_size(sizes, *bounds)
        return actions, proto_actions, float(np.concatenate(walk_gains).mean())

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Weights, counters, the episode under way; see :meth:`get_progress` for the last two."""
        state: dict[str, Any] = {}
        subcomponents: Any = self._get_subcomponents
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(
                components=subcomponents(COMPONENT_RL_MODULE, components),
                not_components=subcomponents(COMPONENT_RL_MODULE, not_components),
                **kwargs,
            )
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        if self._check_component("progress", components, not_components):
            state["progress"] = self.get_progress()
        return state

    def set_state(self, state: Any) -> None:
        """Takes up weights that are newer than its own, and its own progress, never another runner's."""
        if isinstance(state, ray.ObjectRef):
            state = ray.get(state)
        if COMPONENT_RL_MODULE in state:
            weights_seq_no = state.get(WEIGHTS_SEQ_NO, 0)
            if weights_seq_no == 0 or self._weights_seq_no < weights_seq_no:
                weights = state[COMPONENT_RL_MODULE]
                self.module.set_state(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
            if weights_seq_no > 0:
                self._weights_seq_no = weights_seq_no
        if state.get("progress", {}).get("worker_index") == self.worker_index:
            self.set_progress(state["progress"])

    def get_progress(self) -> dict[str, Any]:
        """Counters and the episode under way, from which a runner of the same index goes on exactly."""
        can_snapshot = self.env is not None and hasattr(self._table, "get_state")
        return {
            "worker_index": self.worker_index,
            "num_steps": self._num_steps,
            "num_resets": self._num_resets,
            "episode_step": self._episode_step,
            "memory_weight": self.memory_weight,
            "obs": self._obs,
            "env": self._table.get_state() if can_snapshot and self._obs is not None else None,
            "exploration": {
                kind: self.module[kind].exploration.get_state()
                for kind in KINDS
                if self.module[kind].exploration is not None
            },
        }

    def set_progress(self, progress: dict[str, Any]) -> None:
        """Takes up what :meth:`get_progress` returned; without an environment's state, at a new episode."""
        self._num_steps = progress["num_steps"]
        self._num_resets = progress["num_resets"]
        self._episode_step = progress["episode_step"]
        self._obs = None
        if self.env is not None and progress["env"] is not None:
            self._table.set_state(progress["env"])
            self._obs = progress["obs"]
            for kind, state in progress["exploration"].items():
                self.module[kind].exploration.set_state(state)
        self.set_memory_weight(progress["memory_weight"])

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What RLlib needs to build the runner again."""
        return (), {"config": self.config, "worker_index": self.worker_index}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """The policies."""
        return [(COMPONENT_RL_MODULE, self.module)]
