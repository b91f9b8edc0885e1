"""RLlib's SAC as SCALL sets it, with a buffer that draws by recency and is part of a checkpoint."""

from collections.abc import Collection
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from ray.rllib.algorithms.sac import SAC, SACConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from ciess_ray.sac.module import ShapeModule
from ciess_ray.sac.replay import RecencyReplayBuffer

HIDDENS = (512, 512)
ACTOR_LR, CRITIC_LR = 2e-4, 3e-4
GAMMA, TAU = 0.99, 0.005
#: What entropy counts in a reward, throughout.
ENTROPY_WEIGHT = 0.2
BATCH_SIZE, UPDATES_PER_STEP = 8, 3
CAPACITY = 10_000
#: Part of a checkpoint, beside those of RLlib.
_REPLAY_BUFFER = "replay_buffer"
_STAGE_ID = "ciess_ray/Stage-v0"

Obs = NDArray[np.float32]


class Stage(gym.Env[Obs, Obs]):
    """The environment that RLlib sees: whichever is on it, at the place where it stands.

    RLlib makes its environments itself, from what can be copied to another machine. What judges tables is
    not copied, and changes with every segment of a stream; therefore it comes onto a stage.

    Attributes:
        env: The one on it; None until :meth:`enter`.
        obs: What was last seen of it.
        action, reward, info: Its last step. RLlib would keep the info of every step.
        error: What its last step raised, if anything; RLlib raises another in its place.

    Args:
        observation_space: Of every environment that is to come onto it.
        action_space: The same.
    """

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.env: gym.Env[Any, Any] | None = None
        self.obs: Obs | None = None
        self.action: Obs | None = None
        self.reward, self.info = 0.0, dict[str, Any]()
        self.error: Exception | None = None

    def enter(self, env: gym.Env[Any, Any], obs: Obs) -> None:
        """Put an environment on the stage, as it was left."""
        self.env, self.obs = env, obs

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """What is seen; the environment goes on from where it stands."""
        super().reset(seed=seed)
        assert self.obs is not None
        return self.obs, {}

    def step(self, action: Obs) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """One step of the environment."""
        assert self.env is not None
        try:
            self.obs, reward, is_terminated, is_truncated, self.info = self.env.step(action)
        except Exception as error:
            self.error = error
            raise
        self.action, self.reward = np.array(action), float(reward)
        return self.obs, self.reward, is_terminated, is_truncated, {}


# RLlib registers a class anew each time that it makes one, and is warned of that.
gym.register(_STAGE_ID, entry_point=f"{__name__}:Stage")


class ShapeSAC(SAC):
    """RLlib's SAC with a buffer of its own; the ``seed`` of its draws is in ``replay_buffer_config``."""

    # RLlib declares it as its base class.
    local_replay_buffer: Any

    def _create_local_replay_buffer_if_necessary(self, config: Any) -> Any:
        """Called by RLlib, which declares one of its own."""
        chosen = config["replay_buffer_config"]
        return RecencyReplayBuffer(chosen["capacity"], chosen["seed"])

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Adds the replay buffer, which RLlib leaves out, ``store_buffer_in_checkpoints`` or not."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(_REPLAY_BUFFER, components, not_components):
            state[_REPLAY_BUFFER] = self.local_replay_buffer.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`get_state` returned; into an algorithm that has not trained yet."""
        super().set_state(state)
        if _REPLAY_BUFFER in state:
            self.local_replay_buffer.set_state(state[_REPLAY_BUFFER])


def sac_config(observation_space: gym.Space[Any], action_space: gym.Space[Any], seed: int) -> SACConfig:
    """SCALL's settings for environments of these spaces.

    Args:
        observation_space: A box of one dimension.
        action_space: The same, with bounds.
        seed: Of the buffer's draws. RLlib's own seed, which would reach into NumPy's and Python's global
            generators, is left alone: :class:`ciess_ray.sac.policy.ScallPolicy` seeds each step.
    """
    return (
        SACConfig(algo_class=ShapeSAC)
        .environment(
            _STAGE_ID, env_config={"observation_space": observation_space, "action_space": action_space}
        )
        # A step trains a recommender; the default of 60 s would drop it.
        .env_runners(num_env_runners=0, rollout_fragment_length=1, sample_timeout_s=None)
        .learners(num_learners=0)
        .training(
            actor_lr=ACTOR_LR,
            critic_lr=CRITIC_LR,
            # The weight of entropy stays as it is.
            alpha_lr=0.0,
            initial_alpha=ENTROPY_WEIGHT,
            gamma=GAMMA,
            tau=TAU,
            num_steps_sampled_before_learning_starts=1,
            train_batch_size_per_learner=BATCH_SIZE,
            # Transitions drawn a step.
            training_intensity=BATCH_SIZE * UPDATES_PER_STEP,
            # The type is what RLlib's rules want to read; ShapeSAC makes its own.
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": CAPACITY, "seed": seed},
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=ShapeModule, model_config={"hiddens": HIDDENS}))
        .reporting(min_sample_timesteps_per_iteration=1, min_time_s_per_iteration=0)
        .debugging(log_level="ERROR")
    )
