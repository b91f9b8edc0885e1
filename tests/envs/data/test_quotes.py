"""Quotation marks: what is quoted as it should be is read, and a stray mark swallows no rows unseen."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.data import read_interactions
from envs.errors import DataError


def written(path: Path, content: str) -> Path:
    encoded = content.encode()
    path.write_bytes(gzip.compress(encoded) if path.suffix == ".gz" else encoded)
    return path


def pairs_of(path: Path) -> set[tuple[Any, Any]]:
    log = read_interactions(path)
    user, item = log.user_ids[log.user].tolist(), log.item_ids[log.item].tolist()
    return set(zip(user, item, strict=True))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "ratings.csv", "a.csv.gz", "semicolons.csv"])
@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        # Never closed: in an id, in a title, in the last line.
        ('1,12,x\n1,"13,x\n2,14,x\n3,15,x\n', 3, "is never closed"),
        ('1,12,x\n1,13,"x\n2,14,x\n3,15,x\n', 3, "is never closed"),
        ('1,12,x\n\n1,13,"x', 4, "is never closed"),
        ('1,12,x\n1,13,"x\n', 3, "is never closed"),
        ('1,12,"a\nb"\n1,"13,x\n', 4, "is never closed"),
        ('1,12,"a\nb"\n"1\n', 4, "is never closed"),
        # Two stray marks that pair up.
        ('1,12,x\n1,"13,x\n2,14,x\n3,"15,x\n4,16,x\n', 3, "begins here with '13"),
        ('1,12,x\n"1,13,x\n2,14,x\n3,15",x,y\n4,16,x\n', 3, "begins here with '1"),
        ('1,12,x\n1,13,"x\n2,14,x\n3,15,x"\n4,16,x\n', 3, "goes on in line 4, which looks like a row"),
        ('1,12,x\n1,13,"x\n2,14,"x\n4,16,x\n', 3, "goes on in line 4, which looks like a row"),
        ('1,12,x\n1,13,"x\n2,X4,x"\n4,16X,x\n', 3, "goes on in line 4, which looks like a row"),
        # A value begins where its mark stands, not where its row does.
        ('1,12,"a\nb"\n2,13,"a\n\nb\n5,6,c"\n', 4, "goes on in line 7, which looks like a row"),
        ('1,12,x\n2,"\n13",x\n', 3, "item_id begins here with '13'"),
    ],
)
def test_a_stray_mark_is_refused_with_the_line_of_its_value(
    name: str, rows: str, line: int, words: str, tmp_path: Path
) -> None:
    names = ("userId", "movieId") if name == "ratings.csv" else ("user_id", "item_id")
    words = words.replace("item_id", names[1])
    content = ",".join([*names, "title"]) + "\n" + rows
    content = content.replace(",", {"a.tsv": "\t", "semicolons.csv": ";"}.get(name, ","))
    path = written(tmp_path / name, content)
    with pytest.raises(DataError) as raised:
        read_interactions(path)
    message = str(raised.value)
    assert message.startswith(f"{path}, line {line}: ") and words in message


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("rows", "line", "what"),
    [
        ('1,5,x,3\n1,"5"6,x,3\n', 3, "item_id"),
        ('1,5,"x, ""y""",3\n\n"1"2,5,"x",3\n', 4, "user_id"),
        ('1,""5,x,3\n', 2, "item_id"),
        ('1,5,x,"3"0\n', 2, "rating"),
        # It could be anything.
        ('1,5,"x\ny"z,3\n', 3, "a value"),
        ('1,5,"x"y"z,3\n1,"5"6,"x",3\n', 3, "item_id"),
        # After a title as it may be.
        ('1,5,"x"y,3\n1,7,"""x"" y"z,3\n2,"5"6,x,3\n', 4, "item_id"),
    ],
)
def test_text_behind_the_mark_that_closes_a_value_is_refused(
    name: str, rows: str, line: int, what: str, tmp_path: Path
) -> None:
    content = "user_id,item_id,title,rating\n" + rows
    path = written(tmp_path / name, content.replace(",", "\t") if name == "a.tsv" else content)
    with pytest.raises(DataError, match="text behind the quotation mark that closes") as raised:
        read_interactions(path)
    assert str(raised.value).startswith(f"{path}, line {line}: ") and f"closes {what}; " in str(raised.value)


def test_text_behind_a_mark_may_stay_in_a_column_that_is_not_read(tmp_path: Path) -> None:
    rows = '1,5,"Weird Al" Yankovic\n2,6,12" vinyl\n"3","7","a, ""b"", c"\n4,8,""\n5,"9",""""\n6,10,"a,"b\n'
    path = written(tmp_path / "a.csv", "user_id,item_id,title\n" + rows)
    assert pairs_of(path) == {(1, 5), (2, 6), (3, 7), (4, 8), (5, 9), (6, 10)}


def test_a_mark_among_many_rows_is_found(tmp_path: Path) -> None:
    rows = [f'{n},{n % 7},"Heat, the {n}"\n' for n in range(50_000)]
    rows[20_000] = '20000,3,"Heat\n'
    path = written(tmp_path / "a.csv", "user_id,item_id,title\n" + "".join(rows))
    with pytest.raises(DataError, match=r"line 20002: .*quotation mark"):
        read_interactions(path)


def test_marks_in_formats_without_quoting_are_characters(tmp_path: Path) -> None:
    path = written(tmp_path / "ratings.dat", '1::"12::3::4\n2::13::3::4\n3::"14::3::4\n')
    assert pairs_of(path) == {(1, '"12'), (2, "13"), (3, '"14')}


def test_the_header_may_not_go_on_in_the_next_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'user_id,item_id,"title\n1,2,x"\n3,4,y\n')
    with pytest.raises(DataError, match="line 1: a name of a column goes on"):
        read_interactions(path)
    path = written(tmp_path / "b.csv", 'user_id,item_id,"title\n1,2,x\n3,4,y\n')
    with pytest.raises(DataError, match=r"line 1: .*never closed"):
        read_interactions(path)


def test_a_long_last_row_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'user_id,item_id,title\n1,2,"a"\n"3",4,' + "x" * 100_000 + "\n")
    assert pairs_of(path) == {(1, 2), (3, 4)}
    path = written(
        tmp_path / "b.csv", 'user_id,item_id,title\n1,2,"a"\n"3",4,"x\n' + "xxxx\n" * 25_000 + '"\n'
    )
    with pytest.raises(DataError, match=r"line 3: .*never closed, or not within 100,000 characters"):
        read_interactions(path)


def test_a_mark_at_the_beginning_of_the_last_line_of_many(tmp_path: Path) -> None:
    # The line before ends where a block of the file does.
    lines = "user_id,item_id\n" + "1,2\n" * ((1 << 18) - 4)
    path = written(tmp_path / "a.csv", lines + '"3",4\n')
    assert len(lines) == 1 << 20 and pairs_of(path) == {(1, 2), (3, 4)}
    path = written(tmp_path / "b.csv", lines + '3,"4\n')
    with pytest.raises(DataError, match=r"line 262142: .*never closed"):
        read_interactions(path)


def test_titles_and_reviews_may_hold_line_ends(tmp_path: Path) -> None:
    rows = (
        '1,7,"Good,\nnot great, but good"\n\n2,8,"5,\r\n\r\nsee 4, 2, 1"\n3,9,12" vinyl\n4,9,"a ""b""\nc"\n'
    )
    path = written(tmp_path / "a.csv", "user_id,item_id,review\n" + rows)
    assert pairs_of(path) == {(1, 7), (2, 8), (3, 9), (4, 9)}


texts = st.text(st.sampled_from('a,"\n\r;\t 1'), max_size=8)
ids = st.text(st.sampled_from('ab,";1'), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(ids, ids, texts, texts), min_size=1, max_size=8),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_is_quoted_as_it_should_be_is_read_or_refused_never_misread(
    rows: list[tuple[str, str, str, str]],
    quoting: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=quoting)
    writer.writerow(["user_id", "title", "item_id", "review"])
    # Beside a text id, so that no column is read as integers.
    writer.writerows(
        [("x", "", "x", ""), *((user, title, item, review) for user, item, title, review in rows)]
    )
    path = written(tmp_path_factory.mktemp("quotes") / "a.csv", stream.getvalue())
    try:
        found = pairs_of(path)
    except DataError as error:
        assert "looks like a row" in str(error)
        assert any("\n" in text or "\r" in text for row in rows for text in row[2:])
    else:
        assert found == {("x", "x"), *((row[0], row[1]) for row in rows)}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_one_or_two_stray_marks_lose_no_rows_unseen(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [f"{n},{n + 100},title {n}" for n in range(10)]
    content = "\n".join(lines) + "\n"
    for place in sorted(
        data.draw(st.sets(st.integers(0, len(content)), min_size=1, max_size=2)), reverse=True
    ):
        content = content[:place] + '"' + content[place:]
    path = written(tmp_path_factory.mktemp("stray") / "a.csv", "user_id,item_id,title\n" + content)
    try:
        assert read_interactions(path).num_rows == 10
    except DataError as error:
        assert str(path) in str(error)
