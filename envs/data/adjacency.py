"""Interactions in text with one line a user: ``user item item ...``, as LightGCN's data sets are."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from envs.data.columns import Columns, build_log
from envs.data.interactions import InteractionLog, check_memory
from envs.data.places import DataFile
from envs.data.text import utf8_remedy
from envs.data.values import checked_text
from envs.errors import ConfigError, DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLOCK_BYTES = 1 << 20


def _read_content(file: DataFile) -> bytes:
    """All of a file, without a byte order mark.

    Raises:
        DataError: Memory cannot hold it.
    """
    content = bytearray()
    with file.open_content() as stream:
        while block := stream.read(_BLOCK_BYTES):
            content += block
            # As one, and by lines.
            check_memory(2 * len(content), str(file))
    return bytes(content).removeprefix(_BYTE_ORDER_MARK)


def _check_no_table(
    file: DataFile, lines: NDArray[np.int64], user: pa.Array, num_words: NDArray[np.int64]
) -> None:
    """Refuse rows of user, item, rating and time, which would be read as a user with two or three items.

    Raises:
        DataError: They have a header, or all have so many words and users come again.
    """
    remedy = "write them as CSV or TSV with a line of names, or name that format (format, or --format)"
    word = user[0].as_py()
    if word.lower().partition(":")[0] in ("user", "user_id", "userid"):
        raise DataError(f"{file}, line {lines[0]}: it begins with {word!r}, as a header does; {remedy}")
    width = int(num_words[0])
    if width in (3, 4) and np.all(num_words == width) and pc.count_distinct(user).as_py() < len(user):
        raise DataError(
            f"{file}: each line has {width} words and users come again, as in rows of user, item and rating; "
            f"{remedy}"
        )


def read_adjacency(file: DataFile, columns: Columns | None) -> InteractionLog:
    """Read lines of a user's id and the ids of its items, separated by spaces or tabs.

    A line that names a user and no item adds no interaction, and the user is left out. Ids are integers or
    text under the same rule as in :func:`envs.data.text.read_text`.

    Args:
        file: The file.
        columns: None; the format names no columns.

    Raises:
        ConfigError: Columns were named.
        DataError: The file is not UTF-8, holds no interactions or another format, or an id cannot be used.
    """
    if columns is not None:
        raise ConfigError(f"{file}: the format adjacency has no columns to name; leave columns out")
    lines = pc.split_pattern(pa.array([_read_content(file)], pa.large_binary()), "\n").flatten()
    texts = checked_text(lines, "it", lambda line: f"{file}, line {line + 1}", utf8_remedy(file))
    words_of_line = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(texts))
    num_words = pc.list_value_length(words_of_line).to_numpy()
    if not np.any(num_words > 1):
        raise DataError(
            f"{file}: it holds no interactions; a line of the format adjacency is `user item item ...`, "
            "separated by spaces"
        )
    users, items_of_line = pc.list_element(words_of_line, 0), pc.list_slice(words_of_line, 1)
    lines = np.flatnonzero(pc.not_equal(users, ""))
    _check_no_table(file, lines + 1, users.take(pa.array(lines)), num_words[lines])
    line_of_row = pc.list_parent_indices(items_of_line)
    return build_log(
        {
            "user": pa.chunked_array([users.take(line_of_row).dictionary_encode()]),
            "item": pa.chunked_array([pc.list_flatten(items_of_line).dictionary_encode()]),
        },
        {"user": "the user", "item": "an item"},
        str(file),
        lambda row: f"{file}, line {line_of_row[row].as_py() + 1}",
        parse_ids=True,
    )
