"""Where each row of a packed table begins: the first value of its block, and its distance from that."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_BLOCK_BITS = 8
#: Values of a block of rows at most, so that 16 bits tell where in it a row begins.
_BLOCK_VALUES = 2**16
#: Rows that are looked at in one go; whole blocks.
_CHUNK = 2**17


def block_bits_of(most_values: int) -> int:
    """The bits b for which rows r with one r >> b are a block.

    Args:
        most_values: What the largest row has.
    """
    return min(max(_BLOCK_VALUES // most_values, 1).bit_length() - 1, _MAX_BLOCK_BITS)


def starts_of(
    row_sizes: NDArray[Any], num_tables: int, block_bits: int
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Where rows begin whose values follow each other.

    Args:
        row_sizes: Shape (num_rows,).
        num_tables: Tables in which every row has its size.
        block_bits: See :func:`block_bits_of`.

    Returns:
        The first value of each block, shape (number of blocks,), and each row's distance from that of its
        block, shape (num_rows,).
    """
    num_rows = len(row_sizes)
    in_block = np.empty(num_rows, np.uint16)
    block_starts = np.empty(-(-num_rows >> block_bits), np.int64)
    start = 0
    for first in range(0, num_rows, _CHUNK):
        sizes = row_sizes[first : first + _CHUNK]
        ends = start + num_tables * np.cumsum(sizes, dtype=np.int64)
        row_starts = np.concatenate([[start], ends[:-1]])
        of_blocks = row_starts[:: 1 << block_bits]
        first_block = first >> block_bits
        block_starts[first_block : first_block + len(of_blocks)] = of_blocks
        in_block[first : first + len(sizes)] = (
            row_starts - np.repeat(of_blocks, 1 << block_bits)[: len(sizes)]
        )
        start = int(ends[-1])
    return block_starts, in_block
