"""Tables of a search in which each community of users begins at a column of its own."""

import numpy as np

from ciess_ray.config.run import RunConfig
from ciess_ray.streams import Stream, rng_of
from envs.budget import MemoryBudget
from envs.communities import find_communities
from envs.data import Interactions
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.sizes.placed import COLUMN_TYPE, PlacedSizes, column_params


def place(
    sizes: EmbeddingSizes,
    num_communities: int,
    budget: MemoryBudget,
    config: RunConfig,
    interactions: Interactions,
) -> PlacedSizes:
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
    return PlacedSizes.of(sizes, first_columns)
