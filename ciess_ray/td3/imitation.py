"""The best table so far, which the actors are held near.

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
from envs.mdp import KINDS

IMITATED_OBS, IMITATED_ACTION = "imitated_obs", "imitated_action"


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
                    np.asarray(rollout.transitions[kind]["obs"][:, 0], np.float32).copy(),
                    np.asarray(rollout.transitions[kind]["action"], np.float32).copy(),
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
