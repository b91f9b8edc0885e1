"""What a search tries before its actors act: policies of a whole table, at random and then near the best.

A policy says by popularity alone what users get and what items get: a level, a slope and a power each. The
first are plain splits between users and items, equal sizes among them, and random ones; each further one lies
near one of the best so far, as far as these lie apart (an evolution strategy with recombination left out;
Beyer and Schwefel 2002). So the split, the first lever there is, is found in a hundred steps, and the replay
buffer is filled near it. Entities of one popularity get one size: differences between them that nothing
asks for cost quality (docs/findings.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.streams import Stream, rng_of
from envs.mdp import KINDS
from envs.sizes.by_popularity import draw_policy

#: By kind, as :func:`envs.sizes.by_popularity.table_sizes` takes them.
Policy = dict[str, NDArray[np.float64]]

#: How far from the budget a policy's mean sizes of users, and of items, may lie.
SPREAD = 16.0
_NUM_ELITES = 8
#: Share of the warm-up that is drawn at random, and how many steps that is at least.
_RANDOM_SHARE, _LEAST_RANDOM = 0.25, 8
#: Share of those that are plain splits.
_SPLIT_SHARE = 1 / 3
#: Standard deviation of a step away from an elite: that of the elites, times this, and a little more.
_SCALE, _LEAST_SCALE = 0.7, 0.02
_LOW, _HIGH = np.array([0.0, 0.0, -1.0] * 2), np.array([1.0, 1.0, 1.0] * 2)


def num_random_steps(num_steps: int) -> int:
    """How many steps of a warm-up are plain splits, or random."""
    return max(_LEAST_RANDOM, round(_RANDOM_SHARE * num_steps))


def plain_splits(num_steps: int) -> list[Policy]:
    """The policies that a warm-up of so many steps begins with: one size for users, one for items."""
    num_pairs = (int(_SPLIT_SHARE * num_random_steps(num_steps)) - 1) // 2
    # As many that favour users as items, and equal sizes in the middle.
    user_levels = np.linspace(0.0, 1.0, 2 * num_pairs + 3)[1:-1]
    return [
        {
            kind: np.array([level, 0.0, 0.0])
            for kind, level in zip(KINDS, (user_level, 1.0 - user_level), strict=True)
        }
        for user_level in user_levels
    ]


class WarmUp:
    """Proposes the policies of a whole search, and is told what became of them.

    Several may be out at once, one with each env runner. A policy whose env runner was lost is proposed
    again, so that none of the first ones is left out.

    Args:
        num_steps: Of the warm-up, over all env runners.
        seed: Of the draws; the draw for policy number i depends on (seed, i) alone.
        first: Policies that it begins with, e.g. the best of a search before; None for :func:`plain_splits`.
            As many random ones follow in either case.
    """

    def __init__(self, num_steps: int, seed: int, first: Sequence[Policy] | None = None) -> None:
        self._num_steps, self._seed = num_steps, seed
        splits = plain_splits(num_steps)
        self._first = splits if first is None else list(first)
        self._num_random = num_random_steps(num_steps) - len(splits) + len(self._first)
        self._num_proposed = 0
        self._lost: list[Policy] = []
        self._policies: list[NDArray[np.float64]] = []
        self._qualities: list[float] = []

    def deal(self, workers: Iterable[int]) -> dict[int, Policy]:
        """A policy for a step of each of these env runners, as long as steps of the warm-up are left.

        Those of an earlier call must have been handed to :meth:`settle`.
        """
        num_left = self._num_steps - len(self._policies)
        return {worker: self._propose() for _, worker in zip(range(num_left), workers, strict=False)}

    def settle(self, dealt: Mapping[int, Policy], qualities: Mapping[int, float]) -> None:
        """What became of the policies of :meth:`deal`.

        Args:
            dealt: What it gave.
            qualities: Of the tables, by env runner; of one that was lost there is none.
        """
        for worker, policy in dealt.items():
            if worker in qualities:
                self._policies.append(np.concatenate([policy[kind] for kind in KINDS]))
                self._qualities.append(qualities[worker])
            else:
                self._lost.append(policy)

    def _propose(self) -> Policy:
        if self._lost:
            return self._lost.pop(0)
        rng, number = rng_of(self._seed, Stream.WARMUP, 0, self._num_proposed), self._num_proposed
        self._num_proposed += 1
        if number < len(self._first):
            return self._first[number]
        # Of many env runners none may be back before the first that would lie near the best.
        if number < self._num_random or not self._policies:
            return {kind: draw_policy(rng) for kind in KINDS}
        best = np.argsort(-np.array(self._qualities), kind="stable")[:_NUM_ELITES]
        elites = np.array(self._policies)[best]
        width = _HIGH - _LOW
        scale = _SCALE * elites.std(axis=0) + _LEAST_SCALE * width
        proposed = elites[rng.integers(len(elites))] + scale * rng.standard_normal(len(width))
        # Reflected at the bounds, where much of what is good lies.
        proposed = _LOW + np.abs(proposed - _LOW)
        proposed = np.clip(_HIGH - np.abs(_HIGH - proposed), _LOW, _HIGH)
        return dict(zip(KINDS, np.split(proposed, len(KINDS)), strict=True))

    def get_state(self) -> dict[str, Any]:
        """What was proposed, lost and told."""
        return {
            "num_proposed": self._num_proposed,
            "lost": list(self._lost),
            "policies": list(self._policies),
            "qualities": list(self._qualities),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`get_state` gave."""
        self._num_proposed, self._lost = state["num_proposed"], list(state["lost"])
        self._policies, self._qualities = list(state["policies"]), list(state["qualities"])
