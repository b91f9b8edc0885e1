"""What a search comes to: figures on test, a table trained on all that is known, a folder for each budget.

CIESS (arXiv 2304.03501) section 3 has the figures. Differs: what is packed for use is trained once more when
they are there, test interactions included; the table that they are of is kept beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ciess_ray.config.run import RunConfig
from ciess_ray.names import SEARCH
from ciess_ray.result import ResultFolder
from ciess_ray.searches.finalists import Finalists, titled, train_all
from ciess_ray.searches.hints import rank_hints, training_hints
from ciess_ray.searches.run import Budget, Run
from ciess_ray.serving.served_bytes import served_bytes
from ciess_ray.streams import Stream
from ciess_ray.training.contest import Allocation, options_text
from ciess_ray.training.convergence import Trained, recipe_of
from envs.data import Interactions
from envs.mdp import KINDS
from envs.recommenders import BaseRecommender


@dataclass(frozen=True, eq=False)
class Refitted:
    """What is packed for use, trained on all interactions.

    Attributes:
        recommender: The search's, of the sizes and options that were chosen.
        interactions: Those, all of them for training.
        told: What ``result.json`` says of it.
    """

    recommender: BaseRecommender
    interactions: Interactions
    told: dict[str, Any]


def measure(
    run: Run, whole: Allocation, finalists: Sequence[Finalists]
) -> list[tuple[list[dict[str, Any]], BaseRecommender]]:
    """Train on training and validation interactions and measure on test.

    Args:
        run: The search.
        whole: Full size.
        finalists: Of every budget.

    Returns:
        For each budget the rows of full size, equal sizes and the search; and the search's recommender.
    """
    rivals: list[tuple[Budget | None, Allocation]] = [(None, whole)]
    for budget, chosen in zip(run.budgets, finalists, strict=True):
        rivals += [(budget, chosen.equal), (budget, replace(chosen.best, name=SEARCH))]
    run.journal.begin_round(len(rivals))
    tested = train_all(run, [titled(run, budget, table) for budget, table in rivals], Stream.TEST)
    both = run.interactions.merge_validation_into_training()
    rows: list[dict[str, Any]] = []
    measured = []
    for (_, table), outcome in zip(rivals, tested, strict=True):
        recommender = _recommender_of(run.config, both, table, outcome)
        rows.append(_row(table, outcome, recommender, run.config, both))
        if table.name == SEARCH:
            measured.append(([rows[0], *rows[-2:]], recommender))
    return measured


def refit(run: Run, finalists: Sequence[Finalists]) -> list[Refitted]:
    """Train on all interactions what is packed, once everything has been measured.

    Args:
        run: The search.
        finalists: Of every budget.

    Returns:
        For each budget what takes the place of the table that was measured.
    """
    known = run.interactions.merge_all_into_training()
    chosen = [replace(its.best, name=SEARCH) for its in finalists]
    titles = [titled(run, budget, table) for budget, table in zip(run.budgets, chosen, strict=True)]
    refitted = []
    for table, trained in zip(chosen, train_all(run, titles, Stream.REFIT), strict=True):
        recommender = _recommender_of(run.config, known, table, trained)
        told = {
            "num_interactions": known.train.nnz,
            "num_left_out": known.num_cold_rows,
            "num_batches": trained.num_batches,
            **vars(served_bytes(recommender, known, run.config.recommender.name)),
        }
        refitted.append(Refitted(recommender, known, told))
    return refitted


def _recommender_of(
    config: RunConfig, trained_on: Interactions, table: Allocation, trained: Trained
) -> BaseRecommender:
    """What came of a training, with the options that were chosen."""
    recipe = recipe_of(config.with_options(table.options), trained_on)
    return recipe.recommender(table.sizes, np.random.default_rng(0), trained.state)


def write_result(
    run: Run,
    budget: Budget,
    folder: ResultFolder,
    finalists: Finalists,
    rows: list[dict[str, Any]],
    measured: BaseRecommender,
    refitted: Refitted | None,
) -> dict[str, Any]:
    """The packed table of one budget with what belongs to it; what ``result.json`` is to say of it.

    Args:
        run: The search.
        budget: The budget.
        folder: Where to.
        finalists: Of the budget.
        rows: What was measured: full size, equal sizes and the search.
        measured: The search's recommender that was measured.
        refitted: What is packed in its place; None where that is what was measured.
    """
    # Matplotlib is imported where something is drawn.
    import pandas as pd

    from ciess_ray.figures import draw_sizes, save_png

    name = run.config.recommender.name
    recommender, interactions = measured, run.interactions.merge_validation_into_training()
    if refitted is not None:
        recommender, interactions = refitted.recommender, refitted.interactions
        folder.write_measured(measured, name)
    folder.write_table(recommender, interactions, name)
    sizes = recommender.sizes
    of_kinds = zip(
        KINDS,
        (sizes.user, sizes.item),
        (interactions.user_popularity, interactions.item_popularity),
        strict=True,
    )
    entities = {
        kind: pd.DataFrame({"embedding_size": rows, "popularity": popularity})
        for kind, rows, popularity in of_kinds
        if len(rows)
    }
    save_png(draw_sizes(entities), folder.path / "sizes.png")
    return {
        "budget": {
            "asked": budget.asked,
            "cap_params": budget.cap_params,
            "num_params": sizes.num_params,
            "kept_ratio": sizes.kept_ratio,
            "max_packed_bytes": sizes.packed_bytes
            + sizes.num_params * recommender.id_bytes(interactions.num_items),
        },
        "methods": rows,
        "refit": refitted and refitted.told,
        "retrained": finalists.retrained,
        "hints": [
            *rank_hints(*rows, is_equal_packed=finalists.best is finalists.equal),
            *training_hints(run.config, rows),
        ],
    }


def _row(
    allocation: Allocation,
    tested: Trained,
    recommender: BaseRecommender,
    config: RunConfig,
    trained_on: Interactions,
) -> dict[str, Any]:
    sizes, outcome = allocation.sizes, allocation.outcome
    return {
        "name": allocation.name,
        "num_params": sizes.num_params,
        "kept_ratio": sizes.kept_ratio,
        **vars(served_bytes(recommender, trained_on, config.recommender.name)),
        "validation": outcome.metrics | {"quality": outcome.quality},
        "test": tested.metrics,
        "num_columns": sizes.width,
        "l2": config.with_options(allocation.options).recommender.options_with().get("l2"),
        "options": options_text(allocation.options),
        "best_batch": outcome.num_batches,
        "num_test_batches": tested.num_batches,
        "mean_user_size": sizes.mean_sizes[0],
        "mean_item_size": sizes.mean_sizes[1],
    }
