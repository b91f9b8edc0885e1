"""Interactions in text files with one row an interaction: CSV, MovieLens, RecBole.

Arrow reads the file; where it fails, the file is gone through again, row by row, to say where, and where
quotation marks are not by the book, to see that none has swallowed rows.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from envs.data.columns import NUMBER, Columns, build_log, pick_columns, shown
from envs.data.files import is_compressed, open_bytes, other_kind, read_content
from envs.data.interactions import InteractionLog
from envs.errors import DataError

#: What an id may look like: an integer where all of the others are.
_INTEGER, _TEXT = r"\s*[0-9]+\s*", r"(?s).*\S.*"
_LINE_END = re.compile(r"\r\n|\r|\n")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_BLANK_BEFORE_QUOTE = re.compile(r'\s+"')
#: Stands in for a separator of more than one character, because Arrow knows only single ones.
_UNIT_SEPARATOR = "\x1f"
_SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", "::": "two colons"}


@dataclass(frozen=True)
class TextFormat:
    """How a text format separates and names its fields.

    Attributes:
        separator: Between two fields.
        has_quotes: Whether a field may stand in double quotes and then hold separators and line ends.
        names: Names of the fields where the format has no header line; None where it has one.
        defaults: Columns to read where the user names none.
        has_types: Whether a header's name is followed by ``:type``, as RecBole writes it.
        other_separators: Tried in turn where the header is a single field.
    """

    separator: str
    has_quotes: bool
    names: tuple[str, ...] | None
    defaults: Columns
    has_types: bool = False
    other_separators: str = ""


CSV = TextFormat(",", True, None, Columns(rating="rating", timestamp="timestamp"), other_separators=";\t|")
TSV = replace(CSV, separator="\t", other_separators=",;|")
MOVIELENS_CSV = replace(CSV, defaults=Columns("userId", "movieId", "rating", "timestamp"))
MOVIELENS_DAT = TextFormat(
    "::", False, ("user", "item", "rating", "timestamp"), Columns("user", "item", "rating", "timestamp")
)
RECBOLE = TextFormat("\t", False, None, Columns(rating="rating", timestamp="timestamp"), has_types=True)


class _Row(NamedTuple):
    """First and last line of a row, counted from 1, its fields, and those with text behind a closing mark."""

    first: int
    last: int
    fields: list[str]
    behind: Sequence[int] = ()


def _rows(path: Path, form: TextFormat) -> Iterator[_Row]:
    """The rows of a file; blank lines are none. Bytes that are not UTF-8 come as lone surrogates.

    Raises:
        DataError: Quotation marks leave it open where a value ends; the message names the line.
    """
    newline = "" if form.has_quotes else None
    with io.TextIOWrapper(open_bytes(path), "utf-8-sig", "surrogateescape", newline) as file:
        if form.has_quotes:
            yield from _quoted_rows(path, file, form.separator)
        else:
            for line, text in enumerate(file, start=1):
                if row := text.rstrip("\n"):
                    yield _Row(line, line, row.split(form.separator))


def _quoted_rows(path: Path, file: io.TextIOWrapper, separator: str) -> Iterator[_Row]:
    lines_of_row: list[str] = []

    def lines() -> Iterator[str]:
        for line in file:
            lines_of_row.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=separator, strict=True)
    while True:
        first = reader.line_num + 1
        behind: list[int] = []
        lines_of_row.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            fields, behind = _read_leniently(path, first, lines_of_row, separator, str(error))
        if fields is None:
            return
        if fields:
            yield _Row(first, reader.line_num, fields, behind)


def _read_leniently(
    path: Path, first: int, lines: list[str], separator: str, problem: str
) -> tuple[list[str], list[int]]:
    """Fields of a row that is not quoted by the book, and which of them have text behind a closing mark.

    So has the second of ``1,"Weird Al" Yankovic``, which every parser reads alike. Of a row that goes on over
    several lines it is not told which have.

    Raises:
        DataError: A mark is never closed, or there is text behind one in a row that does not end in its line.
    """
    if "expected after" not in problem and "unexpected end" not in problem:
        raise DataError(
            f"{path}, line {first}: the row that starts here does not parse ({problem}); look for a "
            "quotation mark that is not closed"
        )
    # A line more is a row of its own, unless a quotation mark is still open.
    rows = list(csv.reader([*lines, "next"], delimiter=separator))
    if "unexpected end" in problem:
        line = first + _num_line_ends("".join(rows[0][:-1]))
        raise DataError(
            f"{path}, line {line}: the quotation mark that opens a value here is never closed; close or "
            "delete it"
        )
    if len(lines) > 1:
        return rows[0], [0]
    if len(rows) == 1:
        raise _text_behind(path, first, "a value")
    part = re.escape(separator)
    field = re.compile(rf'(?:"(?:[^"]|"")*"([^{part}\r\n]*)|[^{part}\r\n]*)(?:{part}|[\r\n]|$)')
    return rows[0], [place for place, match in enumerate(field.finditer(lines[0])) if match[1]]


def _num_line_ends(text: str) -> int:
    return len(_LINE_END.findall(text))


def _text_behind(path: Path, line: int, what: str) -> DataError:
    return DataError(
        f"{path}, line {line}: there is text behind the quotation mark that closes {what}; delete it, or "
        "double the marks within the value"
    )


def _check_rows(
    path: Path, form: TextFormat, names: list[str], positions: dict[str, int], id_patterns: Sequence[str]
) -> None:
    """Refuse the first row that Arrow cannot have read, or not as it is meant.

    Args:
        path: The file.
        form: Its format.
        names: Of the columns.
        positions: Of the columns that are read, by role.
        id_patterns: What ids of users and of items match in this file.

    Raises:
        DataError: There is one.
    """
    for row in islice(_rows(path, form), 0 if form.names else 1, None):
        if row.first != row.last:
            _check_line_ends(path, form, names, positions, row, id_patterns)
        if len(row.fields) != len(names):
            raise DataError(
                f"{path}, line {row.first}: {len(row.fields)} fields where there should be {len(names)} "
                f"({', '.join(names)}); correct or delete the line"
            )
        for role, position in positions.items():
            name, value = names[position], row.fields[position]
            if position in row.behind:
                raise _text_behind(path, row.first, name)
            if _NOT_UTF8.search(value):
                raise _not_utf8(path, row.first)
            if role in ("user", "item") and form.has_quotes and _BLANK_BEFORE_QUOTE.match(value):
                raise DataError(
                    f"{path}, line {row.first}: {name} begins with a blank before its quotation mark; delete "
                    "the blanks behind the separators"
                )
            if role == "rating" and not NUMBER.fullmatch(value.strip(" \t")):
                hint = ", with a point before its decimals" if "," in value else ""
                raise DataError(
                    f"{path}, line {row.first}: {name} is {shown(value)}, not a number{hint}; correct or "
                    "delete the line"
                )


def _check_line_ends(
    path: Path,
    form: TextFormat,
    names: list[str],
    positions: dict[str, int],
    row: _Row,
    id_patterns: Sequence[str],
) -> None:
    """Refuse a row that goes on over several lines, but where a title or the like may.

    Two stray marks are a pair to every parser: what stands between them must not look like rows.

    Raises:
        DataError: A column that is read goes on, what follows looks like rows, or text follows a mark.
    """
    is_whole = len(row.fields) == len(names)
    for position, value in enumerate(row.fields):
        if not _num_line_ends(value):
            continue
        line = row.first + sum(map(_num_line_ends, row.fields[:position]))
        if not is_whole or position in positions.values():
            what = names[position] if is_whole else "a value"
            raise DataError(
                f"{path}, line {line}: {what} begins here with {shown(value.strip())} and goes on in the "
                "next line; look for a quotation mark too many or too few"
            )
        swallowed = [text.split(form.separator) for text in _LINE_END.split(value)[1:]]
        swallowed[-1] += row.fields[position + 1 :]
        for number, fields in enumerate(swallowed, start=line + 1):
            ids = [fields[positions[role]] for role in ("user", "item")] if len(fields) == len(names) else []
            if ids and all(map(re.fullmatch, id_patterns, ids)):
                raise DataError(
                    f"{path}, line {line}: {names[position]} begins here and goes on in line {number}, which "
                    "looks like a row of its own; look for a quotation mark too many, or leave that column "
                    "out of the file"
                )
    if row.behind:
        raise _text_behind(path, row.last, "a value")


def _not_utf8(path: Path, line: int) -> DataError:
    remedy = other_kind(path) or "save the file as UTF-8"
    return DataError(f"{path}, line {line}: it is not UTF-8 text; {remedy}")


def _arrow_table(
    path: Path,
    form: TextFormat,
    num_fields: int,
    positions: dict[str, int],
    skip_rows: int,
    time: pa.DataType,
) -> pa.Table:
    """The columns at ``positions``, named by role: ids as dictionaries of text, numbers as numbers."""
    source: str | pa.NativeFile = (
        pa.CompressedInputStream(str(path), "gzip") if is_compressed(path) else str(path)
    )
    separator = form.separator
    if len(separator) > 1:
        content = read_content(path)
        place = content.find(_UNIT_SEPARATOR.encode())
        if place >= 0:
            line = 1 + content.count(b"\n", 0, place)
            raise DataError(
                f"{path}, line {line}: it holds the control character 0x1f, which no id may; delete it"
            )
        content = content.replace(separator.encode(), _UNIT_SEPARATOR.encode())
        # Memory of Arrow's own: one of its threads that let go of Python's after Python's end would abort.
        held = pa.allocate_buffer(len(content))
        memoryview(held).cast("B")[:] = content
        source, separator = pa.BufferReader(held), _UNIT_SEPARATOR
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


def _begin(path: Path, form: TextFormat) -> tuple[TextFormat, int, list[str]]:
    """The format with its separator, the last line of the header, and the names of the columns.

    Raises:
        DataError: The file is empty, or its header cannot be one.
    """
    first_row = next(_rows(path, form), None)
    if first_row is None:
        raise DataError(f"{path}: it is empty; bring a file with one row an interaction")
    if form.names:
        return form, 0, list(form.names)
    if len(first_row.fields) == 1:
        others = [separator for separator in form.other_separators if separator in first_row.fields[0]]
        form = replace(form, separator=[*others, form.separator][0])
        first_row = next(_rows(path, form))
    names = [name.strip() for name in first_row.fields]
    if any(map(_NOT_UTF8.search, names)):
        raise _not_utf8(path, first_row.first)
    if any(map(_num_line_ends, names)):
        raise DataError(
            f"{path}, line {first_row.first}: a name of a column goes on in the next line; look for a "
            "quotation mark too many or too few"
        )
    return form, first_row.last, [name.partition(":")[0] for name in names] if form.has_types else names


def text_columns(path: Path, form: TextFormat) -> list[str]:
    """Names of the columns of a text file.

    Raises:
        DataError: It is empty, or its header is not UTF-8.
    """
    return _begin(path, form)[-1]


def read_text(path: Path, columns: Columns | None, form: TextFormat) -> InteractionLog:
    """Read a text file with one row an interaction.

    Ids are integers where all of a column are written as integers are, without a leading zero or plus;
    otherwise all of the column are text, so that "007" stays itself. Blanks around an id are no part of it.
    Blank lines are skipped. Messages count lines from 1.

    Args:
        path: The file, compressed with gzip if its name ends in ``.gz``.
        columns: Names to read; None for the format's own, of which rating and timestamp may be missing.
        form: The format.

    Raises:
        DataError: The file has no rows or is not UTF-8, a column is missing, a row cannot be used, or a
            quotation mark has swallowed rows.
    """
    form, skip_rows, names = _begin(path, form)
    remedy = f"; fields are separated by {_SEPARATOR_NAMES[form.separator]}" if len(names) == 1 else ""
    if any(map(NUMBER.fullmatch, names)):
        remedy = "; the first line looks like a row: put one of names above it, a name for each field"
    positions = pick_columns(names, columns, form.defaults, str(path), remedy)
    num_before = 0 if form.names else 1
    if next(islice(_rows(path, form), num_before, None), None) is None:
        raise DataError(f"{path}: it holds no interactions, only a header; bring a file with rows under it")

    table = None
    # Whole numbers are read as such, since a float64 cannot hold every time in nanoseconds.
    for time in (pa.int64(), pa.float64(), pa.string()):
        try:
            table = _arrow_table(path, form, len(names), positions, skip_rows, time)
            break
        except (pa.ArrowException, OSError) as error:
            failure = error
    if table is None:
        _check_rows(path, form, names, positions, (_TEXT, _TEXT))
        raise DataError(
            f"{path}: it cannot be read ({failure}); correct the row or name the file's format with format="
        ) from failure
    if form.has_quotes and not _is_by_the_book(path, form.separator):
        ids = [table.column(role).unify_dictionaries().chunk(0).dictionary for role in ("user", "item")]
        is_integer = [pc.all(pc.match_substring_regex(values, f"^{_INTEGER}$")).as_py() for values in ids]
        _check_rows(path, form, names, positions, [_INTEGER if are_all else _TEXT for are_all in is_integer])

    def where(row: int) -> str:
        return f"{path}, line {next(islice(_rows(path, form), row + num_before, None)).first}"

    roles = {role: names[position] for role, position in positions.items()}
    return build_log({role: table.column(role) for role in roles}, roles, str(path), where, parse_ids=True)


def _is_by_the_book(path: Path, separator: str) -> bool:
    """Whether each line is a row whose quotation marks begin and end a value, or are doubled in one."""
    part = re.escape(separator)
    field = rf'(?:"(?:[^"\r\n]|"")*"|[^"{part}\r\n]*)'
    row = re.compile(rf"{field}(?:{part}{field})*[\r\n]*".encode())
    with open_bytes(path) as file:
        return all(b'"' not in line or row.fullmatch(line) for line in file)
