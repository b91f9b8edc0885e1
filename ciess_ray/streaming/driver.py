"""A stream from its first segment to its last, or from where it was left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ciess_ray.config.data import read_log
from ciess_ray.config.yaml_file import check_values, put_overrides
from ciess_ray.plain_text import command
from ciess_ray.streaming.config import StreamConfig
from ciess_ray.streaming.folder import StreamFolder, fingerprint
from ciess_ray.streaming.work import News, SegmentWork, Watcher, cap_params
from envs.data.stream import Stream, cut_stream
from envs.errors import ResultError, within


def run_stream(
    config: StreamConfig, *, overwrite: bool = False, on_progress: Watcher | None = None
) -> list[dict[str, Any]]:
    """Follow a log from its first segment to its last.

    Args:
        config: The stream.
        overwrite: Whether a stream in the output folder may be replaced.
        on_progress: Called with every piece of news.

    Returns:
        A row a segment and method, as in ``stream.parquet``.

    Raises:
        CiessError: Before anything is trained: the log cannot be read or cut, the budget is too small for a
            segment, or the folder is not free.
    """
    folder = StreamFolder(config.output)
    folder.check(overwrite=overwrite)
    stream = read_stream(config)
    with folder.held():
        folder.begin(config.model_dump(mode="json"), stream)
        return _follow(config, folder, stream, on_progress)


def resume_stream(
    path: Path, overrides: Sequence[str] = (), *, on_progress: Watcher | None = None
) -> list[dict[str, Any]]:
    """Go on with a stream: what a method has of a segment is kept, the rest computed.

    The log may have gone on meanwhile. Segments that are as they were are kept; the last one, which has
    become longer, is done anew, and what came after it follows.

    Args:
        path: Its folder.
        overrides: Where the log lies now, e.g. ``dataset.path=elsewhere.parquet``.
        on_progress: Called with every piece of news.

    Raises:
        ResultError: There is no stream, or its log does not begin with the rows that it had.
    """
    folder = StreamFolder(path)
    state = folder.read()
    values = put_overrides(dict(state["config"]), overrides) | {"output": str(path)}
    config = check_values(StreamConfig, values, str(path))
    data = config.dataset.path
    if data is not None and not data.exists():
        raise ResultError(
            f"{path}: its log, {data}, is not there; say where it lies now: "
            f"{command('ciess-ray', 'stream', '--resume', path, 'dataset.path=FILE')}"
        )
    stream = read_stream(config)
    if fingerprint(stream, state["num_rows"]) != state["log"]:
        raise ResultError(
            f"{path}: {stream.source} does not begin with the {state['num_rows']:,} rows that this stream "
            "has followed so far; bring those back, or begin a stream of its own in another folder."
        )
    with folder.held():
        folder.tidy()
        if stream.num_rows > state["num_rows"]:
            folder.describe(config.model_dump(mode="json"), stream)
        return _follow(config, folder, stream, on_progress)


def read_stream(config: StreamConfig) -> Stream:
    """Read and cut the log, and see that every segment has a budget.

    Raises:
        DataError: It cannot be read; it has no times, or one; it makes one segment.
        BudgetError: A segment has more users and items than the budget has room for.
    """
    log = read_log(config.dataset)
    stream = cut_stream(log, **dict(config.segments))
    # Rows are never taken away: what the last one needs is enough for all.
    last = len(stream.segments) - 1
    with within(f"budget, for segment {last}, the last"):
        cap_params(config, stream, last)
    return stream


def _follow(
    config: StreamConfig, folder: StreamFolder, stream: Stream, on_progress: Watcher | None
) -> list[dict[str, Any]]:
    """Do whatever the folder does not hold yet."""
    rows: list[dict[str, Any]] = []
    for number in range(len(stream.segments)):
        work = SegmentWork(config, folder, stream, number, on_progress or _nobody)
        rows += [work.row(method, work.result(method)) for method in config.methods]
        folder.write_rows(rows)
        folder.point_to(number)
        folder.log("segment finished", segment=number, end=stream.segments[number].end)
    return rows


def _nobody(news: News) -> None:
    pass
