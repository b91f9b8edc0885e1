"""What a table has to beat: lists of what is popular, and of the nearest neighbours of what users had."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.streaming.judging import Ranker, judge
from ciess_ray.streaming.segment import SegmentData
from envs import yardsticks
from envs.metrics import CUTOFFS

#: What a row may count for a segment later: half-lives of 0, 1/2, 1, 2 and 4 segments, and of all time.
DECAYS = (0.0, 0.25, 0.5, 2**-0.5, 2**-0.25, 1.0)


@dataclass(frozen=True)
class Yardstick:
    """Lists without a table.

    Attributes:
        rank: Gives them.
        num_bytes: Of what they are made of, beside what users had.
        chosen: What validation chose, for people.
        figures: The same for the row of results.
    """

    rank: Ranker
    num_bytes: int
    chosen: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def popular_here(data: SegmentData, num_neighbours: int) -> Yardstick:
    """What is most popular among this segment's training rows."""
    return _popular(data, 0.0)


def popular_ever(data: SegmentData, num_neighbours: int) -> Yardstick:
    """What is most popular among all rows so far."""
    return _popular(data, 1.0)


def popular_of_late(data: SegmentData, num_neighbours: int) -> Yardstick:
    """What is popular with a half-life that validation chooses."""
    decay = best_decay(data)
    yardstick = _popular(data, decay)
    return Yardstick(yardstick.rank, yardstick.num_bytes, half_life(decay), {"decay": decay})


def item_cosine(data: SegmentData, num_neighbours: int) -> Yardstick:
    """Items nearest to what a user had: the sum of cosines, of which each item keeps its largest.

    Where they say nothing, or the same, the more popular item comes first.
    """
    lists = yardsticks.item_cosine(data.interactions.train, data.popularity(1.0)[1], num_neighbours)
    return _of_users(data, lists, f"{num_neighbours} neighbours")


#: Each is called with what is known of a segment and the neighbours that an item keeps.
YARDSTICKS: dict[str, Callable[[SegmentData, int], Yardstick]] = {
    "popular in this segment": popular_here,
    "popular ever": popular_ever,
    "popular of late": popular_of_late,
    "item cosine": item_cosine,
}


def half_life(decay: float) -> str:
    """A decay as people call it."""
    if decay in (0.0, 1.0):
        return "this segment alone" if decay == 0.0 else "all time"
    return f"half-life {math.log(0.5) / math.log(decay):g} segments"


def best_decay(data: SegmentData) -> float:
    """The decay whose popular items validation likes best, the shortest memory among equals."""
    interactions = data.interactions

    def quality(decay: float) -> float:
        rank = _popular(data, decay).rank
        popular = np.full(max(CUTOFFS), -1)
        judgement = judge(rank, interactions.validation, interactions.train, data.cold_validation, popular)
        return judgement.known.quality

    return max(DECAYS, key=quality)


def popular_items(data: SegmentData, depth: int) -> NDArray[np.int64]:
    """What somebody gets of whom nothing is known: the most popular items of all training rows, best first.

    It is the list that ``ciess-ray recommend --unknown popular`` gives from the segment's folder.

    Returns:
        Shape (depth,), -1 where there are fewer.
    """
    popularity = data.interactions.item_popularity
    items = np.full(depth, -1, np.int64)
    best = np.lexsort((np.arange(len(popularity)), -popularity))[:depth]
    items[: len(best)] = best
    return items


def _popular(data: SegmentData, decay: float) -> Yardstick:
    return _of_users(data, yardsticks.most_popular(data.popularity(decay)[1]))


def _of_users(data: SegmentData, lists: yardsticks.Yardstick, chosen: str = "") -> Yardstick:
    """The same lists of the users of a segment."""
    return Yardstick(partial(lists.rank, data.interactions.train), lists.num_bytes, chosen)
