"""Who decides the sizes of a segment, by hand: each proposes tables, and validation says which is kept.

Every table that is tried is trained as the one that is kept, and the training of the best is the one that is
kept: shapes that are judged by shorter trainings come out in another order.
"""

from collections.abc import Sequence

import numpy as np

from ciess_ray.streaming.methods.problem import WIDE_RATE, Judge, Problem, Proposal
from ciess_ray.streaming.yardsticks import best_decay, half_life
from envs.sizes.embedding_sizes import EmbeddingSizes

#: How many times as large as items users are, on average. Neighbours differ by less than validation can tell,
#: so that following its gains from 1 on ends too early.
_RATIOS = (1.0, 0.5, 2.0, 4.0, 8.0)
#: Of the rank of popularity, on items and on users; 0 is one size for all.
_ITEM_POWERS, _USER_POWERS = (0.0, 1.0, 3.0), (0.0, 1.0)


def equal_sizes(problem: Problem, judge: Judge) -> None:
    """The same size for everyone; a cap that does not divide evenly gives two neighbouring sizes."""
    judge([Proposal("", problem.shape(1.0))])


def full_size(problem: Problem, judge: Judge) -> None:
    """d_max for everyone, whatever the budget: what the sizes of the other methods are held against."""
    interactions = problem.data.interactions
    bounds = problem.max_embedding_size, problem.min_embedding_size
    counts = interactions.num_users, interactions.num_items
    judge([Proposal("", EmbeddingSizes.full(*counts, *bounds, problem.num_tables), WIDE_RATE)])


def last_sizes(problem: Problem, judge: Judge) -> None:
    """Everyone keeps the last segment's size and newcomers get the least one, projected onto the cap.

    The first segment has equal sizes.
    """
    former = problem.former
    if former is None:
        return equal_sizes(problem, judge)
    interactions = problem.data.interactions
    user, item = (
        np.concatenate([sizes, np.full(count - len(sizes), problem.min_embedding_size)])
        for sizes, count in (
            (former.user, interactions.num_users),
            (former.item, interactions.num_items),
        )
    )
    judge([Proposal("", problem.project(user, item))])


def split(problem: Problem, judge: Judge) -> None:
    """One size for all users and one for all items, of a few ratios the one that validation likes best."""
    judge([Proposal(f"users : items {ratio:g}", problem.shape(ratio)) for ratio in _RATIOS])


def rank_power(problem: Problem, judge: Judge) -> None:
    """A split, then a power of the rank of popularity for items, then one for users, each as validation says.

    Popularity fades with the half-life whose most popular items validation likes best.
    """
    decay = best_decay(problem.data)
    popularity = problem.data.popularity(decay)

    def best(shapes: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
        proposals = [
            Proposal(
                f"users : items {ratio:g}, powers {user:g} and {item:g} of rank, {half_life(decay)}",
                problem.shape(ratio, (user, item), popularity),
            )
            for ratio, user, item in shapes
        ]
        return shapes[int(np.argmax(judge(proposals)))]

    ratio, _, _ = best([(ratio, 0.0, 0.0) for ratio in _RATIOS])
    *_, item = best([(ratio, 0.0, power) for power in _ITEM_POWERS])
    best([(ratio, power, item) for power in _USER_POWERS])
