"""A replay buffer for RLlib's off-policy algorithms that draws the recent more often, as SCALL does."""

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.rllib.utils.replay_buffers.base import ReplayBufferInterface

from ciess_ray.streams import Stream, rng_of

#: Transitions up to which an update sees one alone.
_FEW = 12


class Transition(NamedTuple):
    """What one table step gave; the action as the networks see it, in [-1, 1]."""

    obs: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: float
    next_obs: NDArray[np.float32]


def draw_weights(num_stored: int) -> NDArray[np.float64]:
    """Probability of each transition, the oldest first: as its position, counted from 1.

    Args:
        num_stored: Transitions, at least 1.

    Returns:
        Shape (num_stored,), with the sum 1.
    """
    positions = np.arange(1, num_stored + 1, dtype=np.float64)
    return np.asarray(positions / positions.sum())


def batch_size_of(num_stored: int, batch_size: int) -> int:
    """Transitions of an update: one up to 12 stored, all that were asked for beyond."""
    return 1 if num_stored <= _FEW else min(batch_size, num_stored)


class RecencyReplayBuffer(ReplayBufferInterface):
    """The last ``capacity`` transitions, of which later ones are likelier to be drawn.

    A draw is without replacement and depends on (seed, number of the draw) and on what is stored alone.
    RLlib's own buffer lets go of whole episodes, and episodes of a table never end.

    Args:
        capacity: Transitions kept.
        seed: Of the draws.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self._seed = seed
        self._num_draws = 0
        self._transitions: deque[Transition] = deque(maxlen=capacity)
        self._metrics = MetricsLogger(root=False)

    def __len__(self) -> int:
        return len(self._transitions)

    def add(self, batch: Iterable[SingleAgentEpisode], **kwargs: Any) -> None:
        """Stores every step of pieces of episodes.

        Args:
            batch: What env runners sampled.
            **kwargs: RLlib's forward compatibility.
        """
        for episode in batch:
            observations = np.asarray(episode.get_observations(), np.float32)
            steps = zip(
                observations[:-1],
                np.asarray(episode.get_actions(), np.float32),
                np.asarray(episode.get_rewards(), np.float64).tolist(),
                observations[1:],
                strict=True,
            )
            self._transitions.extend(Transition(*step) for step in steps)

    def sample(self, num_items: int | None = None, **kwargs: Any) -> list[SingleAgentEpisode]:
        """A batch, each transition as an episode of one step, as RLlib's learners take it.

        Args:
            num_items: Transitions asked for; see :func:`batch_size_of`.
            **kwargs: What RLlib says of longer sequences, which there are none of.
        """
        assert num_items is not None
        num_stored = len(self)
        rng = rng_of(self._seed, Stream.SAC_REPLAY, self._num_draws)
        self._num_draws += 1
        drawn = rng.choice(
            num_stored, batch_size_of(num_stored, num_items), replace=False, p=draw_weights(num_stored)
        )
        return [_episode(self._transitions[position]) for position in drawn]

    def get_metrics(self) -> Any:
        """None, in the form that RLlib adds up."""
        return self._metrics.reduce()

    def get_state(self) -> dict[str, Any]:
        """The transitions as arrays, the oldest first, and the number of draws."""
        columns = zip(*self._transitions, strict=True) if self._transitions else ((),) * 4
        named = zip(Transition._fields, columns, strict=True)
        return {"num_draws": self._num_draws} | {name: np.array(column) for name, column in named}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`get_state` of a buffer of the same capacity and seed returned."""
        self._num_draws = int(state["num_draws"])
        self._transitions.clear()
        columns = [state["obs"], state["action"], state["reward"].tolist(), state["next_obs"]]
        self._transitions.extend(Transition(*one) for one in zip(*columns, strict=True))


def _episode(transition: Transition) -> SingleAgentEpisode:
    return SingleAgentEpisode(
        observations=[transition.obs, transition.next_obs],
        actions=[transition.action],
        rewards=[transition.reward],
        # What RLlib's loss multiplies each error with, and over how many steps it looks ahead.
        extra_model_outputs={"weights": [1.0], "n_step": [1]},
        terminated=False,
        truncated=False,
        len_lookback_buffer=0,
    )
