"""The folder of a stream: what it is, a folder a segment and method, and which segment is the latest.

    stream.json                   configuration, versions, segments, a checksum of the log
    segments/003/split/           what a method has of a segment: result.json, and of a table all that serves
                                  it, so that ``ciess-ray recommend`` reads it
    stream.parquet                a row a segment and method
    journal.jsonl                 what was done when, a line each; lines are only added
    current                       a link to the folder of the latest segment that is finished, or a file with
                                  its name where there are no links

A method's folder of a segment is there whole or not at all, and so are the others; a process that is killed
has lost what it was at.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors
from numpy.typing import NDArray

from ciess_ray.files.formats import read_json, read_json_lines, write_parquet
from ciess_ray.files.manifest import MANIFEST_FILE, Manifest, write_manifest
from ciess_ray.files.whole import check_writable, sole_writer, whole_folder, write_whole
from ciess_ray.names import (
    CURRENT_SEGMENT,
    REPORT_FILE,
    SEGMENTS_FOLDER,
    STREAM_FILE,
    STREAM_FORMAT,
    STREAM_RESULT_FORMAT,
    STREAM_ROWS_FILE,
)
from ciess_ray.plain_text import command
from ciess_ray.result import RESULT_FILE, versions
from ciess_ray.serving.files import safetensors_of
from ciess_ray.serving.stream_tables import current_segment
from envs.data.stream import Segment, Stream
from envs.errors import ResultError

JOURNAL_FILE = "journal.jsonl"
#: What a method keeps for the next segment, beside its table, and what some users would be shown.
MEMORY_FILE, LISTS_FILE = "memory.safetensors", "lists.safetensors"
_LOCK = ".lock"
_FORMATS = {MEMORY_FILE: "ciess-ray stream memory 1", LISTS_FILE: "ciess-ray stream lists 1"}


class StreamFolder:
    """Reads and writes the folder of a stream; one process at a time writes it.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Lines of the journal without their times, and the bytes in which they were read.
        self._told, self._num_told = set[str](), 0

    def check(self, *, overwrite: bool) -> None:
        """Refuse a folder that a new stream would overwrite, before any work is done.

        Raises:
            ResultError: It is a file, cannot be written, or holds a stream, or something else in our names.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ResultError(f"{self.path}: is a file; name a folder for the stream.")
        check_writable(self.path)
        is_stream = (self.path / STREAM_FILE).exists()
        if is_stream and not overwrite:
            raise ResultError(
                f"{self.path}: already holds a stream; name another folder, go on with "
                f"{command('ciess-ray', 'stream', '--resume', self.path)}, or replace it with --overwrite."
            )
        ours = (STREAM_ROWS_FILE, JOURNAL_FILE, SEGMENTS_FOLDER, CURRENT_SEGMENT, REPORT_FILE)
        others = [name for name in ours if os.path.lexists(self.path / name)]
        if others and not is_stream:
            raise ResultError(
                f"{self.path}: there is {others[0]} in it, and no {STREAM_FILE}, so that it is of something "
                "else; name another folder."
            )

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Keep a second process from writing the folder.

        Raises:
            ResultError: One does.
        """
        return sole_writer(self.path / _LOCK)

    def begin(self, key: str, config: Mapping[str, Any], stream: Stream) -> None:
        """Leave what the stream is, and nothing of a former one.

        Args:
            key: By which MLflow finds its runs.
            config: Plain values of its configuration.
            stream: Its log.
        """
        # What stays would be taken for this one's; the folder of segments may be a link to another disk.
        for former in (self.path / SEGMENTS_FOLDER).glob("*"):
            if former.is_dir() and not former.is_symlink():
                shutil.rmtree(former)
            else:
                former.unlink()
        for name in (STREAM_ROWS_FILE, JOURNAL_FILE, CURRENT_SEGMENT, REPORT_FILE):
            (self.path / name).unlink(missing_ok=True)
        self.describe(key, config, stream)

    def describe(self, key: str, config: Mapping[str, Any], stream: Stream) -> None:
        """Leave what the stream is, or has become of a log that has gone on."""
        content = {
            "format": STREAM_FORMAT,
            "id": key,
            "versions": versions(),
            "config": config,
            "num_rows": stream.num_rows,
            "log": fingerprint(stream, stream.num_rows),
            "segments": [vars(segment) for segment in stream.segments],
            # By which it is told where a log differs.
            "segment_logs": [fingerprint(stream, part.end, part.start)[:16] for part in stream.segments],
        }
        write_whole(self.path / STREAM_FILE, json.dumps(content, indent=2) + "\n")

    def read(self) -> dict[str, Any]:
        """What ``stream.json`` says.

        Raises:
            ResultError: There is none, or it is damaged.
        """
        if not (self.path / STREAM_FILE).exists():
            raise ResultError(f"{self.path}: no stream: there is no {STREAM_FILE} in it.")
        state = read_json(self.path / STREAM_FILE, STREAM_FORMAT)
        kinds = {"config": dict, "num_rows": int, "log": str, "segments": list}
        wrong = [name for name, kind in kinds.items() if not isinstance(state.get(name), kind)]
        if wrong:
            raise ResultError(f"{self.path / STREAM_FILE}: damaged: {wrong[0]} is missing, or no such thing.")
        # Before streams were recorded they had no name of their own.
        return {"id": state["log"][:12]} | state

    def tidy(self) -> None:
        """Remove what killed processes have left half done."""
        for pattern in (f".{CURRENT_SEGMENT}.*", ".*.partial"):
            for left in self.path.glob(pattern):
                # A folder is of an export into this one.
                if left.is_symlink() or not left.is_dir():
                    left.unlink(missing_ok=True)
        for left in (self.path / SEGMENTS_FOLDER).glob("*/.*.partial"):
            shutil.rmtree(left, ignore_errors=True)

    def segment(self, number: int) -> Path:
        """The folder of a segment."""
        return self.path / SEGMENTS_FOLDER / f"{number:03}"

    def method(self, number: int, method: str) -> Path:
        """The folder of what a method has of a segment."""
        return self.segment(number) / method.replace(" ", "-")

    def result(self, number: int, method: str, segment: Segment) -> dict[str, Any] | None:
        """What a method came to in a segment; None where it has not been there, or has of fewer rows.

        Raises:
            ResultError: It is damaged.
        """
        file = self.method(number, method) / RESULT_FILE
        if not file.exists():
            return None
        self.verify(number, method, RESULT_FILE)
        result = read_json(file, STREAM_RESULT_FORMAT)
        return result if result.get("rows") == vars(segment) else None

    def finished(
        self, state: Mapping[str, Any], methods: Sequence[str]
    ) -> list[tuple[Segment, list[dict[str, Any]]]]:
        """The segments that every method is done with, up to the first that is not; of each its rows.

        Args:
            state: What :meth:`read` gave.
            methods: Their names.

        Raises:
            ResultError: A segment, or a result, is damaged.
        """
        done: list[tuple[Segment, list[dict[str, Any]]]] = []
        for number, values in enumerate(state["segments"]):
            try:
                segment = Segment(**values)
            except TypeError as error:
                raise ResultError(f"{self.path / STREAM_FILE}: damaged ({error}).") from error
            results = [result for method in methods if (result := self.result(number, method, segment))]
            if len(results) < len(methods):
                break
            done.append((segment, [row_of(result) for result in results]))
        return done

    def write(
        self,
        number: int,
        method: str,
        result: Mapping[str, Any],
        write_table: Callable[[Path], None] | None,
        arrays: Mapping[str, Mapping[str, NDArray[Any]]],
    ) -> None:
        """Leave what a method came to in a segment, all of it at once.

        Args:
            number: Of the segment.
            method: Its name.
            result: What it came to.
            write_table: Writes what serves the table into a folder; None where there is no table.
            arrays: What is kept for the next segment, by file; of a file without arrays nothing is left.
        """
        path = self.method(number, method)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(path) as folder:
            if write_table is not None:
                write_table(folder)
            for file, values in arrays.items():
                whole = {name: np.ascontiguousarray(value) for name, value in values.items()}
                if whole:
                    write_whole(folder / file, safetensors_of(whole, {"format": _FORMATS[file]}))
            content = {"format": STREAM_RESULT_FORMAT, **result}
            write_whole(folder / RESULT_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")
            write_manifest(folder, {file.name for file in folder.iterdir()})

    def kept(self, file: str, number: int, method: str) -> dict[str, NDArray[Any]]:
        """What is kept of a segment for the next in a file of arrays, by name; empty where nothing is.

        Args:
            file: ``MEMORY_FILE`` or ``LISTS_FILE``.
            number: Of the segment; before the first nothing was kept.
            method: Its name.

        Raises:
            ResultError: It is damaged.
        """
        folder = self.method(number, method)
        if number < 0 or not self.verify(number, method).has(file):
            return {}
        self.verify(number, method, file)
        try:
            with safetensors.safe_open(folder / file, framework="numpy") as opened:
                if (opened.metadata() or {}).get("format") != _FORMATS[file]:
                    raise ValueError(f"not of the format {_FORMATS[file]!r}")
                return {name: opened.get_tensor(name) for name in opened.keys()}
        except Exception as error:  # Of safetensors or NumPy, by where the damage is.
            raise ResultError(
                f"{folder / file}: damaged ({error}); remove {self.segment(number)}, and resume."
            ) from error

    def verify(self, number: int, method: str, *files: str) -> Manifest:
        """See that files of what a method has of a segment are as they were written.

        Returns:
            What is written down of all of them.

        Raises:
            ResultError: One is not, or nothing is written down.
        """
        folder = self.method(number, method)
        try:
            manifest = Manifest.read(folder)
            if manifest.digests is None:
                raise ResultError(f"{folder}: damaged: there is no {MANIFEST_FILE} in it.")
            if files:
                manifest.verify(*files)
        except ResultError as error:
            raise ResultError(f"{error} In a stream: remove {folder}, and resume.") from error
        return manifest

    def memory(self, number: int, method: str) -> dict[str, NDArray[Any]]:
        """What a method keeps of a segment for the next, see :meth:`kept`."""
        return self.kept(MEMORY_FILE, number, method)

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """A row a segment and method, of figures that are plain."""
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
        write_parquet(self.path / STREAM_ROWS_FILE, pa.table(columns))

    def lines(self, event: str, **values: Any) -> list[dict[str, Any]]:
        """Lines of the journal that say so, in order."""
        line = {"event": event, **values}
        return [before for before in self._journal() if line.items() <= before.items()]

    def _journal(self) -> list[dict[str, Any]]:
        file = self.path / JOURNAL_FILE
        told = read_json_lines(file) if file.exists() else []
        return [line for line in told if isinstance(line, dict)]

    def log(self, event: str, **values: Any) -> None:
        """Add a line to the journal, unless the same was told before."""
        file, line = self.path / JOURNAL_FILE, {"event": event, **values}
        num_bytes = file.stat().st_size if file.exists() else 0
        # A stream of days asks thousands of times: it is read again if somebody else has written it.
        if num_bytes != self._num_told:
            self._told = {_untimed(before) for before in self._journal()}
        if _untimed(line) not in self._told:
            text = json.dumps(line | {"time": datetime.now(UTC).isoformat(timespec="seconds")})
            # The line of a killed process may be torn.
            is_torn = num_bytes > 0 and num_bytes != self._num_told and not file.read_bytes().endswith(b"\n")
            with file.open("a", encoding="utf-8") as journal:
                journal.write(("\n" if is_torn else "") + text + "\n")
            self._told.add(_untimed(line))
            num_bytes = file.stat().st_size
        self._num_told = num_bytes

    def latest(self) -> int:
        """The segment that ``current`` leads to; -1 where it leads to none."""
        try:
            return int(current_segment(self.path).name)
        except (ResultError, ValueError):
            return -1

    def point_to(self, number: int) -> None:
        """Have ``current`` lead to a segment, from one moment to the next."""
        target = self.segment(number).relative_to(self.path)
        new = self.path / f".{CURRENT_SEGMENT}.{uuid.uuid4().hex[:8]}"
        try:
            new.symlink_to(target, target_is_directory=True)
        except (OSError, NotImplementedError):
            # There are no links here, or none for this user: a file with the name says the same.
            write_whole(self.path / CURRENT_SEGMENT, f"{target.as_posix()}\n")
            return
        try:
            os.replace(new, self.path / CURRENT_SEGMENT)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise


def _untimed(line: Mapping[str, Any]) -> str:
    """A line of the journal without its time; equal ones are equal."""
    return json.dumps({name: value for name, value in line.items() if name != "time"}, sort_keys=True)


def row_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What ``stream.parquet`` says of a segment and method."""
    return {**{name: result[name] for name in ("segment", "method", "chosen")}, **result["figures"]}


def fingerprint(stream: Stream, num_rows: int, start: int = 0) -> str:
    """SHA-256 in hex of a stream's rows from ``start`` to ``num_rows``, and of the ids that they bring.

    Ids are text here: numbers in a text file become text when one that is none arrives.
    """
    digest = hashlib.sha256()
    for array, kind in ((stream.user, "<i4"), (stream.item, "<i4"), (stream.timestamp, "<f8")):
        digest.update(array[start:num_rows].astype(kind).tobytes())
    for numbers, ids in ((stream.user, stream.user_ids), (stream.item, stream.item_ids)):
        num_known = int(numbers[:num_rows].max(initial=-1)) + 1
        num_before = int(numbers[:start].max(initial=-1)) + 1
        digest.update(json.dumps(list(map(str, ids[num_before:num_known].tolist()))).encode())
    return digest.hexdigest()
