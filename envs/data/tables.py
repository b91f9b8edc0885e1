"""Interactions in tables with types: Parquet files and DataFrames."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from envs.data.columns import Columns, LogBuilder, build_log, pick_columns
from envs.data.interactions import SPLITS, InteractionLog, Interactions, Keep, check_rows, merge_duplicates
from envs.data.places import DataFile
from envs.data.values import Where
from envs.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_DEFAULTS = Columns(rating="rating", timestamp="timestamp")
_SPLIT = "split"
#: In a file's own metadata, what messages call data that were in memory before.
_SOURCE = b"ciess-ray.source"


def read_parquet(file: DataFile, columns: Columns | None, defaults: Columns = _DEFAULTS) -> InteractionLog:
    """Read a Parquet file, or the parts of one in a folder as one, in batches of rows.

    The file's types are kept: integers are integer ids and text is text ids, "12" included. Floats and
    decimals are taken as integers where all of them are whole. Messages count rows from 1.

    Args:
        file: The file or folder; parts are all files below it that end in ``.parquet``, in the order of their
            names, without those that begin with a dot or an underscore.
        columns: Names to read; None for user_id, item_id and, where they exist, rating and timestamp.
        defaults: What None stands for, where it is something else.

    Raises:
        DataError: A file is no Parquet, a column is missing, or a value cannot be used.
    """
    parts = _parts(file)
    footers: list[pq.FileMetaData] = []
    schemas: list[pa.Schema] = []
    roles: dict[str, str] = {}
    num_rows, source = 0, str(file)
    # All of them first, so that what cannot be held or read is refused before anything is.
    for part in parts:
        with _opened(part, parts[0]) as content:
            read = pick_columns(content.schema_arrow.names, columns, defaults, str(part))
            if footers and read != roles:
                raise DataError(
                    f"{part}: its columns are {', '.join(read.values())}, and those of {parts[0].name} are "
                    f"{', '.join(roles.values())}; write all parts alike, or name the columns to read"
                )
            roles = read
            schemas.append(_value_types(content.schema_arrow, roles))
            pa.unify_schemas([schemas[0], schemas[-1]], promote_options="permissive")
            source = (content.schema_arrow.metadata or {}).get(_SOURCE, source.encode()).decode()
            footers.append(content.metadata)
            num_rows += content.metadata.num_rows
            check_rows(num_rows, len(roles), str(file))
    ends = np.cumsum([footer.num_rows for footer in footers])

    def where(row: int) -> str:
        part = int(np.searchsorted(ends, row, side="right"))
        return f"{parts[part]}, row {row - int(ends[part]) + footers[part].num_rows + 1}"

    builder = LogBuilder(num_rows, roles, source, where)
    for part, footer in zip(parts, footers, strict=True):
        with _opened(part, parts[0], footer) as content:
            num_read = 0
            # What is read ahead over a network is a group, not the file.
            for group in range(footer.num_row_groups):
                for batch in content.iter_batches(row_groups=[group], columns=list(roles.values())):
                    num_read += batch.num_rows
                    if num_read > footer.num_rows:
                        break
                    for role, name in roles.items():
                        builder.add(role, batch.column(name))
            if num_read != footer.num_rows:
                raise DataError(
                    f"{part}: it says that it has {footer.num_rows:,} rows, and has others; write it anew"
                )
    return builder.finish()


def _value_types(schema: pa.Schema, roles: Mapping[str, str]) -> pa.Schema:
    """What columns hold, by role; of a dictionary that is what it stands for."""
    types = {role: schema.field(name).type for role, name in roles.items()}
    return pa.schema(
        {role: kind.value_type if pa.types.is_dictionary(kind) else kind for role, kind in types.items()}
    )


@contextmanager
def _opened(
    part: DataFile, first: DataFile, footer: pq.FileMetaData | None = None
) -> Iterator[pq.ParquetFile]:
    """A Parquet file, whose checksums are looked at.

    Args:
        part: The file.
        first: The first of all parts.
        footer: What was read of it before.

    Raises:
        DataError: It is none, or what is read in the context fails.
    """
    try:
        # Not pq.read_table, which would take a column of a directory's name for data.
        with (
            part.filesystem.open_input_file(part.path) as content,
            pq.ParquetFile(content, metadata=footer, page_checksum_verification=True) as file,
        ):
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{part}: it cannot be read as Parquet, or not as {first.name} is ({error}); write it anew, all "
            "parts alike, or name its format with format="
        ) from error


def read_splits(file: DataFile, columns: Columns | None) -> InteractionLog:
    """Read Parquet whose column ``split`` says of each row ``train``, ``validation`` or ``test``.

    A search of it takes these splits; its seed and shares change nothing about them.

    Args:
        file: As of :func:`read_parquet`.
        columns: Names of the other columns.

    Raises:
        DataError: As there.
    """
    named = None if columns is None else replace(columns, split=_SPLIT)
    return read_parquet(file, named, replace(_DEFAULTS, split=_SPLIT))


def log_of_splits(interactions: Interactions) -> InteractionLog:
    """The rows of splits, each with what it is for; users and items without any are left out."""
    parts = [part.tocoo() for part in (interactions.train, interactions.validation, interactions.test)]
    codes = [np.concatenate([getattr(part, axis) for part in parts]) for axis in ("row", "col")]
    (users, user), (items, item) = (np.unique(kind, return_inverse=True) for kind in codes)
    return InteractionLog(
        interactions.user_ids[users],
        interactions.item_ids[items],
        user.astype(np.int32),
        item.astype(np.int32),
        None,
        None,
        interactions.num_duplicates,
        interactions.source,
        np.repeat(np.arange(len(parts), dtype=np.int8), [part.nnz for part in parts]),
    )


def table_of(log: InteractionLog) -> pa.Table:
    """A log as a table that :func:`read_parquet` reads without being told of columns, once it is a file.

    One with splits is for :func:`read_splits`.
    """
    columns = {
        f"{kind}_id": pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(ids))
        for kind, codes, ids in (("user", log.user, log.user_ids), ("item", log.item, log.item_ids))
    }
    split = None if log.split is None else np.array(SPLITS)[log.split]
    values = {"rating": log.rating, "timestamp": log.timestamp, _SPLIT: split}
    columns |= {name: pa.array(array) for name, array in values.items() if array is not None}
    if log.time_unit is not None:
        columns["timestamp"] = columns["timestamp"].cast(pa.timestamp(log.time_unit))
    return pa.table(columns).replace_schema_metadata({_SOURCE: log.source})


def table_columns(file: DataFile) -> list[str]:
    """Names of the columns of a Parquet file, or of the first part of one in a folder."""
    first = _parts(file)[0]
    with _opened(first, first) as content:
        return list(content.schema_arrow.names)


def _parts(file: DataFile) -> list[DataFile]:
    """The Parquet files of a folder, or the one that there is.

    Raises:
        DataError: There is none.
    """
    parts = file.parts(".parquet") if file.is_folder else [file]
    if not parts:
        raise DataError(
            f"{file}: it is a directory without Parquet files; name the one that holds the interactions"
        )
    return parts


def log_from_frame(
    frame: "pd.DataFrame",
    columns: Columns | None = None,
    *,
    source: str = "the DataFrame",
    keep: Keep = "last",
) -> InteractionLog:
    """Interactions of a DataFrame, one row each, under the checks that a Parquet file's go through.

    Args:
        frame: Integer or text ids; categories are what they stand for.
        columns: Names to read; None for user_id, item_id and, where they exist, rating and timestamp.
        source: What messages call the data; they count rows from 1, and name their index beside it.
        keep: As of :func:`envs.data.readers.read_interactions`.

    Raises:
        DataError: A column is missing, or a value cannot be used.
    """
    names = [str(name) for name in frame.columns]
    roles = pick_columns(names, columns, _DEFAULTS, source)

    def where(row: int) -> str:
        return f"{source}, row {row + 1} (index {str(frame.index[row])[:60]})"

    arrays = {role: _column(frame.iloc[:, names.index(name)], name, where) for role, name in roles.items()}
    return merge_duplicates(build_log(arrays, roles, source, where), keep)


def _column(values: "pd.Series[Any]", name: str, where: Where) -> pa.ChunkedArray:
    """A column as Arrow has it, where NaN and None are missing.

    Raises:
        DataError: Its values are not of one kind.
    """
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        kinds = values.map(type)
        is_other = values.notna() & (kinds != kinds[values.notna()].iloc[0])
        row = int(is_other.to_numpy().argmax())
        raise DataError(
            f"{where(row)}: {name}, which is of type {kinds.iloc[row].__name__} there, cannot be read as one "
            f"column ({error}); make all of it integers up to 2^63 - 1 or text, as astype(str) does"
        ) from error
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
