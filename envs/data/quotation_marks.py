"""Where quotation marks of a text file open and close values, and where they cannot."""

import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from envs.data.files import open_bytes
from envs.errors import DataError

#: A row of this follows the last one, unless a quotation mark is still open; no file decodes to it.
END = "\ud800"


def is_closed(line: bytes, separator: str) -> bool:
    """Whether no quotation mark is open at the end of a line that begins a row."""
    try:
        *_, last = csv.reader([line.decode(errors="surrogateescape"), END], delimiter=separator)
    except csv.Error:
        return False
    return last == [END]


class Marks:
    """Whether the quotation marks of a file, whole lines of it at a time, may be followed by text.

    In a quoted value an odd run of marks closes it, and outside one such a run opens it where it begins a
    field; even runs are empty values, or stand for marks. Where runs that look like the one and like the
    other take turns, each is what it looks like; everything else is suspicious.
    """

    def __init__(self, separator: str) -> None:
        self._ends, self._was_opening = np.array([10, 13, ord(separator)], np.uint8), False
        self.are_suspicious = False

    def see(self, lines: bytes) -> None:
        """Whole lines, the next ones of the file."""
        characters = np.frombuffer(b"\n" + lines + b"\n", np.uint8)
        marks = np.flatnonzero(characters == 34)
        first = marks[characters[marks - 1] != 34]
        last = marks[characters[marks + 1] != 34]
        is_odd = (last - first) % 2 == 0
        begins, ends = (np.isin(characters[near], self._ends) for near in (first - 1, last + 1))
        turns = np.concatenate([[self._was_opening], begins[is_odd]])
        self.are_suspicious |= bool(
            np.any(is_odd & (begins == ends))
            or np.any(~is_odd & begins & ~ends)
            or np.any(turns[1:] == turns[:-1])
        )
        self._was_opening = bool(turns[-1])


def check_behind_marks(path: Path, separator: str, names: list[str], positions: dict[str, int]) -> None:
    """Refuse text behind the mark that closes a value, such as ``"5"6``, which parsers read as 56.

    In a column that is not read it may stay, unless the row goes on over several lines.

    Raises:
        DataError: There is some.
    """
    part = re.escape(separator)
    field = re.compile(rf'(?:"(?:[^"]|"")*"([^{part}\r\n]*)|[^{part}\r\n]*)(?:{part}|[\r\n]|$)')
    text, num_lines = "", 0

    def lines(file: io.TextIOWrapper) -> Iterator[str]:
        nonlocal text, num_lines
        for text in file:
            num_lines += 1
            yield text

    with io.TextIOWrapper(open_bytes(path), "utf-8-sig", "surrogateescape", "") as file:
        is_over = False
        while not is_over:
            last = num_lines
            try:
                for _ in csv.reader(lines(file), delimiter=separator, strict=True):
                    last = num_lines
                is_over = True
            except csv.Error as error:
                if "expected after" not in str(error):
                    # Too long a value, or a mark that is never closed, of which is told elsewhere.
                    return
                behind = [found[1] for found in field.finditer(text)]
                is_whole = num_lines == last + 1 and is_closed(os.fsencode(text), separator)
                wrong = [place for place in positions.values() if place < len(behind) and behind[place]]
                if wrong or not is_whole:
                    what = names[wrong[0]] if wrong else "a value"
                    raise DataError(
                        f"{path}, line {num_lines}: there is text behind the quotation mark that closes "
                        f"{what}; delete it, or double the marks within the value"
                    ) from error
