"""Interactions in a Parquet file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from envs.data.columns import Columns, build_log, pick_columns
from envs.data.interactions import InteractionLog
from envs.errors import DataError

_DEFAULTS = Columns(rating="rating", timestamp="timestamp")


def read_parquet(path: Path, columns: Columns | None) -> InteractionLog:
    """Read a Parquet file.

    The file's types are kept: integers are integer ids and text is text ids, "12" included. Floats are
    taken as integers where all of them are whole. Messages count rows from 1.

    Args:
        path: The file.
        columns: Names to read; None for user_id, item_id and, where they exist, rating and timestamp.

    Raises:
        DataError: The file is no Parquet, a column is missing, or a value cannot be used.
    """
    try:
        # Not pq.read_table, which would take a column of a directory's name for data.
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            positions = pick_columns(names, columns, _DEFAULTS, str(path))
            table = file.read(columns=[names[position] for position in positions.values()])
            picked = {role: table.column(names[position]) for role, position in positions.items()}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: it cannot be read as Parquet ({error}); write it anew, or name its format with format="
        ) from error
    roles = {role: names[position] for role, position in positions.items()}
    return build_log(picked, roles, str(path), lambda row: f"{path}, row {row + 1}")
