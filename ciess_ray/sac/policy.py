"""SCALL's policy of whole tables (arXiv 2407.15411), a step at a time, from segment to segment of a stream.

One action gives the whole table of a segment its shape (:mod:`envs.table_shape`). The policy is the soft
actor-critic of RLlib, set as SCALL's released code sets its own: actor and critics of 512 x 512 with ReLU and
Xavier's weights, learning rates 2e-4 and 3e-4, discount 0.99, targets that follow by 0.005, entropy weighted
with 0.2 throughout, learning from the first step on, three updates a step, 10,000 transitions kept across
segments, later ones likelier to be drawn, one an update up to 12 stored and 8 beyond.

What differs from the released code:

- No weight decay (1e-4 there, in actor and critics), no gradient clipping (the actor's to a norm of 1 there).
- log σ is clipped to [-5, 2], to [-20, 2] there.
- Errors of critics above 1 count as they are (Huber), squared there.
- The networks see actions in [-1, 1]; an action in [0, 1] there. Entropy is that of the former, 3 ln 2 more
  in every step, which no gradient sees. 1e-6 inside the logarithm there, an exact form here.
- Target critics begin as copies of the critics, from another draw there.
- RLlib's own, whatever the released code does: the actor follows the critics from before their update, and
  Adam's ε is 1e-7.

Where the optimum is known, the greedy action is 0.13 from it after 120 steps, the best of as many uniform
draws 0.16 and the warm-up's best table 0.06 (eight seeds, ``results/scall-toy.csv``).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns

from ciess_ray.sac.algorithm import Stage, sac_config
from ciess_ray.sac.state import Arrays, arrays_of, put_into
from ciess_ray.streams import Stream, rng_of, seed_of
from envs.errors import ConfigError

#: Draws at one step, beside the policy's own: the environment's in it, and in the reset before it.
_STEP_PART, _RESET_PART = 1, 2


@dataclass(frozen=True, eq=False)
class ShapeStep:
    """What came of one step.

    Attributes:
        action: What was tried, in the environment's own units, shape (3,).
        reward: What it earned.
        info: What the environment told of it.
    """

    action: NDArray[np.float32]
    reward: float
    info: dict[str, Any]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PyTorch's global generator, which RLlib draws from, at a seed, and as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class ScallPolicy:
    """SCALL's policy; ``stop`` it, or use it as a context manager.

    Every draw depends on (seed, table steps so far) alone: the same seed gives the same actions, and a policy
    that takes up a state goes on as the one that it is of.

    Args:
        env: Of the first segment, e.g. :class:`envs.table_shape.TableShapeEnv`; observations a box of one
            dimension, actions one with bounds, episodes that do not end. It is stepped in this process.
        seed: Of every draw, the environment's too.

    Attributes:
        num_steps: Table steps so far, in all segments.

    Raises:
        ConfigError: No Ray runs.
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        if not ray.is_initialized():
            # RLlib would start one, which listens on every interface.
            raise ConfigError("RLlib wants a Ray that runs: make the policy within resources.ray_session().")
        self._seed, self.num_steps = seed, 0
        # RLlib declares the parts of an algorithm as optional, or as their base classes.
        with _seeded(seed_of(seed, Stream.SAC_WEIGHTS)):
            self._algorithm: Any = sac_config(env.observation_space, env.action_space, seed).build_algo()
        self._enter(env)

    def __enter__(self) -> "ScallPolicy":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let go of what RLlib holds."""
        self._algorithm.stop()

    def step(self) -> ShapeStep:
        """Try an action that is drawn, and learn from what is stored.

        Raises:
            Exception: Whatever the environment raised. The policy is of no use afterwards; a new one may take
                up a state from before.
        """
        stage = self._stage
        assert stage.env is not None
        self._seed_env(stage.env, _STEP_PART)
        try:
            with _seeded(seed_of(self._seed, Stream.SAC_STEP, self.num_steps)):
                self._algorithm.train()
        except RuntimeError as error:
            raise (stage.error or error) from None
        self.num_steps += 1
        assert stage.action is not None
        return ShapeStep(stage.action, stage.reward, stage.info)

    def greedy_action(self) -> NDArray[np.float32]:
        """What the actor has for best where the environment stands, within its bounds, shape (3,).

        RLlib's own is the mean before the squashing.
        """
        obs = torch.from_numpy(np.asarray(self._stage.obs, np.float32))[None]
        with torch.no_grad():
            output = self._algorithm.env_runner.module.forward_inference({Columns.OBS: obs})
        mean = output[Columns.ACTION_DIST_INPUTS][0].chunk(2)[0]
        space: Any = self._stage.action_space
        share = (torch.tanh(mean).numpy() + 1) / 2
        return np.asarray(space.low + share * (space.high - space.low), np.float32)

    def move_to(self, env: gym.Env[Any, Any]) -> None:
        """Go on with the next segment: another environment; networks, optimizers and transitions are kept.

        Raises:
            ConfigError: Its observations or actions have other shapes or bounds.
        """
        here = self._stage.observation_space, self._stage.action_space
        if (env.observation_space, env.action_space) != here:
            raise ConfigError(
                f"the next segment's spaces are {env.observation_space} and {env.action_space}, those of the "
                f"policy {here[0]} and {here[1]}: give every segment the same max_embedding_size and "
                "num_groups."
            )
        # Its first observation is no successor of the last one.
        self._algorithm.env_runner.make_env()
        self._enter(env)

    def get_state(self) -> Arrays:
        """Networks, optimizers, transitions and where the segment stands, but for its environment.

        Plain arrays by name, see :mod:`ciess_ray.sac.state`.
        """
        assert self._stage.obs is not None
        return arrays_of(self._algorithm, self.num_steps, self._stage.obs)

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`get_state` returned, into a new policy of the same seed and segment.

        Raises:
            ConfigError: This policy has stepped.
            ResultError: It is none of such a policy, or damaged; this one is as it was.
        """
        if self.num_steps:
            raise ConfigError("a state is taken up by a new policy: this one has stepped; make another.")
        self.num_steps, self._stage.obs = put_into(self._algorithm, state)

    @property
    def _stage(self) -> Stage:
        stage: Stage = self._algorithm.env_runner.env.unwrapped.envs[0].unwrapped
        return stage

    def _enter(self, env: gym.Env[Any, Any]) -> None:
        self._seed_env(env, _RESET_PART)
        obs, _ = env.reset()
        self._stage.enter(env, obs)

    def _seed_env(self, env: gym.Env[Any, Any], part: int) -> None:
        env.unwrapped.np_random = rng_of(self._seed, Stream.SAC_STEP, self.num_steps, part=part)
