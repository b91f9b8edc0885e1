"""Interactions in text files with one row an interaction: CSV, MovieLens, RecBole.

Arrow reads the file; only where it fails is the file gone through again, line by line, to say where.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from envs.data.columns import NUMBER, Columns, Where, build_log, pick_columns, shown
from envs.data.files import arrow_source, open_bytes, other_kind, read_content
from envs.data.interactions import InteractionLog
from envs.data.quotation_marks import END, Marks, check_behind_marks, is_closed
from envs.errors import DataError

#: What an id may look like: an integer where all of the others are.
_INTEGER, _TEXT = r"\s*[0-9]+\s*", r"(?s).*\S.*"
_LINE_END = re.compile(r"\r\n|\r|\n")
#: Stands in for a separator of more than one character, because Arrow knows only single ones.
_UNIT_SEPARATOR = "\x1f"
_BLOCK_BYTES = 1 << 20
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


def _rows(path: Path, form: TextFormat) -> Iterator[tuple[int, int, list[str]]]:
    """First and last line, counted from 1, and fields of each row; blank lines are no rows.

    Bytes that are not UTF-8 come as lone surrogates.

    Raises:
        DataError: A quotation mark is never closed; the message names the line where it stands.
    """
    newline = "" if form.has_quotes else None
    with io.TextIOWrapper(open_bytes(path), "utf-8-sig", "surrogateescape", newline) as file:
        if not form.has_quotes:
            for line, text in enumerate(file, start=1):
                if row := text.rstrip("\n"):
                    yield line, line, row.split(form.separator)
            return
        reader = csv.reader(chain(file, [END]), delimiter=form.separator)
        last = 0
        try:
            for fields in reader:
                first, last = last + 1, reader.line_num
                if fields and fields[-1].endswith(END):
                    if fields != [END]:
                        raise _never_closed(path, first + _num_line_ends("".join(fields[:-1])))
                elif fields:
                    yield first, last, fields
        except csv.Error as error:
            raise DataError(
                f"{path}, line {last + 1}: the row that starts here does not parse ({error}); look for a "
                "quotation mark that is not closed"
            ) from error


def _num_line_ends(text: str) -> int:
    return len(_LINE_END.findall(text))


def _never_closed(path: Path, line: int) -> DataError:
    return DataError(
        f"{path}, line {line}: the quotation mark that opens a value here is never closed; close or delete it"
    )


def _over_lines(
    path: Path,
    form: TextFormat,
    names: list[str],
    positions: dict[str, int],
    first: int,
    fields: list[str],
    id_patterns: Sequence[str] = (_TEXT, _TEXT),
) -> DataError | None:
    """What is wrong with a row that goes on over several lines; None where a title or the like may.

    Two stray marks are a pair to every parser: what stands between them must not look like rows.

    Args:
        path: The file.
        form: Its format.
        names: Of the columns.
        positions: Of the columns that are read, by role.
        first: The row's first line.
        fields: The row.
        id_patterns: What ids of users and of items match in this file.
    """
    is_whole = len(fields) == len(names)
    for position, value in enumerate(fields):
        if not _num_line_ends(value):
            continue
        line = first + sum(map(_num_line_ends, fields[:position]))
        if not is_whole or position in positions.values():
            what = names[position] if is_whole else "a value"
            return DataError(
                f"{path}, line {line}: {what} begins here with {shown(value.strip())} and goes on in the "
                "next line; look for a quotation mark too many or too few"
            )
        rows = [text.split(form.separator) for text in _LINE_END.split(value)[1:]]
        rows[-1] += fields[position + 1 :]
        for number, row in enumerate(rows, start=line + 1):
            ids = [row[positions[role]] for role in ("user", "item")] if len(row) == len(names) else []
            if ids and all(map(re.fullmatch, id_patterns, ids)):
                return DataError(
                    f"{path}, line {line}: {names[position]} begins here and goes on in line {number}, which "
                    "looks like a row of its own; look for a quotation mark too many, or leave that column "
                    "out of the file"
                )
    return None


def _check_quotes(
    path: Path, form: TextFormat, names: list[str], positions: dict[str, int], table: pa.Table
) -> None:
    """See that no quotation mark has swallowed rows, or text, of the table that Arrow has read.

    Each line that is not blank is a row, the first of them the header, unless a value goes on over several.

    Raises:
        DataError: One has; the message names the line where the value begins.
    """
    num_lines, last_line, has_marks = 0, b"", False
    marks, seen = Marks(form.separator), b""
    was_end = True
    with open_bytes(path) as file:
        while block := file.read(_BLOCK_BYTES):
            characters = np.frombuffer(block, np.uint8)
            is_inside = (characters != 10) & (characters != 13)
            num_lines += int(is_inside[0] and was_end) + int(np.sum(is_inside[1:] & ~is_inside[:-1]))
            was_end = not is_inside[-1]
            has_marks = has_marks or b'"' in block
            if has_marks and not marks.are_suspicious:
                seen += block
                until = max(seen.rfind(b"\n"), seen.rfind(b"\r")) + 1
                marks.see(seen[:until])
                seen = seen[until:]
            last_line += block
            until = len(last_line.rstrip(b"\r\n"))
            last_line = last_line[max(last_line.rfind(end, 0, until) for end in (b"\n", b"\r")) + 1 :]
    marks.see(seen)
    if has_marks and not (
        num_lines == table.num_rows + 1 and is_closed(last_line.rstrip(b"\r\n"), form.separator)
    ):
        _check_long_rows(path, form, names, positions, table)
    if marks.are_suspicious:
        check_behind_marks(path, form.separator, names, positions)


def _check_long_rows(
    path: Path, form: TextFormat, names: list[str], positions: dict[str, int], table: pa.Table
) -> None:
    """See that rows which go on over several lines have not swallowed others."""
    patterns = [
        _INTEGER if pc.all(pc.match_substring_regex(ids, f"^{_INTEGER}$")).as_py() else _TEXT
        for ids in (table.column(role).unify_dictionaries().chunk(0).dictionary for role in ("user", "item"))
    ]
    for first, last, fields in _rows(path, form):
        if first != last and (error := _over_lines(path, form, names, positions, first, fields, patterns)):
            raise error


def _is_utf8(text: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in text)


def _not_utf8(path: Path, line: int) -> DataError:
    remedy = other_kind(path) or "save the file as UTF-8"
    return DataError(f"{path}, line {line}: it is not UTF-8 text; {remedy}")


def _unparsable(
    path: Path, form: TextFormat, names: list[str], positions: dict[str, int]
) -> DataError | None:
    """The first row that Arrow cannot have read, as an error that says so."""
    for line, last, fields in islice(_rows(path, form), 0 if form.names else 1, None):
        if line != last and (error := _over_lines(path, form, names, positions, line, fields)):
            return error
        if len(fields) != len(names):
            return DataError(
                f"{path}, line {line}: {len(fields)} fields where there should be {len(names)} "
                f"({', '.join(names)}); correct or delete the line"
            )
        for role, position in positions.items():
            value = fields[position]
            if not _is_utf8(value):
                return _not_utf8(path, line)
            if role == "rating" and not NUMBER.fullmatch(value.strip(" \t")):
                hint = ", with a point before its decimals" if "," in value else ""
                return DataError(
                    f"{path}, line {line}: {names[position]} is {shown(value)}, not a number{hint}; "
                    "correct or delete the line"
                )
    return None


def _check_blanks_before_quotes(table: pa.Table, roles: dict[str, str], where: Where) -> None:
    """Refuse ids like those of ``1, "5"``, whose marks belong to the value for every parser.

    Raises:
        DataError: There is one.
    """
    for role in ("user", "item"):
        column = table.column(role).unify_dictionaries()
        is_bad = pc.match_substring_regex(column.chunk(0).dictionary, r'^\s+"')
        if pc.any(is_bad).as_py():
            codes = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks])
            row = int(np.argmax(is_bad.to_numpy(zero_copy_only=False)[codes]))
            raise DataError(
                f"{where(row)}: {roles[role]} begins with a blank before its quotation mark; delete the "
                "blanks behind the separators"
            )


def _arrow_table(
    path: Path,
    form: TextFormat,
    num_fields: int,
    positions: dict[str, int],
    skip_rows: int,
    time: pa.DataType,
) -> pa.Table:
    """The columns at ``positions``, named by role: ids as dictionaries of text, numbers as numbers."""
    source: str | pa.NativeFile = arrow_source(path)
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


def _header(path: Path, form: TextFormat, first_row: tuple[int, int, list[str]]) -> list[str]:
    line, _, names = first_row
    if not all(map(_is_utf8, names)):
        raise _not_utf8(path, line)
    names = [name.strip() for name in names]
    if any(map(_num_line_ends, names)):
        raise DataError(
            f"{path}, line {line}: a name of a column goes on in the next line; look for a quotation mark "
            "too many or too few"
        )
    return [name.partition(":")[0] for name in names] if form.has_types else names


def _with_separator_of(first_row: list[str], form: TextFormat) -> TextFormat:
    """The format with the separator that a header has, where it is not the usual one."""
    if len(first_row) > 1:
        return form
    found = [other for other in form.other_separators if other in first_row[0]]
    return replace(form, separator=found[0]) if found else form


def _begin(
    path: Path, form: TextFormat
) -> tuple[TextFormat, Iterator[tuple[int, int, list[str]]], tuple[int, int, list[str]], list[str]]:
    """The format with its separator, the rows below the first, that row, and the names of its columns."""
    first_row = next(_rows(path, form), None)
    if first_row is None:
        raise DataError(f"{path}: it is empty; bring a file with one row an interaction")
    form = _with_separator_of(first_row[2], form)
    rows = _rows(path, form)
    first_row = next(rows)
    return form, rows, first_row, list(form.names) if form.names else _header(path, form, first_row)


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
    form, rows, first_row, names = _begin(path, form)
    remedy = f"; fields are separated by {_SEPARATOR_NAMES[form.separator]}" if len(names) == 1 else ""
    if any(map(NUMBER.fullmatch, names)):
        remedy = "; the first line looks like a row: put one of names above it, a name for each field"
    positions = pick_columns(names, columns, form.defaults, str(path), remedy)
    if form.names is None and next(rows, None) is None:
        raise DataError(f"{path}: it holds no interactions, only a header; bring a file with rows under it")
    skip_rows = 0 if form.names else first_row[1]

    table = None
    # Whole numbers are read as such, since a float64 cannot hold every time in nanoseconds.
    for time in (pa.int64(), pa.float64(), pa.string()):
        try:
            table = _arrow_table(path, form, len(names), positions, skip_rows, time)
            break
        except (pa.ArrowException, OSError) as error:
            failure = error
    if table is None:
        raise _unparsable(path, form, names, positions) or DataError(
            f"{path}: it cannot be read ({failure}); correct the row or name the file's format with format="
        ) from failure
    num_before = 0 if form.names else 1
    if form.has_quotes:
        _check_quotes(path, form, names, positions, table)

    def where(row: int) -> str:
        return f"{path}, line {next(islice(_rows(path, form), row + num_before, None))[0]}"

    roles = {role: names[position] for role, position in positions.items()}
    if form.has_quotes:
        _check_blanks_before_quotes(table, roles, where)
    return build_log(
        {role: table.column(role) for role in positions},
        roles,
        str(path),
        where,
        parse_ids=True,
    )
