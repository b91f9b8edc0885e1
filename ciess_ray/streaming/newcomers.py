"""Rows for those who have come since a table of a stream was trained, within the stream's budget.

Until the next segment is trained a newcomer has a row of d_min numbers: the mean of the rows of the items
that a user had, or of the users that an item had, cut to these. LightGCN propagates over the interactions
that have come besides, and scores by the mean of all its layers, so that such a row is filled from its
neighbours. With others it is not: 108 new users of Online Retail II had R@20 .094 with LightGCN, .041 with MF
and .038 with NGCF, which has the row beside what is propagated; what is popular had .080 (one seed).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.config.data import read_log
from ciess_ray.files.manifest import Manifest, write_manifest
from ciess_ray.files.whole import whole_folder
from ciess_ray.packed.resize import resize
from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.export import PACKED_FILES, check_destination
from ciess_ray.serving.files import IDS_FILE, INTERACTIONS_FILE, TABLE_FILE, TableFolder, write_ids
from ciess_ray.serving.interactions_file import write_interactions
from ciess_ray.serving.stream_tables import current_segment
from ciess_ray.streaming.config import APPENDABLE, TABLE_METHODS, StreamConfig, recorded_config
from ciess_ray.streaming.driver import check_followed
from ciess_ray.streaming.folder import StreamFolder
from envs.data.stream import Stream, cut_stream
from envs.errors import ResultError, check_name, within
from envs.sizes.embedding_sizes import EmbeddingSizes


@dataclass(frozen=True)
class Appended:
    """What a table has been given.

    Attributes:
        num_users: New users that have a row.
        num_items: The same of items.
        num_left: Newcomers who have none: there is no room, or they have met none who is in the table.
        num_params: Of the table, in all tables together.
        num_bytes: Of its file.
    """

    num_users: int
    num_items: int
    num_left: int
    num_params: int
    num_bytes: int


def append_newcomers(
    path: str | Path,
    method: str,
    destination: str | Path,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
) -> Appended:
    """Write the latest table of a stream with a row for everybody who has come since it was trained.

    Whoever has met most of those in the table comes first, of equals the one who came first, until the
    budget is used; ``reserve`` of the stream keeps some of it free for this. The stream stays as it is.

    Args:
        path: Of the stream, whose log may have gone on.
        method: Whose table.
        destination: A new folder, which recommends.
        overrides: Where the log lies now: ``dataset.path=...``.
        overwrite: Whether an earlier export or table there may be replaced.

    Raises:
        CiessError: There is no such stream or table, its log does not begin with the rows that it had, the
            recommender is not LightGCN, an override is of another field, or the destination is taken.
    """
    path, destination = Path(path), Path(destination)
    check_name("method with a table", method, TABLE_METHODS)
    check_destination(destination, True, overwrite)
    folder = StreamFolder(path)
    state = folder.read()
    config = recorded_config(path, state["config"], overrides, ["dataset"])
    number = int(current_segment(path).name)
    place = folder.method(number, method)
    if not (place / TABLE_FILE).exists():
        raise ResultError(f"{place}: there is no table of {method} in the latest segment of this stream.")
    served = TableFolder.read(place)
    Manifest.read(place).verify(TABLE_FILE)
    if served.scorer.recommender != APPENDABLE:
        raise ResultError(
            f"{place}: is of {served.scorer.recommender}; rows are appended for {APPENDABLE} alone, which "
            "fills them from their neighbours. Recommend with --unknown popular."
        )
    # As the stream does: of a pair that comes again the first row counts.
    stream = cut_stream(read_log(config.dataset, keep="first"), **dict(config.segments))
    check_followed(path, config, state, stream)
    with within(place / TABLE_FILE):
        served.table.verify()
    made = _appended(served, stream, config)
    with whole_folder(destination) as new:
        made.scorer.write(new)
        made.table.save(new / TABLE_FILE)
        write_interactions(new / INTERACTIONS_FILE, made.train)
        write_ids(new / IDS_FILE, made.user_ids, made.item_ids)
        write_manifest(new, PACKED_FILES)
    num_new = made.table.num_users - served.table.num_users, len(made.item_ids) - len(served.item_ids)
    num_here = len(stream.user_ids) + len(stream.item_ids)
    return Appended(*num_new, num_here - made.table.num_rows, made.table.num_params, made.table.num_bytes)


def _appended(served: TableFolder, stream: Stream, config: StreamConfig) -> TableFolder:
    """What serves, with newcomers and with all interactions among those who have a row."""
    table, num_known = served.table, served.train.shape
    all_rows = csr_array(
        (np.ones(stream.num_rows, np.float32), (stream.user, stream.item)),
        shape=(len(stream.user_ids), len(stream.item_ids)),
    )
    # Whom newcomers have met of those in the table: new users by known items, new items by known users.
    met = all_rows[num_known[0] :, : num_known[1]], all_rows[: num_known[0], num_known[1] :].T.tocsr()
    users, items = _chosen(met, stream, num_known, _room(config, table))
    size = table.min_embedding_size
    known_users, known_items = np.split(np.arange(table.num_rows), [table.num_users])
    rows = (
        _means(met[0][users], table.kept(known_items, size)),
        _means(met[1][items], table.kept(known_users, size)),
    )
    users, items = (
        np.append(known_users, users + num_known[0]),
        np.append(np.arange(num_known[1]), items + num_known[1]),
    )
    return TableFolder(
        served.path,
        _with_rows(table, *rows),
        served.scorer,
        csr_array(all_rows[users][:, items]),
        None,
        stream.user_ids[users],
        stream.item_ids[items],
    )


def _room(config: StreamConfig, table: PackedTable) -> int | None:
    """Rows that the budget has room for; None for any number."""
    return config.memory_budget.num_newcomers(
        table.num_params, table.num_rows, table.min_embedding_size, table.max_embedding_size, table.num_tables
    )


def _chosen(
    met: tuple[csr_array, csr_array], stream: Stream, num_known: tuple[int, int], room: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which new users and which new items get a row, each from 0 on and in order of arrival."""
    counts = np.concatenate([np.diff(side.indptr) for side in met])
    arrivals = [
        np.unique(numbers, return_index=True)[1][known:]
        for numbers, known in zip((stream.user, stream.item), num_known, strict=True)
    ]
    first = np.lexsort((np.concatenate(arrivals), -counts))
    chosen = np.sort(first[counts[first] > 0][:room])
    num_users = met[0].shape[0]
    return chosen[chosen < num_users], chosen[chosen >= num_users] - num_users


def _means(met: csr_array, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of the rows of those whom each has met."""
    return np.asarray((met @ rows) / np.diff(met.indptr)[:, None], np.float32)


def _with_rows(
    table: PackedTable, user_rows: NDArray[np.float32], item_rows: NDArray[np.float32]
) -> PackedTable:
    """A table with rows of d_min appended to its users and to its items."""
    sizes, size = table.sizes, table.min_embedding_size
    more = EmbeddingSizes(
        np.append(sizes.user, np.full(len(user_rows), size)),
        np.append(sizes.item, np.full(len(item_rows), size)),
        size,
        table.max_embedding_size,
        table.num_tables,
        is_shared=_with_none(sizes, len(user_rows), len(item_rows)),
    )
    longer = resize(table, more, np.random.default_rng(0), std=0.0).table
    starts = np.cumsum(more.held, dtype=np.int64) - more.held
    numbers = np.arange(size * table.num_tables)
    for first, rows in ((len(sizes.user), user_rows), (more.num_rows - len(item_rows), item_rows)):
        begin = starts[first : first + len(rows)] * table.num_tables
        longer.values[begin[:, None] + numbers] = rows
    return longer


def _with_none(sizes: EmbeddingSizes, num_users: int, num_items: int) -> NDArray[np.bool_] | None:
    """Which rows are shared, when some that are not have come."""
    if sizes.is_shared is None:
        return None
    users, items = np.split(sizes.is_shared, [len(sizes.user)])
    return np.concatenate([users, np.zeros(num_users, bool), items, np.zeros(num_items, bool)])
