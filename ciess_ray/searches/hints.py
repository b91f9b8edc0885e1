"""What a reader of a search's figures should know about how they came about."""

from collections.abc import Mapping, Sequence
from typing import Any

from ciess_ray.config.recommender import default_l2
from ciess_ray.config.run import RunConfig
from ciess_ray.serving.files import MEASURED_TABLE_FILE

Row = Mapping[str, Any]
_NDCG = "ndcg@20"


def training_hints(config: RunConfig, rows: Sequence[Row]) -> list[str]:
    """Sentences on how tables were trained, whichever they are, each with what to do.

    Args:
        config: The run, or one of many that are trained alike.
        rows: What was measured; those of one name are told of once.
    """
    training, hints = config.training, []
    # What was computed took no batch.
    rows = [row for row in rows if row["best_batch"]]
    # A yardstick that only ever fell makes everything beside it look good.
    fell = dict.fromkeys(
        row["name"] for row in rows if row["best_batch"] <= training.evaluate_every < training.max_batches
    )
    if fell:
        hints.append(
            f"{', '.join(fell)}: best at the first validation, batch {training.evaluate_every:,}, and worse "
            "from there on: what is measured against it says little. Try larger weights of L2 "
            "(recommender.options.l2), a lower training.learning_rate, or a smaller training.evaluate_every."
        )
    cut_short = [row for row in rows if row["name"] not in fell and training.is_cut_short(row["best_batch"])]
    if cut_short:
        rising = ", ".join(
            f"{name} (best at batch {max(row['best_batch'] for row in cut_short if row['name'] == name):,})"
            for name in dict.fromkeys(row["name"] for row in cut_short)
        )
        hints.append(
            f"training ended at training.max_batches={training.max_batches:,} before {rising} had stopped "
            "rising: raise it for a fair comparison."
        )
    return hints + _hints_on_l2(config, rows)


def _hints_on_l2(config: RunConfig, rows: Sequence[Row]) -> list[str]:
    """What another weight of L2 is better for, when no further one was tried."""
    recommender = config.recommender
    first, *others = recommender.weights_of_l2
    configured = default_l2(recommender.name) if first is None else first
    if not isinstance(configured, int | float):
        return []
    tried = [configured, *others]
    ends = {
        words: dict.fromkeys(row["name"] for row in rows if row.get("l2") == end != configured)
        for words, end in ((("larger", "largest"), max(tried)), (("smaller", "smallest"), min(tried)))
    }
    return [
        f"{', '.join(names)}: better with the {superlative} weight of L2 that was tried than with "
        f"the first, {configured:g}, and measured with it; a {what} one in recommender.options.l2 may be "
        "better still."
        for (what, superlative), names in ends.items()
        if names
    ]


def rank_hints(full: Row | None, equal: Row, searched: Row, *, is_equal_packed: bool) -> list[str]:
    """Sentences on what a search is worth, each with what to do.

    Args:
        full: What was measured of full size; None where nothing was.
        equal: Of equal sizes.
        searched: Of the search; a comparison, which has intervals, says nothing of test here.
        is_equal_packed: Whether the search handed over equal sizes.
    """
    if full is not None and not full["validation"]["quality"]:
        return [
            "full size finds nothing of what is held out for validation, so that no share of its quality is "
            "kept or lost: bring data with more interactions an item."
        ]
    if full is not None and searched["num_params"] == full["num_params"]:
        return ["the budget has room for the full table: nothing had to shrink; ask for less."]
    if is_equal_packed:
        return [
            "equal sizes were better on validation than all that the search found, and are what was packed: "
            "give it more steps."
        ]
    hints = []
    if searched["validation"]["quality"] < equal["validation"]["quality"]:
        hints.append(
            "equal sizes were better on validation than all that the search found: give it more steps."
        )
    elif "test" in searched and searched["test"][_NDCG] <= equal["test"][_NDCG]:
        hints.append(
            "on test equal sizes are no worse than what the search found: what it is ahead by on validation "
            "may be chance. Other seeds tell, or a tighter budget, at which sizes matter more."
        )
    if full is not None and full["validation"]["quality"] < equal["validation"]["quality"]:
        hints.append(
            f"full size is worse on validation than equal sizes of {equal['num_params']:,} parameters, so "
            "that shares of its quality say little: fewer columns may be better "
            "(recommender.max_embedding_size)."
        )
    return hints


def refit_note(told: Mapping[str, Any] | None) -> str | None:
    """What the packed table was trained on, and what the figures are of; None where that is one table.

    Args:
        told: What ``result.json`` says of the refit, if there was one.
    """
    if not told:
        return None
    num_cold = told["num_left_out"]
    cold = f", without {num_cold:,} of users and items that training does not know" if num_cold else ""
    return (
        f"the table is trained on all {told['num_interactions']:,} interactions{cold}; figures are of one "
        f"that was trained without test, {MEASURED_TABLE_FILE} beside it."
    )
