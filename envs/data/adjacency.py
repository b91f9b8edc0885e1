"""Interactions in text with one line a user: ``user item item ...``, as LightGCN's data sets are."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from envs.data.columns import Columns, build_log
from envs.data.files import other_kind, read_content
from envs.data.interactions import InteractionLog
from envs.errors import ConfigError, DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _words(content: bytes, starts: NDArray[np.int64]) -> pa.LargeStringArray:
    """The words that begin at ``starts``, which are all there are, shape (len(starts),)."""
    offsets = pa.py_buffer(np.append(starts, len(content)))
    words = pa.LargeStringArray.from_buffers(len(starts), offsets, pa.py_buffer(content))
    return pc.ascii_rtrim_whitespace(words)


def _check_no_table(path: Path, user: pa.Array, num_words: NDArray[np.int64], first_line: int) -> None:
    """Refuse rows of user, item, rating and time, which would be read as a user with two or three items.

    Raises:
        DataError: They have a header, or all have so many words and users come again.
    """
    remedy = "write them as CSV or TSV with a line of names, or name that format (format, or --format)"
    if user[0].as_py().lower().partition(":")[0] in ("user", "user_id", "userid"):
        word = user[0].as_py()
        raise DataError(f"{path}, line {first_line}: it begins with {word!r}, as a header does; {remedy}")
    width = int(num_words[0])
    if width in (3, 4) and np.all(num_words == width) and pc.count_distinct(user).as_py() < len(user):
        raise DataError(
            f"{path}: each line has {width} words and users come again, as in rows of user, item and rating; "
            f"{remedy}"
        )


def read_adjacency(path: Path, columns: Columns | None) -> InteractionLog:
    """Read lines of a user's id and the ids of its items, separated by spaces or tabs.

    A line that names a user and no item adds no interaction, and the user is left out. Ids are integers or
    text under the same rule as in :func:`envs.data.text.read_text`.

    Args:
        path: The file.
        columns: None; the format names no columns.

    Raises:
        ConfigError: Columns were named.
        DataError: The file is not UTF-8, holds no interactions or another format, or an id cannot be used.
    """
    if columns is not None:
        raise ConfigError(f"{path}: the format adjacency has no columns to name; leave columns out")
    content = read_content(path).removeprefix(_BYTE_ORDER_MARK)
    characters = np.frombuffer(content, np.uint8)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        remedy = other_kind(path) or "save the file as UTF-8"
        raise DataError(f"{path}, line {line}: it is not UTF-8 text; {remedy}") from None
    # Space, and tab to carriage return: the white space of ASCII.
    is_space = (characters == 32) | ((characters >= 9) & (characters <= 13))
    is_start = ~is_space
    is_start[1:] &= is_space[:-1]
    starts = np.flatnonzero(is_start)
    line_of_token = np.searchsorted(np.flatnonzero(characters == 10), starts)
    is_user = np.append(True, line_of_token[1:] != line_of_token[:-1])[: len(starts)]
    num_words = np.diff(np.append(np.flatnonzero(is_user), len(starts)))
    is_user_with_items = is_user.copy()
    is_user_with_items[is_user] = num_words > 1
    if not np.any(is_user_with_items):
        raise DataError(
            f"{path}: it holds no interactions; a line of the format adjacency is `user item item ...`, "
            "separated by spaces"
        )
    words = _words(content, starts)
    _check_no_table(path, words.filter(pa.array(is_user)), num_words, int(line_of_token[0]) + 1)
    user = words.filter(pa.array(is_user_with_items)).dictionary_encode()
    item = words.filter(pa.array(~is_user)).dictionary_encode()
    row_of = np.repeat(np.arange(len(user)), num_words[num_words > 1] - 1)
    line_of_row = line_of_token[~is_user]
    return build_log(
        {"user": pa.chunked_array([user.take(pa.array(row_of))]), "item": pa.chunked_array([item])},
        {"user": "the user", "item": "an item"},
        str(path),
        lambda row: f"{path}, line {line_of_row[row] + 1}",
        parse_ids=True,
    )
