"""Columns of ids that come in chunks, as codes and sorted distinct ids.

Memory is that of the codes, of the distinct ids and of a chunk: no value but a distinct id becomes an object
of Python.
"""

import contextlib
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from envs.data.interactions import Ids
from envs.data.values import Where, as_bytes, checked_text, is_text, refuse_first, refuse_missing
from envs.errors import DataError

_CANONICAL_INTEGER = r"\A(0|-?[1-9][0-9]*)\z"
#: What other programs write for a value that is missing; no array, for which pyarrow would import pandas.
MISSING_IDS = "nan NaN NAN null Null NULL None NA N/A n/a <NA> NaT #N/A \\N".split()
#: Ids of chunks that wait at least, before they are looked up among those that are known.
_NUM_WAITING = 1 << 18
_UUID_BYTES = 16


class IdColumn:
    """Ids of a column: the code of each row, and the sorted distinct ids.

    Blanks around text are no part of it. Integers of any width, floats and decimals that are whole are int64;
    text, bytes that are UTF-8, and UUIDs are text; a dictionary is what it stands for.

    Args:
        num_rows: Rows that will come.
        name: The column's name, for messages.
        where: Names a row, for messages.
        parse: Whether text that is all canonical integers becomes int64, as it does in text formats.
    """

    def __init__(self, num_rows: int, name: str, where: Where, parse: bool = False) -> None:
        self._codes = np.empty(num_rows, np.int32)
        self._num_rows = 0
        self._name, self._where, self._parse = name, where, parse
        self._type: pa.DataType | None = None
        self._known: pa.Array | None = None
        #: Ids of chunks that are not among the known ones yet, and the rows whose codes are places in them.
        self._waiting: list[tuple[pa.Array, slice]] = []
        self._num_waiting = 0

    def add(self, chunk: pa.Array) -> None:
        """Take the next rows.

        Raises:
            DataError: An id is missing, empty, negative, holds a line end, is of a type that names nothing,
                or is text where those before were integers.
        """
        begin, self._num_rows = self._num_rows, self._num_rows + len(chunk)
        if len(chunk) == 0:
            return
        rows = slice(begin, self._num_rows)

        def where(row: int) -> str:
            return self._where(begin + row)

        refuse_missing(chunk, self._name, where)
        ids, codes = self._distinct(chunk, where)
        ids = self._plain(ids, codes, where)
        if self._known is not None and ids.type != self._known.type:
            raise DataError(
                f"{where(0)}: {self._name} is of type {chunk.type}, and of type {self._type} in the rows "
                "before; store all of the column, in every part, as integers or as text"
            )
        if self._known is None:
            self._type, self._known = chunk.type, ids.slice(0, 0)
        self._codes[rows] = codes
        self._waiting.append((ids, rows))
        self._num_waiting += len(ids)
        # So that each id that comes is looked up a few times at most, and no more wait than are known.
        if self._num_waiting > max(len(self._known), _NUM_WAITING):
            self._look_up()

    def _distinct(self, chunk: pa.Array, where: Where) -> tuple[pa.Array, NDArray[np.int32]]:
        """Ids as they are stored, those that no row has left out, and of each row the place of its own."""
        types = pa.types
        if isinstance(chunk, pa.ExtensionArray):
            chunk = chunk.storage
        if types.is_dictionary(chunk.type):
            codes = chunk.indices.to_numpy()
            is_used = np.zeros(len(chunk.dictionary), bool)
            is_used[codes] = True
            place = np.cumsum(is_used, dtype=np.int32) - 1
            return chunk.dictionary.filter(pa.array(is_used)), place[codes].astype(np.int32)
        type_ = chunk.type
        if is_text(type_) or types.is_binary(type_) or types.is_large_binary(type_):
            # Not all types of text have a kernel, and bytes need be no UTF-8 to be equal.
            chunk = as_bytes(chunk)
        elif types.is_decimal(type_):
            chunk = chunk.cast(pa.decimal256(76, type_.scale))
        elif types.is_floating(type_):
            chunk = chunk.cast(pa.float64())
        elif not (types.is_integer(type_) or type_ == pa.binary(_UUID_BYTES)):
            raise DataError(
                f"{where(0)}: {self._name} is of type {type_}; ids are integers, text or UUIDs, store the "
                "column as one of them"
            )
        encoded = chunk.dictionary_encode()
        return encoded.dictionary, encoded.indices.to_numpy()

    def _plain(self, ids: pa.Array, codes: NDArray[np.int32], where: Where) -> pa.Array:
        """Checked ids as int64 or large text, in which an id may now stand twice."""
        types = pa.types
        if isinstance(ids, pa.ExtensionArray):
            ids = ids.storage
        if ids.null_count:
            is_missing = pc.is_null(ids).to_numpy(zero_copy_only=False)
            refuse_first(is_missing[codes], ids, self._name, where, "", codes)
        if ids.type == pa.binary(_UUID_BYTES):
            return _text_of_uuids(ids)
        if is_text(ids.type) or types.is_binary(ids.type) or types.is_large_binary(ids.type):
            text = checked_text(ids, self._name, where, places=codes)
            return self._checked_names(pc.utf8_trim_whitespace(text), codes, where)
        if not (types.is_integer(ids.type) or types.is_floating(ids.type) or types.is_decimal(ids.type)):
            raise DataError(
                f"{where(0)}: {self._name} is of type {ids.type}; ids are integers, text or UUIDs, store the "
                "column as one of them"
            )
        return self._checked_integers(ids, codes, where)

    def _checked_names(self, ids: pa.Array, codes: NDArray[np.int32], where: Where) -> pa.Array:
        for is_bad, why in (
            (pc.equal(ids, ""), "which names nothing; give the row an id or delete it"),
            (pc.match_substring_regex(ids, r"[\r\n]"), "and an id holds no line end; correct it"),
            (
                pc.is_in(ids, pa.array(MISSING_IDS, ids.type)),
                "which other programs write where a value is missing; give the row an id or delete it, or "
                "rename the id where it is one",
            ),
        ):
            if pc.any(is_bad).as_py():
                of_rows = is_bad.to_numpy(zero_copy_only=False)[codes]
                refuse_first(of_rows, ids, self._name, where, why, codes)
        return ids

    def _checked_integers(self, ids: pa.Array, codes: NDArray[np.int32], where: Where) -> pa.Array:
        if pa.types.is_decimal(ids.type):
            is_id = pc.equal(pc.floor(ids), ids)
            is_id = pc.and_(is_id, pc.greater_equal(ids, pa.scalar(Decimal(0))))
            is_id = pc.and_(is_id, pc.less_equal(ids, pa.scalar(Decimal(2**63 - 1))))
            is_bad = ~is_id.to_numpy(zero_copy_only=False)
        else:
            # Above 2^53 neighbouring integers are the same float64.
            is_float = pa.types.is_floating(ids.type)
            numbers = ids.cast(pa.float64()).to_numpy() if is_float else ids.to_numpy()
            is_bad = ~((numbers >= 0) & (numbers <= (2**53 if is_float else 2**63 - 1)))
            if is_float:
                is_bad |= np.floor(numbers) != numbers
        why = "and integer ids are whole, from 0 to 2^63 - 1; correct or renumber them, or store them as text"
        if is_bad.any():
            refuse_first(is_bad[codes], ids, self._name, where, why, codes)
        return ids.cast(pa.int64())

    def _look_up(self) -> None:
        """Give the rows of waiting ids their codes among the known ones, which grow by those that are new."""
        assert self._known is not None
        encoded = pa.chunked_array(
            [
                pa.DictionaryArray.from_arrays(np.arange(len(ids), dtype=np.int32), ids)
                for ids in (self._known, *(ids for ids, _ in self._waiting))
            ]
        ).unify_dictionaries()
        for (_, rows), chunk in zip(self._waiting, encoded.chunks[1:], strict=True):
            self._codes[rows] = chunk.indices.to_numpy()[self._codes[rows]]
        self._known = encoded.chunk(0).dictionary
        self._waiting, self._num_waiting = [], 0

    def finish(self) -> tuple[Ids, NDArray[np.int32]]:
        """The sorted ids, shape (num_ids,), and the code of each row, shape (num_rows,), int32.

        Raises:
            DataError: Text that is parsed holds a negative integer, where all are integers.
        """
        self._look_up()
        ids, codes = self._known, self._codes
        assert ids is not None
        is_integer = self._parse and pc.all(pc.match_substring_regex(ids, _CANONICAL_INTEGER)).as_py()
        if is_integer and is_text(ids.type):
            with contextlib.suppress(pa.ArrowInvalid):  # Beyond int64 it is as good a name as any other text.
                ids = self._checked_integers(ids.cast(pa.int64()), codes, self._where)
        order = pc.array_sort_indices(ids).to_numpy()
        code_of = np.empty(len(order), np.int32)
        code_of[order] = np.arange(len(order), dtype=np.int32)
        np.take(code_of, codes, out=codes, mode="clip")
        return ids.take(pa.array(order)).to_numpy(zero_copy_only=False), codes


def _text_of_uuids(ids: pa.Array) -> pa.Array:
    """UUIDs as they are written: 36 characters, in groups."""
    content = np.frombuffer(ids.buffers()[1], np.uint8)[ids.offset * _UUID_BYTES :][: len(ids) * _UUID_BYTES]
    halves = np.stack([content >> 4, content & 15], axis=-1).reshape(len(ids), 2 * _UUID_BYTES)
    letters = np.frombuffer(b"0123456789abcdef", np.uint8)[halves]
    text = np.insert(letters, (8, 12, 16, 20), ord("-"), axis=1)
    offsets = np.arange(len(ids) + 1, dtype=np.int64) * text.shape[1]
    return pa.Array.from_buffers(
        pa.large_string(), len(ids), [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text))]
    )
