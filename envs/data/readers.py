"""Reading the user's interactions: one table of formats, one function.

A new format is one file with a ``Reader`` in it, one line in ``READERS`` and, where a file's name tells it,
one in ``_NAME_PATTERNS``.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from os import PathLike
from pathlib import Path

from envs.data.adjacency import read_adjacency
from envs.data.columns import Columns
from envs.data.interactions import InteractionLog
from envs.data.parquet import read_parquet
from envs.data.text import CSV, MOVIELENS_CSV, MOVIELENS_DAT, RECBOLE, read_text
from envs.errors import DataError, UnknownNameError

#: Called with a file that exists and is not empty, and the columns the user named.
Reader = Callable[[Path, Columns | None], InteractionLog]

READERS: dict[str, Reader] = {
    "parquet": read_parquet,
    "csv": partial(read_text, form=CSV),
    "movielens-dat": partial(read_text, form=MOVIELENS_DAT),
    "movielens-csv": partial(read_text, form=MOVIELENS_CSV),
    "recbole": partial(read_text, form=RECBOLE),
    "adjacency": read_adjacency,
}

# The first that fits counts.
_NAME_PATTERNS: tuple[tuple[str, str], ...] = (
    ("ratings.dat", "movielens-dat"),
    ("ratings.csv", "movielens-csv"),
    ("*.inter", "recbole"),
    ("*.parquet", "parquet"),
    ("*.csv", "csv"),
    ("*.txt", "adjacency"),
    ("*.adj", "adjacency"),
)


def guess_format(path: str | PathLike[str]) -> str:
    """The format that a file's name tells.

    Raises:
        DataError: It tells none.
    """
    name = Path(path).name.lower()
    for pattern, form in _NAME_PATTERNS:
        if fnmatchcase(name, pattern):
            return form
    raise DataError(
        f"{path}: its name tells no format; give it (format, or --format), one of "
        f"{', '.join(sorted(READERS))}"
    )


def read_interactions(
    path: str | PathLike[str], *, format: str = "auto", columns: Columns | None = None
) -> InteractionLog:
    """Read a file of interactions.

    Args:
        path: The file.
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
    path = Path(path)
    if format != "auto" and format not in READERS:
        raise UnknownNameError("file format", format, [*READERS, "auto"])
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: there is no such file to read ({error.strerror}); check the path"
        ) from error
    if path.is_dir():
        raise DataError(f"{path}: it is a directory; name the one file that holds the interactions")
    reader = READERS[guess_format(path) if format == "auto" else format]
    if size == 0:
        raise DataError(f"{path}: it is empty (0 bytes); bring a file with one row an interaction")
    try:
        return reader(path, columns)
    except OSError as error:
        raise DataError(f"{path}: it cannot be read ({error}); check its permissions") from error
