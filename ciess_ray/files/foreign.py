"""Files that anybody may have made or damaged, read with their sizes known before memory is taken."""

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from envs.errors import ResultError

#: Of a text; the largest that we write, of a sweep of thousands of trials, have some megabytes.
MAX_TEXT_BYTES = 256_000_000
_MAX_DEPTH = 64
#: What a table may claim beside what its file has: ids, sizes and counts compress to a byte a row or more.
_MAX_ROWS_A_BYTE, _FEW, _MAX_SWELL, _LITTLE = 16, 100_000, 200, 50_000_000


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        FileNotFoundError: There is none.
        ResultError: It is no regular file, too large or no text.
    """
    _check_file(file, MAX_TEXT_BYTES)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ResultError(f"{file}: damaged ({error}).") from error


def parse_json(text: str) -> Any:
    """What a text says.

    Raises:
        ValueError: It is no JSON, has a number of thousands of digits, or is nested too deeply to be ours.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH):
        nested = [
            own.values() if isinstance(own, dict) else own for own in level if isinstance(own, dict | list)
        ]
        level = [inner for own in nested for inner in own]
        if not level:
            return value
    raise ValueError("nested too deeply")


def read_json(file: Path, known: str, hint: str = "") -> dict[str, Any]:
    """What a JSON file of a format says.

    Args:
        file: The file.
        known: The ``format`` that it has to name.
        hint: What to do about damage, after it.

    Raises:
        FileNotFoundError: There is none.
        ResultError: It is damaged, too large or of another format.
    """
    text = read_text(file)
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ResultError(f"{file}: damaged ({error}){hint}.") from error
    if not isinstance(values, dict) or values.get("format") != known:
        raise ResultError(f"{file}: not of the format {known!r}.")
    return values


def read_parquet(file: Path, columns: Sequence[str] | None = None, texts: Sequence[str] = ()) -> pa.Table:
    """A Parquet file, or some columns of it.

    Args:
        file: The file.
        columns: Which; None for all. Those that are not there are left out.
        texts: Columns that are left as dictionaries, so that one long text takes its place once.

    Raises:
        FileNotFoundError: There is none.
        ResultError: It is damaged, or claims more than a file of its size can hold.
    """
    size = _check_file(file)
    try:
        told = pq.read_metadata(file)
        groups = [told.row_group(number) for number in range(told.num_row_groups)]
        swollen = sum(group.total_byte_size for group in groups)
        claims = f"{told.num_rows:,} rows and {swollen:,} bytes"
        if told.num_rows > max(_MAX_ROWS_A_BYTE * size, _FEW) or swollen > max(_MAX_SWELL * size, _LITTLE):
            raise ResultError(f"{file}: claims {claims}, which a file of {size:,} bytes does not hold.")
        there = told.schema.to_arrow_schema().names
        own = there if columns is None else [name for name in there if name in columns]
        return pq.read_table(file, columns=own, read_dictionary=[name for name in texts if name in own])
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error


def _check_file(file: Path, max_bytes: int | None = None) -> int:
    found = os.stat(file)
    if not stat.S_ISREG(found.st_mode):
        raise ResultError(f"{file}: not a file of text or numbers, which could be read.")
    if max_bytes is not None and found.st_size > max_bytes:
        raise ResultError(f"{file}: {found.st_size:,} bytes, where at most {max_bytes:,} are read.")
    return found.st_size
