"""From the candidates of a search to its results: retraining, test figures, a folder for each budget.

CIESS (arXiv 2304.03501) section 2.2.6: the best candidates are trained from scratch, and the best of these on
validation is what is returned; equal sizes and the full-size table are trained alike beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ciess_ray.candidate import Candidate
from ciess_ray.config.run import RunConfig
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH
from ciess_ray.result import ResultFolder
from ciess_ray.searches.hints import search_hints
from ciess_ray.searches.run import Budget, Run
from ciess_ray.searches.trainings import Training, train_all
from ciess_ray.serving.served_bytes import served_bytes
from ciess_ray.streams import Stream, key_of, rng_of
from ciess_ray.training.contest import Allocation, Contest, Trained, choose, converge, place
from ciess_ray.training.convergence import recipe_of
from ciess_ray.training.pretrained import FullSizeFit, full_sizes
from ciess_ray.training.selection import Judge, project_smallest, reshape_candidates, select_finalists
from envs.budget import MemoryBudget
from envs.data import Interactions
from envs.recommenders import BaseRecommender
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import STEP_MODES, State, load_state


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


def retrain(
    run: Run, full: FullSizeFit, candidates: Sequence[Candidate], pretrained: State | None
) -> tuple[Allocation, list[Finalists]]:
    """Train full size, equal sizes and candidates in all ways that are tried; of each the best on validation.

    Args:
        run: The search.
        full: The full-size fit.
        candidates: All that the search has seen.
        pretrained: What its step mode started from.

    Returns:
        Full size, and the finalists of every budget.
    """
    config, interactions = run.config, run.interactions
    trained_full = Trained(full.validation, full.mean_quality, full.best_batch)
    contests = [Contest([Allocation(FULL_SIZE, full_sizes(config, interactions), trained=trained_full)])]
    budgets: list[Budget | None] = [None]
    for position, budget in enumerate(run.budgets):
        equal = Allocation(EQUAL_SIZES, equal_sizes(config, interactions, budget.cap_params))
        chosen = chosen_candidates(run, position, candidates, pretrained)
        contests += [Contest([equal]), Contest(chosen, partial(_place, run, budget))]
        budgets += [budget, budget]

    def train(asked: Sequence[tuple[int, Allocation]]) -> list[Trained]:
        run.journal.num_steps = len(asked)
        return train_all(run, [_training(run, budgets[position], one) for position, one in asked])

    converged = converge([contest.proposed for contest in contests], train)
    contests = [replace(contest, proposed=own) for contest, own in zip(contests, converged, strict=True)]
    whole, *best = choose(
        contests, train, config.search.tried_communities, config.recommender.weights_of_l2[1:]
    )
    finalists = []
    for (equal,), own, best_equal, best_own in zip(
        converged[1::2], converged[2::2], best[::2], best[1::2], strict=True
    ):
        packed = best_own
        # In CIESS a candidate is what is returned.
        if config.search.mode == "projected" and best_equal.quality > best_own.quality:
            packed = best_equal
        retrained = [_retrained_row(EQUAL_SIZES, equal, packed)]
        retrained += [_retrained_row(SEARCH, one, packed) for one in own]
        finalists.append(Finalists(best_equal, packed, retrained))
    return whole, finalists


def _place(run: Run, budget: Budget, sizes: EmbeddingSizes, num_communities: int) -> EmbeddingSizes:
    return place(sizes, num_communities, MemoryBudget.parse(budget.asked), run.config, run.interactions)


def _training(run: Run, budget: Budget | None, allocation: Allocation) -> Training:
    weight = "" if allocation.l2 is None else f", L2 {allocation.l2:g}"
    # One seed for all: sizes are compared, not draws.
    seed = key_of(run.config.seed, Stream.RETRAINING)
    return Training(_title(run, budget, allocation.name) + weight, allocation.sizes, seed, l2=allocation.l2)


def measure(
    run: Run, whole: Allocation, finalists: Sequence[Finalists]
) -> tuple[list[list[dict[str, Any]]], list[BaseRecommender]]:
    """Train on training and validation interactions and measure on test.

    Args:
        run: The search.
        whole: Full size.
        finalists: Of every budget.

    Returns:
        For each budget the rows of full size, equal sizes and the search; and the search's recommender.
    """
    rivals: list[tuple[Budget | None, str, Allocation]] = [(None, FULL_SIZE, whole)]
    for budget, own in zip(run.budgets, finalists, strict=True):
        rivals += [(budget, EQUAL_SIZES, own.equal), (budget, SEARCH, own.best)]
    run.journal.num_steps = len(rivals)
    tested = train_all(
        run,
        [
            Training(
                _title(run, budget, name),
                one.sizes,
                key_of(run.config.seed, Stream.TEST),
                one.outcome.num_batches,
                one.l2,
            )
            for budget, name, one in rivals
        ],
    )
    both = run.interactions.merge_validation_into_training()
    recipe = recipe_of(run.config, both)
    rows, recommenders = [], []
    for (_, name, one), outcome in zip(rivals, tested, strict=True):
        recommender = recipe.recommender(one.sizes, np.random.default_rng(0))
        load_state(recommender, outcome.state)
        rows.append(_row(name, one, outcome, recommender, run.config, both))
        if name == SEARCH:
            recommenders.append(recommender)
    first, *others = rows
    return [[first, *pair] for pair in zip(others[::2], others[1::2], strict=True)], recommenders


def write_result(
    run: Run,
    budget: Budget,
    folder: ResultFolder,
    finalists: Finalists,
    rows: list[dict[str, Any]],
    recommender: BaseRecommender,
) -> dict[str, Any]:
    """The packed table of one budget with what belongs to it; what ``result.json`` is to say of it."""
    # Matplotlib is imported where something is drawn.
    from ciess_ray.figures import draw_sizes, save_png

    sizes = recommender.sizes
    folder.write_table(
        recommender, run.interactions.merge_validation_into_training(), run.config.recommender.name
    )
    interactions = run.interactions
    popularity = {"user": interactions.user_popularity, "item": interactions.item_popularity}
    figure = draw_sizes({"user": sizes.user, "item": sizes.item}, popularity)
    save_png(figure, folder.path / "sizes.png")
    return {
        "budget": {
            "asked": budget.asked,
            "cap_params": budget.cap_params,
            "num_params": sizes.num_params,
            "kept_ratio": sizes.kept_ratio,
            "max_packed_bytes": sizes.packed_bytes,
        },
        "methods": rows,
        "retrained": finalists.retrained,
        "hints": search_hints(run.config, rows, is_equal_packed=finalists.best is finalists.equal),
    }


def chosen_candidates(
    run: Run, position: int, candidates: Sequence[Candidate], pretrained: State | None
) -> list[Allocation]:
    """The candidates that are trained for the budget at this position."""
    settings, budget = run.config.search, run.budgets[position]
    rng = rng_of(run.config.seed, Stream.PROJECTION, position)
    if position and settings.mode == "projected":
        # What was executed used up a tighter budget.
        is_cheap = not STEP_MODES[settings.resolved_step_mode].trains
        judge = Judge(run.config, run.interactions, pretrained) if is_cheap else None
        candidates = reshape_candidates(candidates, budget.cap_params, rng, judge)
    chosen = select_finalists(candidates, budget.cap_params, settings.num_candidates)
    return [
        Allocation(one.name, one.sizes, one.quality, candidate=one)
        # λ alone may not get there.
        for one in chosen or [project_smallest(candidates, budget.cap_params, rng)]
    ]


def equal_sizes(config: RunConfig, interactions: Interactions, cap_params: int) -> EmbeddingSizes:
    """The same size for everyone, at a cap."""
    recommender = config.recommender
    return EmbeddingSizes.equal(
        interactions.num_users,
        interactions.num_items,
        cap_params,
        recommender.min_embedding_size,
        recommender.max_embedding_size,
        rng_of(config.seed, Stream.EQUAL_SIZES),
        num_tables=recommender.num_tables,
    )


def _title(run: Run, budget: Budget | None, name: str) -> str:
    return name if budget is None or len(run.budgets) == 1 else f"{budget.asked}: {name}"


def _retrained_row(name: str, allocation: Allocation, packed: Allocation) -> dict[str, Any]:
    outcome, candidate = allocation.outcome, allocation.candidate
    return {
        "name": name,
        "step": None if candidate is None else candidate.step,
        "kind": None if candidate is None else candidate.kind,
        "quality_in_search": None if candidate is None else allocation.step_quality,
        "quality": outcome.quality,
        "best_batch": outcome.num_batches,
        "num_params": allocation.sizes.num_params,
        # What was packed is that table, be it in communities and under another weight of L2.
        "is_packed": candidate is packed.candidate,
    }


def _row(
    name: str,
    allocation: Allocation,
    tested: Trained,
    recommender: BaseRecommender,
    config: RunConfig,
    trained_on: Interactions,
) -> dict[str, Any]:
    sizes, outcome = allocation.sizes, allocation.outcome
    return {
        "name": name,
        "num_params": sizes.num_params,
        "kept_ratio": sizes.kept_ratio,
        **vars(served_bytes(recommender, trained_on, config.recommender.name)),
        "validation": outcome.metrics | {"quality": outcome.quality},
        "test": tested.metrics,
        "num_columns": sizes.width,
        "l2": config.recommender.options_with(allocation.l2).get("l2"),
        "best_batch": outcome.num_batches,
        "num_test_batches": tested.num_batches,
        "mean_user_size": float(sizes.user.mean()),
        "mean_item_size": float(sizes.item.mean()),
    }
