"""Which users and items share one row of their kind where a budget no longer has a row for everybody."""

import numpy as np
from numpy.typing import NDArray


def coldest_that_share(
    user_popularity: NDArray[np.floating] | NDArray[np.integer],
    item_popularity: NDArray[np.floating] | NDArray[np.integer],
    num_rows: int,
) -> NDArray[np.bool_]:
    """The fewest of the coldest that have to share for the others to have a row each.

    Users and items are compared with each other: either's row is learnt from so many interactions as it has.
    Of equals the earlier arrival shares first, as elsewhere it counts as the less popular.

    Args:
        user_popularity: Shape (num_users,), at least one.
        item_popularity: Shape (num_items,), at least one.
        num_rows: Rows that there is room for, the shared ones included; at least 2.

    Returns:
        Users first, shape (num_users + num_items,); nobody where there is room for all.

    Raises:
        ValueError: There are fewer than two rows.
    """
    if num_rows < 2:
        raise ValueError(f"{num_rows} rows: users share one, and items another")
    num_users, num_items = len(user_popularity), len(item_popularity)
    arrival = np.concatenate([np.arange(num_users), np.arange(num_items)])
    coldest = np.lexsort((arrival, np.concatenate([user_popularity, item_popularity])))
    is_user = coldest < num_users
    # Where 0, 1, ... of the coldest share: those who do not, and a row for each kind of those who do.
    own = np.arange(len(coldest), -1, -1)
    kinds = np.maximum.accumulate(np.stack([is_user, ~is_user]), axis=1).sum(axis=0)
    num_needed = own + np.concatenate([[0], kinds])
    is_shared = np.zeros(len(coldest), bool)
    is_shared[coldest[: np.argmax(num_needed <= num_rows)]] = True
    return is_shared
