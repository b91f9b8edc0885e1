"""How a file of interactions is opened: compressed or not, and never one that memory cannot hold."""

import gzip
import os
from pathlib import Path
from typing import BinaryIO, cast

from envs.errors import DataError

_BLOCK_BYTES = 1 << 20
#: Codes of entities and offsets of rows are int32.
_MAX_ROWS = 2**31 - 1
#: What a column of a log, or the ids that it is made of, takes of memory for each row.
_VALUE_BYTES = 8
#: How files begin that are no text, and what to do about them.
_BEGINNINGS = {
    b"\x1f\x8b": "it is compressed with gzip; let its name end in .gz",
    b"PK\x03\x04": "it is a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"PAR1": "it is Parquet; name that format (format, or --format)",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd; decompress it first",
    b"BZh": "it is compressed with bzip2; decompress it first",
    b"\xfd7zXZ": "it is compressed with xz; decompress it first",
}


def is_compressed(path: Path) -> bool:
    """Whether a file's name says that it is compressed with gzip."""
    return path.suffix.lower() == ".gz"


def open_bytes(path: Path) -> BinaryIO:
    """A file's content, decompressed where it is compressed."""
    return cast(BinaryIO, gzip.open(path) if is_compressed(path) else path.open("rb"))


def read_content(path: Path) -> bytes:
    """All of a file's content, for formats that are not read block by block.

    Raises:
        DataError: Memory cannot hold it.
    """
    blocks, num_bytes = [], 0
    with open_bytes(path) as file:
        while block := file.read(_BLOCK_BYTES):
            num_bytes += len(block)
            # The blocks, and all of them as one.
            check_memory(2 * num_bytes, str(path))
            blocks.append(block)
    return b"".join(blocks)


def other_kind(path: Path) -> str | None:
    """What a file is that should have been text, and what to do; None where its beginning does not tell."""
    with open_bytes(path) as file:
        beginning = file.read(8)
    return next((kind for start, kind in _BEGINNINGS.items() if beginning.startswith(start)), None)


def check_rows(num_rows: int, num_columns: int, source: str) -> None:
    """Refuse more rows than can be numbered or held, before they are read.

    Raises:
        DataError: There are too many.
    """
    if num_rows > _MAX_ROWS:
        raise DataError(
            f"{source}: {num_rows:,} rows, and at most {_MAX_ROWS:,} can be numbered; bring a part of them"
        )
    check_memory(num_rows * num_columns * _VALUE_BYTES, source)


def check_memory(num_bytes: int, source: str) -> None:
    """Refuse what is larger than the machine's memory, before it is taken.

    Raises:
        DataError: It is.
    """
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if num_bytes > there:
        raise DataError(
            f"{source}: {num_bytes / 1e9:,.1f} GB would have to be held, and this machine has "
            f"{there / 1e9:,.1f} GB of memory; bring a part of it, or a larger machine"
        )
