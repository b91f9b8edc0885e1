"""Allocations, and which of them validation chooses: the same for a search and for a cell of a comparison.

First those that were proposed are trained to convergence. Then the best of them, and the best plain split
among them, are trained with their users in communities, each in more and more until that is no better; then
the best of all under other weights of L2. The plain split too, because tables of varied sizes that are better
on validation are not always as much better on test.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ciess_ray.candidate import Candidate
from ciess_ray.config.run import RunConfig
from ciess_ray.streams import Stream, rng_of
from ciess_ray.training.convergence import Trained
from envs.budget import MemoryBudget
from envs.communities import find_communities
from envs.data import Interactions
from envs.sizes.embedding_sizes import COLUMN_TYPE, EmbeddingSizes, column_params, is_plain_split
from envs.step_modes import State


@dataclass(frozen=True, eq=False)
class Start:
    """Parameters that training starts from, in place of drawn ones.

    Attributes:
        state: By name, of a recommender as wide as the full table.
        full_batches: Batches after which the full-size table had them. The training for test then starts
            from a full-size table that was trained so long on training and validation interactions; None
            starts it from the same parameters.
    """

    state: State
    full_batches: int | None = None


@dataclass(frozen=True, eq=False)
class Allocation:
    """A table that someone proposes.

    Attributes:
        name: What sets it apart from others.
        sizes: Which numbers it keeps.
        step_quality: Validation quality in the search's step mode; NaN where it was not judged.
        candidate: Of a search, whose sizes these are; None where it is none.
        start: Where its training starts; None for drawn parameters.
        l2: A further one of ``recommender.options.l2``; None for the first.
        trained: Where it has been trained to convergence already, what came of it.
    """

    name: str
    sizes: EmbeddingSizes
    step_quality: float = float("nan")
    candidate: Candidate | None = None
    start: Start | None = None
    l2: float | None = None
    trained: Trained | None = None

    @property
    def outcome(self) -> Trained:
        """What came of its training, which is over."""
        assert self.trained is not None
        return self.trained

    @property
    def quality(self) -> float:
        """Validation quality once trained."""
        return self.outcome.quality


@dataclass(frozen=True, eq=False)
class Contest:
    """Allocations of which one is to be chosen.

    Attributes:
        proposed: At least one.
        place: The sizes with users in so many communities, as :func:`place`; None where all rows begin at the
            first column.
    """

    proposed: Sequence[Allocation]
    place: Callable[[EmbeddingSizes, int], EmbeddingSizes] | None = None


#: Trains allocations, each told with the position of its contest.
Train = Callable[[Sequence[tuple[int, Allocation]]], Sequence[Trained]]


def choose(
    contests: Sequence[Contest],
    train: Train,
    tried_communities: Sequence[int],
    tried_l2: Sequence[float],
) -> list[tuple[Allocation, list[Allocation]]]:
    """Train and compare, stage after stage, all contests in step.

    Args:
        contests: What is proposed.
        train: Is asked for everything that a stage needs at once.
        tried_communities: Numbers of communities, in turn until one is no better than the same table had
            been by then.
        tried_l2: Weights of L2 beside the configured one.

    Returns:
        For each contest the allocation that is best on validation, and those that were proposed, trained.
    """
    converged = _converge([contest.proposed for contest in contests], train)
    # Each in communities by itself: the position of its contest, itself, and its best form by now.
    bases = [
        (position, first, first)
        for position, contest in enumerate(contests)
        if contest.place
        for first in _firsts(converged[position])
    ]
    best = [[_best(allocations)] for allocations in converged]
    for num_communities in tried_communities:
        if not bases:
            break
        placed = [_placed(contests[position], first, num_communities) for position, first, _ in bases]
        outcomes = train([(position, form) for (position, *_), form in zip(bases, placed, strict=True)])
        forms = [replace(form, trained=outcome) for form, outcome in zip(placed, outcomes, strict=True)]
        bases = [
            (position, first, form)
            for (position, first, before), form in zip(bases, forms, strict=True)
            if form.quality > before.quality
        ]
        for position, _, form in bases:
            best[position].append(form)
    rivals = [
        [chosen, *(replace(chosen, l2=l2, trained=None) for l2 in tried_l2)] for chosen in map(_best, best)
    ]
    return list(zip(map(_best, _converge(rivals, train)), converged, strict=True))


def _firsts(proposed: Sequence[Allocation]) -> list[Allocation]:
    """What is tried in communities: the best, and the best plain split unless that is the same."""
    best = _best(proposed)
    splits = [allocation for allocation in proposed if is_plain_split(allocation.sizes)]
    return [best] if best in splits or not splits else [best, _best(splits)]


def _placed(contest: Contest, first: Allocation, num_communities: int) -> Allocation:
    assert contest.place is not None
    name, sizes = f"{first.name}, {num_communities} communities", contest.place(first.sizes, num_communities)
    return replace(first, name=name, sizes=sizes, trained=None)


def _converge(rivals: Sequence[Sequence[Allocation]], train: Train) -> list[list[Allocation]]:
    """The same, trained; what has been trained already is left as it is."""
    asked = [
        (position, allocation)
        for position, allocations in enumerate(rivals)
        for allocation in allocations
        if allocation.trained is None
    ]
    outcomes = iter(train(asked) if asked else ())
    return [
        [
            allocation if allocation.trained else replace(allocation, trained=next(outcomes))
            for allocation in allocations
        ]
        for allocations in rivals
    ]


def _best(allocations: Sequence[Allocation]) -> Allocation:
    """The best on validation; the first of those that are alike."""
    return max(allocations, key=lambda allocation: allocation.quality)


def place(
    sizes: EmbeddingSizes,
    num_communities: int,
    budget: MemoryBudget,
    config: RunConfig,
    interactions: Interactions,
) -> EmbeddingSizes:
    """The same sizes with the users of community c, from 0, beginning at column c + 1, and items at column 0.

    An item of few numbers gets the other columns from its users when rows are propagated, and users get this
    one from their items: a column that all items share serves as their bias. Communities in an order of
    likeness share most of their columns with those that are like them.

    Under a budget in bytes the sizes pay for the byte a row that says so.

    Args:
        sizes: What uses up the budget.
        num_communities: See :func:`envs.communities.find_communities`.
        budget: The budget.
        config: The run.
        interactions: The splits; training alone is looked at.

    Raises:
        BudgetError: In bytes the budget has no room for that.
        EmbeddingSizeError: There are too few users or items for as many communities.
    """
    rng = rng_of(config.seed, Stream.PLACEMENT, num_communities)
    first_columns = np.zeros(sizes.num_rows, COLUMN_TYPE)
    first_columns[: interactions.num_users] = 1 + find_communities(interactions.train, num_communities, rng)
    if budget.unit == "bytes":
        sizes = EmbeddingSizes.from_proposal(
            sizes.user,
            sizes.item,
            sizes.num_params - column_params(sizes.num_rows),
            sizes.min_embedding_size,
            sizes.max_embedding_size,
            rng,
            fill=True,
            num_tables=sizes.num_tables,
        )
    return replace(sizes, first_columns=first_columns)
