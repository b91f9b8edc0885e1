"""Interactions in text files with one row an interaction: CSV, MovieLens, RecBole.

Arrow reads the file; only where it fails is the file gone through again, line by line, to say where.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from envs.data.columns import Columns, build_log, pick_columns
from envs.data.interactions import InteractionLog
from envs.errors import DataError

_NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
#: Stands in for a separator of more than one character, because Arrow knows only single ones.
_UNIT_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class TextFormat:
    """How a text format separates and names its fields.

    Attributes:
        separator: Between two fields.
        has_quotes: Whether a field may stand in double quotes and then hold separators and line ends.
        names: Names of the fields where the format has no header line; None where it has one.
        defaults: Columns to read where the user names none.
        has_types: Whether a header's name is followed by ``:type``, as RecBole writes it.
    """

    separator: str
    has_quotes: bool
    names: tuple[str, ...] | None
    defaults: Columns
    has_types: bool = False


CSV = TextFormat(",", True, None, Columns(rating="rating", timestamp="timestamp"))
MOVIELENS_CSV = TextFormat(",", True, None, Columns("userId", "movieId", "rating", "timestamp"))
MOVIELENS_DAT = TextFormat(
    "::", False, ("user", "item", "rating", "timestamp"), Columns("user", "item", "rating", "timestamp")
)
RECBOLE = TextFormat("\t", False, None, Columns(rating="rating", timestamp="timestamp"), has_types=True)


def _rows(path: Path, form: TextFormat) -> Iterator[tuple[int, int, list[str]]]:
    """First and last line, counted from 1, and fields of each row; blank lines are no rows.

    Bytes that are not UTF-8 come as lone surrogates.
    """
    newline = "" if form.has_quotes else None
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
        if not form.has_quotes:
            for line, text in enumerate(file, start=1):
                if row := text.rstrip("\n"):
                    yield line, line, row.split(form.separator)
            return
        reader = csv.reader(file, delimiter=form.separator)
        last = 0
        try:
            for fields in reader:
                first, last = last + 1, reader.line_num
                if fields:
                    yield first, last, fields
        except csv.Error as error:
            raise DataError(
                f"{path}, line {last + 1}: the row that starts here does not parse ({error}); look for a "
                "quotation mark that is not closed"
            ) from error


def _is_utf8(text: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in text)


def _not_utf8(path: Path, line: int) -> DataError:
    return DataError(f"{path}, line {line}: it is not UTF-8 text; save the file as UTF-8")


def _unparsable(
    path: Path, form: TextFormat, names: list[str], positions: dict[str, int]
) -> DataError | None:
    """The first row that Arrow cannot have read, as an error that says so."""
    for line, _, fields in islice(_rows(path, form), 0 if form.names else 1, None):
        if len(fields) != len(names):
            return DataError(
                f"{path}, line {line}: {len(fields)} fields where there should be {len(names)} "
                f"({', '.join(names)}); correct or delete the line"
            )
        for role, position in positions.items():
            value = fields[position]
            if not _is_utf8(value):
                return _not_utf8(path, line)
            if role in ("rating", "timestamp") and not _NUMBER.fullmatch(value.strip(" \t")):
                return DataError(
                    f"{path}, line {line}: {names[position]} is {value!r}, not a number; correct or delete "
                    "the line"
                )
    return None


def _arrow_table(
    path: Path,
    form: TextFormat,
    num_fields: int,
    positions: dict[str, int],
    skip_rows: int,
    time: pa.DataType,
) -> pa.Table:
    """The columns at ``positions``, named by role: ids as dictionaries of text, numbers as numbers."""
    source: str | pa.BufferReader = str(path)
    separator = form.separator
    if len(separator) > 1:
        content = path.read_bytes()
        place = content.find(_UNIT_SEPARATOR.encode())
        if place >= 0:
            line = 1 + content.count(b"\n", 0, place)
            raise DataError(
                f"{path}, line {line}: it holds the control character 0x1f, which no id may; delete it"
            )
        content = content.replace(separator.encode(), _UNIT_SEPARATOR.encode())
        source, separator = pa.BufferReader(content), _UNIT_SEPARATOR
    role_at = {position: role for role, position in positions.items()}
    text = pa.dictionary(pa.int32(), pa.string())
    types = {"user": text, "item": text, "rating": pa.float64(), "timestamp": time}
    return pacsv.read_csv(
        source,
        read_options=pacsv.ReadOptions(
            column_names=[role_at.get(place, f"unread {place}") for place in range(num_fields)],
            skip_rows=skip_rows,
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=separator,
            quote_char='"' if form.has_quotes else False,
            newlines_in_values=form.has_quotes,
        ),
        convert_options=pacsv.ConvertOptions(
            column_types={role: types[role] for role in positions},
            include_columns=list(positions),
            # A field that is not a number is an error with its line, never a gap.
            null_values=[],
        ),
    )


def _header(path: Path, form: TextFormat, first_row: tuple[int, int, list[str]]) -> list[str]:
    line, _, names = first_row
    if not all(map(_is_utf8, names)):
        raise _not_utf8(path, line)
    names = [name.strip() for name in names]
    return [name.partition(":")[0] for name in names] if form.has_types else names


def read_text(path: Path, columns: Columns | None, form: TextFormat) -> InteractionLog:
    """Read a text file with one row an interaction.

    Ids are integers where all of a column are written as integers are, without a leading zero or plus;
    otherwise all of the column are text, so that "007" stays itself. Blank lines are skipped. Messages
    count lines from 1.

    Args:
        path: The file.
        columns: Names to read; None for the format's own, of which rating and timestamp may be missing.
        form: The format.

    Raises:
        DataError: The file has no rows or is not UTF-8, a column is missing, or a row cannot be used.
    """
    rows = _rows(path, form)
    first_row = next(rows, None)
    if first_row is None:
        raise DataError(f"{path}: it is empty; bring a file with one row an interaction")
    names = list(form.names) if form.names else _header(path, form, first_row)
    positions = pick_columns(names, columns, form.defaults, str(path))
    if form.names is None and next(rows, None) is None:
        raise DataError(f"{path}: it holds no interactions, only a header; bring a file with rows under it")
    skip_rows = 0 if form.names else first_row[1]

    table = None
    # Whole numbers are read as such, since a float64 cannot hold every time in nanoseconds.
    for time in (pa.int64(), pa.float64()):
        try:
            table = _arrow_table(path, form, len(names), positions, skip_rows, time)
            break
        except (pa.ArrowException, OSError) as error:
            failure = error
    if table is None:
        raise _unparsable(path, form, names, positions) or DataError(
            f"{path}: it cannot be read ({failure}); correct the row or name the file's format with format="
        ) from failure

    def where(row: int) -> str:
        place = row + (0 if form.names else 1)
        return f"{path}, line {next(islice(_rows(path, form), place, None))[0]}"

    return build_log(
        {role: table.column(role) for role in positions},
        {role: names[position] for role, position in positions.items()},
        str(path),
        where,
        parse_ids=True,
    )
