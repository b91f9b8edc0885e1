"""From the candidates of a search to what is best on validation once trained, for each budget.

CIESS (arXiv 2304.03501) section 2.2.6: the best candidates are trained from scratch, and the best of these on
validation is what is returned; equal sizes and the full-size table are trained alike beside it. Each is
trained in a Ray task of its own, and kept as it ends: it depends on its sizes, its seed and the run, on
nothing that ran before or beside it. So are those that are measured on test, and what is packed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ciess_ray import metric_keys
from ciess_ray.config.run import RunConfig
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH, USERS_FIRST
from ciess_ray.resources import num_threads
from ciess_ray.searches.run import Budget, Run
from ciess_ray.streams import Stream, key_of, rng_of
from ciess_ray.training.contest import (
    Allocation,
    Contest,
    choose,
    judge_of,
    options_text,
    place,
    project_smallest,
    reshape_candidates,
    select_finalists,
)
from ciess_ray.training.convergence import (
    Trained,
    equal_sizes,
    fit_to_convergence,
    full_sizes,
    stretched,
    train_for_test,
    train_for_use,
    users_first,
)
from ciess_ray.training.preparing import Training, train_side_by_side, training_file
from envs.budget import MemoryBudget
from envs.data import Interactions
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import State, state_of


@dataclass(frozen=True, eq=False)
class Finalists:
    """What was trained to convergence for one budget.

    Attributes:
        equal: Equal sizes.
        best: What is best on validation of these and of all that was made of the search's candidates.
        retrained: A row for each table that was trained first: equal sizes, then candidates.
    """

    equal: Allocation
    best: Allocation
    retrained: list[dict[str, Any]]


def retrain(run: Run, full: Trained, pretrained: State | None) -> tuple[Allocation, list[Finalists]]:
    """Train full size, equal sizes and candidates in all ways that are tried; of each the best on validation.

    Args:
        run: The search.
        full: The full-size fit.
        pretrained: What its step mode started from.

    Returns:
        Full size, and the finalists of every budget.
    """
    config, interactions = run.config, run.interactions
    full_size = Allocation(FULL_SIZE, full_sizes(config, interactions), trained=full)
    contests: list[tuple[Budget | None, Contest]] = [(None, Contest([full_size]))]
    for position, budget in enumerate(run.budgets):
        equal = Allocation(EQUAL_SIZES, equal_sizes(config, interactions, budget.cap_params))
        in_communities = partial(
            place, budget=MemoryBudget.parse(budget.asked), config=config, interactions=interactions
        )
        chosen = chosen_candidates(run, position, pretrained)
        contests += [(budget, Contest([equal])), (budget, Contest(chosen, in_communities))]

    def train(asked: Sequence[tuple[int, Allocation]]) -> list[Trained]:
        run.journal.begin_round(len(asked))
        return train_all(run, [titled(run, contests[position][0], table) for position, table in asked])

    (whole, _), *chosen_tables = choose(
        [contest for _, contest in contests],
        train,
        config.search.tried_communities,
        config.ways,
        run.journal.clock.has_time_for,
    )
    finalists = []
    for (best_equal, (equal,)), (packed, searched) in zip(
        chosen_tables[::2], chosen_tables[1::2], strict=True
    ):
        # In CIESS a candidate is what is returned.
        if config.search.mode == "projected" and best_equal.quality > packed.quality:
            packed = best_equal
        retrained = [_retrained_row(EQUAL_SIZES, equal, packed)]
        retrained += [_retrained_row(SEARCH, table, packed) for table in searched]
        finalists.append(Finalists(best_equal, packed, retrained))
    return whole, finalists


def titled(run: Run, budget: Budget | None, allocation: Allocation) -> Allocation:
    """With a name by which a reader knows which budget's it is, and which options it is tried with."""
    of_budget = "" if budget is None or len(run.budgets) == 1 else f"{budget.asked}: "
    options = "" if allocation.trained else options_text(allocation.options)
    return replace(allocation, name=of_budget + allocation.name + (options and f", {options}"))


def chosen_candidates(run: Run, position: int, pretrained: State | None) -> list[Allocation]:
    """The candidates that are trained for the budget at this position."""
    settings, budget, candidates = run.config.search, run.budgets[position], run.candidates
    rng = rng_of(run.config.seed, Stream.PROJECTION, position)
    if position and settings.mode == "projected":
        # What was executed used up a tighter budget.
        is_cheap = not run.config.steps.trains
        judge = judge_of(run.config, run.interactions, pretrained) if is_cheap else None
        candidates = reshape_candidates(candidates, budget.cap_params, rng, judge)
    num_others = settings.num_candidates - settings.tries_users_first
    chosen = select_finalists(candidates, budget.cap_params, max(num_others, 1))
    allocations = [
        Allocation(candidate.name, candidate.sizes, candidate.quality, candidate=candidate)
        # λ alone may not get there.
        for candidate in chosen or [project_smallest(candidates, budget.cap_params, rng)]
    ]
    if settings.tries_users_first:
        sizes = users_first(run.config, run.interactions, budget.cap_params)
        allocations.append(Allocation(USERS_FIRST, sizes))
    return allocations


def _retrained_row(name: str, allocation: Allocation, packed: Allocation) -> dict[str, Any]:
    outcome, candidate = allocation.outcome, allocation.candidate
    return {
        "name": name,
        "table": allocation.name if candidate is None else "candidate",
        "step": None if candidate is None else candidate.step,
        "kind": None if candidate is None else candidate.kind,
        "quality_in_search": None if candidate is None else allocation.step_quality,
        "quality": outcome.quality,
        "best_batch": outcome.num_batches,
        "num_params": allocation.sizes.num_params,
        # What was packed is that table, be it in communities and under another weight of L2.
        "is_packed": candidate is packed.candidate and packed.name.partition(",")[0] == allocation.name,
    }


def train_all(
    run: Run, allocations: Sequence[Allocation], stage: Stream = Stream.RETRAINING
) -> list[Trained]:
    """Train all of them; what a run that was broken off has trained before is read.

    The journal is told of each as it ends, and now and then of how far one has come.

    Args:
        run: The search.
        allocations: Each with the name that a reader knows it by.
        stage: ``RETRAINING`` finds out how long is best on validation. ``TEST`` trains for so long on
            training and validation interactions and measures on test; ``REFIT`` on test interactions too.

    Raises:
        TrainingError: A loss is NaN or infinite, or the process of a training died again and again.
    """
    config, journal = run.config, run.journal
    # One seed for all of a stage, by which their files are told apart: sizes are compared, not draws.
    seed, is_stretched = key_of(config.seed, stage), stage is not Stream.RETRAINING
    trainings = [
        (
            stretched(config.with_options(table.options), run.growth),
            table.sizes,
            seed,
            round(run.growth * table.outcome.num_batches) if is_stretched else None,
        )
        for table in allocations
    ]
    tasks = [
        Training(
            table.name,
            _file(config, training_file(run.interactions, *training)),
            partial(_train, stage, *training),
        )
        for table, training in zip(allocations, trainings, strict=True)
    ]
    trained: dict[int, Trained] = {}
    for position, news in train_side_by_side(config, tasks, run.interactions_ref, num_threads(config)):
        allocation = allocations[position]
        if isinstance(news, Trained):
            trained[position] = news
            metrics = {
                metric_keys.KEPT_RATIO: allocation.sizes.kept_ratio,
                metric_keys.QUALITY: news.quality,
            }
            journal.advance(len(trained), metrics, note=allocation.name)
        else:
            how_far = "batch {} of {}" if is_stretched else "batch {}, quality {:.4f}"
            journal.tell(f"{allocation.name}, {how_far.format(*news)}")
    return [trained[position] for position in range(len(allocations))]


def _file(config: RunConfig, name: str) -> Path:
    """Where a training is kept: in the cache where a recipe was found by it."""
    return found if (found := config.kept_folder / name).exists() else config.checkpoint_folder / name


def _train(
    stage: Stream,
    config: RunConfig,
    sizes: EmbeddingSizes,
    seed: tuple[int, ...],
    best_batch: int | None,
    interactions: Interactions,
    tell: Callable[..., None],
) -> Trained:
    """Train a table in this process, and tell now and then how far it has come."""
    if best_batch is None:
        _, report = fit_to_convergence(config, interactions, sizes, seed, tell)
        return Trained.of(report)
    if stage is Stream.REFIT:
        recommender, num_batches = train_for_use(config, interactions, sizes, best_batch, seed, tell)
        return Trained({}, float("nan"), num_batches, state_of(recommender))
    recommender, report = train_for_test(config, interactions, sizes, best_batch, seed, tell)
    return Trained(report.best.summary(), float("nan"), report.best_batch, state_of(recommender))
