"""What the learner is fed: transitions whose rewards are formed when drawn, and the best table so far.

Of one table every entity gets a reward of its own, but what all others did decides most of it: critics see
little of what a whole table's split is worth, least of all for items. The best table knows. Holding actors
near it while they follow their critic is TD3+BC (arXiv 2106.06860), with one table as the demonstration,
chosen by the search itself as in self-imitation (arXiv 1806.05635).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ciess_ray.td3.rollout import TableRollout
from envs import mdp
from envs.mdp import KINDS

#: Where in a transition of ten float32 numbers each column is.
COLUMNS: dict[str, int | slice] = {
    "obs": slice(0, 3),
    "action": 3,
    "quality": 4,
    "memory_cost": 5,
    "next_obs": slice(6, 9),
    "terminated": 9,
}
_WIDTH = 10
#: Columns that the best table adds to a batch.
IMITATED_OBS, IMITATED_ACTION = "imitated_obs", "imitated_action"


class ReplayBuffer:
    """A ring of the last ``capacity`` transitions of users, or of items.

    Quality and memory cost are stored instead of the reward, so a new λ never meets stale rewards. A
    transition takes 40 bytes that lie together, so a draw from a million reads each from memory once; what
    is not filled yet takes none. Draw number i depends on (seed, i) alone.

    Args:
        capacity: Transitions kept.
        seed: Of the draws.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self.seed = seed
        self.num_draws = 0
        self._size = 0
        self._cursor = 0
        # The system maps a page when it is first written.
        self._transitions = np.empty((capacity, _WIDTH), np.float32)

    def __len__(self) -> int:
        return self._size

    def add(self, transitions: dict[str, NDArray[Any]]) -> None:
        """Stores the transitions of entities that have a quality.

        Args:
            transitions: Every column of :data:`COLUMNS`, shape (n,) or (n, 3); ``quality`` is NaN where an
                entity has none.
        """
        keep = np.flatnonzero(np.isfinite(transitions["quality"]))[-self.capacity :]
        count = int(keep.size)
        positions = (self._cursor + np.arange(count)) % self.capacity
        for name, place in COLUMNS.items():
            self._transitions[positions, place] = transitions[name][keep]
        self._cursor = (self._cursor + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def sample(self, batch_size: int, memory_weight: float) -> dict[str, Tensor]:
        """A batch drawn uniformly with replacement from what is stored, with rewards at the λ given.

        Returns:
            ``obs`` and ``next_obs`` (batch, 3), ``action``, ``reward`` and ``terminated`` (batch,), float32.
        """
        rng = np.random.default_rng((self.seed, self.num_draws))
        self.num_draws += 1
        drawn = self._transitions.take(rng.integers(0, self._size, batch_size), axis=0)
        batch = {name: np.ascontiguousarray(drawn[:, place]) for name, place in COLUMNS.items()}
        batch["reward"] = mdp.reward(batch.pop("quality"), batch.pop("memory_cost"), memory_weight)
        return {name: torch.from_numpy(column) for name, column in batch.items()}

    def get_state(self) -> dict[str, Any]:
        """The transitions as an array and two whole numbers."""
        return {
            "transitions": self._transitions[: self._size].copy(),
            "num_draws": self.num_draws,
            "cursor": self._cursor,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`get_state` of a buffer of the same capacity and seed returned."""
        self.num_draws, self._cursor = int(state["num_draws"]), int(state["cursor"])
        self._size = len(state["transitions"])
        self._transitions[: self._size] = state["transitions"]


class BestTable:
    """Popularities and actions of the table of the highest quality so far.

    Args:
        seed: Of the draws; draw number i depends on (seed, i) alone.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._quality = -np.inf
        self._num_draws = 0
        self._columns: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def tell(self, rollout: TableRollout) -> None:
        """Keep a table if it is better than the one kept; what it is judged by is its mean quality."""
        quality = rollout.step.quality
        if quality > self._quality:
            self._quality = quality
            self._columns = {
                kind: (
                    np.array(rollout.transitions[kind]["obs"][:, 0], np.float32),
                    np.array(rollout.transitions[kind]["action"], np.float32),
                )
                for kind in KINDS
            }

    def add_to(self, batch: Mapping[str, dict[str, Tensor]]) -> None:
        """Add as many entities, drawn with replacement, as a batch has transitions.

        Their current size and quality are those of the transitions, which have nothing to do with them: what
        is imitated is to hold wherever an episode stands.

        Args:
            batch: Columns of users and of items; they gain ``imitated_obs`` (n, 3), ``imitated_action`` (n,).
        """
        if not self._columns:
            return
        rng = np.random.default_rng((self._seed, self._num_draws))
        self._num_draws += 1
        for kind, columns in batch.items():
            popularity, action = self._columns[kind]
            drawn = rng.integers(0, len(action), len(columns["obs"]))
            obs = columns["obs"].clone()
            obs[:, 0] = torch.from_numpy(popularity[drawn])
            columns[IMITATED_OBS], columns[IMITATED_ACTION] = obs, torch.from_numpy(action[drawn])

    def get_state(self) -> dict[str, Any]:
        """Everything that the next draw depends on."""
        return {"quality": self._quality, "num_draws": self._num_draws, "columns": dict(self._columns)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`get_state` returned."""
        self._quality, self._num_draws = state["quality"], state["num_draws"]
        self._columns = dict(state["columns"])
