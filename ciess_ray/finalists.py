"""From the candidates of a search to its results: retraining, test figures, a folder for each budget.

CIESS (arXiv 2304.03501) section 2.2.6: the best candidates are trained from scratch, and the best of these on
validation is what is returned; equal sizes and the full-size table are trained alike beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ciess_ray.config import RunConfig
from ciess_ray.figures import draw_sizes, save_png
from ciess_ray.full_size import FullSizeFit, full_sizes
from ciess_ray.judge import Judge
from ciess_ray.packed_embedding import pack_recommender
from ciess_ray.placement import place
from ciess_ray.result import Candidate, ResultFolder
from ciess_ray.result_names import EQUAL_SIZES, FULL_SIZE, SEARCH
from ciess_ray.retraining import recipe_of
from ciess_ray.run import Budget, Run
from ciess_ray.selection import project_smallest, reshape_candidates, select_finalists
from ciess_ray.trainings import Trained, Training, train_all
from envs.budget import EmbeddingSizes, MemoryBudget
from envs.data import Interactions
from envs.recommenders import BaseRecommender
from envs.step_modes import State, load_state

RETRAIN_STREAM, TEST_STREAM = 22, 23
_EQUAL_STREAM, _PROJECTION_STREAM = 21, 24


@dataclass(frozen=True, eq=False)
class Method:
    """Sizes, trained to convergence on validation.

    Attributes:
        name: What a reader calls them.
        sizes: One embedding size an entity.
        trained: Where validation was best, and what it was.
        l2: One of ``training.tried_l2``; None for the configured weight.
    """

    name: str
    sizes: EmbeddingSizes
    trained: Trained
    l2: float | None = None


@dataclass(frozen=True, eq=False)
class Finalists:
    """What was trained to convergence for one budget.

    Attributes:
        equal: Equal sizes.
        best: The best candidate on validation.
        retrained: A row for each training, equal sizes first.
    """

    equal: Method
    best: Method
    retrained: list[dict[str, Any]]


def retrain(run: Run, candidates: Sequence[Candidate], pretrained: State | None) -> list[Finalists]:
    """Train equal sizes and the best candidates for every budget, side by side.

    Args:
        run: The search.
        candidates: All that it has seen.
        pretrained: What its step mode started from.
    """
    entries: list[tuple[Budget, Candidate | None, Training]] = []
    for position, budget in enumerate(run.budgets):
        chosen = chosen_candidates(run, position, candidates, pretrained)
        for candidate in (None, *chosen):
            sizes = (
                equal_sizes(run.config, run.interactions, budget.cap_params)
                if candidate is None
                else candidate.sizes
            )
            name = EQUAL_SIZES if candidate is None else f"candidate {candidate.step}"
            # One seed for all: sizes are compared, not draws.
            training = Training(_named(run, budget, name), sizes, (run.config.seed, RETRAIN_STREAM))
            entries.append((budget, candidate, training))
    run.journal.num_steps = len(entries)
    trained = train_all(run, [training for *_, training in entries])
    finalists = []
    for budget in run.budgets:
        own = [
            (candidate, Method(EQUAL_SIZES if candidate is None else SEARCH, training.sizes, outcome))
            for (its_budget, candidate, training), outcome in zip(entries, trained, strict=True)
            if its_budget is budget
        ]
        (_, equal), *found = own
        best = max((method for _, method in found), key=_quality)
        finalists.append(Finalists(equal, best, [_retrained_row(*entry) for entry in own]))
    return finalists


def tune(run: Run, full: FullSizeFit, finalists: Sequence[Finalists]) -> list[tuple[Budget, Method]]:
    """Train what is to be measured in other ways too, and keep of each what is best on validation.

    First the search's tables with their rows in communities, more and more until that is no better, then
    everything under other weights of L2.

    Args:
        run: The search.
        full: The full-size fit.
        finalists: For each budget.

    Returns:
        Full size, then for each budget equal sizes and the search.
    """
    full_method = Method(
        FULL_SIZE,
        full_sizes(run.config, run.interactions),
        Trained(full.validation, full.mean_quality, full.best_batch),
    )
    rivals = [(run.budgets[0], full_method)]
    for budget, own in zip(run.budgets, finalists, strict=True):
        rivals += [(budget, own.equal), (budget, own.best)]
    improving = {
        position: (budget, method)
        for position, (budget, method) in enumerate(rivals)
        if method.name == SEARCH
    }
    for num_communities in run.config.search.tried_communities:
        placed = []
        for position, (budget, method) in improving.items():
            asked = MemoryBudget.parse(budget.asked)
            sizes = place(method.sizes, num_communities, asked, run.config, run.interactions)
            placed.append((position, f"{num_communities} communities", replace(method, sizes=sizes)))
        best = _best_of(run, rivals, placed)
        improving = {
            position: rival for position, rival in improving.items() if best[position] is not rivals[position]
        }
        rivals = best
    weighed = [
        (position, f"L2 {l2:g}", replace(method, l2=l2))
        for position, (_, method) in enumerate(rivals)
        for l2 in run.config.training.tried_l2
    ]
    return _best_of(run, rivals, weighed)


def _best_of(
    run: Run, rivals: Sequence[tuple[Budget, Method]], tries: Sequence[tuple[int, str, Method]]
) -> list[tuple[Budget, Method]]:
    """Each rival, or of the tries at its position the one that is better on validation."""
    best = list(rivals)
    if not tries:
        return best
    run.journal.num_steps = len(tries)
    trained = train_all(
        run,
        [
            Training(
                f"{_title(run, rivals[position][0], method)}, {name}",
                method.sizes,
                (run.config.seed, RETRAIN_STREAM),
                l2=method.l2,
            )
            for position, name, method in tries
        ],
    )
    for (position, _, method), outcome in zip(tries, trained, strict=True):
        budget, leader = best[position]
        if outcome.quality > leader.trained.quality:
            best[position] = budget, replace(method, trained=outcome)
    return best


def measure(
    run: Run, rivals: Sequence[tuple[Budget, Method]]
) -> tuple[list[list[dict[str, Any]]], list[BaseRecommender]]:
    """Train on training and validation interactions and measure on test.

    Args:
        run: The search.
        rivals: See :func:`tune`.

    Returns:
        For each budget the rows of full size, equal sizes and the search; and the search's recommender.
    """
    tested = train_all(
        run,
        [
            Training(
                _title(run, budget, method),
                method.sizes,
                (run.config.seed, TEST_STREAM),
                method.trained.num_batches,
                method.l2,
            )
            for budget, method in rivals
        ],
    )
    recipe = recipe_of(run.config, run.interactions.merge_validation_into_training())
    rows, recommenders = [], []
    for (_, method), outcome in zip(rivals, tested, strict=True):
        recommender = recipe.recommender(method.sizes, np.random.default_rng(0))
        load_state(recommender, outcome.state)
        rows.append(_row(method, outcome, recommender, run.config))
        if method.name == SEARCH:
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
        "hints": _hints(run.config, rows),
    }


def chosen_candidates(
    run: Run, position: int, candidates: Sequence[Candidate], pretrained: State | None
) -> list[Candidate]:
    """The candidates that are trained for the budget at this position."""
    settings, budget = run.config.search, run.budgets[position]
    rng = np.random.default_rng((run.config.seed, _PROJECTION_STREAM, position))
    if position and settings.mode == "projected":
        # What was executed used up a tighter budget.
        is_cheap = settings.resolved_step_mode == "supernet"
        judge = Judge(run.config, run.interactions, pretrained) if is_cheap else None
        candidates = reshape_candidates(candidates, budget.cap_params, rng, judge)
    chosen = select_finalists(candidates, budget.cap_params, settings.num_candidates)
    # λ alone may not get there.
    return chosen or [project_smallest(candidates, budget.cap_params, rng)]


def equal_sizes(config: RunConfig, interactions: Interactions, cap_params: int) -> EmbeddingSizes:
    """The same size for everyone, at a cap."""
    recommender = config.recommender
    return EmbeddingSizes.equal(
        interactions.num_users,
        interactions.num_items,
        cap_params,
        recommender.min_embedding_size,
        recommender.max_embedding_size,
        np.random.default_rng((config.seed, _EQUAL_STREAM)),
        num_tables=recommender.num_tables,
    )


def _named(run: Run, budget: Budget, name: str) -> str:
    return name if len(run.budgets) == 1 else f"{budget.asked}: {name}"


def _title(run: Run, budget: Budget, method: Method) -> str:
    return method.name if method.name == FULL_SIZE else _named(run, budget, method.name)


def _quality(method: Method) -> float:
    return method.trained.quality


def _hints(config: RunConfig, rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader of the figures should know about how they came about."""
    hints = []
    full, equal, own = rows
    if own["num_params"] == full["num_params"]:
        hints.append("the budget has room for the full table: nothing had to shrink; ask for less.")
    elif own["validation"]["quality"] < equal["validation"]["quality"]:
        hints.append(
            "equal sizes were better on validation than all that the search found: give it more steps."
        )
    training = config.training
    rising = [
        f"{row['name']} (best at batch {row['best_batch']:,})"
        for row in rows
        if training.is_cut_short(row["best_batch"])
    ]
    if rising:
        hints.append(
            f"training ended at training.max_batches={training.max_batches:,} before {', '.join(rising)} had "
            "stopped rising: raise it for a fair comparison."
        )
    return hints


def _retrained_row(candidate: Candidate | None, method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "step": candidate.step if candidate else None,
        "quality_in_search": candidate.quality if candidate else None,
        "quality": method.trained.quality,
        "best_batch": method.trained.num_batches,
        "num_params": method.sizes.num_params,
    }


def _row(method: Method, tested: Trained, recommender: BaseRecommender, config: RunConfig) -> dict[str, Any]:
    return {
        "name": method.name,
        "num_params": method.sizes.num_params,
        "kept_ratio": method.sizes.kept_ratio,
        "packed_bytes": pack_recommender(recommender, config.recommender.name).num_bytes,
        "validation": method.trained.metrics | {"quality": method.trained.quality},
        "test": tested.metrics,
        "num_columns": method.sizes.width,
        "l2": config.with_l2(method.l2).recommender.options.get("l2"),
        "best_batch": method.trained.num_batches,
        "num_test_batches": tested.num_batches,
        "mean_user_size": float(method.sizes.user.mean()),
        "mean_item_size": float(method.sizes.item.mean()),
    }
