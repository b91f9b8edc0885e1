"""Sizes whose rows begin at other columns: each community of users has some columns to itself.

Rows that all begin at the first column share the few columns that a tight budget leaves: at three numbers a
row, three directions for everybody. A recommender that propagates rows over the interactions fills what a row
leaves empty from its neighbours, so that the rows of one community may use columns that others do without.
The table is as large as before; a byte a row says where it begins.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.budget import BYTES_PER_PARAM
from envs.errors import EmbeddingSizeError
from envs.sizes.embedding_sizes import EmbeddingSizes

#: In which the packed file writes where a row begins.
COLUMN_TYPE = np.uint8


def column_params(num_rows: int) -> int:
    """Parameters that take as many bytes as the columns at which so many rows begin."""
    return -(-num_rows * np.dtype(COLUMN_TYPE).itemsize // BYTES_PER_PARAM)


@dataclass(frozen=True, eq=False)
class PlacedSizes(EmbeddingSizes):
    """Sizes, and the column at which each row begins.

    Attributes:
        first_columns: Of each row, users first, shape (num_rows,), uint8.

    Raises:
        EmbeddingSizeError: There are not as many of them as rows, or one is no number of 0 to 255.
    """

    first_columns: NDArray[np.integer] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        first = np.asarray(self.first_columns)
        if first.shape != (self.num_rows,) or not np.array_equal(first, first.astype(COLUMN_TYPE)):
            raise EmbeddingSizeError(
                f"first columns must be {self.num_rows} integers of 0 to 255, one a row, not {first.dtype} "
                f"of shape {first.shape}."
            )
        first = first.astype(COLUMN_TYPE)
        first.flags.writeable = False
        object.__setattr__(self, "first_columns", first)

    @classmethod
    def of(cls, sizes: EmbeddingSizes, first_columns: NDArray[np.integer]) -> "PlacedSizes":
        """The same sizes at other columns."""
        return cls(
            sizes.user,
            sizes.item,
            sizes.min_embedding_size,
            sizes.max_embedding_size,
            sizes.num_tables,
            first_columns=first_columns,
        )

    @property
    def packed_bytes(self) -> int:
        """Upper bound of the packed file's bytes."""
        return super().packed_bytes + self.num_rows * np.dtype(COLUMN_TYPE).itemsize

    @property
    def widths(self) -> tuple[int, int]:
        """Columns up to the last that users have in use, and items."""
        user, item = np.split(self.first_columns.astype(np.int64), [len(self.user)])
        return int((user + self.user).max(initial=1)), int((item + self.item).max(initial=1))

    def mask(self, width: int | None = None) -> NDArray[np.bool_]:
        """Which numbers of the table are kept, shape (num_rows, num_tables * width), users first.

        Args:
            width: Columns of one table; by default up to the last in use.
        """
        columns, row_sizes = np.arange(width or self.width), np.concatenate([self.user, self.item])[:, None]
        first = self.first_columns.astype(np.int32)[:, None]
        return np.tile((columns >= first) & (columns < first + row_sizes), (1, self.num_tables))
