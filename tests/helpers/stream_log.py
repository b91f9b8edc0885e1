"""A small log whose users and items keep arriving."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

#: Segments of 60 rows are three of them, and the budget of their tables.
NUM_ROWS, CAP = 300, 150


def write_log(path, times=None, num_rows=NUM_ROWS):
    """Users and items that keep arriving, a third of them cold whenever they are tested.

    Returns:
        How many rows there are.
    """
    rng = np.random.default_rng(0)
    place = np.arange(num_rows)
    user, item = (place * rng.random(num_rows) * share for share in (0.2, 0.15))
    pairs, first = np.unique(np.stack([user.astype(int), item.astype(int)]), axis=1, return_index=True)
    pairs = pairs[:, np.argsort(first)]
    columns = {
        "user_id": [f"u{number:03}" for number in pairs[0]],
        "item_id": pairs[1] * 10,
        "timestamp": 10 * np.arange(pairs.shape[1]) if times is None else times[: pairs.shape[1]],
    }
    pq.write_table(pa.table(columns), path)
    return pairs.shape[1]
