"""Ids of every kind, and data in parts, read in chunks, behind URIs too."""

import gzip
import io
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from envs.data import Columns, ids, read_column_names, read_interactions
from envs.data.ids import IdColumn
from envs.errors import DataError

UUIDS = [uuid.UUID(int=number) for number in (5, 3 << 100, 5)]
_UUID_BYTES = pa.array([u.bytes for u in UUIDS], pa.binary(16))
UUID_TEXTS = [str(UUIDS[0]), str(UUIDS[1])]


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        *((pa.array([5, 3, 5], kind), [3, 5]) for kind in (pa.int16(), pa.uint32(), pa.float16())),
        (pa.array([Decimal("5.00"), Decimal(3), Decimal(5)], pa.decimal128(12, 2)), [3, 5]),
        (pa.array([Decimal(5), Decimal(3), Decimal(5)], pa.decimal256(60, 0)), [3, 5]),
        (pa.array([Decimal(5), Decimal(3), Decimal(5)], pa.decimal32(5, 0)), [3, 5]),
        (pa.array(["a", "b", "a"]).cast(pa.binary()), ["a", "b"]),
        (pa.array(["a", "b", "a"]).cast(pa.large_binary()), ["a", "b"]),
        (pa.ExtensionArray.from_storage(pa.uuid(), _UUID_BYTES), UUID_TEXTS),
        (_UUID_BYTES, UUID_TEXTS),
        (_UUID_BYTES.dictionary_encode(), UUID_TEXTS),
        # "z" is of no row, and "a" is there twice.
        (pa.DictionaryArray.from_arrays(pa.array([1, 2, 3], pa.int8()), ["z", "a", "b ", " a"]), ["a", "b"]),
        (pa.array([5, 3, 5]).dictionary_encode(), [3, 5]),
    ],
)
def test_ids_of_every_kind(column: pa.Array, expected: list[Any], tmp_path: Path) -> None:
    encoder = IdColumn(6, "user_id", str)
    for chunk in (column, column.slice(2), column.slice(1, 1), column.slice(0, 1), column.slice(0, 0)):
        encoder.add(chunk)
    found, codes = encoder.finish()
    assert found.tolist() == expected and codes.dtype == np.int32
    # The first of the three rows is the last of them too.
    of_rows = [expected.index(expected[code]) for code in codes]
    assert of_rows[0] == of_rows[2] == of_rows[3] == of_rows[5] != of_rows[1] == of_rows[4]
    is_number = isinstance(expected[0], int)
    assert found[codes[1]] == (3 if is_number else expected[1])
    if not pa.types.is_decimal32(column.type):
        log = read_interactions(write(tmp_path / "a.parquet", user_id=column, item_id=[0, 1, 2]))
        assert log.user_ids.tolist() == expected and log.user.tolist() == codes[:3].tolist()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (
            pa.array([Decimal("1.00"), Decimal("1.50")], pa.decimal128(12, 2)),
            "is Decimal('1.50'), and integer",
        ),
        (
            pa.array([Decimal(1), Decimal(2**63)], pa.decimal128(30, 0)),
            "is Decimal('9223372036854775808'), and",
        ),
        (pa.array([1, 2], pa.date32()), "is of type date32"),
        (pa.DictionaryArray.from_arrays([0, 1], pa.array(["a", None])), "is missing"),
        (pa.array([b"a" * 15] * 2, pa.binary(15)), "is of type fixed_size_binary"),
        (pa.array([True, False]), "ids are integers, text or UUIDs"),
    ],
)
def test_ids_that_are_none(column: pa.Array, words: str) -> None:
    encoder = IdColumn(4, "user_id", lambda row: f"row {row + 1}")
    with pytest.raises(DataError) as raised:
        encoder.add(column)
    assert words in str(raised.value) and "row" in str(raised.value)


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_ids_of_many_chunks_are_those_of_one(kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_NUM_WAITING", 7)
    numbers = np.random.default_rng(0).integers(0, 90, 400)
    encoder = IdColumn(len(numbers), "user_id", str)
    for chunk in np.array_split(numbers, 60):
        encoder.add(pa.array(chunk).cast(kind))
    found, codes = encoder.finish()
    expected = np.array(pa.array(numbers).cast(kind).to_pylist())
    assert found.tolist() == sorted(set(expected.tolist()))
    assert found[codes].tolist() == expected.tolist()


def test_memory_is_that_of_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pa.array([f"{number:0200}" for number in range(50)])
    table = pa.table({"user_id": texts.take(pa.array(np.arange(200_000) % 50)), "item_id": range(200_000)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5_000)
    del table
    held = []
    monkeypatch.setattr(
        IdColumn,
        "add",
        lambda self, chunk, add=IdColumn.add: held.append(pa.total_allocated_bytes()) or add(self, chunk),
    )
    before = pa.total_allocated_bytes()
    assert read_interactions(tmp_path / "a.parquet").num_users == 50
    # Text of all of the rows is 40 MB, of a chunk of them 1.
    assert len(held) == 80 and max(held) - before < 12e6


def test_parts_may_differ_in_width_and_unit(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    columns = {"user_id": pa.array([1], pa.int8()), "item_id": ["a"]}
    write(folder / "0.parquet", **columns, timestamp=pa.array([7], pa.timestamp("s")))
    columns = {"user_id": pa.array([2], pa.int64()), "item_id": pa.array(["a"]).dictionary_encode()}
    write(folder / "1.parquet", **columns, timestamp=pa.array([8_000_000], pa.timestamp("us")))
    columns = {"user_id": pa.array([1], pa.float64()), "item_id": pa.array(["b"], pa.large_string())}
    write(folder / "2.parquet", **columns, timestamp=pa.array([9_000], pa.timestamp("ms")))
    log = read_interactions(folder)
    assert log.user_ids.tolist() == [1, 2] and log.item.tolist() == [0, 0, 1]
    assert log.timestamp is not None and log.timestamp.tolist() == [7_000_000, 8_000_000, 9_000_000]
    write(folder / "3.parquet", user_id=[1], item_id=["a"])
    with pytest.raises(
        DataError, match=r"3\.parquet: its columns are user_id, item_id, and those of 0\.parq"
    ):
        read_interactions(folder)
    assert read_interactions(folder, columns=Columns()).num_rows == 3


def test_times_as_text_whose_unit_becomes_finer(tmp_path: Path) -> None:
    times = ["2001-01-31 12:00:00", "2001-01-31 12:00:00.000000001"]
    table = pa.table({"user_id": [1, 2], "item_id": [1, 1], "timestamp": times})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    log = read_interactions(tmp_path / "a.parquet")
    assert log.timestamp is not None and np.diff(log.timestamp).tolist() == [1]
    table = table.set_column(2, "timestamp", pa.array([times[0], "2001-01-31 12:00:00Z"]))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    with pytest.raises(DataError, match="row 2: timestamp is .*, an ISO time with an offset from UTC; store"):
        read_interactions(tmp_path / "a.parquet")


@pytest.fixture
def store() -> Iterator[Any]:
    """A store that is no disk, at ``fsspec+memory:///``."""
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/", recursive=True)


def put(store: Any, path: str, **columns: Any) -> None:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    store.pipe(path, content.getvalue())


def test_data_behind_a_uri(store: Any) -> None:
    uri = "fsspec+memory:///bucket/log"
    put(store, "/bucket/log/day=1/part-0.parquet", user_id=["a", "b"], item_id=[1, 2])
    put(store, "/bucket/log/part-1.parquet", user_id=["c", "b"], item_id=[1, 2])
    store.pipe("/bucket/log/_SUCCESS", b"")
    log = read_interactions(uri)
    assert log.user_ids.tolist() == ["a", "b", "c"] and log.num_duplicates == 1 and log.source == uri
    assert read_column_names(uri) == ["user_id", "item_id"]
    put(store, "/bucket/log/part-2.parquet", user_id=["c", "b"], item_id=[1, -2])
    with pytest.raises(DataError, match=rf"^{uri.replace('+', '.')}/part-2\.parquet, row 2: item_id is -2"):
        read_interactions(uri)
    text = b'user_id,item_id\n1,"2"\n1,3\n'
    for name, content in (("a.csv", text), ("a.csv.gz", gzip.compress(text)), ("a.adj", b"1 2 3\n")):
        store.pipe(f"/bucket/{name}", content)
        assert read_interactions(f"fsspec+memory:///bucket/{name}").item_ids.tolist() == [2, 3]
    store.pipe("/bucket/a.csv", text + b"1,\n")
    with pytest.raises(DataError, match=r"bucket/a\.csv, line 4: item_id is ''"):
        read_interactions("fsspec+memory:///bucket/a.csv")
    store.pipe("/bucket/empty.csv", b"")
    with pytest.raises(DataError, match=r"empty\.csv: it is empty"):
        read_interactions("fsspec+memory:///bucket/empty.csv")


def test_a_uri_without_data_names_no_secret() -> None:
    with pytest.raises(
        DataError, match=r"memory:///bucket/none: there is no such file to read; check the URI"
    ):
        read_interactions("fsspec+memory:///bucket/none")
    for uri in ("nothing://key:secret@bucket/log", "s3://key:secret@bucket/log?wrong=1"):
        with pytest.raises(DataError, match=r"://bucket/log: it cannot be reached \(.*credentials") as raised:
            read_interactions(uri)
        assert "secret" not in str(raised.value)


def test_a_bucket_that_anybody_may_read_needs_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def s3(**options: Any) -> pafs.FileSystem:
        opened.append(options)
        return pafs.SubTreeFileSystem("/nowhere", pafs.LocalFileSystem())

    monkeypatch.setattr(pafs, "S3FileSystem", s3)
    monkeypatch.setattr(pafs, "resolve_s3_region", lambda bucket: f"where {bucket} is")
    for query in ("", "?region=here", "?endpoint_override=localhost%3A9000&scheme=http"):
        with pytest.raises(DataError, match=r"^s3://open/log: there is no such file to read"):
            read_interactions(f"s3://anonymous@open/log{query}")
    assert opened == [
        {"anonymous": True, "region": "where open is"},
        {"anonymous": True, "region": "here"},
        {"anonymous": True, "endpoint_override": "localhost:9000", "scheme": "http"},
    ]
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"^s3://open/log: it cannot be reached \(.*wrong"):
        read_interactions("s3://anonymous@open/log?region=here&wrong=1")


def test_a_uri_of_this_machine_is_a_path(tmp_path: Path) -> None:
    path = write(tmp_path / "a b.parquet", user_id=[1], item_id=[2])
    assert read_interactions(path.as_uri()).source == str(path)
    with pytest.raises(DataError, match="no such file to read"):
        read_interactions((tmp_path / "none.csv").as_uri())


def test_too_many_rows_are_refused_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in range(3):
        write(tmp_path / "log" / f"{part}.parquet", user_id=[1, 2], item_id=[3, 4])
    monkeypatch.setattr("envs.data.interactions._MAX_ROWS", 5)
    monkeypatch.setattr(IdColumn, "add", lambda *_: pytest.fail("a row is read"))
    with pytest.raises(DataError, match=r"log: 6 rows, and at most 5 can be numbered"):
        read_interactions(tmp_path / "log")
