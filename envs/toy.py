"""An embedding-size environment whose best sizes are known in closed form."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs import mdp
from envs.errors import ConfigError, EmbeddingSizeError
from envs.mdp import KINDS

BYTES_PER_PARAM = 4

#: Saturation point of the least popular and of the most popular entity, as shares of d_max.
SATURATION = {"user": (0.2, 0.8), "item": (0.8, 0.2)}


def power_law_counts(
    num_entities: int, max_count: int, exponent: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Interaction counts in 1..max_count with density proportional to count^-exponent, shape (n,).

    Drawn by inverting the distribution function of the bounded power law.
    """
    tail = 1.0 - exponent
    share = rng.random(num_entities)
    counts: NDArray[np.float64] = ((max_count**tail - 1.0) * share + 1.0) ** (1.0 / tail)
    return np.rint(counts).astype(np.int64)


class ToySizeEnv(gym.Env[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]):
    """Sizes for a table whose quality is a parabola around each entity's saturation point.

    No recommender is trained: entity n with saturation point s_n has quality
    ``q_n(d) = 1 - κ (d / d_max - s_n)²``. s_n is linear in the scaled popularity and rises for users
    (0.2 to 0.8 of d_max), falls for items, so an agent that mixes the two up, or ignores popularity,
    misses the optimum. Reward ``q - λ (d / d_max)²`` is largest at ``κ s_n / (κ + λ)``, clipped to the
    bounds: :meth:`optimal_sizes`. The best policy is greedy, as an action changes no later quality.

    ## Action Space

    ``Dict``; -1 stands for the smallest size, +1 for the largest, and the size is rounded.

    | Key | Space | Meaning |
    | --- | --- | --- |
    | user | Box(-1, 1, (num_users,), float32) | size of each user |
    | item | Box(-1, 1, (num_items,), float32) | size of each item |

    ## Observation Space

    ``Dict``; every column is scaled to [-1, 1].

    | Key | Space | Columns |
    | --- | --- | --- |
    | user | Box(-1, 1, (num_users, 3), float32) | popularity, current size, quality |
    | item | Box(-1, 1, (num_items, 3), float32) | popularity, current size, quality |

    ## Rewards

    The mean over entities of ``q - λ (d / d_max)²``; the entities' own are in ``info``.

    ## Starting State

    Every size is d_max and every quality 1, as in CIESS.

    ## Episode End

    Never terminates; truncates after ``episode_length`` steps.

    ## Arguments

    | Argument | Default | Meaning |
    | --- | --- | --- |
    | num_users, num_items | 1000 | entities |
    | min_embedding_size, max_embedding_size | 1, 128 | bounds of a size, in dimensions |
    | episode_length | 10 | steps an episode, T of CIESS |
    | memory_weight | 0.4 | λ; may be set between steps |
    | curvature | 4.0 | κ, how much quality a wrong size costs |
    | max_count | 1000 | interactions of the most popular entity |
    | popularity_exponent | 0.5 | exponent of the popularity power law, below 1 |
    | seed | 0 | of the popularities, which a reset does not draw anew |

    ## Version History

    * v0: first version.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        num_users: int = 1000,
        num_items: int = 1000,
        min_embedding_size: int = 1,
        max_embedding_size: int = 128,
        episode_length: int = 10,
        memory_weight: float = 0.4,
        curvature: float = 4.0,
        max_count: int = 1000,
        popularity_exponent: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not 1 <= min_embedding_size <= max_embedding_size:
            raise ConfigError(
                f"need 1 <= min_embedding_size <= max_embedding_size, not {min_embedding_size} and "
                f"{max_embedding_size}."
            )
        if curvature <= 0 or not 0 <= popularity_exponent < 1 or episode_length < 1:
            raise ConfigError(
                f"need curvature > 0, 0 <= popularity_exponent < 1 and episode_length >= 1, not {curvature}, "
                f"{popularity_exponent} and {episode_length}."
            )
        self.min_embedding_size = min_embedding_size
        self.max_embedding_size = max_embedding_size
        self.episode_length = episode_length
        self.memory_weight = memory_weight
        self.curvature = curvature
        self._num = {"user": num_users, "item": num_items}

        rng = np.random.default_rng(seed)
        self._popularity: dict[str, NDArray[np.float32]] = {}
        self._saturation: dict[str, NDArray[np.float64]] = {}
        for kind in KINDS:
            counts = power_law_counts(self._num[kind], max_count, popularity_exponent, rng)
            self._popularity[kind] = mdp.scale_popularity(counts)
            least, most = SATURATION[kind]
            share = (self._popularity[kind].astype(np.float64) + 1.0) / 2.0
            self._saturation[kind] = least + (most - least) * share

        self.observation_space = spaces.Dict(
            {
                kind: spaces.Box(-1.0, 1.0, (self._num[kind], mdp.NUM_STATE_FEATURES), np.float32)
                for kind in KINDS
            }
        )
        self.action_space = spaces.Dict(
            {kind: spaces.Box(-1.0, 1.0, (self._num[kind],), np.float32) for kind in KINDS}
        )
        self._step_index = 0
        self._set_full_size()

    def optimal_sizes(self) -> dict[str, NDArray[np.float64]]:
        """The real-valued sizes with the largest reward under the current λ, shape (n,) each."""
        bounds = self.min_embedding_size / self.max_embedding_size, 1.0
        return {
            kind: self.max_embedding_size
            * np.clip(self.curvature * s / (self.curvature + self.memory_weight), *bounds)
            for kind, s in self._saturation.items()
        }

    def quality(self, embedding_sizes: dict[str, NDArray[np.int32]]) -> dict[str, NDArray[np.float32]]:
        """q_n(d) of every entity at the given sizes, shape (n,) each."""
        return {
            kind: (
                1.0 - self.curvature * np.square(sizes / self.max_embedding_size - self._saturation[kind])
            ).astype(np.float32)
            for kind, sizes in embedding_sizes.items()
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Every size back to d_max; nothing is drawn, so the seed only seeds ``np_random``."""
        super().reset(seed=seed)
        self._step_index = 0
        self._set_full_size()
        return self._observe(), self._info()

    def step(
        self, action: dict[str, NDArray[np.float32]]
    ) -> tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]:
        """Sets every size at once and computes the qualities.

        Raises:
            EmbeddingSizeError: An action has the wrong shape or is not finite.
        """
        for kind in KINDS:
            values = np.asarray(action[kind])
            if values.shape != (self._num[kind],) or not np.isfinite(values).all():
                raise EmbeddingSizeError(
                    f"the {kind} action must be {self._num[kind]} finite numbers; its shape is "
                    f"{values.shape}."
                )
            sizes = mdp.unscale_size(values, self.min_embedding_size, self.max_embedding_size)
            self._sizes[kind] = np.rint(sizes).astype(np.int32)
        self._quality = self.quality(self._sizes)
        self._step_index += 1
        info = self._info()
        rewards = np.concatenate([info[kind]["reward"] for kind in KINDS])
        return self._observe(), float(rewards.mean()), False, self._step_index >= self.episode_length, info

    def get_state(self) -> dict[str, Any]:
        """A snapshot that :meth:`set_state` of an environment with the same arguments continues from."""
        return {
            "sizes": {kind: sizes.copy() for kind, sizes in self._sizes.items()},
            "quality": {kind: quality.copy() for kind, quality in self._quality.items()},
            "step_index": self._step_index,
            "memory_weight": self.memory_weight,
            "np_random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a snapshot."""
        self._sizes = {kind: sizes.copy() for kind, sizes in state["sizes"].items()}
        self._quality = {kind: quality.copy() for kind, quality in state["quality"].items()}
        self._step_index = state["step_index"]
        self.memory_weight = state["memory_weight"]
        self.np_random.bit_generator.state = state["np_random"]

    def _set_full_size(self) -> None:
        self._sizes = {kind: np.full(self._num[kind], self.max_embedding_size, np.int32) for kind in KINDS}
        self._quality = {kind: np.ones(self._num[kind], np.float32) for kind in KINDS}

    def _observe(self) -> dict[str, NDArray[np.float32]]:
        return {
            kind: mdp.observe(
                self._popularity[kind],
                self._sizes[kind],
                self._quality[kind],
                self.min_embedding_size,
                self.max_embedding_size,
            )
            for kind in KINDS
        }

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {}
        for kind in KINDS:
            cost = mdp.memory_cost(self._sizes[kind], self.max_embedding_size)
            info[kind] = {
                "reward": mdp.reward(self._quality[kind], cost, self.memory_weight),
                "quality": self._quality[kind].copy(),
                "memory_cost": cost,
                "proposed_sizes": self._sizes[kind].copy(),
                "embedding_sizes": self._sizes[kind].copy(),
            }
        num_params = int(sum(int(sizes.sum()) for sizes in self._sizes.values()))
        ratio = num_params / (self.max_embedding_size * sum(self._num.values()))
        info |= {
            "kept_ratio": ratio,
            "proposed_ratio": ratio,
            "num_params": num_params,
            "packed_bytes": BYTES_PER_PARAM * num_params,
            "quality": float(np.concatenate([self._quality[kind] for kind in KINDS]).mean()),
            "train_s": 0.0,
            "evaluate_s": 0.0,
        }
        return info
