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
)
from envs.errors import ResultError


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
        ResultError: No segment is finished, none of its methods has a table, or a result is damaged.
    """
    place = path.resolve()
    if (path / STREAM_FILE).is_file():
        segment = current_segment(path)
    elif _is_segment(place):
        segment = place
    elif _is_segment(place.parent) and not (path / TABLE_FILE).exists():
        segment = place.parent
    else:
        return None
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


def _is_segment(place: Path) -> bool:
    return place.parent.name == SEGMENTS_FOLDER and (place.parent.parent / STREAM_FILE).is_file()
