"""Which tables are trained to convergence, and which of those validation chooses.

CIESS (arXiv 2304.03501) section 2.2.6 trains the best that meet the budget, of all that a search has seen. A
search that is projected onto one budget has seen no table that uses up a looser one: there its candidates are
shaped anew.

Choosing is the same for a search and for a cell of a comparison. First those that were proposed are trained.
Then the best of them, and the best plain split among them, are trained with their users in communities, each
in more and more until that is no better; then the best and the best plain split in other ways to train, and
in the best of these under other weights of L2, or of whichever option of the recommender several values are
tried. The plain split too, because tables of varied sizes that are better on validation are not always as
much better on test.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ciess_ray.candidate import Candidate
from ciess_ray.config.run import OF_TRAINING, RunConfig, Way
from ciess_ray.streams import Stream, rng_of
from ciess_ray.training.convergence import Trained, full_sizes, recipe_of
from envs.budget import MemoryBudget
from envs.communities import find_communities
from envs.data import Interactions
from envs.recommenders.evaluation import evaluate
from envs.sizes.embedding_sizes import (
    COLUMN_TYPE,
    EmbeddingSizes,
    column_params,
    distance,
    is_plain_split,
)
from envs.step_modes import State, StepRecommenders, batches_of_step

#: What finalists differ by, at least. Nearer tables differ less than two trainings of one table do, half a
#: percent of quality: to train both would be to draw twice.
FINALIST_DISTANCE = 0.02
#: Of a recipe, what follows from the rest of it.
_SCHEDULE = {
    OF_TRAINING + name for name in ("batch_size", "min_learning_rate", "decay_every", "evaluate_every")
}
#: Candidates, best first, that are shaped anew and judged for a looser budget.
NUM_RESHAPED = 32


def select_candidates(
    candidates: Sequence[Candidate], cap_params: int, num_best: int, min_distance: float = 0.0
) -> list[Candidate]:
    """The best distinct candidates that meet the cap, by mean quality, best first; may be fewer.

    Args:
        candidates: All.
        cap_params: The cap.
        num_best: How many at most.
        min_distance: Any two of them differ by more, see :func:`distance`, as long as that leaves enough;
            the best of the others then make up the number.
    """
    meeting = sorted(
        (c for c in candidates if c.sizes.num_params <= cap_params), key=lambda c: c.quality, reverse=True
    )
    chosen: list[Candidate] = []
    for least in (min_distance, 0.0):
        for candidate in meeting:
            if len(chosen) < num_best and all(
                distance(candidate.sizes, other.sizes) > least for other in chosen
            ):
                chosen.append(candidate)
    return sorted(chosen, key=lambda c: c.quality, reverse=True)


def select_finalists(candidates: Sequence[Candidate], cap_params: int, num_best: int) -> list[Candidate]:
    """What is trained to convergence: the best candidates that lie apart, and a plain split among them.

    Steps are noisy judges of tables that are nearly as good as each other, and the most varied of hundreds of
    tables profit most. So the last place is the best plain split's, if none of the best is one.

    Args:
        candidates: All.
        cap_params: The cap.
        num_best: How many at most; a single one is the best.
    """
    chosen = select_candidates(candidates, cap_params, num_best, FINALIST_DISTANCE)
    splits = select_candidates([c for c in candidates if is_plain_split(c.sizes)], cap_params, 1)
    if num_best == 1 or not splits or any(is_plain_split(c.sizes) for c in chosen):
        return chosen
    return sorted([*chosen[: num_best - 1], *splits], key=lambda c: c.quality, reverse=True)


def project_smallest(candidates: Sequence[Candidate], cap_params: int, rng: np.random.Generator) -> Candidate:
    """The smallest table seen, projected onto a cap that none has met."""
    smallest = min(candidates, key=lambda c: c.sizes.num_params)
    return replace(smallest, sizes=project(smallest.sizes, cap_params, rng))


def reshape_candidates(
    candidates: Sequence[Candidate],
    cap_params: int,
    rng: np.random.Generator,
    judge: Callable[[EmbeddingSizes], float] | None,
) -> list[Candidate]:
    """The best candidates of a tighter budget in shapes that use up this one.

    What was proposed is projected anew, which keeps differences; and what was executed is enlarged by one
    factor and then projected, which keeps proportions.

    Args:
        candidates: Executed under a tighter budget.
        cap_params: The looser one.
        rng: Draws which of equal entities get what is left over.
        judge: Quality of given sizes, where that is cheap; None takes over the quality measured under the
            tighter budget, and only the first shape.
    """
    reshaped = []
    for candidate in select_candidates(candidates, cap_params, NUM_RESHAPED):
        shapes = [project(candidate.proposed, cap_params, rng)]
        if judge is not None:
            shapes.append(project(candidate.sizes, cap_params, rng, cap_params / candidate.sizes.num_params))
        reshaped += [
            replace(candidate, sizes=sizes, quality=judge(sizes) if judge else candidate.quality)
            for sizes in shapes
        ]
    return reshaped


def project(
    sizes: EmbeddingSizes, cap_params: int, rng: np.random.Generator, factor: float = 1.0
) -> EmbeddingSizes:
    """Sizes of all entities, enlarged by a factor, in the nearest shape that uses up a cap, in parameters."""
    return EmbeddingSizes.from_proposal(
        factor * sizes.user,
        factor * sizes.item,
        cap_params,
        sizes.min_embedding_size,
        sizes.max_embedding_size,
        rng,
        fill=True,
        num_tables=sizes.num_tables,
    )


def judge_of(
    config: RunConfig, interactions: Interactions, pretrained: State | None
) -> Callable[[EmbeddingSizes], float]:
    """What gives sizes their validation quality as a step of the search finds it, judgement after judgement.

    Args:
        config: The run; in a step mode that only masks a supernet a judgement costs one evaluation.
        interactions: The splits; test is not looked at.
        pretrained: What the step mode starts from; None where it needs nothing.
    """
    recipe = replace(recipe_of(config, interactions), settings=config.step_training)
    recommenders = StepRecommenders(
        config.step_mode,
        recipe,
        config.search.batches_per_step or batches_of_step(recipe),
        full_sizes(config, interactions),
        pretrained,
    )
    rngs = (rng_of(config.seed, Stream.JUDGEMENT, number) for number in itertools.count())

    def judge(sizes: EmbeddingSizes) -> float:
        recommender = recommenders.recommender(sizes, next(rngs))
        return evaluate(recommender, interactions.train, interactions.validation).quality

    return judge


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
        options: Of training and of the recommender, by name, what is not as it is searched with, see
            :meth:`ciess_ray.config.run.RunConfig.with_options`.
        trained: Where it has been trained to convergence already, what came of it.
    """

    name: str
    sizes: EmbeddingSizes
    step_quality: float = float("nan")
    candidate: Candidate | None = None
    start: Start | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
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


def options_text(options: Mapping[str, Any]) -> str:
    """Options that were tried, as people read them; empty for those that are searched with."""
    return ", ".join(
        f"{'L2' if name == 'l2' else name.removeprefix(OF_TRAINING).replace('_', ' ')} "
        f"{value if isinstance(value, str) else format(value, 'g')}"
        for name, value in options.items()
        if value is not None and name not in _SCHEDULE
    )


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
    ways: Sequence[Way],
    has_time_for: Callable[[str], bool] = lambda stage: True,
) -> list[tuple[Allocation, list[Allocation]]]:
    """Train and compare, stage after stage, all contests in step.

    Args:
        contests: What is proposed.
        train: Is asked for everything that a stage needs at once.
        tried_communities: Numbers of communities, in turn until one is no better than the same table had
            been by then.
        ways: All ways to train, of which the first is what is proposed in; in the best of them, the other
            values of one option after another, each at the best of those before.
        has_time_for: Whether what a stage tries, communities, other ways, an option, is tried.

    Returns:
        For each contest the allocation that is best on validation, and those that were proposed, trained.
    """
    converged = _converge([contest.proposed for contest in contests], train)
    best = [_firsts(allocations) for allocations in converged]
    # What each contest tries in communities: as it was proposed, and its best form by now.
    tried = [
        [(first, first) for first in _firsts(allocations)] if contest.place else []
        for contest, allocations in zip(contests, converged, strict=True)
    ]
    for num_communities in tried_communities:
        if not any(tried) or not has_time_for(f"{num_communities} communities"):
            break
        placed = [
            [_placed(contest, first, num_communities) for first, _ in forms]
            for contest, forms in zip(contests, tried, strict=True)
        ]
        tried = [
            [
                (first, form)
                for (first, before), form in zip(forms, trained, strict=True)
                if form.quality > before.quality
            ]
            for forms, trained in zip(tried, _converge(placed, train), strict=True)
        ]
        for allocations, forms in zip(best, tried, strict=True):
            allocations += [form for _, form in forms]
    lanes = [_firsts(allocations) for allocations in best]
    other_ways = [way.options for way in ways[1:]] if len(ways) > 1 and has_time_for("other ways") else []
    lanes = _best_forms([[(one, other_ways) for one in its] for its in lanes], train)
    others = [
        [next(way.others for way in ways if way.options == one.options) for one in its] for its in lanes
    ]
    for name in {name: None for its in others for each in its for name in each}:
        if not has_time_for(name):
            break
        asked = [
            [(one, [{name: value} for value in each.get(name, ())]) for one, each in zip(*both, strict=True)]
            for both in zip(lanes, others, strict=True)
        ]
        lanes = _best_forms(asked, train)
    return [(_best(its), allocations) for its, allocations in zip(lanes, converged, strict=True)]


def _best_forms(
    asked: Sequence[Sequence[tuple[Allocation, Sequence[Mapping[str, Any]]]]], train: Train
) -> list[list[Allocation]]:
    """Of allocations of each contest the best of itself, trained, and of itself with other options, each."""
    forms = [
        [[one, *(_with_options(one, other) for other in others)] for one, others in its] for its in asked
    ]
    trained = _converge([list(itertools.chain(*its)) for its in forms], train)
    return [
        [_best(list(itertools.islice(outcomes, len(each)))) for each in its]
        for its, outcomes in zip(forms, map(iter, trained), strict=True)
    ]


def _with_options(allocation: Allocation, options: Mapping[str, Any]) -> Allocation:
    """The same, not trained yet, with other options."""
    return replace(allocation, options={**allocation.options, **options}, trained=None)


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
        sizes = project(sizes, sizes.num_params - column_params(sizes.num_rows), rng)
    return replace(sizes, first_columns=first_columns)
