"""Interactions in text files with one row an interaction: CSV, MovieLens, RecBole.

Arrow reads the file; where it fails, the file is gone through again, row by row, to say where, and where
quotation marks are not by the book, to see that none has swallowed rows.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from envs.data.columns import Columns, build_log, pick_columns
from envs.data.interactions import InteractionLog
from envs.data.places import DataFile
from envs.data.values import NUMBER, shown
from envs.errors import DataError

#: What an id may look like: an integer where all of the others are.
_INTEGER, _TEXT = r"\s*[0-9]+\s*", r"(?s).*\S.*"
_LINE_END = re.compile(r"\r\n|\r|\n")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_BLANK_BEFORE_QUOTE = re.compile(r'\s+"')
#: Characters of a value, beyond which a quotation mark is taken for one that is never closed.
_MAX_VALUE = 100_000
#: Arrow's blocks, of which a row may straddle two.
_BLOCK_BYTES = 1 << 20
_SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
#: How files begin that are no text, and what to do about them.
_BEGINNINGS = {
    b"\x1f\x8b": "it is compressed with gzip; let its name end in .gz",
    b"PK\x03\x04": "it is a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"PAR1": "it is Parquet; name that format (format, or --format)",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd; decompress it first",
    b"BZh": "it is compressed with bzip2; decompress it first",
    b"\xfd7zXZ": "it is compressed with xz; decompress it first",
}


@dataclass(frozen=True)
class TextFormat:
    """How a text format separates and names its fields.

    Attributes:
        separator: Between two fields.
        has_quotes: Whether a field may stand in double quotes and then hold separators and line ends.
        names: Names of the fields where the format has no header line, "" of one that is empty; None where
            it has one.
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
#: Between two colons is a field, for Arrow knows only separators of a single character.
MOVIELENS_DAT = TextFormat(
    ":",
    False,
    ("user", "", "item", "", "rating", "", "timestamp"),
    Columns("user", "item", "rating", "timestamp"),
)
RECBOLE = TextFormat("\t", False, None, Columns(rating="rating", timestamp="timestamp"), has_types=True)


class _Row(NamedTuple):
    """First and last line of a row, counted from 1, its fields, and those with text behind a closing mark."""

    first: int
    last: int
    fields: list[str]
    behind: Sequence[int] = ()


def _rows(file: DataFile, form: TextFormat) -> Iterator[_Row]:
    """The rows of a file; blank lines are none. Bytes that are not UTF-8 come as lone surrogates.

    Raises:
        DataError: Quotation marks leave it open where a value ends; the message names the line.
    """
    part = re.escape(form.separator)
    rest = rf"[^{part}\r\n]*"
    # In quotation marks, with what stands behind them, or without; then a separator, or the end of the row.
    value = re.compile(rf'(?:"([^"]*+(?:""[^"]*+)*+)"({rest})|(?!")({rest}))(?:({part})|[\r\n]*\Z)')
    with io.TextIOWrapper(file.open_content(), "utf-8-sig", "surrogateescape", newline="") as text_file:
        lines = enumerate(text_file, start=1)
        for line, text in lines:
            if form.has_quotes and '"' in text:
                yield _quoted_row(file, value, line, text, lines)
            elif row := text.rstrip("\r\n"):
                yield _Row(line, line, row.split(form.separator))


def _quoted_row(
    file: DataFile, value: re.Pattern[str], first: int, text: str, lines: Iterator[tuple[int, str]]
) -> _Row:
    """A row with quotation marks, which goes on in the next lines where a value does.

    Text behind the mark that closes a value, as in ``1,"Weird Al" Yankovic``, is part of it, as Arrow has it.

    Args:
        file: The file.
        value: Matches a value: what is quoted, the text behind it, or one without marks; and a separator.
        first: The row's first line, counted from 1.
        text: That line.
        lines: Those after it, of which the row's are taken.

    Raises:
        DataError: A mark is never closed.
    """
    fields: list[str] = []
    behind: list[int] = []
    last, start = first, 0
    while True:
        while (match := value.match(text, start)) is None:
            last, line = next(lines, (last, ""))
            if not line or len(text) - start > _MAX_VALUE:
                raise DataError(
                    f"{file}, line {first + len(_LINE_END.findall(text[:start]))}: the quotation mark that "
                    f"opens a value here is never closed, or not within {_MAX_VALUE:,} characters; close or "
                    "delete it"
                )
            text += line
        quoted, after, plain, separator = match.groups()
        if after:
            behind.append(len(fields))
        fields.append(plain if quoted is None else quoted.replace('""', '"') + after)
        start = match.end()
        if separator is None:
            return _Row(first, last, fields, behind)


def _text_behind(file: DataFile, line: int, what: str) -> DataError:
    return DataError(
        f"{file}, line {line}: there is text behind the quotation mark that closes {what}; delete it, or "
        "double the marks within the value"
    )


def _check_rows(
    file: DataFile, form: TextFormat, names: list[str], positions: dict[str, int], table: pa.Table | None
) -> None:
    """Refuse the first row that Arrow cannot have read, or not as it is meant.

    Args:
        file: The file.
        form: Its format.
        names: Of the columns.
        positions: Of the columns that are read, by role.
        table: What Arrow read; None where it could not.

    Raises:
        DataError: There is one.
    """
    id_patterns = [_TEXT, _TEXT]
    if table is not None:
        ids = [table.column(role).unify_dictionaries().chunk(0).dictionary for role in ("user", "item")]
        is_integer = [pc.all(pc.match_substring_regex(values, f"^{_INTEGER}$")).as_py() for values in ids]
        id_patterns = [_INTEGER if are_all else _TEXT for are_all in is_integer]
    for row in islice(_rows(file, form), 0 if form.names else 1, None):
        line, last, fields, behind = row
        if line != last:
            _check_line_ends(file, form, names, positions, row, id_patterns)
        if len(fields) != len(names):
            raise DataError(
                f"{file}, line {line}: {len(fields)} fields where there should be {len(names)} "
                f"({form.separator.join(names)}); correct or delete the line"
            )
        if table is None and len("".join(fields).encode(errors="surrogateescape")) > _BLOCK_BYTES:
            raise DataError(
                f"{file}, line {line}: a row of more than {_BLOCK_BYTES:,} bytes; look for line ends that "
                "are missing, or shorten it"
            )
        for role, position in positions.items():
            value = fields[position]
            if position in behind:
                raise _text_behind(file, line, names[position])
            if '"' in value and form.has_quotes and _BLANK_BEFORE_QUOTE.match(value):
                raise DataError(
                    f"{file}, line {line}: {names[position]} begins with a blank before its quotation mark; "
                    "delete the blanks behind the separators"
                )
            if table is not None:
                continue
            if _NOT_UTF8.search(value):
                raise DataError(f"{file}, line {line}: it is not UTF-8 text; {utf8_remedy(file)}")
            if role == "rating" and not NUMBER.fullmatch(value.strip(" \t")):
                hint = ", with a point before its decimals" if "," in value else ""
                raise DataError(
                    f"{file}, line {line}: {names[position]} is {shown(value)}, not a number{hint}; correct "
                    "or delete the line"
                )


def _check_line_ends(
    file: DataFile,
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
        if not _LINE_END.search(value):
            continue
        line = row.first + len(_LINE_END.findall(form.separator.join(row.fields[:position])))
        if not is_whole or position in positions.values():
            what = names[position] if is_whole else "a value"
            raise DataError(
                f"{file}, line {line}: {what} begins here with {shown(value.strip())} and goes on in the "
                "next line; look for a quotation mark too many or too few"
            )
        swallowed = [text.split(form.separator) for text in _LINE_END.split(value)[1:]]
        swallowed[-1] += row.fields[position + 1 :]
        for number, fields in enumerate(swallowed, start=line + 1):
            ids = [fields[positions[role]] for role in ("user", "item")] if len(fields) == len(names) else []
            if ids and all(map(re.fullmatch, id_patterns, ids)):
                raise DataError(
                    f"{file}, line {line}: {names[position]} begins here and goes on in line {number}, which "
                    "looks like a row of its own; look for a quotation mark too many, or leave that column "
                    "out of the file"
                )
    if row.behind:
        raise _text_behind(file, row.last, "a value")


def utf8_remedy(file: DataFile) -> str:
    """What to do about a file that is not UTF-8 text, by what it may be."""
    with file.open_content() as content:
        beginning = content.read(8)
    kinds = (kind for start, kind in _BEGINNINGS.items() if beginning.startswith(start))
    return next(kinds, "save the file as UTF-8")


def _arrow_table(
    file: DataFile,
    form: TextFormat,
    num_fields: int,
    positions: dict[str, int],
    skip_rows: int,
    time: pa.DataType,
) -> pa.Table:
    """The columns at ``positions``, named by role: ids as dictionaries of text, numbers as numbers."""
    role_at = {position: role for role, position in positions.items()}
    text = pa.dictionary(pa.int32(), pa.string())
    types = {"user": text, "item": text, "rating": pa.float64(), "timestamp": time}
    empty = [f"field {place}" for place, name in enumerate(form.names or ()) if not name]
    with file.open_stream() as content:
        return pacsv.read_csv(
            content,
            read_options=pacsv.ReadOptions(
                column_names=[role_at.get(place, f"field {place}") for place in range(num_fields)],
                skip_rows=skip_rows,
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=form.separator,
                quote_char='"' if form.has_quotes else False,
                newlines_in_values=form.has_quotes,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=types | dict.fromkeys(empty, pa.null()),
                include_columns=[*positions, *empty],
                # A field that is not a number is an error with its line, never a gap.
                null_values=[""] if empty else [],
            ),
        )


def _begin(file: DataFile, form: TextFormat) -> tuple[TextFormat, int, list[str]]:
    """The format with its separator, the last line of the header, and the names of the columns.

    Raises:
        DataError: The file is empty, or its header cannot be one.
    """
    first_row = next(_rows(file, form), None)
    if first_row is None:
        raise DataError(f"{file}: it is empty; bring a file with one row an interaction")
    if form.names:
        return form, 0, list(form.names)
    if len(first_row.fields) == 1:
        others = [separator for separator in form.other_separators if separator in first_row.fields[0]]
        form = replace(form, separator=[*others, form.separator][0])
        first_row = next(_rows(file, form))
    names = [name.strip() for name in first_row.fields]
    if any(map(_NOT_UTF8.search, names)):
        raise DataError(f"{file}, line {first_row.first}: it is not UTF-8 text; {utf8_remedy(file)}")
    if any(map(_LINE_END.search, names)):
        raise DataError(
            f"{file}, line {first_row.first}: a name of a column goes on in the next line; look for a "
            "quotation mark too many or too few"
        )
    return form, first_row.last, [name.partition(":")[0] for name in names] if form.has_types else names


def text_columns(file: DataFile, form: TextFormat) -> list[str]:
    """Names of the columns of a text file.

    Raises:
        DataError: It is empty, or its header is not UTF-8.
    """
    return _begin(file, form)[-1]


def read_text(file: DataFile, columns: Columns | None, form: TextFormat) -> InteractionLog:
    """Read a text file with one row an interaction.

    Ids are integers where all of a column are written as integers are, without a leading zero or plus;
    otherwise all of the column are text, so that "007" stays itself. Blanks around an id are no part of it.
    Blank lines are skipped. Messages count lines from 1.

    Args:
        file: The file, compressed with gzip if its name ends in ``.gz``.
        columns: Names to read; None for the format's own, of which rating and timestamp may be missing.
        form: The format.

    Raises:
        DataError: The file has no rows or is not UTF-8, a column is missing, a row cannot be used, or a
            quotation mark has swallowed rows.
    """
    form, skip_rows, names = _begin(file, form)
    remedy = f"; fields are separated by {_SEPARATOR_NAMES[form.separator]}" if len(names) == 1 else ""
    if any(map(NUMBER.fullmatch, names)):
        remedy = "; the first line looks like a row: put one of names above it, a name for each field"
    roles = pick_columns(names, columns, form.defaults, str(file), remedy)
    positions = {role: names.index(name) for role, name in roles.items()}
    num_before = 0 if form.names else 1
    if next(islice(_rows(file, form), num_before, None), None) is None:
        raise DataError(f"{file}: it holds no interactions, only a header; bring a file with rows under it")

    table = None
    # Whole numbers are read as such, since a float64 cannot hold every time in nanoseconds.
    for time in (pa.int64(), pa.float64(), pa.string()):
        try:
            table = _arrow_table(file, form, len(names), positions, skip_rows, time)
            break
        except (pa.ArrowException, OSError) as error:
            failure = error
    if table is None or (form.has_quotes and not _is_by_the_book(file, form.separator)):
        _check_rows(file, form, names, positions, table)
    if table is None:
        raise DataError(
            f"{file}: it cannot be read ({failure}); correct the row or name the file's format with format="
        ) from failure

    def where(row: int) -> str:
        return f"{file}, line {next(islice(_rows(file, form), row + num_before, None)).first}"

    return build_log({role: table.column(role) for role in roles}, roles, str(file), where, parse_ids=True)


def _is_by_the_book(file: DataFile, separator: str) -> bool:
    """Whether each line is a row whose quotation marks begin and end a value, or are doubled in one."""
    part = re.escape(separator)
    field = rf'(?:"(?:[^"\r\n]|"")*"|[^"{part}\r\n]*)'
    row = re.compile(rf"{field}(?:{part}{field})*[\r\n]*".encode())
    with file.open_content() as content:
        return all(b'"' not in line or row.fullmatch(line) for line in content)
