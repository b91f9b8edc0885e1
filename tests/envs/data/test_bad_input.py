"""Each bad input is one DataError that names the file, the place and the remedy."""

import gzip
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import log_of

from envs.data import Columns, read_column_names, read_interactions
from envs.data.interactions import check_memory, check_rows
from envs.errors import DataError

CSV_HEADER = "user_id,item_id,rating,timestamp\n"
RECBOLE_HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def refuse(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        read_interactions(path, **options)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert ";" in message or "Columns(" in message or "correct" in message, "there is no remedy"
    return message.removeprefix(str(path))


def refuse_text(folder: Path, name: str, content: str | bytes, **options: Any) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return refuse(path, **options)


def refuse_parquet(folder: Path, **columns: Any) -> str:
    path = folder / "a.parquet"
    pq.write_table(pa.table(columns), path)
    return refuse(path)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "train.txt"])
def test_missing_file_directory_and_empty_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert "no such file" in refuse(path)
    path.touch()
    assert "0 bytes" in refuse(path)
    path.unlink()
    path.mkdir()
    assert "directory" in refuse(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV_HEADER),
        ("a.csv", CSV_HEADER.rstrip()),
        ("a.csv", CSV_HEADER + "\n\r\n"),
        ("a.inter", RECBOLE_HEADER),
        ("ratings.csv", "userId,movieId,rating,timestamp\n"),
        ("ratings.dat", "\n\n"),
        ("a.csv", "\n"),
        ("train.txt", "\n \n"),
        ("train.txt", "1\n2\n"),
        ("train.txt", "1,2\n"),
    ],
)
def test_no_rows(name: str, content: str, tmp_path: Path) -> None:
    message = refuse_text(tmp_path, name, content)
    assert "holds no interactions" in message or "it is empty" in message


def test_parquet_without_rows(tmp_path: Path) -> None:
    message = refuse_parquet(tmp_path, user_id=pa.array([], pa.int64()), item_id=pa.array([], pa.int64()))
    assert "holds no interactions" in message


def test_missing_column_names_those_there_are(tmp_path: Path) -> None:
    message = refuse_text(tmp_path, "a.csv", "users,item_id,title\n1,2,x\n")
    assert "'user_id'" in message and "'users', 'item_id', 'title'" in message
    assert "Did you mean 'users'?" in message and "dataset.columns" in message
    message = refuse_parquet(tmp_path, user_id=[1], items=[1])
    assert "'item_id'" in message and "Did you mean 'items'?" in message
    message = refuse_text(tmp_path, "b.csv", "user_id,item_id\n1,2\n", columns=Columns(rating="stars"))
    assert "'stars' for the rating" in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "shop,item_id\n1,2\n", "'item_id'. Name the columns"),
        ("a.csv", "item,itemid,user\n1,2,3\n", "no column 'item_id'"),
        ("ratings.csv", "userId,item\n1,2\n", "Did you mean 'item'?"),
        ("a.inter", "user_id:token,item_id:token\n1,2\n", "fields are separated by tabs"),
        ("a.csv", "user_id item_id\n1 2\n", "fields are separated by commas"),
        ("a.tsv", "user_id item_id\n1 2\n", "fields are separated by tabs"),
        ("a.csv", "196,242,3\n1,2,4\n", "the first line looks like a row: put one of names above it"),
        ("a.csv", "u1;i5;4.5\nu2;i5;4\n", "the first line looks like a row"),
    ],
)
def test_the_way_out_of_a_missing_column(name: str, content: str, words: str, tmp_path: Path) -> None:
    assert words in refuse_text(tmp_path, name, content)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    assert "it is a pipe or a device" in refuse(path)
    with pytest.raises(DataError, match="/dev/zero: it is a pipe or a device"):
        read_interactions("/dev/zero", format="adjacency")


def test_compressed_files_that_cannot_be_read(tmp_path: Path) -> None:
    content = gzip.compress((CSV_HEADER + "".join(f"{n},2,3,4\n" for n in range(20_000))).encode())
    assert "cut off" in refuse_text(tmp_path, "a.csv.gz", content[:-2000])
    assert "cut off" in refuse_text(tmp_path, "b.csv.gz", CSV_HEADER)
    with pytest.raises(DataError, match=r"b\.csv\.gz: it cannot be read .* cut off"):
        read_column_names(tmp_path / "b.csv.gz")
    assert "compressed with gzip" in refuse_text(tmp_path, "c.csv", content)
    assert "archive or a spreadsheet" in refuse_text(tmp_path, "d.csv", b"PK\x03\x04\xff\xfe")
    assert "decompress the file" in refuse_text(tmp_path, "e.parquet.gz", content)
    zst = tmp_path / "a.csv.zst"
    zst.touch()
    with pytest.raises(DataError, match=r"a\.csv\.zst: its name tells no format.*must be unpacked first"):
        read_interactions(zst)


def test_rows_that_cannot_be_numbered_or_held() -> None:
    check_rows(10**6, 4, "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: 2,147,483,648 rows, and at most"):
        check_rows(2**31, 2, "a.parquet")
    with pytest.raises(DataError, match=r"train\.txt\.gz: 4,[0-9,]+\.\d GB would have to be held"):
        check_memory(2**62, "train.txt.gz")


def test_duplicate_column(tmp_path: Path) -> None:
    assert "2 columns are named 'item_id'" in refuse_text(
        tmp_path, "a.csv", "user_id,item_id,item_id\n1,2,3\n"
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 3, names=["user_id", "user_id", "item_id"]), path)
    assert "2 columns are named 'user_id'" in refuse(path)


def test_one_column_for_two_roles(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match="'item_id' cannot be both the user and the item; name two columns"):
        read_interactions(path, columns=Columns("item_id", "item_id"))


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        ("a.csv", CSV_HEADER + "1,2,3,4\n\n1,3,3\n", 4, "3 fields where there should be 4"),
        ("a.csv", CSV_HEADER + "1,2,3,4,5\n", 2, "5 fields where there should be 4"),
        ("a.csv", CSV_HEADER + "1,2,x,4\n", 2, "rating is 'x', not a number"),
        ("a.csv", CSV_HEADER + "1,2,,4\n", 2, "rating is '', not a number"),
        ("a.csv", CSV_HEADER + "1,2,3,soon\n", 2, "timestamp is 'soon', neither a number nor an ISO time"),
        (
            "a.csv",
            CSV_HEADER + "1,2,3,9\n1,3,3,2001-01-31\n",
            3,
            "an ISO time; store all of the column as numbers",
        ),
        ("a.csv", CSV_HEADER + "1,2,3,2001-01-31\n1,3,3,2001-01-31T00:00Z\n", 3, "with an offset from UTC"),
        (
            "a.csv",
            CSV_HEADER + "1,2,3,2001-01-31\n1,3,3,2001-13-31\n",
            3,
            "timestamp is '2001-13-31', neither",
        ),
        ("a.csv", CSV_HEADER.replace(",", ";") + "1;2;3,5;4\n", 2, "with a point before its decimals"),
        ("a.csv", CSV_HEADER + "1,nan,3,4\n", 2, "item_id is 'nan', which other programs write"),
        ("ratings.dat", "1::2::3::4\nNULL::2::3::4\n", 2, "user is 'NULL', which other programs write"),
        ("train.txt", "a b\nb None\n", 2, "an item is 'None', which other programs write"),
        (
            "a.csv",
            CSV_HEADER + '1,2,3,4\n1, "2",3,4\n',
            3,
            "item_id begins with a blank before its quotation",
        ),
        ("a.csv", CSV_HEADER + "1,2,3,4\n1,3,nan,4\n", 3, "rating is nan, not a finite number"),
        ("a.csv", CSV_HEADER + "\n\n1,2,-inf,4\n", 4, "rating is -inf, not a finite number"),
        ("a.csv", CSV_HEADER + "1,2,1e300,4\n", 2, "not a finite number"),
        ("a.csv", CSV_HEADER + "1,2,3,inf\n", 2, "timestamp is inf, not a finite number"),
        ("a.csv", CSV_HEADER + "1,2,3,4\n,2,3,4\n", 3, "user_id is ''"),
        ("a.csv", CSV_HEADER + "1,  ,3,4\n", 2, "item_id is ''"),
        ("a.csv", CSV_HEADER + "1,2,3,4\n1,-3,3,4\n", 3, "item_id is -3"),
        ("a.csv", CSV_HEADER + '1,2,3,4\n1,"2,3,4\n5,6,7,8\n', 3, "is never closed"),
        (
            "ratings.dat",
            "1::2::3::4\n\n1::2::3\n",
            3,
            "5 fields where there should be 7 (user::item::rating::timestamp)",
        ),
        ("ratings.dat", "1::2::3::4\r\n1::x::y::4\r\n", 2, "rating is 'y', not a number"),
        ("ratings.dat", "1::2::3::4\n-1::2::3::4", 2, "user is -1"),
        ("a.inter", RECBOLE_HEADER + "1\t2\t3\t4\n1 2 3 4\n", 3, "1 fields where there should be 4"),
        ("a.inter", RECBOLE_HEADER + "1\t2\t3\tnow\n", 2, "timestamp is 'now', neither"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n1,,3,4\n", 3, "movieId is ''"),
        ("ratings.dat", "1::2::3::4\n1:2::3::4::5\n", 2, "8 fields where there should be 7"),
        ("train.txt", "1 2 3\n\n2 3 -4\n", 3, "an item is -4"),
        ("train.txt", "1 2 3\n-2 3 4\n", 2, "the user is -2"),
        ("train.txt", "\nuser_id\titem_id\n1\t2\n", 2, "it begins with 'user_id', as a header does"),
    ],
)
def test_rows_are_refused_with_their_line(
    name: str, content: str, line: int, words: str, tmp_path: Path
) -> None:
    message = refuse_text(tmp_path, name, content)
    assert message.startswith(f", line {line}: ") and words in message


def test_rows_of_ratings_are_not_taken_for_lists_of_items(tmp_path: Path) -> None:
    message = refuse_text(
        tmp_path, "ratings.txt", "1 5 4.0 978300760\n2 5 3.0 978300761\n1 6 4.0 978300762\n"
    )
    assert "each line has 4 words and users come again" in message and "CSV or TSV" in message


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(st.sampled_from(["1,a,x,5\n", "\n", '2,b,"b\nc",5\n', "\r\n", '3,c,"d""\n\n",5\r\n'])),
    bad=st.sampled_from(
        ["1,a,x\n", "1,a,x,5,6\n", "1,a,x,five\n", "1,a,x,nan\n", ",a,x,5\n", "-1,a,x,5\n", '"\n",a,x,5\n']
    ),
    after=st.lists(st.sampled_from(["1,e,x,5\n", "\n", '2,f,"f\ng",5\n'])),
)
def test_lines_are_counted_over_blank_lines_and_line_ends_in_quotes(
    before: list[str], bad: str, after: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = "user_id,item_id,title,rating\n" + "".join([*before, bad, *after])
    line = 2 + "".join(before).count("\n")
    assert refuse_text(tmp_path_factory.mktemp("bad"), "a.csv", content).startswith(f", line {line}: ")


def test_a_row_that_is_too_long_is_named(tmp_path: Path) -> None:
    content = CSV_HEADER + "1,2,3,4\n" + "u" * 3_000_000 + ",2,3,4\n"
    message = refuse_text(tmp_path, "a.csv", content)
    assert message.startswith(", line 3: a row of more than 1,048,576 bytes; look for line ends")


def test_a_row_far_down_is_found(tmp_path: Path) -> None:
    rows = "".join(f"{row},{row},1\n" for row in range(200_000))
    message = refuse_text(tmp_path, "a.csv", f"user_id,item_id,rating\n{rows}1,2\n")
    assert message.startswith(", line 200002: 2 fields")
    message = refuse_text(tmp_path, "b.csv", f"user_id,item_id,rating\n{rows}-1,2,3\n")
    assert message.startswith(", line 200002: user_id is -1")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", b"user_id,item_id\n1,2\nJos\xe9,3\n", 3),
        ("a.csv", b"user_id,na\xefve\n1,2\n", 1),
        ("a.csv", "user_id,item_id\n1,2\n".encode("utf-16"), 1),
        ("a.inter", RECBOLE_HEADER.encode() + b"1\t\xff\t3\t4\n", 2),
        ("ratings.dat", b"1::2::3::4\n1::\xe9::3::4\n", 2),
        ("train.txt", b"a b\n\nc \xe9\n", 3),
    ],
)
def test_text_that_is_not_utf8(name: str, content: bytes, line: int, tmp_path: Path) -> None:
    message = refuse_text(tmp_path, name, content)
    assert (
        message.startswith(f", line {line}: it is ") and "not UTF-8 text; save the file as UTF-8" in message
    )


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"user_id": [1, None], "item_id": [1, 2]}, "row 2: user_id is missing"),
        ({"user_id": ["a", "b"], "item_id": ["a", ""]}, "row 2: item_id is ''"),
        ({"user_id": [1, -7], "item_id": [1, 2]}, "row 2: user_id is -7"),
        ({"user_id": [1.0, 2.5], "item_id": [1, 2]}, "row 2: user_id is 2.5"),
        ({"user_id": [1.0, float("nan")], "item_id": [1, 2]}, "row 2: user_id is nan"),
        ({"user_id": pa.array([2**64 - 1], pa.uint64()), "item_id": [1]}, "row 1: user_id is 1844674"),
        ({"user_id": [True, False], "item_id": [1, 2]}, "user_id is of type bool"),
        ({"user_id": [[1], [2]], "item_id": [1, 2]}, "user_id is of type list"),
        (
            {"user_id": [b"a", b"\xff\xfe"], "item_id": [1, 2]},
            r"row 2: user_id is b'\xff\xfe', not UTF-8 text",
        ),
        ({"user_id": pa.nulls(1), "item_id": [1]}, "row 1: user_id is missing"),
        ({"user_id": [1, 1], "item_id": [1, 2], "rating": [1.0, float("nan")]}, "row 2: rating is nan"),
        ({"user_id": [1, 1], "item_id": [1, 2], "rating": [float("inf"), 1]}, "row 1: rating is inf"),
        ({"user_id": [1, 1], "item_id": [1, 2], "rating": [1.0, None]}, "row 2: rating is missing"),
        ({"user_id": [1], "item_id": [1], "rating": ["5"]}, "rating is of type string"),
        (
            {"user_id": [1], "item_id": [1], "timestamp": ["now"]},
            "row 1: timestamp is 'now', neither a number",
        ),
        ({"user_id": [1], "item_id": [1], "timestamp": ["7"]}, "timestamp is '7', a number; store"),
        ({"user_id": ["a", "b\nc"], "item_id": [1, 2]}, r"row 2: user_id is 'b\nc', and an id holds no line"),
        (
            {"user_id": ["a", "None"], "item_id": [1, 2]},
            "row 2: user_id is 'None', which other programs write",
        ),
    ],
)
def test_parquet_values_are_refused_with_their_row(
    columns: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in refuse_parquet(tmp_path, **columns)


def test_a_parquet_file_that_is_none_or_is_cut_off(tmp_path: Path) -> None:
    assert "cannot be read as Parquet" in refuse_text(tmp_path, "a.parquet", "user_id,item_id\n1,2\n")
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    pq.write_table(pa.table({"user_id": range(1000), "item_id": range(1000)}), whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    assert "cannot be read as Parquet" in refuse(cut)
    cut.write_bytes(content[:40] + b"\xff" * 400 + content[440:])
    refuse(cut)


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.string_view()])
def test_parquet_text_that_is_not_utf8(type_: pa.DataType, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"user_id": pa.array(["good", "Jose"], type_), "item_id": [1, 2]}), path, compression="none"
    )
    path.write_bytes(path.read_bytes().replace(b"Jose", b"Jos\xe9"))
    assert refuse(path).startswith(r", row 2: user_id is b'Jos\xe9', not UTF-8")


def test_a_frame_is_checked_as_files_are() -> None:
    with pytest.raises(DataError, match=r"mine, row 2 \(index 1\): user_id is -1"):
        log_of([1, -1], [1, 2], source="mine")
    with pytest.raises(DataError, match="user_id is of type list"):
        log_of([[1, 2], [3, 4]], [1, 2])
    for strange in ([10**5000, 1], [2**64, 1]):
        with pytest.raises(DataError, match="user_id, which is of type int there, cannot be read"):
            log_of(strange, [1, 2])


@pytest.mark.parametrize("name", ["a.csv", "train.txt"])
def test_an_integer_of_very_many_digits_is_text(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    long = "9" * 5000
    path.write_text(f"user_id,item_id\n{long},2\n1,3\n" if name == "a.csv" else f"{long} 2\n1 3\n")
    assert read_interactions(path).user_ids.tolist() == ["1", long]


pieces = st.sampled_from(
    [
        b"1",
        b"-2",
        b"a",
        b",",
        b"::",
        b"\t",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b'"',
        b"\x00",
        b"\xff",
        b"\xc3\xa9",
        b"\x1f",
    ]
)


@pytest.mark.parametrize("name", ["a.csv", "a.inter", "ratings.dat", "ratings.csv", "train.txt", "a.parquet"])
@settings(max_examples=150, deadline=None)
@given(content=st.lists(pieces, max_size=30).map(b"".join), has_header=st.booleans())
def test_whatever_a_file_holds_it_is_read_or_refused(
    name: str, content: bytes, has_header: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    headers = {
        "a.csv": b"user_id,item_id\n",
        "a.inter": b"user_id:token\titem_id:token\n",
        "ratings.csv": b"userId,movieId\n",
    }
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(headers.get(name, b"") * has_header + content)
    try:
        log = read_interactions(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert log.num_rows > 0


@settings(max_examples=100, deadline=None)
@given(place=st.floats(0, 1), junk=st.binary(min_size=1, max_size=8))
def test_a_parquet_file_with_changed_bytes_is_read_or_refused(
    place: float, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.parquet"
    pq.write_table(pa.table({"user_id": ["a", "b", "c"], "item_id": [1, 2, 3]}), path)
    content = path.read_bytes()
    start = int(place * len(content))
    path.write_bytes(content[:start] + junk + content[start + len(junk) :])
    try:
        read_interactions(path)
    except DataError as error:
        assert str(path) in str(error)
