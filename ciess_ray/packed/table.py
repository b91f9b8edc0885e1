"""The packed table: one flat buffer of values, one size a row, nothing else.

A row's values are d_n neighbouring numbers (of each table, where a recommender has several), so no index a
weight is stored: the file takes 4 or 2 bytes a parameter, 1 byte a row (2 or 4 where d_max asks for it), 1
more a row where rows do not all begin at the first column, and a header of at most
:data:`envs.budget.HEADER_BYTES`. Codes take 2 to 8 bits a parameter, and 2 bytes a row of more than one for
its scale (:mod:`ciess_ray.packed.codes`); sizes beside them take as few bits as their differences. Precision
is one for the table, one for users and one for items, or a row's own, which takes a byte. Where a row has
weights of items, as in a neighbour table, the numbers of these stand beside them, in 2 or 4 bytes each. It is
plain safetensors: NumPy reads it, no code is run. A table is opened, not read: its values stay on the disk
until rows of them are asked for.

A row of size 0 has no numbers of its own: all such users show one row of d_min numbers, whose values stand
where the first of them is, and all such items another.
"""

import mmap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.files.whole import open_regular, whole_file
from ciess_ray.packed.codes import coded_rows, encode_codes, type_of_bits
from ciess_ray.packed.content import check_bits, header, parts_of, read_table
from ciess_ray.packed.decoding import decoded_numbers, decoded_rows
from ciess_ray.packed.file import (
    CODED_FORMAT,
    DAMAGED,
    FORMAT,
    NEIGHBOUR_FORMAT,
    SHARED_FORMAT,
    SIZE_TYPES,
    check_numbers,
    decode,
    encode,
    header_end,
    header_of,
    windows,
)
from ciess_ray.packed.layout import RowLayout
from ciess_ray.packed.neighbours import check_items, id_type
from envs.budget import index_bytes_per_row
from envs.errors import ResultError
from envs.sizes.embedding_sizes import EmbeddingSizes, ScatteredSizes


@dataclass(frozen=True, eq=False)
class PackedTable:
    """A table of sized rows without its zeros.

    Attributes:
        values: The numbers kept, row after row, users first, shape (num_params,), of the type that
            :data:`VALUE_TYPES` says for ``dtype``; or their codes, uint8, without gaps.
        row_sizes: One embedding size a row, users first, shape (num_rows,), unsigned; 0 where it is shared.
        num_users: Rows that are users.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        num_tables: Tables in which every row has its size; their values of a row follow one another.
        dtype: float32, float16, bfloat16; of codes int2 to int8, ``int8/int4`` for those of users and of
            items, or :data:`MIXED`.
        scales: Of codes, and of int8 values from before these, what those of each row are to be multiplied
            by, shape (num_rows,), float16.
        recommender: Name of the recommender that the table was trained in.
        first_columns: Where each row begins, shape (num_rows,), uint8; None for the first column.
        neighbours: Of a neighbour table, whose rows are items, the item whose weight each value is, shape
            (num_params,), uint16 of up to 65,536 items and uint32 of more.
        row_bits: Bits of each code of a row, shape (num_rows,), uint8; None where values are no codes.
        is_signed: Whether codes may be of negative numbers.

    Example:
        >>> import ciess_ray
        >>> table = ciess_ray.PackedTable.open("runs/quickstart/table.safetensors")
        >>> int(table.row_sizes.sum()) == table.num_params
        True
    """

    values: NDArray[Any]
    row_sizes: NDArray[Any]
    num_users: int
    min_embedding_size: int
    max_embedding_size: int
    num_tables: int = 1
    dtype: str = "float32"
    scales: NDArray[np.float16] | None = None
    recommender: str | None = None
    first_columns: NDArray[np.uint8] | None = None
    neighbours: NDArray[np.unsignedinteger] | None = None
    row_bits: NDArray[np.uint8] | None = None
    is_signed: bool = True

    def __post_init__(self) -> None:
        if not len(self.row_sizes) or self.num_tables < 1:
            raise ResultError("it has no rows, or no table")
        least, most = int(self.row_sizes.min()), self.largest_size
        if least == 0:
            least = int(self.row_sizes.min(initial=most, where=self.row_sizes > 0))
        d_min, d_max = self.min_embedding_size, self.max_embedding_size
        if not 1 <= d_min <= least <= most <= d_max:
            raise ResultError(f"sizes between {least} and {most} lie outside [{d_min}, {d_max}]")
        if self.layout.shared_rows is not None and self.first_columns is not None:
            raise ResultError("rows that are shared begin at the first column")
        if self.row_bits is not None:
            check_bits(self.row_bits, self.dtype, self.num_users, self.num_rows)
        num_params = self.layout.num_params
        if self.values.shape != (num_params if self.row_bits is None else self.layout.num_code_bytes,):
            raise ResultError(
                f"sizes of {num_params} parameters in all cannot hold values of shape {self.values.shape}"
            )
        if not 0 <= self.num_users <= len(self.row_sizes):
            raise ResultError(f"{self.num_users} of {len(self.row_sizes)} rows cannot be users")
        if (self.scales is None) == (self.row_bits is not None or self.dtype == "int8"):
            raise ResultError(f"{self.dtype} values {'lack their' if self.scales is None else 'have'} scales")
        for name, array in (("scales", self.scales), ("first columns", self.first_columns)):
            if array is not None and array.shape != self.row_sizes.shape:
                raise ResultError(f"{len(array)} {name} do not belong to {len(self.row_sizes)} rows")
        if self.neighbours is not None:
            if self.neighbours.shape != (num_params,):
                raise ResultError(f"{len(self.neighbours)} neighbours do not belong to {num_params} values")
            if self.num_users or self.num_tables > 1 or self.layout.shared_rows is not None:
                raise ResultError("neighbours are of rows of items alone, in one table, none of them shared")

    @classmethod
    def of(
        cls,
        values: NDArray[np.float32],
        sizes: EmbeddingSizes,
        *,
        dtype: str | NDArray[np.integer] = "float32",
        recommender: str | None = None,
        neighbours: NDArray[np.integer] | None = None,
    ) -> "PackedTable":
        """Keep of each row its d_n numbers, in each table.

        Args:
            values: Those that are kept, row after row, users first, shape (num_params,), float32.
            sizes: One embedding size a row.
            dtype: float32, float16, bfloat16, int2 to int8, or two of the last for users and items, such as
                ``int8/int4``; or the bits of each row, 2 to 8, shape (num_rows,).
            recommender: Name of the recommender.
            neighbours: Of a neighbour table the item whose weight each value is, shape (num_params,).

        Raises:
            ResultError: A number is not finite in this type, there is no such type, or the sizes are of
                scattered numbers.
        """
        if isinstance(sizes, ScatteredSizes):
            raise ResultError(
                "a packed table keeps the first numbers of each row: scattered ones have no file."
            )
        size_type = SIZE_TYPES[index_bytes_per_row(sizes.max_embedding_size)][1]
        row_sizes = np.concatenate([sizes.user, sizes.item]).astype(size_type)
        if sizes.is_shared is not None:
            row_sizes[sizes.is_shared] = 0
        values, num_users = np.ascontiguousarray(values, np.float32), len(sizes.user)
        row_bits, scales, is_signed = coded_rows(dtype, num_users, len(row_sizes)), None, True
        if row_bits is None:
            stored = encode(values, str(dtype))
        else:
            # Weights of neighbours are often all positive, and then no level is lost on others.
            is_signed = neighbours is None or bool((values < 0).any())
            stored, scales = encode_codes(
                values, sizes.held, sizes.num_tables, num_users, row_bits, is_signed=is_signed
            )
            dtype = type_of_bits(row_bits, num_users)
        return cls(
            stored,
            row_sizes,
            num_users,
            sizes.min_embedding_size,
            sizes.max_embedding_size,
            sizes.num_tables,
            str(dtype),
            scales,
            recommender,
            sizes.first_columns,
            None if neighbours is None else neighbours.astype(id_type(len(sizes.item))[1]),
            row_bits,
            is_signed,
        )

    @classmethod
    def open(cls, path: str | Path) -> "PackedTable":
        """Map a file into memory; of the values nothing is read.

        Raises:
            ResultError: There is no such file, it is no packed table, or its parts contradict each other.
        """
        path = Path(path)
        try:
            with open_regular(path) as file:
                # Private: what somebody writes into the arrays stays in this process.
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            return cls.from_buffer(content)
        except (OSError, ValueError, ResultError) as error:
            raise ResultError(f"{path}: damaged, or no packed table ({error}); write it again.") from error

    @classmethod
    def from_buffer(cls, content: Any) -> "PackedTable":
        """The table that the bytes of a file hold, without a copy of them.

        Args:
            content: Bytes, or what has the buffer protocol.

        Raises:
            ResultError: They are no packed table, or contradict each other.
        """
        content = memoryview(content)
        end = header_end(content)
        try:
            metadata, told = read_table(content, end)
            table = cls(**told)
        except Exception as error:  # Of json, NumPy or the table, by where the damage is.
            raise ResultError(f"its header describes no packed table: {error}") from error
        if metadata["format"] != table.format:
            raise ResultError(
                f"its format is {metadata['format']!r}, and its rows are those of {table.format!r}"
            )
        parts, num_told = parts_of(table), len(content) - end
        # Types, shapes and places are those that the table itself would be written with.
        if header_of(parts, metadata) != content[:end] or sum(part.nbytes for *_, part in parts) != num_told:
            raise ResultError(f"its header does not describe the {num_told:,} bytes that follow it")
        return table

    @property
    def num_rows(self) -> int:
        """Users and items together."""
        return len(self.row_sizes)

    @property
    def num_params(self) -> int:
        """Parameters kept, in all tables together."""
        return self.layout.num_params

    @property
    def format(self) -> str:
        """What the file calls itself."""
        if self.row_bits is not None:
            return CODED_FORMAT
        of_rows = FORMAT if self.layout.shared_rows is None else SHARED_FORMAT
        return of_rows if self.neighbours is None else NEIGHBOUR_FORMAT

    @cached_property
    def layout(self) -> RowLayout:
        """Where the values of each row stand."""
        bounds = self.min_embedding_size, self.max_embedding_size
        return RowLayout(self.row_sizes, self.num_users, *bounds, self.num_tables, self.row_bits)

    @cached_property
    def largest_size(self) -> int:
        """The largest size in use."""
        return max(int(self.row_sizes.max()), self.min_embedding_size)

    @cached_property
    def width(self) -> int:
        """Columns of one table up to the last that is in use: the largest size, where no row is placed."""
        if self.first_columns is None:
            return self.largest_size
        return int((self.row_sizes.astype(np.int64) + self.first_columns).max())

    @property
    def sizes(self) -> EmbeddingSizes:
        """The sizes of users and of items, as the rest of the project takes them."""
        row_sizes = np.maximum(self.row_sizes.astype(np.int32), self.min_embedding_size)
        bounds = self.min_embedding_size, self.max_embedding_size
        user, item = np.split(row_sizes, [self.num_users])
        is_shared = None if self.layout.shared_rows is None else self.row_sizes == 0
        return EmbeddingSizes(user, item, *bounds, self.num_tables, self.first_columns, is_shared)

    @property
    def num_bytes(self) -> int:
        """Bytes of the file, to the last."""
        parts = parts_of(self)
        return len(header(self, parts)) + sum(array.nbytes for *_, array in parts)

    def rows(self, rows: NDArray[np.integer], width: int | None = None) -> NDArray[np.float32]:
        """Rows of the masked table, zeros where they keep nothing.

        Args:
            rows: Row numbers, users first, shape (n,).
            width: Columns of one table, by default up to the last in use; a row that is longer is cut.

        Returns:
            Shape (n, num_tables * width), float32.

        Raises:
            IndexError: A row number is negative, beyond the last row, or no whole number.
            ResultError: What a row keeps is NaN or infinite.
        """
        width = self.width if width is None else width
        if width < 1:
            raise ValueError(f"a width of {width}: ask for at least one column")
        if self.first_columns is None:
            return self.kept(rows, width)
        longest = self.largest_size
        kept = self.kept(rows, longest).reshape(-1, longest)
        first = np.repeat(self.first_columns[np.asarray(rows, np.int64)].astype(np.int64), self.num_tables)
        # What a row keeps lies within the table's columns; the zeros after it need not.
        placed = np.zeros((len(kept), max(width, self.width + longest)), np.float32)
        np.put_along_axis(placed, first[:, None] + np.arange(longest), kept, axis=1)
        return np.ascontiguousarray(placed[:, :width]).reshape(len(rows), self.num_tables * width)

    def kept(self, rows: NDArray[np.integer], width: int) -> NDArray[np.float32]:
        """What rows keep from its first number on, whichever column that stands in.

        Args:
            rows: Row numbers, users first, shape (n,).
            width: Numbers of one table; zeros follow what a row keeps, and a row that is longer is cut.

        Returns:
            Shape (n, num_tables * width), float32.

        Raises:
            IndexError: As :meth:`rows`.
            ResultError: As :meth:`rows`.
        """
        rows = np.asarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise IndexError(f"rows are whole numbers, not {rows.dtype}")
        rows = rows.astype(np.int64, copy=False)
        if rows.size and not (rows.min() >= 0 and rows.max() < self.num_rows):
            raise IndexError(f"rows between {rows.min()} and {rows.max()} of a table of {self.num_rows} rows")
        block_starts, in_block = self.layout.starts
        rows, sizes = self.layout.shown(rows)
        starts = block_starts[rows >> self.layout.block_bits] + in_block[rows]
        if self.row_bits is not None:
            return decoded_rows(self, rows, sizes, starts, width)
        starts = (starts[:, None] + np.arange(self.num_tables) * sizes[:, None]).ravel()
        stored = windows(self.values, starts, width)
        # Bits are cleared, not numbers multiplied: what lies beyond a row may be NaN.
        bits = stored.view(f"i{stored.itemsize}")
        bits &= -(np.arange(width) < np.repeat(sizes, self.num_tables)[:, None]).astype(bits.dtype)
        decoded = decode(stored, self.dtype)
        if self.scales is not None:
            decoded *= np.repeat(self.scales[rows].astype(np.float32), self.num_tables)[:, None]
        if not np.isfinite(decoded).all():
            row = rows[int(np.argmin(np.isfinite(decoded).all(axis=1))) // self.num_tables]
            raise ResultError(f"row {row:,} of {self.num_rows:,} holds what is no finite number: {DAMAGED}.")
        return decoded.reshape(len(rows), self.num_tables * width)

    def unpack(self, width: int | None = None) -> NDArray[np.float32]:
        """The masked table, shape (num_users + num_items, num_tables * width), float32.

        Args:
            width: Columns of one table; by default up to the last in use.
        """
        return self.rows(np.arange(self.num_rows), width)

    def decoded(self) -> NDArray[np.float32]:
        """The values as numbers, shape (num_params,), float32; the array itself where it is of that type.

        Raises:
            ResultError: As :meth:`verify`.
        """
        self.verify()
        if self.row_bits is not None:
            return decoded_numbers(self)
        values = decode(self.values, self.dtype)
        if self.scales is not None:
            values *= np.repeat(self.scales.astype(np.float32), self.layout.lengths)
        return values

    def astype(self, dtype: str | NDArray[np.integer]) -> "PackedTable":
        """The same table in another type of value.

        Args:
            dtype: As that of :meth:`of`.

        Raises:
            ResultError: A number is not finite in this type, or there is no such type.
        """
        values, name, ids = self.decoded(), self.recommender, self.neighbours
        return PackedTable.of(values, self.sizes, dtype=dtype, recommender=name, neighbours=ids)

    def verify(self) -> None:
        """Read every value once and see that it is a number, and every neighbour that it can be one.

        Raises:
            ResultError: Those of :func:`check_numbers` and :func:`check_items`.
        """
        is_coded = self.row_bits is not None
        check_numbers(None if is_coded else self.values, self.dtype, self.scales)
        if self.neighbours is not None:
            check_items(self.neighbours, None if is_coded else self.values, self.dtype, self.row_sizes)

    def save(self, path: str | Path) -> int:
        """Write the file, as a whole or not at all.

        Returns:
            Its bytes.
        """
        parts = parts_of(self)
        with whole_file(Path(path)) as stream:
            stream.write(header(self, parts))
            stream.writelines(array.data.cast("B") for *_, array in parts)
            return stream.tell()
