"""One embedding size for every user and item, where rows begin, and how far two such tables are apart."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from envs.budget import (
    BYTES_PER_PARAM,
    HEADER_BYTES,
    check_bounds,
    index_bytes_per_row,
    packed_bytes,
    project_sizes,
)
from envs.errors import EmbeddingSizeError

#: In which the packed file writes where a row begins.
COLUMN_TYPE = np.uint8


@dataclass(frozen=True, eq=False)
class EmbeddingSizes:
    """One embedding size for every user and item, and the column at which each row begins.

    Rows that all begin at the first column share the few columns that a tight budget leaves: at three numbers
    a row, three directions for everybody. A recommender that propagates rows over the interactions fills what
    a row leaves empty from its neighbours, so that the rows of one community may use columns that others do
    without. The table is as large as before; a byte a row says where it begins.

    Attributes:
        user: Sizes of the users, shape (num_users,), int32; empty where users have no rows.
        item: Sizes of the items, shape (num_items,), int32.
        min_embedding_size: d_min, the least a row keeps.
        max_embedding_size: d_max, the width of the full table.
        num_tables: Tables in which every row has its size; NCF has one for each of its two branches.
        first_columns: Where each row begins, users first, shape (num_rows,), uint8; None where all begin at
            the first column.
        is_shared: Which rows have none of their own, but share one of size d_min with all such users, or all
            such items; shape (num_rows,), bool. None where none does.

    Raises:
        EmbeddingSizeError: d_max is below d_min or d_min below 1; a size is no integer or outside the bounds;
            there are not as many first columns as rows, or one is no number of 0 to 255; a row that is shared
            has another size than d_min, or a first column.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    min_embedding_size: int = 1
    max_embedding_size: int = 128
    num_tables: int = 1
    first_columns: NDArray[np.uint8] | None = None
    is_shared: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        check_bounds(self.min_embedding_size, self.max_embedding_size)
        for kind in ("user", "item"):
            sizes = np.asarray(getattr(self, kind))
            if sizes.ndim != 1 or not np.issubdtype(sizes.dtype, np.integer):
                raise EmbeddingSizeError(
                    f"{kind} sizes must be a one-dimensional array of integers, "
                    f"not {sizes.dtype} of shape {sizes.shape}."
                )
            outside = np.flatnonzero((sizes < self.min_embedding_size) | (sizes > self.max_embedding_size))
            if outside.size:
                raise EmbeddingSizeError(
                    f"the size {sizes[outside[0]]} of {kind} {outside[0]} lies outside "
                    f"[{self.min_embedding_size}, {self.max_embedding_size}]; project sizes first."
                )
            sizes = sizes.astype(np.int32)
            sizes.flags.writeable = False
            object.__setattr__(self, kind, sizes)
        if self.first_columns is not None:
            first = np.asarray(self.first_columns)
            if first.shape != (self.num_rows,) or not np.array_equal(first, first.astype(COLUMN_TYPE)):
                raise EmbeddingSizeError(
                    f"first columns must be {self.num_rows} integers of 0 to 255, one a row, not "
                    f"{first.dtype} of shape {first.shape}."
                )
            first = first.astype(COLUMN_TYPE)
            first.flags.writeable = False
            object.__setattr__(self, "first_columns", first)
        if self.is_shared is not None:
            self._check_shared(np.asarray(self.is_shared))

    def _check_shared(self, is_shared: NDArray[np.bool_]) -> None:
        if is_shared.shape != (self.num_rows,) or is_shared.dtype != np.bool_:
            raise EmbeddingSizeError(
                f"which rows are shared is {self.num_rows} truth values, one a row, not {is_shared.dtype} of "
                f"shape {is_shared.shape}."
            )
        sizes = np.concatenate([self.user, self.item])[is_shared]
        if self.first_columns is not None or (sizes != self.min_embedding_size).any():
            raise EmbeddingSizeError(
                f"rows that share one have the size {self.min_embedding_size}, d_min, and begin at the first "
                "column."
            )
        is_shared = is_shared.copy()
        is_shared.flags.writeable = False
        object.__setattr__(self, "is_shared", is_shared if is_shared.any() else None)

    @classmethod
    def full(
        cls,
        num_users: int,
        num_items: int,
        max_embedding_size: int,
        min_embedding_size: int = 1,
        num_tables: int = 1,
    ) -> "EmbeddingSizes":
        """Every entity at d_max."""
        return cls(
            np.full(num_users, max_embedding_size, np.int32),
            np.full(num_items, max_embedding_size, np.int32),
            min_embedding_size,
            max_embedding_size,
            num_tables,
        )

    @classmethod
    def from_proposal(
        cls,
        user: NDArray[np.floating] | NDArray[np.integer],
        item: NDArray[np.floating] | NDArray[np.integer],
        cap_params: int,
        min_embedding_size: int,
        max_embedding_size: int,
        rng: np.random.Generator,
        *,
        fill: bool = False,
        num_tables: int = 1,
        is_shared: NDArray[np.bool_] | None = None,
    ) -> "EmbeddingSizes":
        """The sizes nearest to a proposal that keep at most ``cap_params`` parameters, or with ``fill`` all.

        Users and items share the one cap: what users do not take is free for items. It caps the parameters
        of all tables together, so that the sizes themselves sum to at most ``cap_params // num_tables``.
        What is proposed for rows of ``is_shared`` goes to the others, in proportion to what they are to have.
        """
        proposal = np.concatenate([np.asarray(user, np.float64), np.asarray(item, np.float64)])
        bounds = min_embedding_size, max_embedding_size
        cap = cap_params // num_tables
        if is_shared is None:
            sizes = project_sizes(proposal, cap, *bounds, rng, fill=fill)
        else:
            sizes = np.full(len(proposal), min_embedding_size, np.int32)
            cap -= min_embedding_size * sum(map(np.any, np.split(is_shared, [len(user)])))
            if not is_shared.all():
                own = proposal[~is_shared]
                if (asked := own.sum()) > 0:
                    own *= proposal.sum() / asked
                sizes[~is_shared] = project_sizes(own, cap, *bounds, rng, fill=fill)
        return cls(sizes[: len(user)], sizes[len(user) :], *bounds, num_tables, is_shared=is_shared)

    @classmethod
    def equal(
        cls,
        num_users: int,
        num_items: int,
        cap_params: int,
        min_embedding_size: int,
        max_embedding_size: int,
        rng: np.random.Generator,
        *,
        num_tables: int = 1,
    ) -> "EmbeddingSizes":
        """The same size for everyone; a cap that does not divide evenly gives two neighbouring sizes.

        Which entities get the larger one is drawn from ``rng``.
        """
        full = cls.full(num_users, num_items, max_embedding_size, min_embedding_size)
        return cls.from_proposal(
            full.user,
            full.item,
            cap_params,
            min_embedding_size,
            max_embedding_size,
            rng,
            num_tables=num_tables,
        )

    @property
    def num_rows(self) -> int:
        """Users and items together."""
        return len(self.user) + len(self.item)

    @cached_property
    def num_params(self) -> int:
        """Parameters kept, in all tables together."""
        return self.num_tables * int(self.held.sum(dtype=np.int64))

    @cached_property
    def row_of(self) -> NDArray[np.int64] | None:
        """The row whose numbers each row shows, shape (num_rows,); None where each shows its own.

        The row that users share stands where the first of them is, and so does that of items.
        """
        if self.is_shared is None:
            return None
        rows = np.arange(self.num_rows)
        for kind in np.split(rows, [len(self.user)]):
            sharing = kind[self.is_shared[kind]]
            rows[sharing] = sharing[:1]
        return rows

    @cached_property
    def held(self) -> NDArray[np.int32]:
        """Numbers that stand at each row in a table, shape (num_rows,): 0 where it shows another's."""
        sizes = np.concatenate([self.user, self.item])
        if self.row_of is not None:
            sizes[self.row_of != np.arange(self.num_rows)] = 0
        return sizes

    @property
    def mean_sizes(self) -> tuple[float, float]:
        """Mean size of the rows of users, 0 where these have none, and of items."""
        user, item = (
            float(sizes.mean(dtype=np.float64)) if len(sizes) else 0.0 for sizes in (self.user, self.item)
        )
        return user, item

    @property
    def kept_ratio(self) -> float:
        """Parameters kept as a share of the full table."""
        return self.num_params / (self.num_rows * self.max_embedding_size * self.num_tables)

    @property
    def packed_bytes(self) -> int:
        """Upper bound of the packed file's bytes; ids of neighbours are not among them."""
        num_bytes = packed_bytes(self.num_params, self.num_rows, self.max_embedding_size)
        return num_bytes + (0 if self.first_columns is None else self.first_columns.nbytes)

    @property
    def widths(self) -> tuple[int, int]:
        """Columns up to the last that users have in use, and items."""
        ends = np.concatenate([self.user, self.item])
        if self.first_columns is not None:
            ends += self.first_columns
        user, item = np.split(ends, [len(self.user)])
        return int(user.max(initial=1)), int(item.max(initial=1))

    @property
    def width(self) -> int:
        """Columns up to the last in use: no table need be wider."""
        return max(self.widths)

    def mask(self, width: int | None = None) -> NDArray[np.bool_]:
        """Which numbers of the table are kept, shape (num_rows, num_tables * width), users first.

        Args:
            width: Columns of one table; by default up to the last in use.
        """
        columns, row_sizes = np.arange(width or self.width), self.held[:, None]
        if self.first_columns is None:
            return np.tile(columns < row_sizes, (1, self.num_tables))
        places = columns - self.first_columns.astype(np.int32)[:, None]
        return np.tile((places >= 0) & (places < row_sizes), (1, self.num_tables))


def column_params(num_rows: int) -> int:
    """Parameters that take as many bytes as the columns at which so many rows begin."""
    return -(-num_rows * np.dtype(COLUMN_TYPE).itemsize // BYTES_PER_PARAM)


@dataclass(frozen=True, eq=False)
class ScatteredSizes(EmbeddingSizes):
    """A mask in place of prefixes, as pruning of single weights leaves it; made with :meth:`of`.

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


def is_plain_split(sizes: EmbeddingSizes) -> bool:
    """Whether users have one size and items have one, but for what rounding leaves."""
    return all(np.ptp(sizes_of_kind) <= 1 for sizes_of_kind in (sizes.user, sizes.item) if len(sizes_of_kind))


def distance(first: EmbeddingSizes, second: EmbeddingSizes) -> float:
    """How far two tables are apart: the numbers that change hands, as a share of the smaller one."""
    rows, others = (np.concatenate([sizes.user, sizes.item]).astype(np.int64) for sizes in (first, second))
    return float(np.abs(rows - others).sum() / (2 * min(rows.sum(), others.sum())))
