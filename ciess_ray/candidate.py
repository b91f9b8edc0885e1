"""The tables that a search has tried, and the file that holds them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from envs.sizes.embedding_sizes import EmbeddingSizes

#: What a candidate was: a policy of the whole table, a step of the actors with and without exploration, or
#: an evaluation of the actors between two steps. The first three are notes in ``progress.jsonl``.
WARM_UP, EXPLORED, GREEDY, EVALUATION = "warm-up", "explored", "greedy", "evaluation"


@dataclass(frozen=True, eq=False)
class Candidate:
    """One table-level action that the search took.

    Attributes:
        step: Its step as ``progress.jsonl`` counts them, from 1; of an evaluation the step that it followed.
        sizes: The sizes that were executed.
        proposed: The sizes asked for, before any projection onto the budget.
        quality: Mean ranking metric on validation of the step's recommender.
        kind: ``warm-up``, ``explored``, ``greedy`` or ``evaluation``.
    """

    step: int
    sizes: EmbeddingSizes
    proposed: EmbeddingSizes
    quality: float
    kind: str = EXPLORED

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return step_name(self.step, self.kind)


def step_name(step: int, kind: str | None) -> str:
    """What a reader calls a step; of an old result, whose kind is lost, its number alone."""
    return f"step {step} ({kind})" if kind else f"step {step}"


def candidate_table(candidates: Sequence[Candidate]) -> pa.Table:
    """A row a candidate; sizes as lists of 16-bit numbers, of 32-bit where d_max asks for it."""
    largest = max((c.sizes.max_embedding_size for c in candidates), default=0)
    sizes_type = pa.list_(pa.int16() if largest <= np.iinfo(np.int16).max else pa.int32())
    columns = {
        "step": pa.array([c.step for c in candidates], pa.int32()),
        "kind": pa.array([c.kind for c in candidates], pa.string()),
        "kept_ratio": pa.array([c.sizes.kept_ratio for c in candidates], pa.float64()),
        "proposed_ratio": pa.array([c.proposed.kept_ratio for c in candidates], pa.float64()),
        "num_params": pa.array([c.sizes.num_params for c in candidates], pa.int64()),
        "quality": pa.array([c.quality for c in candidates], pa.float64()),
        "user_sizes": pa.array([c.sizes.user for c in candidates], sizes_type),
        "item_sizes": pa.array([c.sizes.item for c in candidates], sizes_type),
    }
    return pa.table(columns)
