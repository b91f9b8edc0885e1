"""Columns of numbers, times and splits that come in chunks, as arrays of a log; and what columns share."""

import contextlib
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from envs.data.interactions import SPLITS, TimeUnit
from envs.errors import DataError

#: Names a row, counted from 0, in the words of its source: "ratings.csv, line 7".
Where = Callable[[int], str]

#: A number as it may stand in a text file.
NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_FLOAT32_MAX, _FLOAT64_MAX = (float(np.finfo(kind).max) for kind in (np.float32, np.float64))
_MAX_SHOWN = 60
#: Of a timestamp's units, parts of a second.
_UNITS: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(text):,} characters)"


def refuse_first(
    is_bad: NDArray[np.bool_],
    values: pa.Array | pa.ChunkedArray,
    name: str,
    where: Where,
    why: str,
    places: NDArray[np.integer] | None = None,
) -> None:
    """Refuse the first bad row of a column.

    Args:
        is_bad: Which rows are, shape (n,).
        values: What the rows hold.
        name: The column's name.
        where: Names a row.
        why: What is wrong with a value that is there, and the remedy.
        places: Of each row the place of its value; None where each row has its own.

    Raises:
        DataError: A row is bad.
    """
    if is_bad.any():
        row = int(is_bad.argmax())
        value = values[row if places is None else int(places[row])].as_py()
        what = "missing; give the row one or delete it" if value is None else f"{shown(value)}, {why}"
        raise DataError(f"{where(row)}: {name} is {what}")


def refuse_missing(chunk: pa.Array, name: str, where: Where) -> None:
    """Refuse the first row without a value.

    Raises:
        DataError: A row has none.
    """
    if chunk.null_count:
        refuse_first(pc.is_null(chunk).to_numpy(zero_copy_only=False), chunk, name, where, "")


def is_text(type_: pa.DataType) -> bool:
    """Whether a type is one of those of text."""
    return type_ in (pa.string(), pa.large_string(), pa.string_view())


def as_bytes(column: pa.Array) -> pa.Array:
    """Text, or bytes, as bytes."""
    # A view has no cast to large ones of its own.
    view = pa.binary_view() if pa.types.is_string_view(column.type) else pa.large_binary()
    return column.cast(view).cast(pa.large_binary())


def checked_text(
    column: pa.Array,
    name: str,
    where: Where,
    remedy: str = "write the column anew as UTF-8",
    places: NDArray[np.integer] | None = None,
) -> pa.Array:
    """A column of text, or of bytes, as text that is UTF-8, which the types of a Parquet file do not ensure.

    Args:
        column: The text, shape (n,).
        name: The column's name.
        where: Names a row.
        remedy: What to do about text that is not.
        places: As of :func:`refuse_first`.

    Raises:
        DataError: A row is not, with the remedy.
    """
    raw = as_bytes(column)
    try:
        return raw.cast(pa.large_string())
    except pa.ArrowInvalid:
        is_bad = np.array([value.decode(errors="ignore").encode() != value for value in raw.to_pylist()])
        of_rows = is_bad if places is None else is_bad[places]
        refuse_first(of_rows, raw, name, where, f"not UTF-8 text; {remedy}", places)
        raise


class NumberColumn:
    """Finite numbers of a column, as float32.

    Args:
        num_rows: Rows that will come.
        name: The column's name, for messages.
        where: Names a row, for messages.
    """

    def __init__(self, num_rows: int, name: str, where: Where) -> None:
        self._values = np.empty(num_rows, np.float32)
        self._num_rows = 0
        self._name, self._where = name, where

    def add(self, chunk: pa.Array) -> None:
        """Take the next rows.

        Raises:
            DataError: A value is missing or no finite number.
        """
        begin, self._num_rows = self._num_rows, self._num_rows + len(chunk)

        def where(row: int) -> str:
            return self._where(begin + row)

        self._values[begin : self._num_rows] = _numbers(chunk, self._name, where, _FLOAT32_MAX)

    def finish(self) -> NDArray[np.float32]:
        """The numbers, shape (num_rows,)."""
        return self._values


def _numbers(chunk: pa.Array, name: str, where: Where, largest: float) -> NDArray[Any]:
    """A numeric chunk without gaps, shape (n,), int64 where it is integer and float64 otherwise."""
    refuse_missing(chunk, name, where)
    is_integer = pa.types.is_integer(chunk.type)
    if not (is_integer or pa.types.is_floating(chunk.type) or pa.types.is_decimal(chunk.type)):
        raise DataError(f"{where(0)}: {name} is of type {chunk.type}; store the column as numbers")
    numbers = np.asarray(chunk.cast(pa.int64() if is_integer else pa.float64(), safe=False))
    why = "not a finite number; correct or delete the row"
    refuse_first(~(np.abs(numbers) <= largest), chunk, name, where, why)
    return numbers


class TimeColumn:
    """Times of a column: numbers as they are; timestamps, dates and ISO times in the finest unit of any.

    ISO times are in microseconds, or in nanoseconds where some need them.

    Args:
        num_rows: Rows that will come.
        name: The column's name, for messages.
        where: Names a row, for messages.
    """

    def __init__(self, num_rows: int, name: str, where: Where) -> None:
        self._values: NDArray[np.int64] | NDArray[np.float64] = np.empty(num_rows, np.int64)
        self._num_rows = 0
        self._name, self._where = name, where
        self._type: pa.DataType | None = None
        #: Of timestamps; None of numbers.
        self._unit: TimeUnit | None = None
        #: What the first ISO time is, in words.
        self._kind_of_text = ""

    def add(self, chunk: pa.Array) -> None:
        """Take the next rows.

        Raises:
            DataError: A value is missing, no time, no finite number, or not of the kind of those before.
        """
        begin, self._num_rows = self._num_rows, self._num_rows + len(chunk)
        if len(chunk) == 0:
            return

        def where(row: int) -> str:
            return self._where(begin + row)

        refuse_missing(chunk, self._name, where)
        types, given = pa.types, chunk.type
        if types.is_dictionary(given) and is_text(given.value_type):
            chunk = chunk.cast(given.value_type)
        if is_text(chunk.type):
            chunk = self._of_text(chunk, where)
        elif types.is_date(given):
            chunk = chunk.cast(pa.timestamp("s"))
        unit: TimeUnit | None = None
        if types.is_timestamp(chunk.type):
            unit, chunk = chunk.type.unit, chunk.cast(pa.int64())
        numbers = _numbers(chunk, self._name, where, _FLOAT64_MAX)
        if self._type is None:
            self._type, self._unit = given, unit
        elif (unit is None) != (self._unit is None):
            raise DataError(
                f"{where(0)}: {self._name} is of type {given}, and of type {self._type} in the rows before; "
                "store all of the column, in every part, as numbers or as times"
            )
        elif unit is not None and self._unit is not None and unit != self._unit:
            factor = _UNITS[unit] / _UNITS[self._unit]
            if factor > 1:
                self._rescale(self._values[:begin], int(factor), begin)
                self._unit = unit
            else:
                numbers = numbers.copy()
                self._rescale(numbers, round(1 / factor), begin)
        if numbers.dtype != self._values.dtype:
            self._values = self._values.astype(np.float64)
        self._values[begin : self._num_rows] = numbers

    def _rescale(self, values: NDArray[Any], factor: int, row: int) -> None:
        if len(values) and np.abs(values).max() > (2**63 - 1) // factor:
            raise DataError(
                f"{self._where(row)}: {self._name} has so fine a unit from here on that times before or "
                "after it do not fit; store all of the column in one unit"
            )
        values *= factor

    def _of_text(self, chunk: pa.Array, where: Where) -> pa.Array:
        """ISO times as timestamps."""
        text = pc.utf8_trim_whitespace(checked_text(chunk, self._name, where))
        kind = _kind_of_time(text[0].as_py())
        self._kind_of_text = self._kind_of_text or kind
        zone = "UTC" if "offset" in kind else None
        if kind == self._kind_of_text and "ISO" in kind:
            for unit in ("us", "ns"):
                # Where none fits, the row that is at fault is looked for.
                with contextlib.suppress(pa.ArrowInvalid):
                    return text.cast(pa.timestamp(unit, zone))
        kinds = [_kind_of_time(value) for value in text.to_pylist()]
        is_other = (row for row, kind in enumerate(kinds) if kind != self._kind_of_text or "neither" in kind)
        row = next(is_other, 0)
        raise DataError(
            f"{where(row)}: {self._name} is {shown(text[row].as_py())}, {kinds[row]}; store all of the "
            "column as numbers, or as ISO times that all have an offset from UTC or have none"
        )

    def finish(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """The times, shape (num_rows,), int64 where all are whole."""
        return self._values

    @property
    def unit(self) -> TimeUnit | None:
        """What they count since 1970, where they were dates; None of numbers, which may count anything."""
        return self._unit


def _kind_of_time(value: str) -> str:
    if NUMBER.fullmatch(value):
        return "a number"
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return "neither a number nor an ISO time such as 2001-01-31 12:00:00"
    return "an ISO time" if time.tzinfo is None else "an ISO time with an offset from UTC"


class SplitColumn:
    """What each row is for, as its place in :data:`SPLITS`.

    Args:
        num_rows: Rows that will come.
        name: The column's name, for messages.
        where: Names a row, for messages.
    """

    def __init__(self, num_rows: int, name: str, where: Where) -> None:
        self._values = np.empty(num_rows, np.int8)
        self._num_rows = 0
        self._name, self._where = name, where

    def add(self, chunk: pa.Array) -> None:
        """Take the next rows.

        Raises:
            DataError: A value names no split.
        """
        begin, self._num_rows = self._num_rows, self._num_rows + len(chunk)

        def where(row: int) -> str:
            return self._where(begin + row)

        codes = pc.index_in(chunk.cast(pa.string()), pa.array(SPLITS))
        why = f"none of {', '.join(SPLITS)}; correct the row"
        is_other = pc.is_null(codes).to_numpy(zero_copy_only=False)
        refuse_first(is_other, chunk, self._name, where, why)
        self._values[begin : self._num_rows] = codes.to_numpy()

    def finish(self) -> NDArray[np.int8]:
        """The splits, shape (num_rows,)."""
        return self._values
