"""Whose weights the values of a packed neighbour table are: an item's number beside each.

Where an item has fewer neighbours than its size, the rest of its row are of the item itself, and 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.packed.file import SIZE_TYPES, decode
from envs.budget import bytes_per_id
from envs.errors import ResultError

#: Rows that are looked at in one go.
_ROWS_AT_ONCE = 2**12


def id_type(num_items: int) -> tuple[str, Any]:
    """The type of items' numbers, in the file and in memory."""
    return SIZE_TYPES[bytes_per_id(num_items)]


def check_items(
    ids: NDArray[np.unsignedinteger],
    values: NDArray[Any] | None,
    dtype: str,
    row_sizes: NDArray[np.unsignedinteger],
) -> None:
    """Read every id once and see that it can stand where it does.

    Args:
        ids: Of each value the item whose weight it is, shape (num_params,).
        values: As the table stores them; None of codes, of which those of the item itself count for nothing.
        dtype: Their type, a key of :data:`ciess_ray.packed.file.VALUE_TYPES`.
        row_sizes: Numbers of each item's row, shape (num_items,).

    Raises:
        ResultError: An id is that of no item, or stands twice in a row, or an item has a weight for itself.
    """
    num_items = len(row_sizes)
    ends = np.cumsum(row_sizes, dtype=np.int64)
    for first in range(0, num_items, _ROWS_AT_ONCE):
        last = min(first + _ROWS_AT_ONCE, num_items)
        part = slice(int(ends[first - 1]) if first else 0, int(ends[last - 1]))
        items = np.repeat(np.arange(first, last), row_sizes[first:last])
        of_items = ids[part].astype(np.int64)
        is_none = of_items >= num_items
        is_own = of_items == items
        # What is left of a row may be of the item itself more than once.
        pairs = np.where(is_own, -1, items * num_items + of_items)
        order = np.argsort(pairs, kind="stable")
        is_twice = np.zeros(len(pairs), bool)
        is_twice[order[1:]] = (pairs[order[1:]] == pairs[order[:-1]]) & ~is_own[order[1:]]
        for wrong, fault in (
            (is_none, "is no item"),
            (
                is_own & (values is not None and decode(values[part], dtype) != 0),
                "is the item itself",
            ),
            (is_twice, "stands twice"),
        ):
            if wrong.any():
                at = int(np.argmax(wrong))
                raise ResultError(
                    f"of the neighbours of item {items[at]:,} of {num_items:,} {of_items[at]:,} {fault}: "
                    "the table is damaged; write it again."
                )
