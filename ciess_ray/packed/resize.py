"""A packed table at other sizes, with rows added: what a table becomes while users and items keep coming."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.packed.file import SIZE_TYPES, VALUE_TYPES, encode
from ciess_ray.packed.table import PackedTable
from envs.budget import index_bytes_per_row
from envs.errors import ResultError
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Rows that are copied in one go.
_ROWS_AT_ONCE = 2**12


@dataclass(frozen=True, eq=False)
class Resized:
    """A table at other sizes, and what became of its rows.

    Attributes:
        table: The table.
        num_new: Rows that were added.
        num_grown: Rows that keep more numbers than before.
        num_shrunk: Rows that keep fewer.
        num_moved: Numbers that former rows gained or lost, in all tables together.
    """

    table: PackedTable
    num_new: int
    num_grown: int
    num_shrunk: int
    num_moved: int


def unshared(table: PackedTable) -> PackedTable:
    """The same table with a row for everybody: those that share one have each a copy of it.

    Where values have scales, these come to float32.
    """
    if table.layout.shared_rows is None:
        return table
    if table.scales is not None:
        table = table.astype("float32")
    layout = table.layout
    rows, sizes = layout.shown(np.arange(table.num_rows))
    starts, lengths = np.cumsum(layout.lengths) - layout.lengths, sizes * table.num_tables
    first = np.cumsum(lengths) - lengths
    values = table.values[np.repeat(starts[rows] - first, lengths) + np.arange(int(lengths.sum()))]
    return replace(table, values=values, row_sizes=sizes.astype(table.row_sizes.dtype))


def resize(
    table: PackedTable, sizes: EmbeddingSizes, rng: np.random.Generator, *, std: float = 0.01
) -> Resized:
    """Keep of each row as many of its first numbers as its new size has, and draw what is missing.

    What is kept is kept bit for bit. The rows of new users follow
    those of the known ones, as do the rows of new items.

    Whoever leaves a shared row begins with a copy of it. A row that is shared from now on is the one that was
    shared before, whoever joins it, for it has been trained as theirs; where there was none it is the mean of
    the known ones that join. Tables with shared rows are held with a row for everybody meanwhile.

    Args:
        table: The former table.
        sizes: Of all users and items, the known ones first, of as many tables.
        rng: Draws grown columns and new rows, in their order.
        std: Standard deviation of what is drawn, around 0; with 0 columns that a row grows into are zeros,
            as in the released code of SCALL (arXiv 2407.15411), and so are new rows.

    Raises:
        ResultError: Users or items have gone, the number of tables is another, values have scales, or rows
            have columns of their own, which a prefix has not, or ids of neighbours, which are computed.
    """
    former_items = table.num_rows - table.num_users
    if len(sizes.user) < table.num_users or len(sizes.item) < former_items:
        raise ResultError(
            f"{len(sizes.user)} users and {len(sizes.item)} items are fewer than the {table.num_users} and "
            f"{former_items} of the table: rows are added, none is taken away."
        )
    if sizes.num_tables != table.num_tables:
        raise ResultError(f"the table is of {table.num_tables} tables, the sizes are of {sizes.num_tables}.")
    if table.first_columns is not None or sizes.first_columns is not None:
        raise ResultError("rows that begin at columns of their communities cannot be resized.")
    if table.neighbours is not None:
        raise ResultError("a neighbour table is computed anew for other sizes; it cannot be resized.")
    if table.scales is not None:
        raise ResultError(f"{table.dtype} values are of given sizes: resize the table as float32, by astype.")
    everybody = sizes if sizes.is_shared is None else replace(sizes, is_shared=None)
    resized = _resized(unshared(table), everybody, rng, std)
    if sizes.is_shared is None:
        return resized
    return replace(resized, table=_shared(resized.table, sizes, table))


def _resized(table: PackedTable, sizes: EmbeddingSizes, rng: np.random.Generator, std: float) -> Resized:
    """The same of tables in which everybody has a row."""
    size_type = SIZE_TYPES[index_bytes_per_row(sizes.max_embedding_size)][1]
    row_sizes = np.concatenate([sizes.user, sizes.item], dtype=size_type, casting="unsafe")
    values = np.empty(sizes.num_params, VALUE_TYPES[table.dtype][1])
    num_grown = num_shrunk = num_moved = num_read = num_written = 0
    for new, former in _parts(table, len(sizes.user), len(row_sizes)):
        new_sizes, former_sizes = row_sizes[new].astype(np.int64), table.row_sizes[former].astype(np.int64)
        num_held = int(former_sizes.sum()) * table.num_tables
        held = table.values[num_read : num_read + num_held]
        block = _block(table, held, former_sizes, new_sizes, rng, std)
        values[num_written : num_written + len(block)] = block
        num_read, num_written = num_read + num_held, num_written + len(block)
        change = new_sizes[: len(former_sizes)] - former_sizes
        num_grown += int((change > 0).sum())
        num_shrunk += int((change < 0).sum())
        num_moved += int(np.abs(change).sum()) * table.num_tables
    resized = PackedTable(
        values,
        row_sizes,
        len(sizes.user),
        sizes.min_embedding_size,
        sizes.max_embedding_size,
        table.num_tables,
        table.dtype,
        recommender=table.recommender,
    )
    return Resized(resized, resized.num_rows - table.num_rows, num_grown, num_shrunk, num_moved)


def _shared(table: PackedTable, sizes: EmbeddingSizes, former: PackedTable) -> PackedTable:
    """A table in which everybody has a row, with those that share one put together.

    Args:
        table: At these sizes.
        sizes: Which say who shares.
        former: What it was before; its rows that were shared are copies in ``table``.
    """
    assert sizes.row_of is not None and sizes.is_shared is not None
    size, num_users = sizes.min_embedding_size, len(sizes.user)
    lengths = table.row_sizes.astype(np.int64)
    starts = np.cumsum(lengths) * table.num_tables - lengths * table.num_tables
    values = table.values.copy()

    def places(row: int) -> NDArray[np.int64]:
        """Of the first d_min numbers of a row in each table."""
        first = starts[row] + np.arange(table.num_tables)[:, None] * lengths[row]
        return np.asarray(first + np.arange(size)).ravel()

    # Of users, then items: their first row, the former one, and how many were known.
    kinds = (
        (0, 0, former.num_users),
        (num_users, former.num_users, former.num_rows - former.num_users),
    )
    for kind, (first, former_first, num_known) in enumerate(kinds):
        joined = np.flatnonzero(sizes.is_shared[:num_users] if kind == 0 else sizes.is_shared[num_users:])
        if not len(joined):
            continue
        row, known = first + int(joined[0]), first + joined[joined < num_known]
        before = -1 if former.layout.shared_rows is None else int(former.layout.shared_rows[kind])
        if before >= 0:
            source = before - former_first + first
            values[places(row)] = table.values[places(source)]
        elif len(known):
            values[places(row)] = encode(table.kept(known, size).mean(axis=0), table.dtype)
    held = sizes.held.astype(np.int64)
    row_sizes = table.row_sizes.copy()
    row_sizes[sizes.is_shared] = 0
    # A row that is left has all of its numbers.
    values = values[np.repeat(held > 0, lengths * table.num_tables)]
    return replace(table, values=values, row_sizes=row_sizes)


def _parts(table: PackedTable, num_users: int, num_rows: int) -> Iterator[tuple[slice, slice]]:
    """Neighbouring rows of the new table, and which of the former one they were: the first, or none."""
    kinds = ((0, num_users, 0, table.num_users), (num_users, num_rows, table.num_users, table.num_rows))
    for start, stop, former_start, former_stop in kinds:
        for first in range(start, stop, _ROWS_AT_ONCE):
            last = min(first + _ROWS_AT_ONCE, stop)
            former_first, former_last = (
                min(former_start + row - start, former_stop) for row in (first, last)
            )
            yield slice(first, last), slice(former_first, former_last)


def _block(
    table: PackedTable,
    held: NDArray[Any],
    former_sizes: NDArray[np.int64],
    new_sizes: NDArray[np.int64],
    rng: np.random.Generator,
    std: float,
) -> NDArray[Any]:
    """Stored values of neighbouring rows at their new sizes; the known rows come first."""
    num_added = len(new_sizes) - len(former_sizes)
    # A row has its size in each table, one after the other.
    former = np.repeat(np.concatenate([former_sizes, np.zeros(num_added, np.int64)]), table.num_tables)
    new = np.repeat(new_sizes, table.num_tables)
    is_kept = _columns(new) < np.repeat(former, new)
    drawn = np.zeros(len(is_kept), np.float32)
    is_drawn = ~is_kept
    drawn[is_drawn] = rng.standard_normal(int(is_drawn.sum()), np.float32) * np.float32(std)
    block = encode(drawn, table.dtype)
    block[is_kept] = held[_columns(former) < np.repeat(new, former)]
    return block


def _columns(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which number of its row each is: 0 ... length - 1, row after row."""
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths)
