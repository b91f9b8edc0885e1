"""A sweep of streams: what is read before one, what a trial does, who follows it, and what all come to.

A trial follows its stream in a folder of the sweep, where it finds what an earlier try has left: what a
method has of a segment is kept as soon as it is done, so that Tune needs no checkpoints.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ray import tune

from ciess_ray.config.grid import Trial, other_fields
from ciess_ray.config.yaml_values import as_yaml
from ciess_ray.names import STREAM_FILE, STREAM_ROWS_FILE, SWEEP_ROWS_FILE, TRIAL_RESULT_FOLDER
from ciess_ray.statistics import Spread, table_of
from ciess_ray.streaming.config import StreamConfig
from ciess_ray.streaming.driver import read_stream, resume_stream, run_stream
from ciess_ray.streaming.folder import StreamFolder, fingerprint
from ciess_ray.streaming.work import News
from ciess_ray.sweeps.claims import num_threads, within_claims
from ciess_ray.sweeps.monitor import SweepMonitor
from ciess_ray.sweeps.results import trial_columns
from ciess_ray.sweeps.storage import Storage
from ciess_ray.sweeps.trial import (
    IS_FINISHED,
    OBJECTIVE,
    PHASE,
    ROWS,
    STEP,
    TRIAL_FILE,
    definition_of,
    read_sweep,
)
from ciess_ray.terminal import TextTable
from ciess_ray.tracking.runs import RunState
from ciess_ray.tracking.streams import mean_metrics
from envs.errors import ResultError, within

if TYPE_CHECKING:
    import pandas as pd

#: A row a stream, segment and method.
STREAMS_FILE = "streams.parquet"
#: Of a row of people's table: heading and figure.
_COLUMNS = (
    ("N@20", "test/ndcg@20"),
    ("R@20", "test/recall@20"),
    ("cold N@20", "test_cold/ndcg@20"),
    ("cold R@20", "test_cold/recall@20"),
    ("valid. N@20", "validation/ndcg@20"),
)
_NOTHING = "-"


@dataclass(frozen=True)
class Log:
    """A log that streams follow.

    Attributes:
        fingerprint: Of its rows, in their order.
    """

    fingerprint: str


def log_key(config: StreamConfig) -> str:
    """What two streams of the same log have in common."""
    return json.dumps(config.dataset.model_dump(mode="json"), sort_keys=True)


def read_logs(trials: Sequence[Trial], source: str) -> dict[str, Log]:
    """Read every log of some streams, and see that each of its segments has a budget.

    Args:
        trials: Those.
        source: What messages call their plan.

    Returns:
        Logs by :func:`log_key`.

    Raises:
        CiessError: A log cannot be read or cut, or a budget is too small for a segment.
    """
    logs: dict[str, Log] = {}
    seen: set[str] = set()
    for trial in trials:
        config: StreamConfig = trial.config
        # What is read, cut and checked depends on nothing else.
        what = config.model_dump_json(include={"dataset", "segments", "budget", "overflow", "recommender"})
        if what in seen:
            continue
        seen.add(what)
        with within(f"{source}: the trial {trial.name}"):
            stream = read_stream(config)
        logs.setdefault(log_key(config), Log(fingerprint(stream, stream.num_rows)))
    return logs


def rows_of(storage: Storage, trial: str) -> list[dict[str, Any]] | None:
    """Rows of a trial's stream, a segment and method each; None unless it has come to its end."""
    path = Path(storage.location) / trial / TRIAL_RESULT_FOLDER
    if not (path / STREAM_FILE).exists():
        return None
    folder = StreamFolder(path)
    try:
        state = folder.read()
        finished = folder.finished(state, state["config"]["methods"])
    except ResultError:
        # The trial fails with it, and no other.
        return None
    is_complete = len(finished) == len(state["segments"])
    return [row for _, rows in finished for row in rows] if is_complete else None


def run_stream_trial(config: Mapping[str, Any], location: str, sweep: str, shared: Mapping[str, Any]) -> None:
    """What Tune calls: a whole stream, from its start or from where an earlier try has left it.

    Args:
        config: Of Tune; see :func:`.trial.definition_of`.
        location: Of the sweep.
        sweep: Its id.
        shared: Nothing.
    """
    storage, fields = Storage(location), definition_of(config)["fields"]
    plan, _ = read_sweep(storage)
    context = tune.get_context()
    name = context.get_trial_name()
    storage.write(f"{name}/{TRIAL_FILE}", json.dumps(fields, indent=2).encode() + b"\n")
    claims = list(context.get_trial_resources().bundles)
    values = within_claims(plan.parse(fields), claims) | {
        "output": str(Path(storage.location) / name / TRIAL_RESULT_FOLDER),
        # The sweep's driver records all trials.
        "tracking": {"mlflow": False},
    }
    stream = StreamConfig.model_validate(values)
    # Ray gives a process the threads of its own bundle, rounded down.
    torch.set_num_threads(num_threads(stream, claims))
    report = Reporter(stream)
    if (stream.output / STREAM_FILE).exists():
        moved = [] if stream.dataset.path is None else [f"dataset.path={as_yaml(str(stream.dataset.path))}"]
        resume_stream(stream.output, moved, on_progress=report)
    else:
        run_stream(stream, on_progress=report)
    report.finish()


class Reporter:
    """Tells Tune of every segment that is finished, and of the best method so far.

    That is of the methods whose tables are within the budget the one with the best mean quality on validation
    over the segments after the first.
    """

    def __init__(self, config: StreamConfig) -> None:
        self._methods, self._qualities = config.methods, dict[str, list[float]]()
        self._left_out = set[str]()
        self._segment, self._num_segments = 0, 0

    def __call__(self, news: News) -> None:
        """Called with each piece of news."""
        if news.result is None:
            return
        figures = news.result["figures"]
        quality = figures["validation/quality"]
        # Yardsticks have no table, and no cap.
        if figures.get("num_params", 1) > figures.get("cap_params", 0):
            self._left_out.add(news.method)
        elif news.segment > 0 and quality is not None:
            self._qualities.setdefault(news.method, []).append(quality)
        if news.method == self._methods[-1]:
            self._segment, self._num_segments = news.segment + 1, news.num_segments
            self._report(is_finished=False)

    def finish(self) -> None:
        """All is there."""
        self._report(is_finished=True)

    def _report(self, *, is_finished: bool) -> None:
        means = {
            method: sum(qualities) / len(qualities)
            for method, qualities in self._qualities.items()
            if method not in self._left_out
        }
        name, best = max(means.items(), key=lambda item: item[1], default=("", 0.0))
        phase = f"{self._segment} of {self._num_segments} segments" + (f", best: {name}" if name else "")
        tune.report({OBJECTIVE: best, STEP: self._segment, PHASE: phase, ROWS: [], IS_FINISHED: is_finished})


class StreamSweepMonitor(SweepMonitor):
    """Follows the trials of a sweep of streams; see :class:`.monitor.SweepMonitor`."""

    result_files = (SWEEP_ROWS_FILE, STREAMS_FILE)

    def summary_of(self, name: str) -> dict[str, Any] | None:
        """What a stream that is finished came to: its ``rows``."""
        rows = rows_of(self._storage, name)
        return None if rows is None else {"rows": rows}

    def finish(self, name: str) -> None:
        """A trial has its result."""
        trial = self.state.runs[name]
        trial.summary = self.summary_of(name)
        assert trial.summary is not None
        rows = trial.summary["rows"]
        trial.step = max(row["segment"] for row in rows) + 1
        run = self._record(trial)
        if run is not None:
            run.log_metrics(mean_metrics(rows), trial.step)
            run.log_files({self._local(f"{name}/{TRIAL_RESULT_FOLDER}/{STREAM_ROWS_FILE}"): None})
        self.end(name, "finished")

    def _data_key(self, trial: RunState) -> str:
        return log_key(trial.config)


@dataclass(eq=False)
class StreamSweepResults:
    """All streams of a sweep, side by side.

    Args:
        location: Folder of the sweep.
        outcomes: Of its trials.
        seconds: How long it took, since it was started or resumed.
        problems: Sentences on what was not recorded.
    """

    location: str
    outcomes: Sequence[RunState] = field(repr=False)
    seconds: float
    problems: list[str] = field(default_factory=list)
    keeper: object | None = field(default=None, repr=False)

    #: What is to be read with the table.
    note = (
        "means over the segments after the first, ± their standard deviation over n seeds, of users and "
        "items that were known when a segment was trained; cold: of the rows of all others; of equal: N@20 "
        "as a share of that of equal sizes, seed by seed; bytes: of the last segment's table"
    )
    has_report = False

    @property
    def is_complete(self) -> bool:
        """Whether every stream came to its end."""
        return all(outcome.status == "finished" for outcome in self.outcomes)

    def rows(self) -> list[dict[str, Any]]:
        """A row a stream, segment and method; figures are those of its ``stream.parquet``."""
        return [
            {
                "trial": outcome.name,
                "budget": outcome.budget,
                "seed": outcome.config.seed,
                **{f"field/{name}": value for name, value in _differing(outcome).items()},
                **row,
            }
            for outcome in self.outcomes
            if outcome.summary is not None
            for row in outcome.summary["rows"]
        ]

    def to_table(self) -> pa.Table:
        """The same as a table, NULL where a method has no such figure."""
        return table_of(self.rows())

    def table(self) -> "pd.DataFrame":
        """The same as a frame."""
        frame: pd.DataFrame = self.to_table().to_pandas()
        return frame

    def write(self, storage: Storage) -> None:
        """Leave ``streams.parquet``, and ``results.parquet`` with a row a trial, in the sweep's folder."""
        trials = [
            {
                **trial_columns(outcome),
                "num_segments": outcome.step,
                "num_failures": outcome.num_failures,
                "error": outcome.error,
                "folder": f"{self.location}/{outcome.name}/{TRIAL_RESULT_FOLDER}",
            }
            for outcome in self.outcomes
        ]
        for name, table in ((STREAMS_FILE, self.to_table()), (SWEEP_ROWS_FILE, table_of(trials))):
            content = io.BytesIO()
            pq.write_table(table, content, compression="zstd")
            storage.write(name, content.getvalue())

    def to_rich(self) -> TextTable:
        """What people read: a row a method of streams that differ in nothing but the seed."""
        groups: dict[str, dict[int, list[dict[str, Any]]]] = {}
        for row in self.rows():
            if row["segment"] > 0:
                key = json.dumps({**_group(row), "method": row["method"]})
                groups.setdefault(key, {}).setdefault(row["seed"], []).append(row)
        names = dict.fromkeys(name for key in groups for name in json.loads(key) if name != "method")
        heads = (*(name.removeprefix("field/") for name in names), "method", "n")
        ends = (*(head for head, _ in _COLUMNS), "of equal", "bytes", "CPU s")
        table = TextTable(*heads, *ends, first_number=len(heads) - 1)
        for key, seeds in groups.items():
            fields = json.loads(key)
            equal = groups.get(json.dumps(fields | {"method": "equal sizes"}), {})
            means = {seed: _mean(rows, "test/ndcg@20") for seed, rows in seeds.items()}
            of_equal = [
                mean / than
                for seed, mean in means.items()
                if mean is not None and (than := _mean(equal.get(seed, []), "test/ndcg@20"))
            ]
            table.add_row(
                *(str(fields.get(name, "")) for name in (*names, "method")),
                str(len(seeds)),
                *(_spread([_mean(rows, figure) for rows in seeds.values()]) for _, figure in _COLUMNS),
                _spread(of_equal),
                f"{max(rows[-1]['num_bytes'] for rows in seeds.values()):,}",
                f"{sum(row['cpu_s'] for rows in seeds.values() for row in rows) / len(seeds):.1f}",
            )
        return table


def _differing(outcome: RunState) -> dict[str, str | int | float]:
    """Fields of a trial beside data, recommender, budget and seed; its methods are rows of its own."""
    return {name: value for name, value in other_fields(outcome.fields).items() if name != "methods"}


def _group(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name == "budget" or name.startswith("field/")}


def _mean(rows: Sequence[Mapping[str, Any]], figure: str) -> float | None:
    values = [row[figure] for row in rows if row.get(figure) is not None]
    return sum(values) / len(values) if values else None


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return str(Spread.of(known)) if known else _NOTHING
