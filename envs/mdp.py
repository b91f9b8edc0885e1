"""The Markov decision process of CIESS: state, action and reward as functions of arrays, and their episodes.

They are those of CIESS (arXiv 2304.03501) section 2.2: one row an entity, every number scaled to [-1, 1].
Nothing here knows a recommender.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import ConfigError, EmbeddingSizeError
from envs.sizes.embedding_sizes import EmbeddingSizes

Floats = NDArray[np.float32] | NDArray[np.float64]

Observation = dict[str, NDArray[np.float32]]
Action = dict[str, NDArray[np.float32]]

#: ``paper``: what CIESS's text says. ``reference``: what the authors' released code computes.
Form = Literal["paper", "reference"]

#: What entities there are, in the order of a table's rows.
KINDS = ("user", "item")
NUM_STATE_FEATURES = 3
#: The greatest λ: at full size it outweighs the greatest quality, 1, a hundredfold.
MAX_MEMORY_WEIGHT = 100.0

# What the released code raises a full-size quality of 0 to before it divides by it.
_LEAST_FULL_QUALITY = 1e-5


def scale_size(
    embedding_sizes: NDArray[np.integer] | Floats, min_embedding_size: int, max_embedding_size: int
) -> NDArray[np.float32]:
    """Embedding sizes on the action's scale: d_min is -1, d_max is +1; shape (n,) to (n,)."""
    span = max(max_embedding_size - min_embedding_size, 1)
    sizes = np.asarray(embedding_sizes, np.float64)
    return (2.0 * (sizes - min_embedding_size) / span - 1.0).astype(np.float32)


def unscale_size(action: Floats, min_embedding_size: int, max_embedding_size: int) -> NDArray[np.float64]:
    """The real-valued sizes that actions in [-1, 1] stand for, clipped to the bounds; shape (n,) to (n,)."""
    span = max_embedding_size - min_embedding_size
    sizes = min_embedding_size + (np.asarray(action, np.float64) + 1.0) * (span / 2.0)
    return np.clip(sizes, min_embedding_size, max_embedding_size)


def scale_popularity(counts: NDArray[np.integer]) -> NDArray[np.float32]:
    """Interaction counts of users, or of items, min-max scaled to [-1, 1].

    Minimum and maximum are taken over the entities that have any interaction; one without any is
    clipped to -1. Where all counts are equal the scale is undefined and every entity gets 0.

    Args:
        counts: Training interactions of each entity, shape (n,).

    Returns:
        Shape (n,), float32.
    """
    counts = np.asarray(counts, np.float64)
    seen = counts[counts > 0]
    if seen.size == 0 or seen.min() == seen.max():
        return np.zeros(counts.shape, np.float32)
    scaled = 2.0 * (counts - seen.min()) / (seen.max() - seen.min()) - 1.0
    return np.asarray(np.clip(scaled, -1.0, 1.0), np.float32)


def relative_quality(quality: Floats, full_quality: Floats) -> NDArray[np.float32]:
    """Quality of each entity as a share of what the full-size table gives it, at most 1, as in the paper.

    Args:
        quality: Mean ranking metric under the masked table, shape (n,); NaN where there is none.
        full_quality: The same under the fully trained full-size table, shape (n,).

    Returns:
        Shape (n,), float32; NaN where the full table's quality is 0 or missing.
    """
    full, missing = np.asarray(full_quality, np.float64), np.full(np.shape(full_quality), np.nan)
    share = np.divide(np.asarray(quality, np.float64), full, out=missing, where=full > 0)
    return np.minimum(share, 1.0).astype(np.float32)


def saturated_quality(quality: Floats) -> NDArray[np.float32]:
    """The share that the ``reference`` form shows in the state: 1 for any quality, 0 for none.

    The authors' released code measures no full-size table. Every full-size quality is 0 there, raised to
    1e-5, so that a quality of 1e-5 saturates the share; its reward takes the quality as it is.

    Args:
        quality: Mean ranking metric under the masked table, shape (n,); NaN where there is none.

    Returns:
        Shape (n,), float32, in [0, 1]; NaN where the quality is.
    """
    return relative_quality(quality, np.full(np.shape(quality), _LEAST_FULL_QUALITY))


def observe(
    scaled_popularity: NDArray[np.float32],
    embedding_sizes: NDArray[np.integer] | Floats,
    quality: Floats,
    min_embedding_size: int,
    max_embedding_size: int,
) -> NDArray[np.float32]:
    """States of all users, or of all items.

    Args:
        scaled_popularity: From :func:`scale_popularity`, shape (n,).
        embedding_sizes: Current sizes, shape (n,), in dimensions.
        quality: Share of the full table's quality, from :func:`relative_quality` or
            :func:`saturated_quality`, shape (n,); NaN where an entity has none, which the state shows as 0,
            the middle of the scale.
        min_embedding_size: d_min.
        max_embedding_size: d_max.

    Returns:
        Popularity, size and quality, shape (n, 3), float32, each in [-1, 1].
    """
    scaled_quality = np.clip(2.0 * np.asarray(quality, np.float64) - 1.0, -1.0, 1.0)
    return np.stack(
        [
            scaled_popularity,
            scale_size(embedding_sizes, min_embedding_size, max_embedding_size),
            np.nan_to_num(scaled_quality, nan=0.0).astype(np.float32),
        ],
        axis=1,
    )


def memory_cost(
    embedding_sizes: NDArray[np.integer] | Floats, max_embedding_size: int, form: Form = "paper"
) -> NDArray[np.float32]:
    """What each size costs before the memory weight λ, shape (n,) to (n,), float32.

    CIESS section 2.2.3 charges the squared kept ratio, (d / d_max)²; the authors' code
    ((d - 1) / d_max)², which makes the smallest size free.
    """
    free = 1.0 if form == "reference" else 0.0
    return np.square((np.asarray(embedding_sizes, np.float64) - free) / max_embedding_size).astype(np.float32)


def reward(quality: Floats, memory_cost: Floats, memory_weight: float) -> NDArray[np.float32]:
    """Reward q - λ · memory cost of each entity, shape (n,); NaN where it has no quality."""
    return (np.asarray(quality, np.float64) - memory_weight * np.asarray(memory_cost, np.float64)).astype(
        np.float32
    )


class TableEnv(gym.Env[Observation, Action], ABC):
    """Episodes in which every user and every item is given its embedding size at once, step after step.

    Subclasses say what a table of these sizes is worth.

    Args:
        popularity: Training interactions of each user and of each item, shape (n,) each.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        episode_length: Steps after which an episode is cut.
        memory_weight: λ; settable later as an attribute.
        num_tables: Tables in which every row has its size.
        cap_params: Parameters that the sizes are projected onto; None leaves them as proposed.
        form: What a size costs.
        shows_quality: Whether the state shows the quality of each entity.
        id_bytes: Bytes that each number of the packed table has beside it.

    Raises:
        EmbeddingSizeError: d_max is below d_min, or d_min below 1.
        ConfigError: An episode has no step.
    """

    def __init__(
        self,
        popularity: dict[str, NDArray[np.int64]],
        min_embedding_size: int,
        max_embedding_size: int,
        episode_length: int,
        memory_weight: float,
        *,
        num_tables: int = 1,
        cap_params: int | None = None,
        form: Form = "paper",
        shows_quality: bool = True,
        id_bytes: int = 0,
    ) -> None:
        if episode_length < 1:
            raise ConfigError(f"episode_length must be at least 1, not {episode_length}.")
        self.min_embedding_size, self.max_embedding_size = min_embedding_size, max_embedding_size
        self.episode_length, self.memory_weight = episode_length, memory_weight
        self._form, self._shows_quality, self.cap_params = form, shows_quality, cap_params
        self._id_bytes = id_bytes
        self._popularity = {kind: scale_popularity(popularity[kind]) for kind in KINDS}
        counts = {kind: len(popularity[kind]) for kind in KINDS}
        self.observation_space = spaces.Dict(
            {k: spaces.Box(-1.0, 1.0, (n, NUM_STATE_FEATURES), np.float32) for k, n in counts.items()}
        )
        self.action_space = spaces.Dict(
            {k: spaces.Box(-1.0, 1.0, (n,), np.float32) for k, n in counts.items()}
        )
        self._full_sizes = EmbeddingSizes.full(
            counts["user"], counts["item"], max_embedding_size, min_embedding_size, num_tables
        )
        self._sizes = self._full_sizes
        self._quality: dict[str, NDArray[np.float32]] = {}
        self._num_steps = 0

    @abstractmethod
    def _full_size_quality(self) -> dict[str, NDArray[np.float32]]:
        """The quality that the state shows of each entity before the first step."""

    @abstractmethod
    def _judge(self) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]], dict[str, Any]]:
        """What the sizes are worth: quality that is rewarded, quality that the state shows, more info.

        Info by kind, ``user`` and ``item``, goes with that of the entities.
        """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode from the full table; nothing is drawn, so the seed only seeds ``np_random``."""
        super().reset(seed=seed)
        self._num_steps = 0
        self._sizes = self._full_sizes
        self._quality = self._full_size_quality()
        return self._observation(), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Set every size, and see what the table is worth.

        Args:
            action: For ``user`` and ``item`` one number in [-1, 1] an entity, float32.

        Returns:
            Observation, mean reward, False, whether the episode is over, and info (see the class).

        Raises:
            EmbeddingSizeError: An action has the wrong shape, or is NaN or infinite.
        """
        proposed = {kind: self._proposal(kind, action[kind]) for kind in KINDS}
        self._sizes = self._execute(proposed)
        rewarded, self._quality, info = self._judge()
        for kind in KINDS:
            executed = getattr(self._sizes, kind)
            cost = memory_cost(executed, self.max_embedding_size, self._form)
            info[kind] = info.get(kind, {}) | {
                "reward": reward(rewarded[kind], cost, self.memory_weight),
                "quality": rewarded[kind],
                "memory_cost": cost,
                "proposed_sizes": proposed[kind],
                "embedding_sizes": executed,
            }
        num_proposed = sum(int(sizes.sum(dtype=np.int64)) for sizes in proposed.values())
        info |= {
            "kept_ratio": self._sizes.kept_ratio,
            "proposed_ratio": num_proposed / (self._sizes.num_rows * self.max_embedding_size),
            "num_params": self._sizes.num_params,
            "packed_bytes": self._sizes.packed_bytes + self._id_bytes * self._sizes.num_params,
        }
        rewards = np.concatenate([info[kind]["reward"] for kind in KINDS])
        mean_reward = float(np.nanmean(rewards)) if not np.isnan(rewards).all() else 0.0
        self._num_steps += 1
        return self._observation(), mean_reward, False, self._num_steps >= self.episode_length, info

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on beside the arguments."""
        return {
            "user_sizes": self._sizes.user,
            "item_sizes": self._sizes.item,
            "quality": {kind: quality.copy() for kind, quality in self._quality.items()},
            "num_steps": self._num_steps,
            "memory_weight": self.memory_weight,
            "random_state": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`get_state` gave."""
        self._sizes = replace(self._full_sizes, user=state["user_sizes"], item=state["item_sizes"])
        self._quality = {kind: quality.copy() for kind, quality in state["quality"].items()}
        self._num_steps = state["num_steps"]
        self.memory_weight = state["memory_weight"]
        self.np_random.bit_generator.state = state["random_state"]

    def _proposal(self, kind: str, action: NDArray[np.float32]) -> NDArray[np.int32]:
        expected = self._popularity[kind].shape
        if np.shape(action) != expected or not np.isfinite(action).all():
            raise EmbeddingSizeError(
                f"the action of {kind}s must be finite and of shape {expected}, not {np.shape(action)}."
            )
        proposed = unscale_size(action, self.min_embedding_size, self.max_embedding_size)
        return np.rint(proposed).astype(np.int32)

    def _execute(self, proposed: dict[str, NDArray[np.int32]]) -> EmbeddingSizes:
        """The sizes that the table gets, of those that were asked for."""
        if self.cap_params is None:
            return replace(self._full_sizes, user=proposed["user"], item=proposed["item"])
        return EmbeddingSizes.from_proposal(
            proposed["user"],
            proposed["item"],
            self.cap_params,
            self.min_embedding_size,
            self.max_embedding_size,
            self.np_random,
            fill=True,
            num_tables=self._full_sizes.num_tables,
        )

    def _observation(self) -> Observation:
        return {
            kind: observe(
                self._popularity[kind],
                getattr(self._sizes, kind),
                self._quality[kind] if self._shows_quality else np.full(len(self._quality[kind]), np.nan),
                self.min_embedding_size,
                self.max_embedding_size,
            )
            for kind in KINDS
        }
