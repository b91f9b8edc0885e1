"""A stream from its first segment to its last, or from where it was left."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.data import read_log
from ciess_ray.plain_text import command
from ciess_ray.resources import check_training, ray_session
from ciess_ray.streaming.config import SCALL_METHODS, StreamConfig, recorded_config
from ciess_ray.streaming.folder import StreamFolder, fingerprint, row_of
from ciess_ray.streaming.work import News, SegmentWork, Watcher, cap_params
from ciess_ray.tracking.mlflow_store import tell_problems
from ciess_ray.tracking.streams import StreamTracker
from envs.data import InteractionLog
from envs.data.stream import Stream, cut_stream
from envs.errors import BudgetError, DataError, ResultError, within

#: What the journal calls a segment that MLflow has.
_RECORDED = "segment recorded"


def run_stream(
    config: StreamConfig,
    *,
    overwrite: bool = False,
    on_progress: Watcher | None = None,
    on_read: Callable[[Stream], None] | None = None,
) -> list[dict[str, Any]]:
    """Follow a log from its first segment to its last.

    Args:
        config: The stream.
        overwrite: Whether a stream in the output folder may be replaced.
        on_progress: Called with every piece of news.
        on_read: Called with the stream once its log is read and cut, before any work.

    Returns:
        A row a segment and method, as in ``stream.parquet``.

    Raises:
        CiessError: Before anything is trained: the log cannot be read or cut, the budget is too small for a
            segment, or the folder is not free.
    """
    folder = StreamFolder(config.output)
    folder.check(overwrite=overwrite)
    stream, key = read_stream(config), uuid.uuid4().hex[:12]
    if on_read is not None:
        on_read(stream)
    with _session(config), folder.held():
        # Another process may have come to its end as this one read the log.
        folder.check(overwrite=overwrite)
        # What a former stream in the folder has recorded is not this one's.
        with _tracker(config, folder, key, is_anew=True) as tracker:
            folder.begin(key, config.model_dump(mode="json"), stream)
            rows = _follow(config, folder, stream, tracker, on_progress)
    tell_problems(tracker.problems)
    return rows


def resume_stream(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    on_progress: Watcher | None = None,
    on_read: Callable[[Stream], None] | None = None,
) -> list[dict[str, Any]]:
    """Go on with a stream: what a method has of a segment is kept, the rest computed.

    The log may have gone on meanwhile. Segments that are as they were are kept; the last one, which has
    become longer, is done anew, and what came after it follows.

    Args:
        path: Its folder.
        overrides: Where the log lies now, e.g. ``dataset.path=elsewhere.parquet``; where it is recorded, e.g.
            ``tracking.uri=...`` whose password no folder keeps.
        on_progress: Called with every piece of news.
        on_read: As of :func:`run_stream`.

    Raises:
        ConfigError: An override is of another field.
        ResultError: There is no stream, or its log does not begin with the rows that it had.
    """
    folder = StreamFolder(path)
    state = folder.read()
    config = recorded_config(path, state["config"], overrides)
    data = config.dataset.path
    if isinstance(data, Path) and not data.exists():
        raise ResultError(
            f"{path}: its log, {data}, is not there; say where it lies now: "
            f"{command('ciess-ray', 'stream', '--resume', path, 'dataset.path=FILE')}"
        )
    stream = read_stream(config)
    check_followed(path, config, state, stream)
    if on_read is not None:
        on_read(stream)
    with _session(config), folder.held():
        if folder.read() != state:
            raise ResultError(f"{path}: another process has just gone on with this stream; do so once more.")
        folder.tidy()
        if stream.num_rows > state["num_rows"]:
            folder.describe(state["id"], config.model_dump(mode="json"), stream)
        with _tracker(config, folder, state["id"]) as tracker:
            rows = _follow(config, folder, stream, tracker, on_progress)
    tell_problems(tracker.problems)
    return rows


def send_stream(path: Path, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Record the segments of a stream that are finished.

    Runs that the store knows are gone on with and get only what they lack, so that it may be sent twice.

    Args:
        path: Its folder.
        overrides: Where to, if elsewhere than it says: ``tracking.uri=...``, ``tracking.experiment=...``.

    Returns:
        The store, without its secret, and a sentence on each thing that it did not take.

    Raises:
        CiessError: No segment is finished, the stream is under way, or MLflow cannot record there.
    """
    folder = StreamFolder(path)
    state = folder.read()
    config = recorded_config(path, state["config"], [*overrides, "tracking.mlflow=true"])
    with folder.held():
        finished = folder.finished(state, config.methods)
        if not finished:
            again = command("ciess-ray", "stream", "--resume", path)
            raise ResultError(f"{path}: no segment of this stream is finished; go on with it: {again}")
        with _tracker(config, folder, state["id"], is_anew=True) as tracker:
            for number, (segment, rows) in enumerate(finished):
                tracker.segment(number, segment.end, rows, folder.segment(number))
            tracker.is_complete = len(finished) == len(state["segments"])
    return tracker.uri, tracker.problems


def read_stream(config: StreamConfig) -> Stream:
    """Read and cut the log, and see that every segment has a budget.

    Raises:
        DataError: It cannot be read; it has no times, or one; it makes one segment.
        BudgetError: A segment has more users and items than the budget has room for, and they may not share.
    """
    # Of a pair that comes again the last row would move what came before whenever the log goes on.
    return cut_log(config, read_log(config.dataset, keep="first"))


def cut_log(config: StreamConfig, log: InteractionLog) -> Stream:
    """The same of a log that has been read; raises as :func:`read_stream`."""
    stream = cut_stream(log, **dict(config.segments))
    # Rows are never taken away: what the last one needs is enough for all.
    last = len(stream.segments) - 1
    with within(f"budget, for segment {last:03}, the last"):
        try:
            cap_params(config, stream, last)
        except BudgetError as error:
            if config.overflow == "share":
                raise
            raise BudgetError(f"{error} Or let the coldest share a row: overflow=share.") from error
    return stream


def check_followed(path: Path, config: StreamConfig, state: Mapping[str, Any], stream: Stream) -> None:
    """See that a log begins with the rows that a stream has followed.

    Args:
        path: Of the stream.
        config: Its configuration.
        state: What its ``stream.json`` says.
        stream: Its log as it is now.

    Raises:
        ResultError: It does not; with the first row that came late, or else the segment that differs first.
    """
    num_rows = state["num_rows"]
    if fingerprint(stream, num_rows) == state["log"]:
        return
    begin = "or begin a stream of its own in another folder."
    # What was added to the end of the file alone leaves the rows before as they were.
    log = read_log(config.dataset, keep="first")
    time = log.timestamp
    assert time is not None
    is_added_to = False
    with contextlib.suppress(DataError):
        former = cut_stream(log.select(np.arange(min(num_rows, log.num_rows))), **dict(config.segments))
        is_added_to = fingerprint(former, num_rows) == state["log"]
    if is_added_to:
        late = num_rows + np.flatnonzero(time[num_rows:] < former.timestamp[-1])
        user, item = log.user_ids[log.user[late[0]]], log.item_ids[log.item[late[0]]]
        raise ResultError(
            f"{path}: {log.source} has {len(late):,} new rows of an earlier time than the last one that this "
            f"stream has followed, first that of user {user}, item {item} and time {time[late[0]]}; give "
            f"rows that come late the time of their arrival, {begin}"
        )
    raise ResultError(
        f"{path}: {stream.source} does not begin with the {num_rows:,} rows that this stream has followed so "
        f"far{_first_difference(state, stream)}; bring back what is gone, give rows that came late the time "
        f"of their arrival, {begin}"
    )


def _first_difference(state: Mapping[str, Any], stream: Stream) -> str:
    """Which segment is the first that differs, and of which times it is now; empty where that is not told."""
    # Those of earlier versions have none.
    told = state.get("segment_logs", [])
    with contextlib.suppress(KeyError, TypeError):  # Of a file that is damaged.
        for number, (values, log) in enumerate(zip(state["segments"], told, strict=False)):
            start, end = values["start"], values["end"]
            if fingerprint(stream, end, start)[:16] != log:
                times = stream.timestamp[start:end]
                span = f"is of times {times[0]} to {times[-1]} now" if len(times) else "is gone"
                return f": they differ first in segment {number:03}, which {span}"
    return ""


def _follow(
    config: StreamConfig,
    folder: StreamFolder,
    stream: Stream,
    tracker: StreamTracker,
    on_progress: Watcher | None,
) -> list[dict[str, Any]]:
    """Do whatever the folder does not hold yet."""
    rows: list[dict[str, Any]] = []
    # What serves, and its table of rows, stay until there is more.
    latest = min(folder.latest(), len(stream.segments) - 1)
    for number, segment in enumerate(stream.segments):
        work = SegmentWork(config, folder, stream, number, on_progress or _nobody)
        of_segment = [row_of(work.result(method)) for method in config.methods]
        rows += of_segment
        if number >= latest:
            folder.write_rows(rows)
            folder.point_to(number)
        folder.log("segment finished", segment=number, end=segment.end)
        tracker.segment(number, segment.end, of_segment, folder.segment(number))
    tracker.is_complete = True
    return rows


def _tracker(config: StreamConfig, folder: StreamFolder, key: str, *, is_anew: bool = False) -> StreamTracker:
    """Of a stream that has its folder, which knows what the store has."""
    where = {"uri": without_secrets(config.tracking.uri), "experiment": config.tracking.experiment}
    told = [] if is_anew else folder.lines(_RECORDED, **where)

    def confirm(number: int, end: int) -> None:
        folder.log(_RECORDED, segment=number, end=end, **where)

    known = [(line["segment"], line["end"]) for line in told]
    return StreamTracker(config.tracking, folder.path, key, config.model_dump(mode="json"), known, confirm)


@contextlib.contextmanager
def _session(config: StreamConfig) -> Iterator[None]:
    """A Ray for a stream that wants one: for trainings side by side, or for SCALL's policy.

    Raises:
        ConfigError: It can never hold a training.
    """
    resources = config.resources
    if resources.num_workers:
        with ray_session():
            num_gpus = resources.num_gpus_per_training or 0.0
            check_training(config.recommender.device, resources.num_cpus_per_training, num_gpus)
            yield
    elif set(config.methods) & set(SCALL_METHODS):
        # The policy lives in this process and asks for no other.
        with ray_session(num_cpus=1):
            yield
    else:
        yield


def _nobody(news: News) -> None:
    pass
