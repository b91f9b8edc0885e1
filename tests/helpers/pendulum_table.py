"""Gymnasium's Pendulum-v1 as a table: a task with a known good return, for the agent of embedding sizes."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs import mdp
from envs.errors import ConfigError, EmbeddingSizeError
from envs.mdp import KINDS

PENDULUM_TABLE_ENV_ID = "CIESS/PendulumTable-v0"
PENDULUM_ID = "Pendulum-v1"

#: An action of ±1 is the largest torque, in N m, and a speed of ±1 the largest, in rad / s.
MAX_TORQUE = 2.0
MAX_SPEED = 8.0

#: Exploration noise is given in size units, of which the range of an action has 200: one unit is 0.01 of an
#: action, and Fujimoto et al. 2018 (arXiv 1802.09477) section 6.1, a deviation of 0.1, is 10 units.
MIN_SIZE, MAX_SIZE = 1, 201


class PendulumTableEnv(gym.Env[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]):
    """Pendula of Gymnasium's ``Pendulum-v1``, each an entity of one table.

    No embedding has a size here. The environment has the contract of ``EmbeddingSizeEnv``, so that the env
    runner, the replay buffer and the learner of a search can be tried on a task whose good return is known,
    and where, unlike with embedding sizes, an action decides what comes later. Every pendulum is Gymnasium's
    own simulator.

    ## Action Space

    ``Dict``; the torque is twice the action, in N m.

    | Key | Space | Meaning |
    | --- | --- | --- |
    | user | Box(-1, 1, (num_users,), float32) | torque of each pendulum that stands for a user |
    | item | Box(-1, 1, (num_items,), float32) | torque of each pendulum that stands for an item |

    ## Observation Space

    ``Dict``; every column is scaled to [-1, 1].

    | Key | Space | Columns |
    | --- | --- | --- |
    | user | Box(-1, 1, (num_users, 3), float32) | cos θ, sin θ, angular speed / 8 rad / s |
    | item | Box(-1, 1, (num_items, 3), float32) | cos θ, sin θ, angular speed / 8 rad / s |

    ## Rewards

    The mean over the pendula of ``Pendulum-v1``'s own reward. In ``info`` it is the ``quality`` of each; the
    memory cost is 0. A size there is only a name for an action: 1 stands for -1, 201 for +1.

    ## Starting State

    That of ``Pendulum-v1``, drawn for each pendulum from a seed of its own.

    ## Episode End

    Never terminates; truncates after ``episode_length`` steps.

    ## Arguments

    | Argument | Default | Meaning |
    | --- | --- | --- |
    | num_users, num_items | 8 | pendula |
    | episode_length | 200 | steps an episode, as in ``Pendulum-v1`` |
    | memory_weight | 0.0 | λ, which weighs a cost of 0 |

    ## Version History

    * v0: first version.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        num_users: int = 8,
        num_items: int = 8,
        episode_length: int = 200,
        memory_weight: float = 0.0,
    ) -> None:
        if min(num_users, num_items, episode_length) < 1:
            raise ConfigError(
                f"need at least one user, one item and one step an episode, not {num_users}, {num_items} and "
                f"{episode_length}."
            )
        self.min_embedding_size, self.max_embedding_size = MIN_SIZE, MAX_SIZE
        self.episode_length = episode_length
        self.memory_weight = memory_weight
        self._num = {"user": num_users, "item": num_items}
        self._pendula: dict[str, list[Any]] = {
            kind: [gym.make(PENDULUM_ID).unwrapped for _ in range(count)] for kind, count in self._num.items()
        }
        self.observation_space = spaces.Dict(
            {
                kind: spaces.Box(-1.0, 1.0, (count, mdp.NUM_STATE_FEATURES), np.float32)
                for kind, count in self._num.items()
            }
        )
        self.action_space = spaces.Dict(
            {kind: spaces.Box(-1.0, 1.0, (count,), np.float32) for kind, count in self._num.items()}
        )
        self._num_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """New starting states; each pendulum is reset with a seed drawn from ``np_random``."""
        super().reset(seed=seed)
        self._num_steps = 0
        obs = {}
        for kind, pendula in self._pendula.items():
            seeds = self.np_random.integers(0, 2**31, len(pendula))
            obs[kind] = _scaled([p.reset(seed=int(s))[0] for p, s in zip(pendula, seeds, strict=True)])
        return obs, {}

    def step(
        self, action: dict[str, NDArray[np.float32]]
    ) -> tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]:
        """Applies every torque for one step of ``Pendulum-v1``, 0.05 s.

        Raises:
            EmbeddingSizeError: An action has the wrong shape or is not finite.
        """
        obs: dict[str, NDArray[np.float32]] = {}
        info: dict[str, Any] = {}
        for kind, pendula in self._pendula.items():
            values = np.asarray(action[kind])
            if values.shape != (len(pendula),) or not np.isfinite(values).all():
                raise EmbeddingSizeError(
                    f"the {kind} action must be {len(pendula)} finite numbers; its shape is {values.shape}."
                )
            torques = MAX_TORQUE * values[:, None]
            results = [pendulum.step(torque) for pendulum, torque in zip(pendula, torques, strict=True)]
            obs[kind] = _scaled([result[0] for result in results])
            quality = np.array([result[1] for result in results], np.float32)
            cost = np.zeros_like(quality)
            sizes = np.rint(mdp.unscale_size(values, MIN_SIZE, MAX_SIZE)).astype(np.int32)
            info[kind] = {
                "reward": mdp.reward(quality, cost, self.memory_weight),
                "quality": quality,
                "memory_cost": cost,
                "proposed_sizes": sizes,
                "embedding_sizes": sizes.copy(),
            }
        ratio = float(np.concatenate([info[kind]["embedding_sizes"] for kind in KINDS]).mean() / MAX_SIZE)
        reward = float(np.concatenate([info[kind]["reward"] for kind in KINDS]).mean())
        info |= {"kept_ratio": ratio, "proposed_ratio": ratio, "quality": reward}
        self._num_steps += 1
        return obs, reward, False, self._num_steps >= self.episode_length, info

    def close(self) -> None:
        """Closes the simulators."""
        for pendula in self._pendula.values():
            for pendulum in pendula:
                pendulum.close()

    def get_state(self) -> dict[str, Any]:
        """A snapshot of an episode that :meth:`set_state` of the same arguments continues from."""
        return {
            "pendula": {k: np.stack([p.state for p in pendula]) for k, pendula in self._pendula.items()},
            "num_steps": self._num_steps,
            "memory_weight": self.memory_weight,
            "np_random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a snapshot."""
        for kind, pendula in self._pendula.items():
            for pendulum, angle_and_speed in zip(pendula, state["pendula"][kind], strict=True):
                pendulum.state = angle_and_speed.copy()
        self._num_steps = state["num_steps"]
        self.memory_weight = state["memory_weight"]
        self.np_random.bit_generator.state = state["np_random"]


def _scaled(observations: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = np.stack(observations)
    scaled[:, 2] /= MAX_SPEED
    return scaled


if PENDULUM_TABLE_ENV_ID not in gym.registry:
    gym.register(PENDULUM_TABLE_ENV_ID, entry_point=PendulumTableEnv)
