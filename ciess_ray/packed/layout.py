"""Where the numbers of a packed table's rows stand, which follows from their sizes.

Places are counted in values, or in bits where these are codes. Held in memory are a block's first place in 8
bytes and a row's distance from it in 2.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ciess_ray.packed.codes import MOST_BITS

_MAX_BLOCK_BITS = 8


@dataclass(frozen=True, eq=False)
class RowLayout:
    """Rows follow each other, users first; one that is shared has its numbers where the first sharer stands.

    Attributes:
        row_sizes: One embedding size a row, shape (num_rows,), unsigned; 0 where the row is shared.
        num_users: Rows that are users.
        min_embedding_size: d_min, the size of a row that is shared.
        max_embedding_size: d_max.
        num_tables: Tables in which every row has its size.
        row_bits: Bits of each number of a row, where places are in bits, shape (num_rows,); None in values.
    """

    row_sizes: NDArray[np.unsignedinteger]
    num_users: int
    min_embedding_size: int
    max_embedding_size: int
    num_tables: int
    row_bits: NDArray[np.uint8] | None = None

    @cached_property
    def shared_rows(self) -> NDArray[np.int64] | None:
        """The row at which that of users who share one stands, and that of items, shape (2,).

        -1 where none of a kind shares; None where no row does.
        """
        is_shared = self.row_sizes == 0
        if not is_shared.any():
            return None
        kinds = np.split(np.flatnonzero(is_shared), [np.count_nonzero(is_shared[: self.num_users])])
        return np.array([rows[0] if len(rows) else -1 for rows in kinds])

    @cached_property
    def num_params(self) -> int:
        """Numbers of all rows, in all tables together."""
        num_numbers = int(self.row_sizes.sum(dtype=np.int64))
        if self.shared_rows is not None:
            num_numbers += self.min_embedding_size * int((self.shared_rows >= 0).sum())
        return num_numbers * self.num_tables

    @property
    def held(self) -> NDArray[np.int64]:
        """Numbers that stand at each row, in a table, shape (num_rows,); 0 where it shows another."""
        held = self.row_sizes.astype(np.int64)
        if self.shared_rows is not None:
            held[self.shared_rows[self.shared_rows >= 0]] = self.min_embedding_size
        return held

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Numbers that stand at each row, in all tables together, shape (num_rows,)."""
        return self.held * self.num_tables

    @property
    def extents(self) -> NDArray[np.int64]:
        """Places that each row takes, shape (num_rows,)."""
        return self.lengths if self.row_bits is None else self.lengths * self.row_bits

    @cached_property
    def num_code_bytes(self) -> int:
        """Bytes of the codes of all rows."""
        return -(-int(self.extents.sum()) // 8)

    @cached_property
    def block_bits(self) -> int:
        """Rows r with one r >> block_bits are a block, in which 16 bits tell where a row begins."""
        largest_row = self.max_embedding_size * self.num_tables * (1 if self.row_bits is None else MOST_BITS)
        return min(max(2**16 // largest_row, 1).bit_length() - 1, _MAX_BLOCK_BITS)

    @cached_property
    def starts(self) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
        """Where a row's values begin: its block's first place, and its own distance from that.

        Shapes (number of blocks,) and (num_rows,).
        """
        extents = self.extents
        starts = np.cumsum(extents) - extents
        block_starts = starts[:: 1 << self.block_bits].copy()
        starts -= np.repeat(block_starts, 1 << self.block_bits)[: len(extents)]
        return block_starts, starts.astype(np.uint16)

    def shown(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """The rows at which the numbers of rows stand, and how many each has in a table.

        Args:
            rows: Row numbers, shape (n,).
        """
        sizes = self.row_sizes[rows].astype(np.int64)
        if self.shared_rows is not None:
            rows = np.where(sizes == 0, self.shared_rows[(rows >= self.num_users).astype(np.int64)], rows)
            sizes = np.maximum(sizes, self.min_embedding_size)
        return rows, sizes
