"""Columns of ids, ratings and timestamps: how they are named, checked and turned into a log."""

import contextlib
import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from envs.data.interactions import SPLITS, Ids, InteractionLog, TimeUnit, check_rows
from envs.errors import DataError

#: Names a row, counted from 0, in the words of its source: "ratings.csv, line 7".
Where = Callable[[int], str]

#: A number as it may stand in a text file.
NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_CANONICAL_INTEGER = r"\A(0|-?[1-9][0-9]*)\z"
_FLOAT32_MAX = float(np.finfo(np.float32).max)
#: What other programs write for a value that is missing; no array, for which pyarrow would import pandas.
MISSING_IDS = "nan NaN NAN null Null NULL None NA N/A n/a <NA> NaT #N/A \\N".split()
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None for one that is not to be read."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = None
    timestamp: str | None = None
    split: str | None = None


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(text):,} characters)"


def pick_columns(
    names: Sequence[str], columns: Columns | None, defaults: Columns, source: str, remedy: str = ""
) -> dict[str, str]:
    """Which columns to read.

    Args:
        names: The names that the data has, in order.
        columns: The names asked for; None for the defaults, of which rating and timestamp may be missing.
        defaults: The format's usual names.
        source: Where the data is, for messages.
        remedy: What else can be done about a column that is missing.

    Returns:
        Name by role: ``user``, ``item`` and, where they are read, ``rating``, ``timestamp`` and ``split``.

    Raises:
        DataError: A column is missing, two have its name, or it is asked for twice.
    """
    wanted = defaults if columns is None else columns
    optional = ("rating", "timestamp") if columns is None else ()
    asked: dict[str, str] = {
        role: name
        for role, name in vars(wanted).items()
        if name in names or (name is not None and role not in optional)
    }
    for role, name in asked.items():
        if name not in names:
            free = [other for other in names if other not in asked.values()]
            near = [match for word in (name, role) for match in difflib.get_close_matches(word, free, 1, 0.5)]
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{source}: there is no column {name!r} for the {role}; the columns are "
                f"{', '.join(map(shown, names))}.{hint} Name the columns to read "
                "(dataset.columns of a configuration, --user and --item of a command that has them, user= "
                f"and item= in Python){remedy}"
            )
        if names.count(name) > 1:
            raise DataError(
                f"{source}: {names.count(name)} columns are named {name!r}; rename all but the one "
                f"that holds the {role}"
            )
        other = next(other for other in asked if asked[other] == name)
        if other != role:
            raise DataError(f"{source}: {name!r} cannot be both the {other} and the {role}; name two columns")
    return asked


def _is_text(type_: pa.DataType) -> bool:
    return type_ in (pa.string(), pa.large_string(), pa.string_view())


def _refuse_first(
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


def checked_text(
    column: pa.Array | pa.ChunkedArray,
    name: str,
    where: Where,
    remedy: str = "write the column anew as UTF-8",
) -> pa.Array | pa.ChunkedArray:
    """A column of text, or of bytes, as text that is UTF-8, which the types of a Parquet file do not ensure.

    Raises:
        DataError: A row is not, with the remedy.
    """
    raw = column.cast(pa.binary_view() if pa.types.is_string_view(column.type) else pa.large_binary())
    try:
        return raw.cast(pa.large_string())
    except pa.ArrowInvalid:
        is_bad = [value.decode(errors="ignore").encode() != value for value in raw.to_pylist()]
        _refuse_first(np.array(is_bad), raw, name, where, f"not UTF-8 text; {remedy}")
        raise


def _encode_ids(
    column: pa.ChunkedArray, name: str, where: Where, parse: bool
) -> tuple[Ids, NDArray[np.int32]]:
    """Sorted ids of a column and the code of each row; blanks around text are no part of it.

    Args:
        column: Ids, shape (n,).
        name: The column's name, for messages.
        where: Names a row, for messages.
        parse: Whether text that is all canonical integers becomes int64, as it does in text formats.

    Returns:
        The ids, shape (num_ids,), and the codes, shape (n,), int32.

    Raises:
        DataError: An id is missing, empty, negative, holds a line end or is of a type that names nothing.
    """
    _refuse_first(pc.is_null(column).to_numpy(), column, name, where, "")
    types = pa.types
    if not parse:
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if _is_text(column.type):
            column = checked_text(column, name, where)
        elif not (types.is_integer(column.type) or types.is_floating(column.type)):
            raise DataError(
                f"{where(0)}: {name} is of type {column.type}; ids are integers or text, store the column as "
                "one of them"
            )
    chunks = column.dictionary_encode().unify_dictionaries().chunks
    ids, codes = chunks[0].dictionary, np.concatenate([chunk.indices for chunk in chunks])

    def refuse(is_bad: pa.BooleanArray, why: str) -> None:
        """Refuse the first row whose id is a bad one."""
        _refuse_first(is_bad.to_numpy(zero_copy_only=False)[codes], ids, name, where, why, codes)

    if _is_text(ids.type):
        stripped = pc.utf8_trim_whitespace(ids).dictionary_encode()
        ids, codes = stripped.dictionary, stripped.indices.to_numpy()[codes]
        refuse(pc.equal(ids, ""), "which names nothing; give the row an id or delete it")
        refuse(pc.match_substring_regex(ids, r"[\r\n]"), "and an id holds no line end; correct it")
        refuse(
            pc.is_in(ids, pa.array(MISSING_IDS).cast(ids.type)),
            "which other programs write where a value is missing; give the row an id or delete it, or rename "
            "the id where it is one",
        )
        if parse and pc.all(pc.match_substring_regex(ids, _CANONICAL_INTEGER)).as_py():
            with contextlib.suppress(pa.ArrowInvalid):  # Beyond int64 it is as good a name as any other text.
                ids = ids.cast(pa.int64())
    if not _is_text(ids.type):
        # Above 2^53 neighbouring integers are the same float64.
        is_float = types.is_floating(ids.type)
        numbers = ids.cast(pa.float64() if is_float else ids.type).to_numpy()
        is_id = (
            (numbers >= 0) & (numbers <= (2**53 if is_float else 2**63 - 1)) & (np.floor(numbers) == numbers)
        )
        refuse(
            pa.array(~is_id),
            "and integer ids are whole, from 0 to 2^63 - 1; correct or renumber them, or store them as text",
        )
        ids = pa.array(numbers.astype(np.int64))
    order = pc.array_sort_indices(ids).to_numpy()
    code_of = np.empty(len(order), np.int32)
    code_of[order] = np.arange(len(order), dtype=np.int32)
    return ids.take(pa.array(order)).to_numpy(zero_copy_only=False), code_of[codes]


def _kind_of_time(value: str) -> str:
    if NUMBER.fullmatch(value):
        return "a number"
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return "neither a number nor an ISO time such as 2001-01-31 12:00:00"
    return "an ISO time" if time.tzinfo is None else "an ISO time with an offset from UTC"


def _times_of_text(column: pa.ChunkedArray, name: str, where: Where) -> pa.ChunkedArray:
    """ISO times as timestamps, to the microsecond where that tells all; none of them is missing.

    Raises:
        DataError: A value is no such time, or only some have an offset from UTC.
    """
    text = pc.utf8_trim_whitespace(checked_text(column, name, where))
    for unit in ("us", "ns"):
        for zone in (None, "UTC"):
            # The next may fit; where none does, the row that is at fault is looked for.
            with contextlib.suppress(pa.ArrowInvalid):
                return text.cast(pa.timestamp(unit, zone))
    kinds = [_kind_of_time(value) for value in text.to_pylist()]
    row = next((row for row, kind in enumerate(kinds) if kind != kinds[0] or "neither" in kind), 0)
    raise DataError(
        f"{where(row)}: {name} is {shown(text[row].as_py())}, {kinds[row]}; store all of the column as "
        "numbers, or as ISO times that all have an offset from UTC or have none"
    )


def _time_unit(column: pa.ChunkedArray) -> TimeUnit | None:
    """What dates count since 1970; None of plain numbers, which may count anything."""
    if pa.types.is_date(column.type):
        return "s"
    return column.type.unit if pa.types.is_timestamp(column.type) else None


def _numbers(column: pa.ChunkedArray, name: str, where: Where, largest: float) -> NDArray[Any]:
    """A numeric column without gaps, shape (n,), int64 where it is integer and float64 otherwise."""
    _refuse_first(pc.is_null(column).to_numpy(), column, name, where, "")
    types = pa.types
    if types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    is_integer = types.is_integer(column.type)
    if not (is_integer or types.is_floating(column.type) or types.is_decimal(column.type)):
        raise DataError(f"{where(0)}: {name} is of type {column.type}; store the column as numbers")
    numbers = np.asarray(column.cast(pa.int64() if is_integer else pa.float64(), safe=False))
    why = "not a finite number; correct or delete the row"
    _refuse_first(~(np.abs(numbers) <= largest), column, name, where, why)
    return numbers


def _splits(column: pa.ChunkedArray, name: str, where: Where) -> NDArray[np.int8]:
    """Positions in :data:`SPLITS`, shape (n,)."""
    codes = pc.index_in(column.cast(pa.string()), pa.array(SPLITS))
    why = f"none of {', '.join(SPLITS)}; correct the row"
    _refuse_first(pc.is_null(codes).to_numpy(zero_copy_only=False), column, name, where, why)
    return np.asarray(codes.to_numpy(), np.int8)


def build_log(
    columns: dict[str, pa.ChunkedArray],
    names: dict[str, str],
    source: str,
    where: Where,
    *,
    parse_ids: bool = False,
) -> InteractionLog:
    """Check typed columns and make a log of them, in which a pair may stand twice; a reader's last step.

    Args:
        columns: By role (``user``, ``item``, perhaps ``rating``, ``timestamp``, ``split``), each shape (n,).
        names: By role, the columns' names in the data, for messages.
        source: Where the data is, for messages.
        where: Names a row, for messages.
        parse_ids: The ids are dictionary-encoded text of a format that has no types: integers where all are.

    Raises:
        DataError: There is no row, or a value cannot be used.
    """
    if len(columns["user"]) == 0:
        raise DataError(f"{source}: it holds no interactions; bring a file with one row an interaction")
    check_rows(len(columns["user"]), len(columns), source)
    user_ids, user = _encode_ids(columns["user"], names["user"], where, parse_ids)
    item_ids, item = _encode_ids(columns["item"], names["item"], where, parse_ids)
    rating = timestamp = time_unit = None
    if "rating" in columns:
        rating = _numbers(columns["rating"], names["rating"], where, _FLOAT32_MAX).astype(np.float32)
    if "timestamp" in columns:
        times = columns["timestamp"]
        if _is_text(times.type) and not times.null_count:
            times = _times_of_text(times, names["timestamp"], where)
        time_unit = _time_unit(times)
        timestamp = _numbers(times, names["timestamp"], where, float(np.finfo(np.float64).max))
    split = _splits(columns["split"], names["split"], where) if "split" in columns else None
    return InteractionLog(user_ids, item_ids, user, item, rating, timestamp, 0, source, split, time_unit)
