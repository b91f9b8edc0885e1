"""Tables of which any numbers are kept, not the first of each row: what pruning of single weights leaves."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.budget import BYTES_PER_PARAM, HEADER_BYTES, index_bytes_per_row
from envs.errors import EmbeddingSizeError
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.sizes.projection import check_bounds


@dataclass(frozen=True, eq=False)
class ScatteredSizes(EmbeddingSizes):
    """A mask in place of prefixes; made with :meth:`of`.

    The table keeps its full width, for no row says which columns it does without.

    Attributes:
        user: Numbers that each user keeps in a table, over several tables the mean, rounded up; may be 0.
        item: The same of each item.
        kept: Which numbers are kept, shape (num_rows, num_tables * max_embedding_size), bool, users first.

    Raises:
        EmbeddingSizeError: The mask has another shape.
    """

    kept: NDArray[np.bool_] = field(kw_only=True)

    def __post_init__(self) -> None:
        check_bounds(self.min_embedding_size, self.max_embedding_size)
        expected = (len(self.user) + len(self.item), self.num_tables * self.max_embedding_size)
        if self.kept.shape != expected or self.kept.dtype != np.bool_:
            raise EmbeddingSizeError(
                f"a mask of {expected[0]} rows must be boolean and of shape {expected}, not "
                f"{self.kept.dtype} of {self.kept.shape}."
            )

    @classmethod
    def of(
        cls,
        kept: NDArray[np.bool_],
        num_users: int,
        min_embedding_size: int,
        max_embedding_size: int,
        num_tables: int = 1,
    ) -> "ScatteredSizes":
        """The sizes of a mask, shape (num_rows, num_tables * max_embedding_size), users first."""
        counts = -(-kept.sum(axis=1) // num_tables)
        sizes = counts.astype(np.int32)
        bounds = min_embedding_size, max_embedding_size
        return cls(sizes[:num_users], sizes[num_users:], *bounds, num_tables, kept=kept)

    @property
    def num_params(self) -> int:
        """Parameters kept, in all tables together."""
        return int(np.count_nonzero(self.kept))

    @property
    def packed_bytes(self) -> int:
        """Upper bound of a packed file's bytes, with the cheaper of two indices.

        Either one bit for each number of the full table, or the column of each number that is kept and how
        many a row keeps, in as many bytes as a prefix's size would take.
        """
        num_rows, num_columns = self.num_rows, self.num_tables * self.max_embedding_size
        columns = index_bytes_per_row(num_columns) * (self.num_params + num_rows)
        bitmap = -(-num_rows * num_columns // 8)
        return self.num_params * BYTES_PER_PARAM + min(columns, bitmap) + HEADER_BYTES

    @property
    def widths(self) -> tuple[int, int]:
        """The full table's, for both."""
        return self.max_embedding_size, self.max_embedding_size

    def mask(self, width: int | None = None) -> NDArray[np.bool_]:
        """Which numbers are kept, shape (num_rows, num_tables * width).

        Args:
            width: Columns of one table; by default, and at most, the full table's.
        """
        tables = self.kept.reshape(self.num_rows, self.num_tables, self.max_embedding_size)
        return tables[:, :, :width].reshape(self.num_rows, -1)


def keep_largest(
    importance: NDArray[np.floating], num_kept: int, least_per_row: int, num_tables: int = 1
) -> NDArray[np.bool_]:
    """The mask of the most important numbers of a table, with a protected minimum in each row.

    Of equals the one that comes first is kept.

    Args:
        importance: Of each number, shape (num_rows, num_tables * max_embedding_size).
        num_kept: How many are kept in all.
        least_per_row: How many of each row, in each table, are kept in any case.
        num_tables: Tables that stand side by side.

    Returns:
        Shape of ``importance``, bool, with exactly ``num_kept`` True.

    Raises:
        EmbeddingSizeError: There are not so many numbers, or the protected ones alone are more.
    """
    num_protected = len(importance) * num_tables * least_per_row
    if not num_protected <= num_kept <= importance.size:
        raise EmbeddingSizeError(
            f"cannot keep {num_kept} of {importance.size} numbers and {least_per_row} of each row in each of "
            f"{num_tables} table(s), which are {num_protected}."
        )
    rows = importance.reshape(len(importance) * num_tables, -1)
    kept = np.zeros(rows.shape, bool)
    if least_per_row:
        first = np.argsort(-rows, axis=1, kind="stable")[:, :least_per_row]
        np.put_along_axis(kept, first, True, axis=1)
    order = np.argsort(np.where(kept, np.inf, -rows).ravel(), kind="stable")
    kept.ravel()[order[: num_kept - num_protected]] = True
    return kept.reshape(importance.shape)
