"""SCALL's decision process (arXiv 2407.15411): one action shapes the whole table of a segment of a stream.

State, action and reward are those of its released code. The budget is held by projection unless whoever makes
the environment wants otherwise, and judging is left to them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.errors import ConfigError, EmbeddingSizeError
from envs.sizes import scall
from envs.sizes.embedding_sizes import EmbeddingSizes

Array = NDArray[np.float64]
#: See :class:`TableShapeEnv`.
SizesOf = Callable[[Array, Array, np.random.Generator], EmbeddingSizes]

#: Groups of neighbours in popularity that the state tells of.
NUM_GROUPS = 256
#: The ratio of fitness that earns 0 and the one that earns 10; on Amazon-Book there.
REWARDED_RATIOS = (0.9, 1.1)
#: What the state tells as the ratio before the first step.
_FIRST_RATIO = 0.5
_TOP_REWARD = 10.0
#: A segment's policy has converged when the share of users moved no more over so many steps.
_LEAST_STEPS, _STEADY_STEPS, _STEADY = 11, 5, 0.01


@dataclass(frozen=True, eq=False)
class Judged:
    """What sizes are worth.

    Attributes:
        fitness: Mean over users of their mean of Recall@20 and NDCG@20.
        user_row: Mean row of the masked table of users, shape (d_max,).
        item_row: The same of items.
    """

    fitness: float
    user_row: Array
    item_row: Array


def pooled_popularity(counts: NDArray[Any], num_groups: int = NUM_GROUPS) -> Array:
    """Counts scaled to [0, 1], from the greatest down, as means of groups of neighbours.

    Args:
        counts: Of each entity, shape (n,); where all are equal, all are 1.
        num_groups: Groups; each has ceil(n / num_groups) entities, the last ones fewer or none.

    Returns:
        Shape (num_groups,); 0 for a group without entities.
    """
    span = np.ptp(counts)
    scaled = (counts - counts.min()) / span if span > 0 else np.ones(len(counts))
    each = -(-len(counts) // num_groups)
    group = np.arange(len(counts)) // each
    total = np.bincount(group, -np.sort(-scaled), num_groups)
    return np.asarray(total / np.maximum(np.bincount(group, minlength=num_groups), 1))


def rewarded(ratio: float | Array, ratios: tuple[float, float] = REWARDED_RATIOS) -> Array:
    """What a ratio of fitness earns: 0 at the first of the two, 10 at the second."""
    low, high = ratios
    return np.asarray(_TOP_REWARD * (np.asarray(ratio, np.float64) - low) / (high - low))


def has_converged(user_shares: list[float]) -> bool:
    """Whether the greedy share of users has moved little over the last steps, of which there were enough."""
    return len(user_shares) >= _LEAST_STEPS and is_steady(user_shares)


def is_steady(user_shares: list[float]) -> bool:
    """Whether neighbours of the last five shares differ by 0.01 at most."""
    last = user_shares[-_STEADY_STEPS:]
    return len(last) == _STEADY_STEPS and bool(np.abs(np.diff(last)).max() <= _STEADY + 1e-12)


class TableShapeEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One step gives the whole table of a segment a shape, and judges it.

    The action is ``(w, alpha_user, alpha_item)`` in [0, 1], see :mod:`envs.sizes.scall`. The state has pooled
    popularity of users and of items, the last ratio of fitness, the share of users among entities, the mean
    rows of both, and the spread of the sizes of both. No episode ends.

    ``info`` has ``user_sizes``, ``item_sizes``, the ``num_params`` of both, ``ratio`` and ``fitness``.

    Args:
        user_popularity: Rows of each user in the segment, shape (num_users,).
        item_popularity: The same of items.
        cap_params: Parameters of the table, all of which every action uses.
        judge: What sizes are worth.
        reference_fitness: Of the segment's own table, by which a step's fitness is divided.
        sizes_of: Makes sizes of the parameters that each user and each item is to get, with a generator for
            what is left to lots; None projects them onto the cap.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        ratios: See :func:`rewarded`.
        num_groups: See :func:`pooled_popularity`.
    """

    def __init__(
        self,
        user_popularity: NDArray[Any],
        item_popularity: NDArray[Any],
        cap_params: int,
        judge: Callable[[EmbeddingSizes], Judged],
        *,
        reference_fitness: float,
        min_embedding_size: int = 1,
        max_embedding_size: int = 256,
        ratios: tuple[float, float] = REWARDED_RATIOS,
        num_groups: int = NUM_GROUPS,
        sizes_of: SizesOf | None = None,
    ) -> None:
        if not reference_fitness > 0:
            raise ConfigError(f"a reference fitness of {reference_fitness} divides nothing; train longer.")
        self._popularity = user_popularity, item_popularity
        self._cap_params, self._judge, self._reference = cap_params, judge, reference_fitness
        self._bounds, self._ratios, self._num_groups = (
            (min_embedding_size, max_embedding_size),
            ratios,
            num_groups,
        )
        self._sizes_of = sizes_of or self._project
        self._pooled = [pooled_popularity(counts, num_groups) for counts in self._popularity]
        length = 2 * num_groups + 2 + 2 * max_embedding_size + 2
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (length,), np.float32)
        self.action_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start from equal sizes and rows of zeros."""
        super().reset(seed=seed)
        none = np.zeros(self._bounds[1])
        return self._state(_FIRST_RATIO, none, none, (0.0, 0.0)), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Give the table the sizes that an action asks for, as near as may be, and judge it.

        Raises:
            EmbeddingSizeError: The action has the wrong shape, or is outside [0, 1].
        """
        asked_for = np.asarray(action, np.float64)
        if asked_for.shape != (3,) or not ((asked_for >= 0) & (asked_for <= 1)).all():
            raise EmbeddingSizeError(f"an action is three numbers in [0, 1], not {action}.")
        asked = scall.proposal(asked_for, *self._popularity, self._cap_params)
        sizes = self._sizes_of(*asked, self.np_random)
        judged = self._judge(sizes)
        ratio = judged.fitness / self._reference
        low, high = self._bounds
        spreads = tuple(float(np.ptp(side)) / max(high - low, 1) for side in asked)
        state = self._state(ratio, judged.user_row, judged.item_row, spreads)
        info = {
            "user_sizes": sizes.user,
            "item_sizes": sizes.item,
            "num_params": sizes.num_params,
            "ratio": ratio,
            "fitness": judged.fitness,
        }
        return state, float(rewarded(ratio, self._ratios)), False, False, info

    def _project(self, user: Array, item: Array, rng: np.random.Generator) -> EmbeddingSizes:
        return EmbeddingSizes.from_proposal(user, item, self._cap_params, *self._bounds, rng, fill=True)

    def _state(
        self, ratio: float, user_row: Array, item_row: Array, spreads: tuple[float, ...]
    ) -> NDArray[np.float32]:
        num_users, num_items = (len(counts) for counts in self._popularity)
        share = num_users / (num_users + num_items)
        parts = [*self._pooled, np.array([ratio, share]), user_row, item_row, np.array(spreads)]
        return np.concatenate(parts).astype(np.float32)
