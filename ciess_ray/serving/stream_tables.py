"""Which table of a stream serves: there is one for each segment and method."""

import math
from pathlib import Path

from ciess_ray.files.formats import read_json
from ciess_ray.names import (
    CURRENT_SEGMENT,
    RESULT_FILE,
    SEGMENTS_FOLDER,
    STREAM_FILE,
    STREAM_RESULT_FORMAT,
    TABLE_FILE,
    TRIAL_RESULT_FOLDER,
)
from envs.errors import ResultError, unknown_name, within


def current_segment(path: Path) -> Path:
    """The folder of the latest segment of a stream that is finished.

    Args:
        path: The folder of the stream.

    Raises:
        ResultError: None is.
    """
    current = path / CURRENT_SEGMENT
    if current.is_symlink() or not current.is_file():
        folder = current
    else:
        folder = path / current.read_text(encoding="utf-8").strip()
    if not folder.is_dir():
        raise ResultError(f"{path}: no segment of a stream is finished here.")
    return folder.resolve()


def tables_of(path: Path) -> list[Path] | None:
    """The folders of the tables of a stream's latest segment, or of a segment; the best on validation first.

    What is beyond the budget comes last, however good it is.

    Args:
        path: Of a stream, of a segment, or of a method in it.

    Returns:
        None where the folder is no part of a stream, or has a table itself.

    Raises:
        ResultError: No segment is finished, none of its methods has a table, or a result is damaged; there
            is no such segment, or it is of a method without a table.
        UnknownNameError: There is no such method in the segment.
    """
    place = path.resolve()
    if (path / STREAM_FILE).is_file():
        return _of_segment(path, current_segment(path))
    if _is_segment(place):
        return _of_segment(path, _there(place))
    if not _is_segment(place.parent) or (path / TABLE_FILE).exists():
        return None
    # Whoever names a method wants no other one.
    names = [table.name for table in _of_segment(path, _there(place.parent))]
    if place.is_dir():
        raise ResultError(f"{path}: there is no table of it; these have one: {', '.join(names)}.")
    with within(path.parent):
        raise unknown_name("folder of a table", place.name, names)


def tables_below(path: Path) -> list[Path]:
    """The folders with a table, or of a stream, that a sweep or a trial of one has below its own."""
    return [
        file.parent
        for name in (TABLE_FILE, STREAM_FILE)
        for trials in ("", "*/")
        for file in sorted(path.glob(f"{trials}{TRIAL_RESULT_FOLDER}/{name}"))
    ]


def _of_segment(path: Path, segment: Path) -> list[Path]:
    places = {}
    for file in sorted(segment.glob(f"*/{TABLE_FILE}")):
        figures = read_json(file.parent / RESULT_FILE, STREAM_RESULT_FORMAT).get("figures", {})
        quality = figures.get("validation/quality")
        is_beyond = figures.get("num_params", 0) > figures.get("cap_params", math.inf)
        places[file.parent] = is_beyond, 1.0 if quality is None else -float(quality)
    if not places:
        raise ResultError(
            f"{path}: of this stream no method has a table that could serve; add one to methods."
        )
    return sorted(places, key=places.__getitem__)


def _there(segment: Path) -> Path:
    """A segment's folder, if there is one."""
    if not segment.is_dir():
        latest = current_segment(segment.parent.parent).name
        raise ResultError(f"{segment}: no such segment of this stream; its latest is {latest}.")
    return segment


def _is_segment(place: Path) -> bool:
    return place.parent.name == SEGMENTS_FOLDER and (place.parent.parent / STREAM_FILE).is_file()
