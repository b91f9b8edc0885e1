"""Columns of ids, ratings and timestamps: how they are named, and turned into a log."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from envs.data.ids import IdColumn
from envs.data.interactions import InteractionLog, check_rows
from envs.data.values import NumberColumn, SplitColumn, TimeColumn, Where, shown
from envs.errors import DataError

#: What reads the columns beside the ids, by role.
_KINDS: dict[str, type[NumberColumn] | type[TimeColumn] | type[SplitColumn]] = {
    "rating": NumberColumn,
    "timestamp": TimeColumn,
    "split": SplitColumn,
}


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None for one that is not to be read."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = None
    timestamp: str | None = None
    split: str | None = None


def pick_columns(
    names: Sequence[str], columns: Columns | None, defaults: Columns, source: str, remedy: str = ""
) -> dict[str, str]:
    """Which columns to read.

    Args:
        names: The names that the data has, in order.
        columns: The names asked for; None for the defaults, of which rating and timestamp may be missing, and
            each may be written otherwise, ``userId`` or ``user`` for ``user_id``, where one column alone is.
        defaults: The format's usual names.
        source: Where the data is, for messages.
        remedy: What else can be done about a column that is missing.

    Returns:
        Name by role: ``user``, ``item`` and, where they are read, ``rating``, ``timestamp`` and ``split``.

    Raises:
        DataError: A column is missing, two have its name, or it is asked for twice.
    """
    wanted = columns
    if wanted is None:
        wanted = Columns(**{role: name and _as_written(name, names) for role, name in vars(defaults).items()})
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


def _as_written(name: str, names: Sequence[str]) -> str:
    """The only name that differs but in case, signs between words and ``id`` at its end; or itself."""
    alike = [other for other in names if _plain(other) == _plain(name)]
    return alike[0] if len(alike) == 1 and name not in names else name


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower().removesuffix("id")


class LogBuilder:
    """Checks typed columns that come in chunks, and makes a log of them, in which a pair may stand twice.

    Args:
        num_rows: Rows that will come.
        names: By role (``user``, ``item``, perhaps ``rating``, ``timestamp``, ``split``), the columns' names
            in the data, for messages.
        source: Where the data is, for messages.
        where: Names a row, for messages.
        parse_ids: The ids are text of a format that has no types: integers where all are.

    Raises:
        DataError: There is no row, or there are more than memory can hold.
    """

    def __init__(
        self, num_rows: int, names: Mapping[str, str], source: str, where: Where, *, parse_ids: bool = False
    ) -> None:
        if num_rows == 0:
            raise DataError(f"{source}: it holds no interactions; bring a file with one row an interaction")
        check_rows(num_rows, len(names), source)
        self._source = source
        self._ids = {role: IdColumn(num_rows, names[role], where, parse_ids) for role in ("user", "item")}
        self._values = {
            role: kind(num_rows, names[role], where) for role, kind in _KINDS.items() if role in names
        }

    def add(self, role: str, chunk: pa.Array) -> None:
        """Take the next rows of a column.

        Raises:
            DataError: A value cannot be used.
        """
        column = self._ids[role] if role in self._ids else self._values[role]
        column.add(chunk)

    def finish(self) -> InteractionLog:
        """The log, of columns that have come as a whole.

        Raises:
            DataError: An id cannot be used, which all of the column tell.
        """
        (user_ids, user), (item_ids, item) = self._ids["user"].finish(), self._ids["item"].finish()
        values: dict[str, Any] = {role: column.finish() for role, column in self._values.items()}
        time = self._values.get("timestamp")
        return InteractionLog(
            user_ids,
            item_ids,
            user,
            item,
            values.get("rating"),
            values.get("timestamp"),
            0,
            self._source,
            values.get("split"),
            time.unit if isinstance(time, TimeColumn) else None,
        )


def build_log(
    columns: Mapping[str, pa.ChunkedArray],
    names: Mapping[str, str],
    source: str,
    where: Where,
    *,
    parse_ids: bool = False,
) -> InteractionLog:
    """Check columns that are in memory and make a log of them, as :class:`LogBuilder` does.

    Args:
        columns: By role, each shape (n,).
        names: As there.
        source: As there.
        where: As there.
        parse_ids: As there.

    Raises:
        DataError: There is no row, or a value cannot be used.
    """
    builder = LogBuilder(len(columns["user"]), names, source, where, parse_ids=parse_ids)
    for role, column in columns.items():
        for chunk in column.chunks:
            builder.add(role, chunk)
    return builder.finish()
