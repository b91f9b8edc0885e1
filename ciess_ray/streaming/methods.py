"""Who decides the sizes of a segment, by hand: each proposes tables, and validation says which is kept.

Every table that is tried is trained as the one that is kept, and the training of the best is the one that is
kept: shapes that are judged by shorter trainings come out in another order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.streaming.segment import SegmentData
from ciess_ray.streaming.yardsticks import best_decay, half_life
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.sizes.scall import by_popularity, fractions

#: How many times as large as items users are, on average. Neighbours differ by less than validation can tell,
#: so that following its gains from 1 on ends too early.
_RATIOS = (1.0, 0.5, 2.0, 4.0, 8.0)
#: Of the rank of popularity, on items and on users; 0 is one size for all.
_ITEM_POWERS, _USER_POWERS = (0.0, 1.0, 3.0), (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method knows of a segment.

    Attributes:
        data: What may be chosen by.
        cap_params: Parameters that there are, in all tables together.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        num_tables: Tables in which every row has its size.
        former: Sizes of the last segment; None in the first.
        new_rng: Makes a generator, always of the same draws.
        memory: What the method itself has left in the last segment, by name; what it leaves here is kept with
            the segment's table, and is there in the next.
    """

    data: SegmentData
    cap_params: int
    min_embedding_size: int
    max_embedding_size: int
    num_tables: int
    former: EmbeddingSizes | None
    new_rng: Callable[[], np.random.Generator]
    memory: dict[str, NDArray[Any]] = field(default_factory=dict)

    def project(
        self,
        user: NDArray[np.floating] | NDArray[np.integer],
        item: NDArray[np.floating] | NDArray[np.integer],
    ) -> EmbeddingSizes:
        """The sizes nearest to a proposal that use the whole cap."""
        return EmbeddingSizes.from_proposal(
            user,
            item,
            self.cap_params,
            self.min_embedding_size,
            self.max_embedding_size,
            self.new_rng(),
            fill=True,
            num_tables=self.num_tables,
        )

    def shape(
        self,
        ratio: float,
        powers: tuple[float, float] = (0.0, 0.0),
        popularity: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> EmbeddingSizes:
        """Sizes that fall with a power of the rank of popularity, as SCALL's do in closed form.

        Args:
            ratio: Of the mean size of users to that of items.
            powers: Of users and of items; 1/a in :mod:`envs.sizes.scall`.
            popularity: Of users and of items; None where both powers are 0.
        """
        counts = self.data.interactions.num_users, self.data.interactions.num_items
        item_mean = self.cap_params / self.num_tables / (ratio * counts[0] + counts[1])
        sides = []
        for side, (count, mean) in enumerate(zip(counts, (ratio * item_mean, item_mean), strict=True)):
            shares = fractions(count, np.inf if powers[side] == 0 else 1 / powers[side])
            if popularity is not None:
                shares = np.asarray(by_popularity(shares, popularity[side]), np.float64)
            sides.append(shares * (mean * count))
        return self.project(*sides)


@dataclass(frozen=True, eq=False)
class Proposal:
    """A table that is to be tried.

    Attributes:
        name: What it is, for people.
        sizes: At the cap.
    """

    name: str
    sizes: EmbeddingSizes


#: Trains tables, and says how good each is on validation, in their order; the same table is trained once. The
#: best of all that it is given is the one that is kept, the first among equals.
Judge = Callable[[Sequence[Proposal]], list[float]]


def equal_sizes(problem: Problem, judge: Judge) -> None:
    """The same size for everyone; a cap that does not divide evenly gives two neighbouring sizes."""
    judge([Proposal("", problem.shape(1.0))])


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


#: Each proposes the tables of a segment.
METHODS: dict[str, Callable[[Problem, Judge], None]] = {
    "equal sizes": equal_sizes,
    "last sizes": last_sizes,
    "split": split,
    "rank power": rank_power,
}
