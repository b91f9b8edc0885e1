"""JSON and Parquet: written whole, and read as what anybody may have made or damaged.

What a file claims is compared with its size before memory is taken.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ciess_ray.files.whole import read_regular, size_of, whole_file
from envs.errors import ResultError

#: Of a text; the largest that we write, of a sweep of thousands of trials, have some megabytes.
_MAX_TEXT_BYTES = 256_000_000
#: What a table may claim beside what its file has: ids, sizes and counts compress to a byte a row or more.
_MAX_ROWS_A_BYTE, _FEW, _MAX_SWELL, _LITTLE = 16, 100_000, 200, 50_000_000
#: Bytes, and entries, of one part of a Parquet file's own description.
_THRIFT = 2**24


def read_json(file: Path, format: str) -> dict[str, Any]:
    """What a JSON file of a format says.

    Args:
        file: The file.
        format: The ``format`` that it has to name.

    Raises:
        ResultError: There is none, or it is damaged, too large or of another format.
    """
    return parse_json(read_regular(file, _MAX_TEXT_BYTES), file, format)


def parse_json(content: bytes, file: object, format: str) -> dict[str, Any]:
    """What the content of a JSON file says, see :func:`read_json`; its name is what messages call it."""
    try:
        values = _parse(content)
    except ValueError as error:
        raise ResultError(f"{file}: damaged ({error}); make it again with --overwrite.") from error
    if not isinstance(values, dict) or values.get("format") != format:
        raise ResultError(f"{file}: not of the format {format!r}.")
    return values


def read_json_lines(file: Path) -> list[Any]:
    """What the lines of a file say that are JSON: where its process was killed, the last may be torn.

    Raises:
        ResultError: There is no such file, or it is too large.
    """
    lines = []
    for line in read_regular(file, _MAX_TEXT_BYTES).splitlines():
        with contextlib.suppress(ValueError):
            lines.append(_parse(line))
    return lines


def _parse(text: bytes) -> Any:
    """What a text says; one that is nested too deeply, or has a number of thousands of digits, is no JSON."""
    # Who only serves reads none, and starts sooner.
    from pydantic_core import from_json

    return from_json(text)


def read_parquet(file: Path, columns: Sequence[str] | None = None, texts: Sequence[str] = ()) -> pa.Table:
    """A Parquet file, or some columns of it.

    Args:
        file: The file.
        columns: Which; None for all. Those that are not there are left out.
        texts: Columns that are left as dictionaries, so that one long text takes its place once.

    Raises:
        ResultError: There is no such file, or it is damaged, or claims more than a file of its size can hold.
    """
    size = size_of(file)
    try:
        parquet = pq.ParquetFile(
            file,
            read_dictionary=texts,
            pre_buffer=False,
            thrift_string_size_limit=_THRIFT,
            thrift_container_size_limit=_THRIFT,
        )
        metadata = parquet.metadata
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        swollen = sum(group.total_byte_size for group in groups)
        if metadata.num_rows > max(_MAX_ROWS_A_BYTE * size, _FEW) or swollen > max(
            _MAX_SWELL * size, _LITTLE
        ):
            raise ResultError(
                f"{file}: claims {metadata.num_rows:,} rows and {swollen:,} bytes, which a file of {size:,} "
                "bytes does not hold."
            )
        # Without threads: one of Arrow's that lives on when Python has ended aborts the process.
        table = parquet.read(columns, use_threads=False)
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError, KeyError, OverflowError, ValueError, MemoryError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error


def write_parquet(file: Path, table: pa.Table) -> None:
    """Write a table as :func:`ciess_ray.files.whole.whole_file` does."""
    with whole_file(file) as stream:
        pq.write_table(table, stream, compression="zstd")
