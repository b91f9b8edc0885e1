"""The numbers of a packed table whose values are codes."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ciess_ray.packed.codes import Coded, Floats, Ints, chunks_of, decode_blocks, decode_codes
from ciess_ray.packed.file import DAMAGED
from envs.errors import ResultError

if TYPE_CHECKING:
    from ciess_ray.packed.table import PackedTable

#: What rows keep as a part of the columns that are asked for, below which numbers are decoded one by one.
_SPARSE = 1 / 4


def decoded_rows(
    table: "PackedTable", rows: NDArray[np.integer], sizes: Ints, starts: Ints, width: int
) -> Floats:
    """What rows keep from their first number on, see :meth:`ciess_ray.packed.table.PackedTable.kept`.

    Args:
        table: The table.
        rows: Those at which numbers stand, shape (n,).
        sizes: How many each has in a table.
        starts: Where the codes of each begin, in bits.
        width: Numbers of one table.

    Returns:
        Shape (n, num_tables * width).

    Raises:
        ResultError: A scale is NaN or infinite.
    """
    assert table.row_bits is not None and table.scales is not None
    bits, scales = table.row_bits[rows].astype(np.int64), table.scales[rows].astype(np.float32)
    if not np.isfinite(scales).all():
        row = int(rows[int(np.argmin(np.isfinite(scales)))])
        raise ResultError(f"the scale of row {row:,} of {table.num_rows:,} is no finite number: {DAMAGED}.")
    begins = starts[:, None] + np.arange(table.num_tables) * (sizes * bits)[:, None]
    lengths, bits, scales = (
        np.repeat(each, table.num_tables) for each in (np.minimum(sizes, width), bits, scales)
    )
    if lengths.sum() < len(lengths) * width * _SPARSE:
        coded = Coded.of(lengths, bits, begins.ravel())
        found = np.zeros((len(lengths), width), np.float32)
        numbers = decode_codes(table.values, coded, is_signed=table.is_signed)
        found[coded.rows, coded.columns] = numbers * scales[coded.rows]
    else:
        found = decode_blocks(table.values, begins.ravel(), bits, width, is_signed=table.is_signed)
        found *= scales[:, None]
        found[np.arange(width) >= lengths[:, None]] = 0.0
    return found.reshape(len(rows), table.num_tables * width)


def decoded_numbers(table: "PackedTable") -> Floats:
    """All numbers of a table, row after row, shape (num_params,)."""
    assert table.row_bits is not None and table.scales is not None
    lengths, extents = table.layout.lengths, table.layout.extents
    found = np.empty(table.num_params, np.float32)
    ends, ends_of_bits = np.cumsum(lengths), np.cumsum(extents)
    for first, last in chunks_of(ends):
        part = slice(first, last)
        coded = Coded.of(
            lengths[part], table.row_bits[part].astype(np.int64), ends_of_bits[part] - extents[part]
        )
        numbers = decode_codes(table.values, coded, is_signed=table.is_signed)
        numbers *= table.scales[part].astype(np.float32)[coded.rows]
        end = int(ends[last - 1])
        found[end - len(numbers) : end] = numbers
    if table.neighbours is not None:
        # What is left of an item's row is of the item itself.
        found[table.neighbours == np.repeat(np.arange(table.num_rows), table.row_sizes)] = 0.0
    return found
