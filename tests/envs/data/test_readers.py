"""What every reader promises, and what each format adds."""

import csv
import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import log_of

from envs.data import READERS, Columns, InteractionLog, guess_format, log_from_frame, read_interactions
from envs.data.ids import MISSING_IDS
from envs.errors import ConfigError, DataError, UnknownNameError

# (user, item, rating, timestamp)
Row = tuple[Any, Any, float, int]


def write_parquet(path: Path, rows: list[Row]) -> None:
    user, item, rating, timestamp = zip(*rows, strict=True)
    table = pa.table({"user_id": user, "item_id": item, "rating": rating, "timestamp": timestamp})
    pq.write_table(table, path)


def write_splits(path: Path, rows: list[Row]) -> None:
    write_parquet(path, rows)
    table = pq.read_table(path)
    splits = pa.array((["train", "validation", "test"] * len(rows))[: len(rows)])
    pq.write_table(table.append_column("split", splits), path)


def write_csv(path: Path, rows: list[Row], header: str = "user_id,item_id,rating,timestamp") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(header + "\r\n")
        csv.writer(file).writerows(rows)


def write_tsv(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["user_id", "item_id", "rating", "timestamp"], *rows])


def write_movielens_csv(path: Path, rows: list[Row]) -> None:
    write_csv(path, rows, "userId,movieId,rating,timestamp")


def write_movielens_dat(path: Path, rows: list[Row]) -> None:
    path.write_text("\n".join("::".join(map(str, row)) for row in rows), encoding="utf-8", newline="")


def write_recbole(path: Path, rows: list[Row]) -> None:
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += ["\t".join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")


def write_adjacency(path: Path, rows: list[Row]) -> None:
    items: dict[Any, list[Any]] = {}
    for user, item, _, _ in rows:
        items.setdefault(user, []).append(item)
    lines = [" ".join(map(str, [user, *items[user]])) for user in items]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {
    "parquet": write_parquet,
    "splits": write_splits,
    "csv": write_csv,
    "tsv": write_tsv,
    "movielens-csv": write_movielens_csv,
    "movielens-dat": write_movielens_dat,
    "recbole": write_recbole,
    "adjacency": write_adjacency,
}
FILE_NAMES = {
    "parquet": "a.parquet",
    "splits": "a.splits.parquet",
    "csv": "a.csv",
    "tsv": "a.tsv",
    "movielens-csv": "ratings.csv",
    "movielens-dat": "ratings.dat",
    "recbole": "a.inter",
    "adjacency": "a.txt",
}


def as_rows(log: InteractionLog) -> dict[tuple[Any, Any], tuple[float | None, float | None]]:
    user, item = log.user_ids[log.user].tolist(), log.item_ids[log.item].tolist()
    rating = [None] * log.num_rows if log.rating is None else log.rating.tolist()
    timestamp = [None] * log.num_rows if log.timestamp is None else log.timestamp.tolist()
    return dict(zip(zip(user, item, strict=True), zip(rating, timestamp, strict=True), strict=True))


def is_canonical_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit()


words = st.text(
    st.characters(categories=["L", "N", "P", "S"], exclude_characters=":"), min_size=1, max_size=6
)
#: Text that is no integer, no missing value, and not what begins a header of adjacency text.
text_ids = words.filter(
    lambda word: (
        not is_canonical_integer(word)
        and word not in MISSING_IDS
        and word.lower() not in ("user", "user_id", "userid")
    )
)
quoted_ids = st.tuples(text_ids, st.sampled_from([",", '"', "::", "\t", "é "]), words).map("".join)
integer_ids = st.integers(0, 2**63 - 1)
ratings = st.floats(-10, 10, width=32)
timestamps = st.integers(-(2**62), 2**62)


def logs(ids: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Row]]:
    rows = st.tuples(ids, ids, ratings, timestamps)
    return st.lists(rows, min_size=1, max_size=12, unique_by=lambda row: row[:2])


def test_every_reader_has_a_writer_here() -> None:
    assert set(WRITERS) == set(READERS)


@pytest.mark.parametrize("form", sorted(READERS))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_reading_what_was_written_gives_the_same_log(form: str, data: st.DataObject) -> None:
    kinds = [integer_ids, text_ids]
    if form in ("csv", "tsv", "movielens-csv", "parquet"):
        kinds.append(quoted_ids)
    rows = data.draw(st.sampled_from(kinds).flatmap(logs))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAMES[form]
        WRITERS[form](path, rows)
        log = read_interactions(path)
    has_values = form != "adjacency"
    assert as_rows(log) == {row[:2]: row[2:] if has_values else (None, None) for row in rows}
    assert log.user_ids.tolist() == sorted({row[0] for row in rows})
    assert log.item_ids.tolist() == sorted({row[1] for row in rows})
    assert log.user.dtype == log.item.dtype == np.int32
    assert log.num_duplicates == 0
    if has_values:
        assert log.rating is not None and log.rating.dtype == np.float32
        assert log.timestamp is not None and log.timestamp.dtype == np.int64


@pytest.mark.parametrize("form", sorted(READERS))
def test_rows_of_the_same_pair_are_merged(form: str, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAMES[form]
    WRITERS[form](path, [(1, 5, 1.0, 10), (1, 6, 1.0, 10), (1, 5, 4.0, 30), (1, 5, 2.0, 20)])
    log = read_interactions(path)
    assert (log.num_rows, log.num_duplicates) == (2, 2)
    if form != "adjacency":
        assert as_rows(log)[1, 5] == (4.0, 30)
        assert as_rows(read_interactions(path, keep="first"))[1, 5] == (1.0, 10)


def test_without_timestamps_the_last_row_of_a_pair_stays() -> None:
    log = log_of(["a", "a", "b"], [1, 1, 1], [3.0, 5.0, 1.0])
    assert as_rows(log) == {("a", 1): (5.0, None), ("b", 1): (1.0, None)}
    frame = pd.DataFrame({"user_id": ["a", "a", "b"], "item_id": 1, "rating": [3.0, 5.0, 1.0]})
    assert as_rows(log_from_frame(frame, keep="first")) == {("a", 1): (3.0, None), ("b", 1): (1.0, None)}


@pytest.mark.parametrize("form", sorted(set(READERS) - {"adjacency"}))
@pytest.mark.parametrize("ids", [["5", " 5", "5 ", "\u00a05 "], ["u1", " u1 ", "u1", "u1 "]])
def test_blanks_around_an_id_are_no_part_of_it(form: str, ids: list[str], tmp_path: Path) -> None:
    path = tmp_path / FILE_NAMES[form]
    WRITERS[form](path, [(user, f"{item} ", 1.0, item) for item, user in enumerate(ids)])
    log = read_interactions(path)
    expected: list[Any] = ["5"] if form in ("parquet", "splits") else [5]
    assert log.user_ids.tolist() == (expected if ids[0] == "5" else ["u1"])
    assert list(map(str, log.item_ids.tolist())) == ["0", "1", "2", "3"] and log.num_rows == 4


def test_blanks_around_ids_of_arrays_and_of_adjacency(tmp_path: Path) -> None:
    assert log_of(["a", " a", "a "], [1, 2, 3]).user_ids.tolist() == ["a"]
    path = tmp_path / "train.txt"
    path.write_text("\u00a01 5\n1 6\n", encoding="utf-8")
    assert read_interactions(path).user_ids.tolist() == [1]


@pytest.mark.parametrize("form", ["csv", "recbole", "movielens-dat", "adjacency"])
@pytest.mark.parametrize(
    "ids", [["007", "8", "9"], ["1", "+2", "3"], ["1", "x", "3"], ["1", "-0", "2"], ["1", str(2**63), "2"]]
)
def test_ids_are_text_unless_all_are_written_as_integers(form: str, ids: list[str], tmp_path: Path) -> None:
    path = tmp_path / FILE_NAMES[form]
    WRITERS[form](path, [(user, 1, 1.0, 1) for user in ids])
    log = read_interactions(path)
    assert log.user_ids.tolist() == sorted(ids)
    assert log.item_ids.dtype == np.int64


def test_parquet_keeps_the_types_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {
        "user_id": pa.array(["12", "3"]).dictionary_encode(),
        "item_id": pa.array([3.0, 4.0]),
        "timestamp": pa.array([1, 2], pa.timestamp("us")),
    }
    pq.write_table(pa.table(columns), path)
    log = read_interactions(path)
    assert log.user_ids.tolist() == ["12", "3"]
    assert log.item_ids.dtype == np.int64 and log.item_ids.tolist() == [3, 4]
    assert log.timestamp is not None and log.timestamp.tolist() == [1, 2]


@pytest.mark.parametrize(
    "type_", [pa.int8(), pa.uint64(), pa.float32(), pa.string(), pa.large_string(), pa.string_view()]
)
def test_parquet_ids_of_every_usable_type(type_: pa.DataType, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    ids = pa.array([5, 3, 5]).cast(pa.string() if "string" in str(type_) else type_).cast(type_)
    pq.write_table(pa.table({"user_id": ids, "item_id": [0, 1, 2]}), path)
    assert read_interactions(path).user.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "names", [("userId", "itemId"), ("user", "item"), ("User ID", "Item-Id"), ("UID", "item")]
)
def test_usual_names_may_be_written_otherwise(names: tuple[str, str], tmp_path: Path) -> None:
    user, item = names
    (tmp_path / "a.csv").write_text(f"{item},Rating,{user}\n7,5,a\n8,4,a\n")
    if user == "UID":
        with pytest.raises(DataError, match="no column 'user_id'"):
            read_interactions(tmp_path / "a.csv")
        return
    log = read_interactions(tmp_path / "a.csv")
    assert list(log.user_ids) == ["a"] and list(log.item_ids) == [7, 8]
    assert log.rating is not None


def test_named_columns_are_read_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("rating,who,what,stars\nbad,1,2,4.5\n")
    log = read_interactions(path, columns=Columns("who", "what", "stars"))
    assert as_rows(log) == {(1, 2): (4.5, None)}


def test_csv_with_byte_order_mark_blank_lines_and_line_ends_in_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf\nuser_id,title,item_id\r\n\r\n1,"a\nb",7\n\n2,"c,""d",8\n')
    assert as_rows(read_interactions(path)) == {(1, 7): (None, None), (2, 8): (None, None)}


def test_bytes_of_unread_columns_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("user_id,item_id,title\n1,2,Amélie\n".encode("latin-1"))
    assert as_rows(read_interactions(path)) == {(1, 2): (None, None)}


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_header_tells_the_separator_of_a_csv(separator: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = ["user_id,item_id,title", '1,7,"Heat, the"', '2,8,"a""b"']
    path.write_text("\n".join(rows).replace(",", separator))
    assert set(as_rows(read_interactions(path))) == {(1, 7), (2, 8)}


@pytest.mark.parametrize("form", sorted(set(READERS) - {"parquet", "splits"}))
def test_text_that_is_compressed(form: str, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAMES[form]
    WRITERS[form](path, [(1, 5, 1.0, 10), (2, 6, 4.0, 20)])
    whole = read_interactions(path)
    compressed = path.with_name(f"{path.name}.gz")
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    assert as_rows(read_interactions(compressed)) == as_rows(whole)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["2001-01-31", "1970-01-02"], [980_899_200, 86_400]),
        (["2001-01-31 12:00:00", "1970-01-01T00:00:01.5"], [980_942_400, 1.5]),
        (["2001-01-31T12:00:00Z", "2001-01-31T12:00:00+01:00"], [980_942_400, 980_938_800]),
    ],
)
def test_times_as_people_write_them(
    form: str, times: list[str], seconds: list[float], tmp_path: Path
) -> None:
    path = tmp_path / FILE_NAMES[form]
    WRITERS[form](path, [(1, item, 1.0, time) for item, time in enumerate(times)])  # type: ignore[misc]
    log = read_interactions(path)
    assert log.timestamp is not None and log.timestamp.dtype == np.int64
    assert (log.timestamp / 1e6).tolist() == seconds


def test_a_folder_of_parquet_parts_is_read_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    (folder / "day=2").mkdir(parents=True)
    for name, (user, item) in {"part-1": (1, 5), "part-0": (2, 6), "day=2/part-0": (3, 6)}.items():
        pq.write_table(pa.table({"user_id": [user], "item_id": [item]}), folder / f"{name}.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".part-9.parquet").write_text("half written")
    log = read_interactions(folder)
    assert as_rows(log).keys() == {(1, 5), (2, 6), (3, 6)}
    pq.write_table(pa.table({"item_id": [1, -7], "user_id": [1, 1]}), folder / "part-2.parquet")
    with pytest.raises(DataError, match=r"part-2\.parquet, row 2: item_id is -7"):
        read_interactions(folder)
    pq.write_table(pa.table({"item_id": [1], "user_id": ["a"]}), folder / "part-2.parquet")
    with pytest.raises(DataError, match=r"part-2\.parquet: it cannot be read as Parquet, or not as .* is \("):
        read_interactions(folder)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_csv(tmp_path / "a.csv", [(1, 2, 3.0, 4)])
    assert as_rows(read_interactions("~/a.csv")) == {(1, 2): (3.0, 4)}
    with pytest.raises(DataError, match="no such file to read"):
        read_interactions("~nobody-of-this-name/a.csv")


def test_timestamps_with_fractions(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user_id,item_id,timestamp\n1,2,1\n1,3,2.5\n")
    log = read_interactions(path)
    assert log.timestamp is not None and log.timestamp.dtype == np.float64
    assert log.timestamp.tolist() == [1.0, 2.5]


def test_adjacency_skips_users_without_items_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("0 5 6 \n\n1\n \n2\t5 \r\n3 7")
    assert set(as_rows(read_interactions(path))) == {(0, 5), (0, 6), (2, 5), (3, 7)}


def test_adjacency_has_no_columns_to_name(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("0 5\n")
    with pytest.raises(ConfigError, match="columns"):
        read_interactions(path, columns=Columns())


@pytest.mark.parametrize("form", sorted(FILE_NAMES))
def test_the_name_of_a_file_tells_its_format(form: str) -> None:
    assert guess_format(Path("somewhere") / FILE_NAMES[form].upper()) == form


def test_a_name_that_tells_no_format() -> None:
    with pytest.raises(DataError, match=r"a\.xlsx: .*adjacency, csv, .*parquet"):
        guess_format("a.xlsx")


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'parquet'"):
        read_interactions(tmp_path / "a.parquet", format="parket")


def test_a_format_given_beats_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_csv(path, [(1, 2, 3.0, 4)])
    assert as_rows(read_interactions(path, format="csv")) == {(1, 2): (3.0, 4)}


def test_single_colons_are_no_separators_of_movielens(tmp_path: Path) -> None:
    path = tmp_path / "ratings.dat"
    path.write_text("1:2:3:4:5:6:7\n")
    with pytest.raises(DataError, match=r"ratings\.dat: it cannot be read .* '2'"):
        read_interactions(path)
