"""Columns of ids, ratings and timestamps: how they are named, checked and turned into a log."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from envs.data.files import check_rows
from envs.data.interactions import SPLITS, Ids, InteractionLog, merge_duplicates
from envs.errors import DataError

#: Names a row, counted from 0, in the words of its source: "ratings.csv, line 7".
Where = Callable[[int], str]

#: A number as it may stand in a text file.
NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_CANONICAL_INTEGER = r"\A(0|-?[1-9][0-9]*)\z"
_FLOAT32_MAX = float(np.finfo(np.float32).max)
#: What other programs write for a value that is missing.
MISSING_IDS = pa.array(
    ["nan", "NaN", "NAN", "null", "Null", "NULL", "None", "NA", "N/A", "n/a", "<NA>", "NaT", "#N/A", "\\N"]
)
_NO_ID = "give the row an id or delete it"
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
    told = repr(value)
    return told if len(told) <= _MAX_SHOWN else f"{told[:_MAX_SHOWN]}... ({len(told):,} characters)"


def pick_columns(
    names: Sequence[str], columns: Columns | None, defaults: Columns, source: str, remedy: str = ""
) -> dict[str, int]:
    """Positions of the columns to read.

    Args:
        names: The names that the data has, in order.
        columns: The names asked for; None for the defaults, of which rating and timestamp may be missing.
        defaults: The format's usual names.
        source: Where the data is, for messages.
        remedy: What else can be done about a column that is missing.

    Returns:
        Position by role: ``user``, ``item`` and, where they are read, ``rating`` and ``timestamp``.

    Raises:
        DataError: A column is missing, two have its name, or it is asked for twice.
    """
    wanted = defaults if columns is None else columns
    asked: dict[str, str] = {role: name for role, name in vars(wanted).items() if name is not None}
    positions: dict[str, int] = {}
    for role, name in asked.items():
        if columns is None and role in ("rating", "timestamp") and name not in names:
            continue
        if name not in names:
            near = _nearest(role, asked, names)
            hint = f" Did you mean {near!r}?" if near else ""
            raise DataError(
                f"{source}: there is no column {name!r} for the {role}; the columns are "
                f"{', '.join(map(shown, names))}.{hint} Name the columns to read "
                "(dataset.columns of a configuration, --user and --item on the command line, user= and "
                f"item= in Python){remedy}"
            )
        if names.count(name) > 1:
            raise DataError(
                f"{source}: {names.count(name)} columns are named {name!r}; rename all but the one "
                f"that holds the {role}"
            )
        positions[role] = names.index(name)
        other = next(other for other in asked if asked[other] == name)
        if other != role:
            raise DataError(f"{source}: {name!r} cannot be both the {other} and the {role}; name two columns")
    return positions


def _nearest(role: str, asked: dict[str, str], names: Sequence[str]) -> str | None:
    """The column that may have been meant for a role: none that is more like another role's."""

    def likeness(name: str, other: str) -> float:
        words = (asked[other], other)
        return max(difflib.SequenceMatcher(None, word.lower(), name.lower()).ratio() for word in words)

    own = [name for name in names if max(asked, key=lambda other: likeness(name, other)) == role]
    near = max(own, key=lambda name: likeness(name, role), default="")
    return near if near and likeness(near, role) >= 0.5 else None


def _is_text(type_: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_))


def _to_int64(values: pa.Array, name: str, where: Where) -> pa.Array:
    """An integer or integral float array as int64, shape (n,)."""
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
        # Above 2^53 neighbouring integers are the same float64.
        is_bad = ~((np.floor(numbers) == numbers) & (np.abs(numbers) <= 2.0**53))
        if np.any(is_bad):
            row = int(np.argmax(is_bad))
            raise DataError(
                f"{where(row)}: {name} is the {values.type} number {numbers[row]}; ids are integers or text, "
                "store the column as one of them"
            )
        return pa.array(numbers.astype(np.int64))
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        row = int(np.argmax(values.to_numpy() > np.uint64(2**63 - 1)))
        raise DataError(
            f"{where(row)}: {name} is {values[row].as_py()}, above 2^63 - 1; store such ids as text"
        ) from None


def _checked_text(column: pa.ChunkedArray, name: str, where: Where) -> pa.ChunkedArray:
    """A text column that is known to be UTF-8, which the types of a Parquet file do not ensure."""
    try:
        column.validate(full=True)
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:
        raw = column.cast(pa.binary_view() if pa.types.is_string_view(column.type) else pa.large_binary())
        for row, value in enumerate(raw.to_pylist()):
            try:
                value.decode()
            except UnicodeDecodeError:
                message = f"{name} is {shown(value)}, not UTF-8 text; write the column anew as UTF-8"
                raise DataError(f"{where(row)}: {message}") from None
        raise


def _first_row(is_bad: pa.BooleanArray, codes: NDArray[np.int32]) -> int | None:
    """The first row whose id is a bad one, of the ids that rows have as codes; None where none is."""
    if not pc.any(is_bad).as_py():
        return None
    return int(np.argmax(is_bad.to_numpy(zero_copy_only=False)[codes]))


def _stripped(ids: pa.Array, codes: NDArray[np.int32]) -> tuple[pa.Array, NDArray[np.int32]]:
    """Unique ids without the blanks around them, and the codes that rows then have."""
    stripped = pc.utf8_trim_whitespace(ids)
    if stripped.equals(ids):
        return ids, codes
    encoded = stripped.dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy()[codes]


def _check_text_ids(ids: pa.Array, codes: NDArray[np.int32], name: str, where: Where) -> None:
    row = _first_row(pc.equal(ids, ""), codes)
    if row is not None:
        raise DataError(f"{where(row)}: {name} is empty; {_NO_ID}")
    row = _first_row(pc.match_substring_regex(ids, r"[\r\n]"), codes)
    if row is not None:
        raise DataError(
            f"{where(row)}: {name} is {shown(ids[codes[row]].as_py())}, and an id holds no line end; "
            "correct it"
        )
    row = _first_row(pc.is_in(ids, MISSING_IDS.cast(ids.type)), codes)
    if row is not None:
        raise DataError(
            f"{where(row)}: {name} is {ids[codes[row]].as_py()!r}, which other programs write where a value "
            f"is missing; {_NO_ID}, or rename the id where it is one"
        )


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
    if column.null_count:
        row = int(np.argmax(pc.is_null(column).to_numpy()))
        raise DataError(f"{where(row)}: {name} is missing; {_NO_ID}")
    if pa.types.is_dictionary(column.type) and not parse:
        column = column.cast(column.type.value_type)
    value_type = column.type.value_type if parse else column.type
    types = pa.types
    if types.is_integer(value_type) or types.is_floating(value_type):
        column = pa.chunked_array([_to_int64(column.combine_chunks(), name, where)])
    elif _is_text(value_type):
        if not parse:
            column = _checked_text(column, name, where)
    else:
        raise DataError(
            f"{where(0)}: {name} is of type {value_type}; ids are integers or text, store the column as one "
            "of them"
        )
    if not types.is_dictionary(column.type):
        column = column.dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    ids, codes = encoded.dictionary, encoded.indices.to_numpy()
    if not types.is_integer(ids.type):
        ids, codes = _stripped(ids, codes)
        _check_text_ids(ids, codes, name, where)
    if parse and pc.all(pc.match_substring_regex(ids, _CANONICAL_INTEGER)).as_py():
        try:
            ids = ids.cast(pa.int64())
        except pa.ArrowInvalid:
            pass  # An integer beyond int64 is as good a name as any other text.
    if types.is_integer(ids.type):
        first = _first_row(pc.less(ids, 0), codes)
        if first is not None:
            raise DataError(
                f"{where(first)}: {name} is {ids[codes[first]].as_py()}; integer ids are 0 or more, correct "
                "or renumber them"
            )
    order = pc.array_sort_indices(ids).to_numpy()
    code_of = np.empty(len(order), np.int32)
    code_of[order] = np.arange(len(order), dtype=np.int32)
    return ids.take(pa.array(order)).to_numpy(zero_copy_only=False), code_of[codes]


def _kind_of_time(value: str) -> str | None:
    if NUMBER.fullmatch(value):
        return "a number"
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return "an ISO time" if time.tzinfo is None else "an ISO time with an offset from UTC"


def _times_of_text(column: pa.ChunkedArray, name: str, where: Where) -> pa.ChunkedArray:
    """ISO times as timestamps, to the microsecond where that tells all; none of them is missing.

    Raises:
        DataError: A value is no such time, or only some have an offset from UTC.
    """
    text = pc.utf8_trim_whitespace(_checked_text(column, name, where))
    for unit in ("us", "ns"):
        for zone in (None, "UTC"):
            try:
                return text.cast(pa.timestamp(unit, zone))
            except pa.ArrowInvalid:
                pass  # The next may fit; where none does, the row that is at fault is looked for.
    values = text.to_pylist()
    first = _kind_of_time(values[0])
    for row, value in enumerate(values):
        kind = _kind_of_time(value)
        if kind is None:
            raise DataError(
                f"{where(row)}: {name} is {shown(value)}, neither a number nor an ISO time such as "
                "2001-01-31 12:00:00; correct or delete the row"
            )
        if kind != first:
            raise DataError(
                f"{where(row)}: {name} is {shown(value)}, {kind}, and in the first row {first}; write all "
                "alike"
            )
    raise DataError(f"{where(0)}: {name} is text that holds {first}; store the column as numbers")


def _numbers(column: pa.ChunkedArray, name: str, where: Where, largest: float) -> NDArray[Any]:
    """A numeric column without gaps, shape (n,), int64 where it is integer and float64 otherwise."""
    types = pa.types
    remedy = "correct or delete the row"
    if column.null_count:
        row = int(np.argmax(pc.is_null(column).to_numpy()))
        raise DataError(f"{where(row)}: {name} is missing; {remedy}")
    if types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    is_integer = types.is_integer(column.type)
    if not (is_integer or types.is_floating(column.type) or types.is_decimal(column.type)):
        raise DataError(f"{where(0)}: {name} is of type {column.type}; store the column as numbers")
    numbers = column.cast(pa.int64() if is_integer else pa.float64(), safe=False).to_numpy()
    is_bad = ~(np.abs(numbers) <= largest)
    if np.any(is_bad):
        row = int(np.argmax(is_bad))
        raise DataError(f"{where(row)}: {name} is {numbers[row]}, not a finite number; {remedy}")
    return np.asarray(numbers)


def _splits(column: pa.ChunkedArray, name: str, where: Where) -> NDArray[np.int8]:
    """Positions in :data:`SPLITS`, shape (n,)."""
    codes = pc.index_in(column.cast(pa.string()), pa.array(SPLITS))
    if codes.null_count:
        row = int(np.argmax(pc.is_null(codes).to_numpy(zero_copy_only=False)))
        value = shown(column[row].as_py())
        raise DataError(f"{where(row)}: {name} is {value}, none of {', '.join(SPLITS)}; correct the row")
    return np.asarray(codes.to_numpy(), np.int8)


def build_log(
    columns: dict[str, pa.ChunkedArray],
    names: dict[str, str],
    source: str,
    where: Where,
    *,
    parse_ids: bool = False,
) -> InteractionLog:
    """Check typed columns and make a log of them; the last step of every reader.

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
    rating = timestamp = None
    if "rating" in columns:
        rating = _numbers(columns["rating"], names["rating"], where, _FLOAT32_MAX).astype(np.float32)
    if "timestamp" in columns:
        times = columns["timestamp"]
        if _is_text(times.type) and not times.null_count:
            times = _times_of_text(times, names["timestamp"], where)
        timestamp = _numbers(times, names["timestamp"], where, float(np.finfo(np.float64).max))
    split = _splits(columns["split"], names["split"], where) if "split" in columns else None
    log = InteractionLog(user_ids, item_ids, user, item, rating, timestamp, 0, source, split)
    return merge_duplicates(log)


def log_from_arrays(
    user: ArrayLike,
    item: ArrayLike,
    rating: ArrayLike | None = None,
    timestamp: ArrayLike | None = None,
    *,
    source: str = "arrays",
) -> InteractionLog:
    """Interactions that are in memory already, under the checks that a file's go through.

    Args:
        user: Integer or text id of each row's user, shape (n,).
        item: Id of each row's item, shape (n,).
        rating: Shape (n,).
        timestamp: Shape (n,), in any unit.
        source: What messages call the data.

    Raises:
        DataError: The arrays differ in length, are empty, or hold a value that cannot be used.
    """
    given = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
    columns: dict[str, pa.ChunkedArray] = {}
    for role, values in given.items():
        if values is None:
            continue
        try:
            columns[role] = pa.chunked_array([pa.array(np.asarray(values))])
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise DataError(
                f"{source}: {role} cannot be read as one column ({error}); give integers up to 2^63 - 1, or "
                "text"
            ) from error
    lengths = {role: len(column) for role, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{source}: the arrays differ in length, {lengths}; give each one value a row")
    return build_log(
        columns, {role: role for role in columns}, source, lambda row: f"{source}, row {row + 1}"
    )
