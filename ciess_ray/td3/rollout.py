"""What an env runner hands back of a step of the table: what happened, and a transition of every entity."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray import metric_keys
from envs import mdp
from envs.errors import TrainingError
from envs.mdp import KINDS

Arrays = dict[str, NDArray[Any]]


@functools.lru_cache(maxsize=4)
def _groups(popularity: bytes, dtype: np.dtype[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The group of each entity that is as popular, and where in the order of popularity each group ends.

    Kept: ranking costs more than all else that is told of a step, and popularity stays while a table does.
    """
    _, group, counts = np.unique(np.frombuffer(popularity, dtype), return_inverse=True, return_counts=True)
    return group, np.concatenate([[0], np.cumsum(counts)])


def decile_means(popularity: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
    """Means over each tenth of the entities by popularity.

    Entities of one popularity are not ranked: each counts with the mean of them all. An entity across the
    border of two tenths counts in both with its shares, so that any number of entities has ten tenths.

    Args:
        popularity: Any measure of it, shape (n,), n at least 1.
        values: Of each entity, shape (n,).

    Returns:
        The least popular first, shape (10,).
    """
    group, ends = _groups(popularity.tobytes(), popularity.dtype)
    sums = np.concatenate([[0.0], np.cumsum(np.bincount(group, values))])
    borders = np.linspace(0, ends[-1], metric_keys.NUM_DECILES + 1)
    means: NDArray[np.float64] = np.diff(np.interp(borders, ends, sums)) / np.diff(borders)
    return means


@dataclass(frozen=True)
class TableStep:
    """What a search remembers of one step of the table.

    Attributes:
        proposed_sizes: Sizes asked for, one array each for ``user`` and ``item``, shape (n,), int16 or int32.
        embedding_sizes: Sizes executed, after any projection onto the budget; same shapes.
        info: The environment's numbers for the whole table: kept ratio, quality, metrics, seconds.
        reward: Mean entity reward at the λ of the step.
        greedy_ratio: Mean size the actors themselves ask for, as a share of d_max.
        walk_gain: What critic 1 values the end of a walk more than its start, mean over users and items; 0
            where none walked.
        size_deciles: Mean executed size in each tenth of popularity, one array each for ``user`` and
            ``item``, as far as these have rows, shape (10,), the least popular first.
        memory_weight: λ of the step.
        is_warmup: Whether a random table-level policy acted instead of the actors.
        worker_index: Which env runner; 0 is the local one.
        episode: Episode of that runner, from 0.
        step: Step within the episode, from 0.
        runner_step: Steps that runner had taken before, over all episodes.
    """

    proposed_sizes: Arrays
    embedding_sizes: Arrays
    info: dict[str, float]
    reward: float
    greedy_ratio: float
    walk_gain: float
    size_deciles: Arrays
    memory_weight: float
    is_warmup: bool
    worker_index: int
    episode: int
    step: int
    runner_step: int

    @classmethod
    def of(
        cls,
        obs: Arrays,
        info: dict[str, Any],
        proto_actions: Arrays,
        bounds: tuple[int, int],
        **attributes: Any,
    ) -> "TableStep":
        """The step that an environment has answered.

        Args:
            obs: States before it, whose first feature is popularity.
            info: What the environment says of it.
            proto_actions: What the actors alone would have done, in [-1, 1].
            bounds: d_min and d_max.
            **attributes: The other attributes.
        """
        dtype = np.int16 if bounds[1] <= np.iinfo(np.int16).max else np.int32
        greedy = np.concatenate([np.rint(mdp.unscale_size(proto_actions[kind], *bounds)) for kind in KINDS])
        return cls(
            proposed_sizes={kind: info[kind]["proposed_sizes"].astype(dtype) for kind in KINDS},
            embedding_sizes={kind: info[kind]["embedding_sizes"].astype(dtype) for kind in KINDS},
            info={
                key: float(value)
                for key, value in info.items()
                if isinstance(value, int | float | np.integer | np.floating)
            },
            greedy_ratio=float(greedy.mean() / bounds[1]),
            size_deciles={
                kind: decile_means(obs[kind][:, 0], info[kind]["embedding_sizes"])
                for kind in KINDS
                if len(obs[kind])
            },
            **attributes,
        )

    @property
    def quality(self) -> float:
        """What the table is judged by; its reward in an environment that tells no quality."""
        return self.info.get("quality", self.reward)

    def metrics(self) -> dict[str, float]:
        """What is told of the step, by the constants of :mod:`ciess_ray.metric_keys`."""
        deciles = {
            "user": metric_keys.USER_SIZE_DECILES,
            "item": metric_keys.ITEM_SIZE_DECILES,
        }
        return {
            metric_keys.KEPT_RATIO: self.info["kept_ratio"],
            metric_keys.PROPOSED_RATIO: self.info["proposed_ratio"],
            metric_keys.GREEDY_RATIO: self.greedy_ratio,
            metric_keys.QUALITY: self.info["quality"],
            metric_keys.REWARD: self.reward,
            metric_keys.WALK_GAIN: self.walk_gain,
            # An environment that trains nothing need not say so.
            metric_keys.TRAIN_S: self.info.get("train_s", 0.0),
            metric_keys.EVALUATE_S: self.info.get("evaluate_s", 0.0),
        } | {
            key: float(size)
            for kind, sizes in self.size_deciles.items()
            for key, size in zip(deciles[kind], sizes, strict=True)
        }


@dataclass(frozen=True, eq=False)
class TableRollout:
    """One table step.

    Attributes:
        step: What happened.
        transitions: Of its entities, by kind, as columns of the replay buffer.
    """

    step: TableStep
    transitions: dict[str, Arrays]


#: An error is handed back, not raised: RLlib would take it for a dead actor and start that anew for ever.
Sampled = list[TableRollout | TrainingError]


def rollouts_of(sampled: Iterable[Sampled]) -> list[TableRollout]:
    """The steps that env runners have taken, by runner and in their order.

    Raises:
        TrainingError: The environment of one failed.
    """
    rollouts = []
    for rollout in (rollout for rollouts in sampled for rollout in rollouts):
        if isinstance(rollout, TrainingError):
            raise rollout
        rollouts.append(rollout)
    return sorted(rollouts, key=lambda rollout: (rollout.step.worker_index, rollout.step.runner_step))
