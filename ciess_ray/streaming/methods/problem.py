"""What a method that decides the sizes of a segment is given: the problem, and the judge of its proposals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.streaming.segment import SegmentData
from envs.recommenders.training import Recipe
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.sizes.scall import by_popularity, fractions


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
        recipe: How its tables are trained.
        memory: What the method itself has left in the last segment, by name; what it leaves here is kept with
            the segment's table, and is there in the next.
        before: Gives what may be learnt on; None in the first segment.
        is_shared: Which rows share one of their kind, for the budget has no room for all; users first, shape
            (num_rows,). None where all have one.
    """

    data: SegmentData
    cap_params: int
    min_embedding_size: int
    max_embedding_size: int
    num_tables: int
    former: EmbeddingSizes | None
    new_rng: Callable[[], np.random.Generator]
    recipe: Recipe
    memory: dict[str, NDArray[Any]] = field(default_factory=dict)
    before: "Callable[[], SegmentBefore] | None" = None
    is_shared: NDArray[np.bool_] | None = None

    @property
    def params_a_table(self) -> int:
        """Parameters that there are in each table, which is the sum of the sizes."""
        return self.cap_params // self.num_tables

    def project(
        self,
        user: NDArray[np.floating] | NDArray[np.integer],
        item: NDArray[np.floating] | NDArray[np.integer],
        *,
        rng: np.random.Generator | None = None,
    ) -> EmbeddingSizes:
        """The sizes nearest to a proposal that use the whole cap.

        Rows that share one have d_min, and what is proposed for them goes to the others in proportion.

        Args:
            user: Of users, shape (num_users,).
            item: Of items, shape (num_items,).
            rng: Draws who gets what is left over; None for the same draws each time.
        """
        return EmbeddingSizes.from_proposal(
            user,
            item,
            self.cap_params,
            self.min_embedding_size,
            self.max_embedding_size,
            rng or self.new_rng(),
            fill=True,
            num_tables=self.num_tables,
            is_shared=self.is_shared,
        )

    def shape(
        self,
        ratio: float,
        powers: tuple[float, float] = (0.0, 0.0),
        popularity: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> EmbeddingSizes:
        """Sizes that fall with a power of the rank of popularity, as SCALL's do in closed form.

        Rows that share one are in no ranking.

        Args:
            ratio: Of the mean size of users to that of items.
            powers: Of users and of items; 1/a in :mod:`envs.sizes.scall`.
            popularity: Of users and of items; None where both powers are 0.
        """
        interactions = self.data.interactions
        has_own = np.ones(interactions.num_entities, bool) if self.is_shared is None else ~self.is_shared
        owners = [np.flatnonzero(kind) for kind in np.split(has_own, [interactions.num_users])]
        num_even = ratio * len(owners[0]) + len(owners[1])
        item_mean = self.cap_params / self.num_tables / num_even if num_even else 0.0
        sides = [np.zeros(interactions.num_users), np.zeros(interactions.num_items)]
        for side, (rows, mean) in enumerate(zip(owners, (ratio * item_mean, item_mean), strict=True)):
            if not len(rows):
                continue
            shares = fractions(len(rows), np.inf if powers[side] == 0 else 1 / powers[side])
            if popularity is not None:
                shares = np.asarray(by_popularity(shares, popularity[side][rows]), np.float64)
            sides[side][rows] = shares * (mean * len(rows))
        return self.project(*sides)


@dataclass(frozen=True, eq=False)
class SegmentBefore:
    """The segment before, for a method that learns on it what it decides by.

    Attributes:
        problem: What the method was given there, but for what is kept of still earlier ones.
        figures: Of the method's own table there, as its row has them.
        scratch: Gives the recipe of a training from scratch there, of so many batches.
        seed: Of the stream.
        tell: Tells people what the learning is at.
    """

    problem: Problem
    figures: Mapping[str, Any]
    scratch: Callable[[int], Recipe]
    seed: int
    tell: Callable[[str], None]


#: Times a recipe's learning rate: rows of d_max numbers want a lower one than those that a budget leaves. On
#: validation of Online Retail II full size has an N@20 of .075 from it, and of .069 from the rate itself.
WIDE_RATE = 0.25


@dataclass(frozen=True, eq=False)
class Proposal:
    """A table that is to be tried.

    Attributes:
        name: What it is, for people.
        sizes: At the cap.
        rate: Times the recipe's learning rate that it is trained from.
    """

    name: str
    sizes: EmbeddingSizes
    rate: float = 1.0


#: Trains tables, and says how good each is on validation, in their order; the same table is trained once. The
#: best of all that it is given is the one that is kept, the first among equals.
Judge = Callable[[Sequence[Proposal]], list[float]]
