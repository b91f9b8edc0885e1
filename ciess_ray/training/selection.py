"""Which of the tables that a search has seen are trained to convergence, for each budget.

CIESS (arXiv 2304.03501) section 2.2.6 keeps the best that meet the budget. A search that is projected onto
one budget has seen no table that uses up a looser one: there its candidates are shaped anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ciess_ray.candidate import Candidate
from ciess_ray.config.run import RunConfig
from ciess_ray.streams import Stream, rng_of
from ciess_ray.training.convergence import recipe_of
from ciess_ray.training.pretrained import full_sizes
from envs.data import Interactions
from envs.recommenders.evaluation import evaluate
from envs.sizes.embedding_sizes import EmbeddingSizes, distance, is_plain_split
from envs.step_modes import State, StepRecommenders, batches_of_step

#: What finalists differ by, at least. Nearer tables differ less than two trainings of one table do, half a
#: percent of quality: to train both would be to draw twice.
FINALIST_DISTANCE = 0.02
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
            if len(chosen) == num_best:
                break
            if all(distance(candidate.sizes, other.sizes) > least for other in chosen):
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
    if num_best == 1 or any(is_plain_split(c.sizes) for c in chosen):
        return chosen
    if not splits:
        return chosen
    return sorted([*chosen[: num_best - 1], *splits], key=lambda c: c.quality, reverse=True)


def project_smallest(candidates: Sequence[Candidate], cap_params: int, rng: np.random.Generator) -> Candidate:
    """The smallest table seen, projected onto a cap that none has met."""
    smallest = min(candidates, key=lambda c: c.sizes.num_params)
    return replace(
        smallest, sizes=_project(smallest.sizes.user, smallest.sizes.item, smallest, cap_params, rng)
    )


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
        proposed, executed = candidate.proposed, candidate.sizes
        shapes = [_project(proposed.user, proposed.item, candidate, cap_params, rng)]
        if judge is not None:
            factor = cap_params / executed.num_params
            shapes.append(
                _project(factor * executed.user, factor * executed.item, candidate, cap_params, rng)
            )
        for sizes in shapes:
            quality = candidate.quality if judge is None else judge(sizes)
            reshaped.append(replace(candidate, sizes=sizes, quality=quality))
    return reshaped


def _project(
    user: np.ndarray, item: np.ndarray, of: Candidate, cap_params: int, rng: np.random.Generator
) -> EmbeddingSizes:
    sizes = of.sizes
    return EmbeddingSizes.from_proposal(
        user,
        item,
        cap_params,
        sizes.min_embedding_size,
        sizes.max_embedding_size,
        rng,
        fill=True,
        num_tables=sizes.num_tables,
    )


class Judge:
    """Validation quality of sizes in the configured step mode; with ``supernet`` it costs one evaluation.

    Args:
        config: The run.
        interactions: The splits; test is not looked at.
        pretrained: What the step mode starts from; None where it needs nothing.

    Attributes:
        num_steps: Allocations judged so far.
        trains: Whether a step trains a recommender.
    """

    def __init__(self, config: RunConfig, interactions: Interactions, pretrained: State | None) -> None:
        settings, recipe = config.search, recipe_of(config, interactions)
        learning_rate = settings.step_learning_rate or recipe.settings.learning_rate
        stepwise = recipe.settings.model_copy(update={"learning_rate": learning_rate})
        recipe = replace(recipe, settings=stepwise)
        self._recommenders = StepRecommenders(
            settings.resolved_step_mode,
            recipe,
            settings.batches_per_step or batches_of_step(recipe),
            full_sizes(config, interactions),
            pretrained,
        )
        self._interactions, self._seed = interactions, config.seed
        self.num_steps = 0
        self.trains = self._recommenders.mode.trains

    def __call__(self, sizes: EmbeddingSizes) -> float:
        """Mean ranking metric on validation."""
        rng = rng_of(self._seed, Stream.JUDGEMENT, self.num_steps)
        self.num_steps += 1
        recommender = self._recommenders.recommender(sizes, rng)
        return evaluate(recommender, self._interactions.train, self._interactions.validation).quality
