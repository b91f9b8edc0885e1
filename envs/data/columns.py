"""Columns of ids, ratings and timestamps: how they are named, checked and turned into a log."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from envs.data.interactions import Ids, InteractionLog, merge_duplicates
from envs.errors import DataError

#: Names a row, counted from 0, in the words of its source: "ratings.csv, line 7".
Where = Callable[[int], str]

_CANONICAL_INTEGER = r"\A(0|-?[1-9][0-9]*)\z"
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None for one that is not to be read."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = None
    timestamp: str | None = None


def pick_columns(
    names: Sequence[str], columns: Columns | None, defaults: Columns, source: str
) -> dict[str, int]:
    """Positions of the columns to read.

    Args:
        names: The names that the data has, in order.
        columns: The names asked for; None for the defaults, of which rating and timestamp may be missing.
        defaults: The format's usual names.
        source: Where the data is, for messages.

    Returns:
        Position by role: ``user``, ``item`` and, where they are read, ``rating`` and ``timestamp``.

    Raises:
        DataError: A column is missing, or two have its name.
    """
    wanted = defaults if columns is None else columns
    positions: dict[str, int] = {}
    for role in ("user", "item", "rating", "timestamp"):
        name: str | None = getattr(wanted, role)
        if name is None or (columns is None and role in ("rating", "timestamp") and name not in names):
            continue
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{source}: there is no column {name!r} for the {role}; the columns are "
                f"{', '.join(map(repr, names))}.{hint} Name the columns to read "
                "(dataset.columns of a configuration, --user and --item on the command line)"
                + ("" if len(names) > 1 else ", and separate them with commas")
            )
        if names.count(name) > 1:
            raise DataError(
                f"{source}: {names.count(name)} columns are named {name!r}; rename all but the one "
                f"that holds the {role}"
            )
        positions[role] = names.index(name)
    return positions


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
                message = f"{name} is {value!r}, not UTF-8 text; write the column anew as UTF-8"
                raise DataError(f"{where(row)}: {message}") from None
        raise


def _encode_ids(
    column: pa.ChunkedArray, name: str, where: Where, parse: bool
) -> tuple[Ids, NDArray[np.int32]]:
    """Sorted ids of a column and the code of each row.

    Args:
        column: Ids, shape (n,).
        name: The column's name, for messages.
        where: Names a row, for messages.
        parse: Whether text that is all canonical integers becomes int64, as it does in text formats.

    Returns:
        The ids, shape (num_ids,), and the codes, shape (n,), int32.

    Raises:
        DataError: An id is missing, empty, negative or of a type that names nothing.
    """
    remedy = "give the row an id or delete it"
    if column.null_count:
        row = int(np.argmax(pc.is_null(column).to_numpy()))
        raise DataError(f"{where(row)}: {name} is missing; {remedy}")
    if pa.types.is_dictionary(column.type) and not parse:
        column = column.cast(column.type.value_type)
    value_type = column.type.value_type if parse else column.type
    types = pa.types
    if types.is_integer(value_type) or types.is_floating(value_type):
        column = pa.chunked_array([_to_int64(column.combine_chunks(), name, where)])
    elif types.is_string(value_type) or types.is_large_string(value_type) or types.is_string_view(value_type):
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
    if parse and pc.all(pc.match_substring_regex(ids, _CANONICAL_INTEGER)).as_py():
        try:
            ids = ids.cast(pa.int64())
        except pa.ArrowInvalid:
            pass  # An integer beyond int64 is as good a name as any other text.
    is_integer = types.is_integer(ids.type)
    is_bad = pc.less(ids, 0) if is_integer else pc.equal(pc.utf8_trim_whitespace(ids), "")
    is_bad = is_bad.to_numpy(zero_copy_only=False)
    if np.any(is_bad):
        row = int(np.argmax(is_bad[codes]))
        if is_integer:
            raise DataError(
                f"{where(row)}: {name} is {ids[codes[row]].as_py()}; integer ids are 0 or more, correct or "
                "renumber them"
            )
        raise DataError(f"{where(row)}: {name} is empty; {remedy}")
    order = pc.array_sort_indices(ids).to_numpy()
    code_of = np.empty(len(order), np.int32)
    code_of[order] = np.arange(len(order), dtype=np.int32)
    return ids.take(pa.array(order)).to_numpy(zero_copy_only=False), code_of[codes]


def _numbers(column: pa.ChunkedArray, name: str, where: Where, largest: float) -> NDArray[Any]:
    """A numeric column without gaps, shape (n,), int64 where it is integer and float64 otherwise."""
    types = pa.types
    if types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    is_integer = types.is_integer(column.type)
    if not (is_integer or types.is_floating(column.type) or types.is_decimal(column.type)):
        raise DataError(f"{where(0)}: {name} is of type {column.type}; store the column as numbers")
    remedy = "correct or delete the row"
    if column.null_count:
        row = int(np.argmax(pc.is_null(column).to_numpy()))
        raise DataError(f"{where(row)}: {name} is missing; {remedy}")
    numbers = column.cast(pa.int64() if is_integer else pa.float64(), safe=False).to_numpy()
    is_bad = ~(np.abs(numbers) <= largest)
    if np.any(is_bad):
        row = int(np.argmax(is_bad))
        raise DataError(f"{where(row)}: {name} is {numbers[row]}, not a finite number; {remedy}")
    return np.asarray(numbers)


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
        columns: By role (``user``, ``item``, perhaps ``rating`` and ``timestamp``), each of shape (n,).
        names: By role, the columns' names in the data, for messages.
        source: Where the data is, for messages.
        where: Names a row, for messages.
        parse_ids: The ids are dictionary-encoded text of a format that has no types: integers where all are.

    Raises:
        DataError: There is no row, or a value cannot be used.
    """
    if len(columns["user"]) == 0:
        raise DataError(f"{source}: it holds no interactions; bring a file with one row an interaction")
    user_ids, user = _encode_ids(columns["user"], names["user"], where, parse_ids)
    item_ids, item = _encode_ids(columns["item"], names["item"], where, parse_ids)
    rating = timestamp = None
    if "rating" in columns:
        rating = _numbers(columns["rating"], names["rating"], where, _FLOAT32_MAX).astype(np.float32)
    if "timestamp" in columns:
        timestamp = _numbers(columns["timestamp"], names["timestamp"], where, float(np.finfo(np.float64).max))
    return merge_duplicates(InteractionLog(user_ids, item_ids, user, item, rating, timestamp, 0, source))


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
        except pa.ArrowException as error:
            raise DataError(f"{source}: {role} cannot be read as one column ({error})") from error
    lengths = {role: len(column) for role, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{source}: the arrays differ in length, {lengths}; give each one value a row")
    return build_log(
        columns, {role: role for role in columns}, source, lambda row: f"{source}, row {row + 1}"
    )
