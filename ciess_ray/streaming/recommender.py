"""A segment's recommender: from scratch, or from the table of the segment before at other sizes.

A table that goes on needs far fewer batches than one that begins: what it knows of the users and items that
stay is kept to the last bit, and only what is new has to be learnt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ciess_ray.packed.embedding import pack_recommender
from ciess_ray.packed.resize import Resized, resize
from ciess_ray.packed.table import PackedTable
from ciess_ray.training.convergence import Meter
from envs.errors import ResultError
from envs.recommenders import BaseRecommender
from envs.recommenders.training import Recipe, Trainer
from envs.sizes.embedding_sizes import EmbeddingSizes

_TRAINING = "training"


@dataclass(frozen=True, eq=False)
class PackedRecommender:
    """What is left of a recommender when it has been packed, and what the next segment's begins with.

    Attributes:
        table: Its packed table.
        state: Its parameters beside the table, by name.
    """

    table: PackedTable
    state: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, recommender: BaseRecommender, name: str) -> "PackedRecommender":
        """A trained recommender, packed, under the name that its configuration has for it."""
        # Copies: a recommender may be trained on.
        state = {key: value.numpy().copy() for key, value in recommender.scorer_state().items()}
        return cls(pack_recommender(recommender, name), state)


@dataclass(frozen=True, eq=False)
class SegmentTraining:
    """A segment's trained recommender, and what it took.

    Attributes:
        recommender: As it was trained; what ranks.
        packed: The same, packed.
        resized: What became of the former table's rows; None where it began from scratch.
        cpu_s: CPU seconds from the former table to the packed one, all threads together.
        wall_s: Seconds of the same.
    """

    recommender: BaseRecommender
    packed: PackedRecommender
    resized: Resized | None
    cpu_s: float
    wall_s: float


def train_segment(
    recipe: Recipe, sizes: EmbeddingSizes, rng: np.random.Generator, former: PackedRecommender | None = None
) -> SegmentTraining:
    """Train a segment's recommender at given sizes for as many batches as its settings have at most.

    Args:
        recipe: Of the segment's training interactions; ``settings.max_batches`` are trained, whatever
            validation says.
        sizes: Of the segment's known users and items.
        rng: Draws initial values, what the former table lacks, and batches, in this order.
        former: The recommender of an earlier segment, which this one goes on from; None begins from scratch.

    Raises:
        ResultError: The former table cannot be resized to these sizes, or is of another recommender.
        TrainingError: A loss is NaN or infinite.
    """
    meter = Meter()
    with meter.phase(_TRAINING):
        recommender = recipe.recommender(sizes, rng)
        resized = None if former is None else carry_over(recommender, recipe.name, former, rng)
        trainer = Trainer(recommender, recipe.train, recipe.settings, rng, recipe.loss)
        trainer.train(recipe.settings.max_batches)
        packed = PackedRecommender.of(recommender, recipe.name)
    return SegmentTraining(recommender, packed, resized, meter.cpu_s[_TRAINING], meter.wall_s[_TRAINING])


def carry_over(
    recommender: BaseRecommender, name: str, former: PackedRecommender, rng: np.random.Generator
) -> Resized:
    """Give a fresh recommender what an earlier one has learnt.

    Of the table each row's prefix is kept, and the rest drawn small, see
    :func:`ciess_ray.packed.resize.resize`. A parameter beside the table keeps the part that both have and is
    otherwise as it was drawn: the layers of NCF and NGCF are as wide as the largest size in use, which moves.

    Args:
        recommender: The fresh one, changed in place.
        name: What its configuration calls it.
        former: The earlier one.
        rng: Draws what is missing.

    Raises:
        ResultError: The former table cannot be resized to these sizes, or is of another recommender.
    """
    table = former.table
    if table.recommender not in (None, name):
        raise ResultError(f"the former table is of a {table.recommender}, and a {name} cannot go on from it.")
    beside = {key: value for key, value in recommender.named_parameters() if key != "table.weight"}
    for key, value in beside.items():
        if key not in former.state or former.state[key].ndim != value.ndim:
            raise ResultError(
                f"the former {name} has no parameter {key} of {value.ndim} dimensions: its options, or its "
                "class, were others; begin from scratch."
            )
    resized = resize(table, recommender.sizes, rng)
    recommender.table.load_packed_values(torch.from_numpy(resized.table.decoded()))
    rows = resized.table.num_users, resized.table.num_rows
    for key, value in beside.items():
        _carry(value, former.state[key], rows, (table.num_users, table.num_rows))
    return resized


@torch.no_grad()
def _carry(value: Tensor, former: NDArray[Any], rows: tuple[int, int], former_rows: tuple[int, int]) -> None:
    """Write into a parameter the part of the former one that both have.

    One that has something for every row of the table has the users' first, and then the items', of whom
    there were fewer.
    """
    is_by_row = value.ndim > 0 and (len(value), len(former)) == (rows[1], former_rows[1])
    cuts = ((slice(rows[0]), slice(former_rows[0])), (slice(rows[0], None), slice(former_rows[0], None)))
    for part, former_part in cuts if is_by_row else ((..., ...),):
        ours, theirs = value[part], former[former_part]
        shared = tuple(slice(min(lengths)) for lengths in zip(ours.shape, theirs.shape, strict=True))
        ours[shared] = torch.tensor(theirs[shared], device=value.device)
