"""Interactions in a Parquet file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from envs.data.columns import Columns, build_log, pick_columns
from envs.data.files import check_rows
from envs.data.interactions import InteractionLog
from envs.errors import DataError

_DEFAULTS = Columns(rating="rating", timestamp="timestamp")


def read_parquet(path: Path, columns: Columns | None) -> InteractionLog:
    """Read a Parquet file, or the parts of one in a folder as one.

    The file's types are kept: integers are integer ids and text is text ids, "12" included. Floats are
    taken as integers where all of them are whole. Messages count rows from 1.

    Args:
        path: The file or folder; parts are all files below it that end in ``.parquet``, in the order of their
            names, without those that begin with a dot or an underscore.
        columns: Names to read; None for user_id, item_id and, where they exist, rating and timestamp.

    Raises:
        DataError: A file is no Parquet, a column is missing, or a value cannot be used.
    """
    parts = _parts(path) if path.is_dir() else [path]
    tables, roles = [], {}
    num_rows = 0
    for part in parts:
        try:
            # Not pq.read_table, which would take a column of a directory's name for data.
            with pq.ParquetFile(part, page_checksum_verification=True) as file:
                names = file.schema_arrow.names
                positions = pick_columns(names, columns, _DEFAULTS, str(part))
                num_rows += file.metadata.num_rows
                check_rows(num_rows, len(positions), str(path))
                roles = {role: names[position] for role, position in positions.items()}
                table = file.read(columns=list(roles.values()))
                tables.append(table.select(list(roles.values())).rename_columns(list(roles)))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{part}: it cannot be read as Parquet ({error}); write it anew, or name its format with "
                "format="
            ) from error
    ends = np.cumsum([table.num_rows for table in tables])

    def where(row: int) -> str:
        part = int(np.searchsorted(ends, row, side="right"))
        return f"{parts[part]}, row {row - int(ends[part]) + tables[part].num_rows + 1}"

    table = _joined(tables, parts)
    return build_log({role: table.column(role) for role in roles}, roles, str(path), where)


def _parts(folder: Path) -> list[Path]:
    """The Parquet files of a folder.

    Raises:
        DataError: There is none.
    """
    parts = [
        part
        for part in sorted(folder.rglob("*.parquet"))
        if part.is_file() and not any(name[0] in "._" for name in part.relative_to(folder).parts)
    ]
    if not parts:
        raise DataError(
            f"{folder}: it is a directory without Parquet files; name the one that holds the interactions"
        )
    return parts


def _joined(tables: list[pa.Table], parts: list[Path]) -> pa.Table:
    """All parts as one table.

    Raises:
        DataError: A column has another type, or is missing, in one of them.
    """
    for table, part in zip(tables, parts, strict=True):
        if table.column_names != tables[0].column_names:
            raise DataError(
                f"{part}: it has {', '.join(table.column_names)}, and {parts[0]} has "
                f"{', '.join(tables[0].column_names)}; write all parts alike"
            )
        try:
            pa.concat_tables([tables[0], table], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"{part}: its columns are not of the types of {parts[0]} ({error}); write all parts alike"
            ) from error
    return pa.concat_tables(tables, promote_options="permissive")
