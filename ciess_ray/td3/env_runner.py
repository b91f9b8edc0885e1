"""The Ray actor that steps a whole embedding table and hands back columns of entity transitions."""

import logging
from collections.abc import Collection
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.tune.registry import ENV_CREATOR, _global_registry

from ciess_ray.streams import Stream, key_of
from ciess_ray.td3.exploration import build_exploration, seeded_generator
from ciess_ray.td3.rollout import Arrays, Sampled, TableRollout, TableStep
from ciess_ray.td3.warmup import SPREAD, Policy
from envs import mdp
from envs.errors import TrainingError
from envs.mdp import KINDS
from envs.sizes.by_popularity import table_sizes

logger = logging.getLogger(__name__)

#: Part of the warm-up's stream; in part 0 the search draws its policies.
_NOISE_PART = 1
#: That of an env runner that has taken no step, see :meth:`TableEnvRunner.get_progress`.
NO_PROGRESS: dict[str, Any] = {"num_steps": 0, "num_resets": 0, "episode_step": 0, "obs": None, "env": None}


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
    _obs: Arrays | None

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.worker_index = self.worker_index or 0
        self.memory_weight = float(self.config.memory_weight)
        self.module: Any = None
        if self.worker_index > 0:
            torch.set_num_threads(max(int(self.config.num_cpus_per_env_runner), 1))
        self.make_env()
        self.make_module()
        self.set_progress(NO_PROGRESS)

    def make_env(self) -> None:
        """Builds the environment; a runner that never samples has none."""
        is_idle = self.worker_index == 0 and self.config.num_env_runners > 0
        if is_idle and not self.config.create_env_on_local_worker:
            return
        name = self.config.env
        registry: Any = _global_registry
        arguments = {key: _fetched(value) for key, value in self.config.env_config.items()}
        if registry.contains(ENV_CREATOR, name):
            context = EnvContext(arguments, self.worker_index, num_workers=self.num_workers)
            self.env = registry.get(ENV_CREATOR, name)(context)
        else:
            # Its order-enforcing wrapper would refuse to step an episode that a checkpoint restored.
            self.env = gym.make(name, disable_env_checker=True, **arguments).unwrapped

    def make_module(self) -> None:
        """Builds both policies, without what only the learner needs, and what explores."""
        spec = self.config.get_multi_rl_module_spec(env=None, spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()
        if self.env is not None:
            self.exploration = build_exploration(self.config.exploration_spec, *self._bounds)

    def get_spaces(self) -> Any:
        """Spaces of one entity, for users and for items."""
        obs = gym.spaces.Box(-1.0, 1.0, (mdp.NUM_STATE_FEATURES,), np.float32)
        action = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        return {kind: (obs, action) for kind in KINDS}

    def assert_healthy(self) -> None:
        """Raises AssertionError where the constructor did not finish."""
        assert self.module is not None

    def sample(
        self,
        *,
        num_timesteps: int = 1,
        num_episodes: int | None = None,
        explore: bool | None = None,
        force_reset: bool = False,
        policy: Policy | None = None,
        memory_weight: float | None = None,
        **kwargs: Any,
    ) -> Sampled:
        """Steps the table.

        Args:
            num_timesteps: Table steps to take.
            num_episodes: Episodes to finish instead.
            explore: Explore, or act greedily; ``config.explore`` where not given.
            force_reset: Start a new episode first.
            policy: That of the warm-up, which takes the first step in the actors' place.
            memory_weight: λ, which enters the rewards reported, not the transitions; that of the steps before
                where not given.
            **kwargs: RLlib's forward compatibility.

        Returns:
            The steps taken; where the environment failed twice at a step, the last is the error.
        """
        explore = bool(self.config.explore if explore is None else explore)
        self.memory_weight = self.memory_weight if memory_weight is None else memory_weight
        if force_reset:
            self._obs = None
        rollouts: Sampled = []
        num_ended = 0
        while len(rollouts) < num_timesteps if num_episodes is None else num_ended < num_episodes:
            rollouts.append(self._step(explore, policy))
            policy = None
            if isinstance(rollouts[-1], TrainingError):
                break
            num_ended += self._obs is None
        return rollouts

    @property
    def _table(self) -> Any:
        return self.env.unwrapped

    @property
    def _bounds(self) -> tuple[int, int]:
        return self._table.min_embedding_size, self._table.max_embedding_size

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

    def _step(self, explore: bool, policy: Policy | None) -> TableRollout | TrainingError:
        if self._obs is None:
            self._reset()
        obs = self._obs
        assert obs is not None
        actions, proto_actions, walk_gain = self._act(obs, explore, policy)
        self._table.memory_weight = self.memory_weight
        result = self._try_step(actions)
        if isinstance(result, TrainingError):
            self._obs = None
            return result
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
            self._bounds,
            reward=float(reward),
            walk_gain=walk_gain,
            memory_weight=self.memory_weight,
            is_warmup=policy is not None,
            worker_index=self.worker_index,
            episode=self._num_resets - 1,
            step=self._episode_step,
            runner_step=self._num_steps,
        )
        self._num_steps += 1
        self._episode_step += 1
        self._obs = None if terminated or truncated else next_obs
        return TableRollout(step, transitions)

    def _try_step(self, actions: Arrays) -> Any:
        """One step, taken once more from the same state where it fails."""
        before = self._table.get_state() if hasattr(self._table, "get_state") else None
        for attempt in range(2):
            try:
                if attempt and before is not None:
                    self._table.set_state(before)
                return self.env.step(actions)
            # An environment's own code may raise anything; after the second time the training ends with it.
            except Exception as error:
                logger.warning("a step of env runner %s failed: %r", self.worker_index, error)
                failure = f"{type(error).__name__}: {error}"
        return TrainingError(
            f"the environment of env runner {self.worker_index} failed twice at step {self._episode_step} of "
            f"episode {self._num_resets - 1}: {failure}"
        )

    def _act(self, obs: Arrays, explore: bool, policy: Policy | None) -> tuple[Arrays, Arrays, float]:
        """Actions, what the actors alone would do, and the walk's gain.

        Args:
            obs: What the actors see.
            explore: Whether they explore.
            policy: That of the warm-up, which acts in their place; None for none.
        """
        noise = np.random.default_rng(self._key(Stream.WARMUP, self._num_steps, _NOISE_PART))
        generator = seeded_generator(*self._key(Stream.EXPLORATION, self._num_steps))
        actions, proto_actions, walk_gains = {}, {}, []
        for kind in KINDS:
            module, states = self.module[kind], torch.from_numpy(obs[kind])
            proto_action = module.actor.infer(states)
            proto_actions[kind] = proto_action.numpy()
            actions[kind] = proto_actions[kind]
            if policy is not None:
                sizes = table_sizes(
                    policy[kind], obs[kind][:, 0], noise, *self._bounds, self.config.target_ratio, SPREAD
                )
                actions[kind] = mdp.scale_size(sizes, *self._bounds)
            elif explore:
                explored = self.exploration.explore(states, proto_action, module.critic_1.infer, generator)
                actions[kind] = explored.actions.numpy()
                walk_gains.append(explored.walk_gains.numpy())
        return actions, proto_actions, float(np.concatenate(walk_gains).mean()) if walk_gains else 0.0

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The weights; of the rest see :meth:`get_progress`."""
        if not self._check_component(COMPONENT_RL_MODULE, components, not_components):
            return {}
        return {COMPONENT_RL_MODULE: self.module.get_state(**kwargs)}

    def set_state(self, state: Any) -> None:
        """Takes up weights."""
        state = _fetched(state)
        if COMPONENT_RL_MODULE in state:
            self.module.set_state(_fetched(state[COMPONENT_RL_MODULE]))

    def get_progress(self) -> dict[str, Any]:
        """Counters and the episode under way, from which a runner of the same index goes on exactly."""
        can_snapshot = self._obs is not None and hasattr(self._table, "get_state")
        return {
            "num_steps": self._num_steps,
            "num_resets": self._num_resets,
            "episode_step": self._episode_step,
            "obs": self._obs,
            "env": self._table.get_state() if can_snapshot else None,
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

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What RLlib needs to build the runner again."""
        return (), {"config": self.config, "worker_index": self.worker_index}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """The policies."""
        return [(COMPONENT_RL_MODULE, self.module)]


def _fetched(value: Any) -> Any:
    """What an object reference stands for; anything else as it is."""
    return ray.get(value) if isinstance(value, ray.ObjectRef) else value
