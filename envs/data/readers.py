"""Reading the user's interactions: one table of formats, one function.

A new format is one file with a ``Reader`` in it, one line in ``READERS`` and, where a file's name tells it,
one in ``_NAME_PATTERNS``, and where its columns have names, one in ``_COLUMN_NAMES``.
"""

import zlib
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from os import PathLike
from os.path import expanduser
from pathlib import Path

from envs.data.adjacency import read_adjacency
from envs.data.columns import Columns
from envs.data.files import check_regular, is_compressed
from envs.data.interactions import InteractionLog
from envs.data.tables import read_parquet, read_splits, table_columns
from envs.data.text import CSV, MOVIELENS_CSV, MOVIELENS_DAT, RECBOLE, TSV, read_text, text_columns
from envs.errors import DataError, UnknownNameError

#: Called with a file that exists and is not empty, or a folder of Parquet, and the columns the user named.
Reader = Callable[[Path, Columns | None], InteractionLog]

READERS: dict[str, Reader] = {
    "parquet": read_parquet,
    "splits": read_splits,
    "csv": partial(read_text, form=CSV),
    "tsv": partial(read_text, form=TSV),
    "movielens-dat": partial(read_text, form=MOVIELENS_DAT),
    "movielens-csv": partial(read_text, form=MOVIELENS_CSV),
    "recbole": partial(read_text, form=RECBOLE),
    "adjacency": read_adjacency,
}

_COLUMN_NAMES: dict[str, Callable[[Path], list[str]]] = {
    "parquet": table_columns,
    "splits": table_columns,
    "csv": partial(text_columns, form=CSV),
    "tsv": partial(text_columns, form=TSV),
    "movielens-csv": partial(text_columns, form=MOVIELENS_CSV),
    "recbole": partial(text_columns, form=RECBOLE),
}

#: Parquet, which a folder may hold in parts.
_IN_PARTS = ("parquet", "splits")
# The first that fits counts.
_NAME_PATTERNS: tuple[tuple[str, str], ...] = (
    ("ratings.dat", "movielens-dat"),
    ("ratings.csv", "movielens-csv"),
    ("*.inter", "recbole"),
    ("*.splits.parquet", "splits"),
    ("*.parquet", "parquet"),
    ("*.csv", "csv"),
    ("*.tsv", "tsv"),
    ("*.txt", "adjacency"),
    ("*.adj", "adjacency"),
)


def guess_format(path: str | PathLike[str]) -> str:
    """The format that a file's name tells.

    Raises:
        DataError: It tells none.
    """
    name = Path(path).name.lower().removesuffix(".gz")
    for pattern, form in _NAME_PATTERNS:
        if fnmatchcase(name, pattern):
            return form
    raise DataError(
        f"{path}: its name tells no format; give it (format, or --format), one of "
        f"{', '.join(sorted(READERS))}; what is compressed otherwise than with gzip must be unpacked first"
    )


def read_interactions(
    path: str | PathLike[str], *, format: str = "auto", columns: Columns | None = None
) -> InteractionLog:
    """Read a file of interactions.

    Args:
        path: The file; a ``~`` at its beginning is the home folder. Text may be compressed with gzip if the
            name ends in ``.gz``; Parquet may be a folder of parts.
        format: A name in ``READERS``, or ``"auto"`` to go by the file's name.
        columns: Names of the columns to read; None for the format's own, of which rating and timestamp are
            read where they exist.

    Returns:
        Each pair of user and item once: of rows with the same pair, the latest.

    Raises:
        UnknownNameError: There is no such format.
        ConfigError: Columns were named for a format that has none.
        DataError: The file is missing, empty or not of that format, or a row cannot be used; the message
            names the row.
    """
    file, form = _opened(path, format)
    try:
        return READERS[form](file, columns)
    except MemoryError as error:
        raise DataError(f"{file}: it needs more memory than there is; bring a part of it") from error
    except (OSError, EOFError, zlib.error) as error:
        remedy = "it may be cut off; bring it anew" if is_compressed(file) else "check its permissions"
        raise DataError(f"{file}: it cannot be read ({error}); {remedy}") from error


def read_column_names(path: str | PathLike[str], *, format: str = "auto") -> list[str]:
    """Names of the columns of a file of interactions; none of a format whose columns have none.

    Args:
        path: As of :func:`read_interactions`.
        format: The same.

    Raises:
        CiessError: As there, of what is wrong with more than a row.
    """
    file, form = _opened(path, format)
    return _COLUMN_NAMES[form](file) if form in _COLUMN_NAMES else []


def _opened(path: str | PathLike[str], format: str) -> tuple[Path, str]:
    """The file and its format, of which all is well that can be known before it is read."""
    if format != "auto" and format not in READERS:
        raise UnknownNameError("file format", format, [*READERS, "auto"])
    try:
        path = Path(expanduser(path))
        status = path.stat()
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: there is no such file to read ({told}); check the path") from error
    is_folder = path.is_dir()
    if is_folder and format == "auto":
        format = "parquet"
    elif format == "auto":
        format = guess_format(path)
    check_regular(path, status.st_mode)
    if is_folder and format not in _IN_PARTS:
        raise DataError(f"{path}: it is a directory; name the one file that holds the interactions")
    if is_compressed(path) and format in _IN_PARTS and not is_folder:
        raise DataError(
            f"{path}: Parquet is compressed in itself and read in parts; decompress the file first"
        )
    if status.st_size == 0:
        raise DataError(f"{path}: it is empty (0 bytes); bring a file with one row an interaction")
    return path, format
