"""What a table has to beat: lists of what is popular, and of the nearest neighbours of what users had."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from ciess_ray.streaming.judging import SCORES_AT_ONCE, Ranker, best_by, judge, largest
from ciess_ray.streaming.segment import SegmentData
from envs.metrics import CUTOFFS

#: What a row may count for a segment later: half-lives of 0, 1/2, 1, 2 and 4 segments, and of all time.
DECAYS = (0.0, 0.25, 0.5, 2**-0.5, 2**-0.25, 1.0)
_ID_BYTES, _SCORE_BYTES = 4, 4
#: Of a cosine, less than any difference that means something: it orders items whose neighbours say nothing.
_WEIGHT_OF_PLACES = 1e-6


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
    train = data.interactions.train
    neighbours = nearest_neighbours(train, num_neighbours)
    places = places_by_popularity(data.popularity(1.0)[1]) * (_WEIGHT_OF_PLACES / train.shape[1])

    def rank(seen: csr_array, users: NDArray[np.integer], depth: int) -> NDArray[np.int64]:
        return best_by(lambda rows: (train[rows] @ neighbours).toarray() + places, seen, users, depth)

    num_bytes = neighbours.nnz * (_ID_BYTES + _SCORE_BYTES) + len(neighbours.indptr) * _ID_BYTES
    return Yardstick(rank, num_bytes, f"{num_neighbours} neighbours")


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


def places_by_popularity(popularity: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 for the least popular entity up to n - 1, the later arrival above its equals; shape (n,)."""
    places = np.empty(len(popularity))
    places[np.lexsort((np.arange(len(popularity)), popularity))] = np.arange(len(popularity))
    return places


def nearest_neighbours(train: csr_array, num_neighbours: int) -> csr_array:
    """Cosines of items by the users they share, of each item its largest ones.

    Args:
        train: Ones, shape (num_users, num_items).
        num_neighbours: What is kept of each item, where there are so many.

    Returns:
        Shape (num_items, num_items), float32, nothing on the diagonal.
    """
    counts = np.bincount(train.indices, minlength=train.shape[1])
    norms = np.sqrt(np.maximum(counts, 1)).astype(np.float32)
    scaled = csr_array((train.data / norms[train.indices], train.indices, train.indptr), shape=train.shape)
    by_item = scaled.T.tocsr()
    num_items = train.shape[1]
    length, block = min(num_neighbours, num_items), max(1, SCORES_AT_ONCE // num_items)
    blocks = []
    for first in range(0, num_items, block):
        cosines = (by_item[first : first + block] @ scaled).toarray()
        rows = np.arange(len(cosines))
        cosines[rows, rows + first] = 0.0
        columns, values = largest(cosines, length)
        is_kept = values > 0
        kept = values[is_kept], (np.repeat(rows, is_kept.sum(axis=1)), columns[is_kept])
        blocks.append(csr_array(kept, shape=cosines.shape))
    return csr_array(vstack(blocks, format="csr"))


def _popular(data: SegmentData, decay: float) -> Yardstick:
    popularity = data.popularity(decay)[1]
    places = places_by_popularity(popularity)

    def rank(seen: csr_array, users: NDArray[np.integer], depth: int) -> NDArray[np.int64]:
        return best_by(lambda rows: np.tile(places, (len(rows), 1)), seen, users, depth)

    return Yardstick(rank, len(places) * _ID_BYTES)
