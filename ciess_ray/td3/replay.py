"""A replay buffer of entity transitions whose rewards are formed when a batch is drawn."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs import mdp
from envs.errors import ConfigError

#: Where in a transition of ten float32 numbers each column is.
COLUMNS: dict[str, int | slice] = {
    "obs": slice(0, 3),
    "action": 3,
    "quality": 4,
    "memory_cost": 5,
    "next_obs": slice(6, 9),
    "terminated": 9,
}
#: Transitions kept of users, and as many of items.
CAPACITY = 1_000_000
_WIDTH = 10
_SMALLEST_ALLOCATION = 4096


class EntityReplayBuffer:
    """A ring of the last ``capacity`` transitions of users, or of items.

    Quality and memory cost are stored instead of the reward, so a new λ never meets stale rewards. A
    transition takes 40 bytes that lie together, so a draw from a million reads each from memory once. Memory
    grows with what is stored. Draw number i depends on (seed, i) alone.

    Args:
        capacity: Transitions kept.
        seed: Of the draws.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        if capacity < 1:
            raise ConfigError(f"a replay buffer's capacity must be at least 1, not {capacity}.")
        self.capacity = capacity
        self.seed = seed
        self.num_draws = 0
        self._size = 0
        self._cursor = 0
        self._transitions = np.empty((0, _WIDTH), np.float32)

    def __len__(self) -> int:
        return self._size

    @property
    def num_bytes(self) -> int:
        """Bytes allocated."""
        return self._transitions.nbytes

    def add(self, transitions: dict[str, NDArray[Any]]) -> int:
        """Stores the transitions of entities that have a quality.

        Args:
            transitions: Every column of :data:`COLUMNS`, shape (n,) or (n, 3); ``quality`` is NaN where an
                entity has none.

        Returns:
            How many were stored.
        """
        keep = np.flatnonzero(np.isfinite(transitions["quality"]))[-self.capacity :]
        count = int(keep.size)
        self._allocate(self._size + count)
        positions = (self._cursor + np.arange(count)) % self.capacity
        for name, place in COLUMNS.items():
            self._transitions[positions, place] = transitions[name][keep]
        self._cursor = (self._cursor + count) % self.capacity
        self._size = min(self._size + count, self.capacity)
        return count

    def sample(self, batch_size: int, memory_weight: float) -> dict[str, Tensor]:
        """A batch drawn uniformly with replacement, with rewards at the λ given.

        Returns:
            ``obs`` and ``next_obs`` (batch, 3), ``action``, ``reward`` and ``terminated`` (batch,), float32.
        """
        if self._size == 0:
            raise ConfigError("no transition is stored yet, or no entity has a quality to learn from.")
        rng = np.random.default_rng((self.seed, self.num_draws))
        self.num_draws += 1
        index = rng.integers(0, self._size, batch_size)
        drawn = self._transitions.take(index, axis=0)
        batch = {name: np.ascontiguousarray(drawn[:, place]) for name, place in COLUMNS.items()}
        batch["reward"] = mdp.reward(batch.pop("quality"), batch.pop("memory_cost"), memory_weight)
        return {name: torch.from_numpy(column) for name, column in batch.items()}

    def get_state(self) -> dict[str, Any]:
        """The transitions as an array and four whole numbers."""
        return {
            "transitions": self._transitions[: self._size].copy(),
            "capacity": self.capacity,
            "seed": self.seed,
            "num_draws": self.num_draws,
            "cursor": self._cursor,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`get_state` returned, capacity and seed included."""
        self.capacity, self.seed = int(state["capacity"]), int(state["seed"])
        self.num_draws, self._cursor = int(state["num_draws"]), int(state["cursor"])
        self._transitions = np.array(state["transitions"], np.float32)
        self._size = len(self._transitions)

    def _allocate(self, rows: int) -> None:
        allocated = len(self._transitions)
        rows = min(rows, self.capacity)
        if rows <= allocated:
            return
        rows = min(max(rows, 2 * allocated, _SMALLEST_ALLOCATION), self.capacity)
        grown = np.empty((rows, _WIDTH), np.float32)
        grown[: self._size] = self._transitions[: self._size]
        self._transitions = grown


class ReplayBuffer:
    """One :class:`EntityReplayBuffer` for users and one for items.

    Args:
        capacity: Transitions kept of each.
        seed: Of the draws.
        kinds: Names of the buffers.
    """

    def __init__(self, capacity: int, seed: int, kinds: tuple[str, ...] = ("user", "item")) -> None:
        self.buffers = {
            kind: EntityReplayBuffer(
                capacity, int(np.random.SeedSequence((seed, index)).generate_state(1)[0])
            )
            for index, kind in enumerate(kinds)
        }

    def __len__(self) -> int:
        return sum(len(buffer) for buffer in self.buffers.values())

    def add(self, transitions: dict[str, dict[str, NDArray[Any]]]) -> int:
        """Stores the transitions of one table step; how many were stored is returned."""
        return sum(buffer.add(transitions[kind]) for kind, buffer in self.buffers.items())

    def sample(self, batch_size: int, memory_weight: float) -> dict[str, dict[str, Tensor]]:
        """One batch for users and one for items; a kind without transitions has none."""
        return {
            kind: buffer.sample(batch_size, memory_weight)
            for kind, buffer in self.buffers.items()
            if len(buffer)
        }

    def get_state(self) -> dict[str, Any]:
        """The states of both buffers."""
        return {kind: buffer.get_state() for kind, buffer in self.buffers.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`get_state` returned."""
        for kind, buffer in self.buffers.items():
            buffer.set_state(state[kind])
