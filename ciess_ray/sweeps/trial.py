"""One search as a trial of Tune, which it tells of every step and leaves its checkpoints with."""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ray import tune

from ciess_ray import metric_keys
from ciess_ray.config.data import read_recorded
from ciess_ray.config.run import RunConfig
from ciess_ray.names import SEARCH, SWEEP_FILE, TRIAL_RESULT_FOLDER
from ciess_ray.result import RESULT_FILE, read_steps
from ciess_ray.searches.driver import resume, search
from ciess_ray.searches.run import Progress
from ciess_ray.sweeps.claims import num_threads, within_claims
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.storage import Storage
from ciess_ray.tracking.runs import NullTracker

SWEEP_FORMAT = "ciess-ray sweep 1"

#: Keys of what a trial reports.
OBJECTIVE, STEP, PHASE, ROWS, IS_FINISHED = "objective", "step", "phase", "rows", "is_finished"
#: In a trial's folder, what it differs in.
TRIAL_FILE = "trial.json"

#: Phases in which a step is worth a report of its own, because it would take minutes again.
_SLOW_PHASES = ("retraining", "test", "refit")


def run_trial(config: Mapping[str, Any], location: str, sweep: str, shared: Mapping[str, Any]) -> None:
    """What Tune calls: a whole search, from its start or from where Tune's last checkpoint left it.

    Args:
        config: Of Tune; see :func:`definition_of`.
        location: Of the sweep.
        sweep: Its id.
        shared: What was trained ahead, see :func:`ciess_ray.training.preparing.prepare`.
    """
    storage, fields = Storage(location), definition_of(config)["fields"]
    plan, _ = read_sweep(storage)
    context = tune.get_context()
    name = context.get_trial_name()
    if read_summary_of(storage, name) is None:
        # On this node's own disk, whatever the storage is.
        work = work_folder(sweep) / name
        storage.write(f"{name}/{TRIAL_FILE}", json.dumps(fields, indent=2).encode() + b"\n")
        claims = list(context.get_trial_resources().bundles)
        values = within_claims(plan.parse(fields), claims) | {
            "output": str(work / TRIAL_RESULT_FOLDER),
            # What no other trial needs is part of its checkpoints.
            "cache": None,
            # The sweep's driver records all trials.
            "tracking": {"mlflow": False},
        }
        run = RunConfig.model_validate(values)
        # Ray gives a process the threads of its own bundle, which here may be next to nothing.
        torch.set_num_threads(num_threads(run, claims))
        reporter = Reporter(run)
        checkpoint = tune.get_checkpoint()
        # A trial that was tried before on this node left its folder there.
        shutil.rmtree(work, ignore_errors=True)
        if checkpoint is None:
            search(run, tracker=reporter, shared=shared, on_progress=reporter)
        else:
            checkpoint.to_directory(run.output)
            # Whoever heard what it told up to its checkpoint may be gone.
            reporter.report(read_steps(run.output), with_checkpoint=False)
            resume(run.output, config=run, tracker=reporter, shared=shared, on_progress=reporter)
        # Last what says that all is there.
        for file in sorted(run.output.iterdir(), key=lambda file: file.name == RESULT_FILE):
            if file.is_file():
                storage.upload(file, f"{name}/{TRIAL_RESULT_FOLDER}/{file.name}")
        shutil.rmtree(work, ignore_errors=True)
    summary = read_summary_of(storage, name)
    assert summary is not None
    quality = next(row["validation"]["quality"] for row in summary["methods"] if row["name"] == SEARCH)
    tune.report({OBJECTIVE: quality, STEP: summary["num_steps"], PHASE: "done", ROWS: [], IS_FINISHED: True})


def definition_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What Tune's config says of a trial: ``fields`` that others have not, ``claims``, maybe a ``name``."""
    trial = config["trial"]
    definition: dict[str, Any] = json.loads(trial) if isinstance(trial, str) else trial
    return definition


def work_folder(sweep: str) -> Path:
    """Where the trials of a sweep work on a node."""
    return Path(tempfile.gettempdir()) / f"ciess-ray-sweep-{sweep}"


def read_sweep(storage: Storage, overrides: Sequence[str] = ()) -> tuple[SweepPlan, dict[str, Any]]:
    """The plan of the sweep in a folder, and all that its ``sweep.json`` says.

    Args:
        storage: The folder.
        overrides: What is told anew, see :func:`ciess_ray.sweeps.driver.resume_sweep`.

    Raises:
        CiessError: There is no sweep, or it is damaged.
    """
    content, folder = storage.read(SWEEP_FILE), storage.shown
    state, values = read_recorded(content, folder, SWEEP_FILE, SWEEP_FORMAT, overrides)
    values["output"] = storage.location
    return SweepPlan.of(values, f"{folder}/{SWEEP_FILE}", Path()), state


def read_summary_of(storage: Storage, trial: str) -> dict[str, Any] | None:
    """What a trial that is finished says of its result; None for one that is not."""
    content = storage.read(f"{trial}/{TRIAL_RESULT_FOLDER}/{RESULT_FILE}")
    summary: dict[str, Any] | None = None if content is None else json.loads(content)
    return summary if summary is not None and summary["status"] == "finished" else None


class Reporter(NullTracker):
    """The tracker and watcher of a trial's search: what it is told goes to Tune, folder and model nowhere."""

    def __init__(self, config: RunConfig) -> None:
        self._output, self._checkpoints = config.output, config.checkpoint_folder
        self._reported: set[str] = set()
        self._best, self._step, self._phase = 0.0, 0, "start"

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """A step of the search."""
        self.report([{"step": step, "time_ms": int(time.time() * 1000), "metrics": dict(metrics)}])

    def __call__(self, progress: Progress) -> None:
        """Called with each piece of news."""
        is_new = progress.phase != self._phase
        self._phase = progress.phase
        if is_new or (progress.is_step and progress.phase in _SLOW_PHASES):
            self.report([])

    def report(self, rows: list[dict[str, Any]], with_checkpoint: bool = True) -> None:
        """Tell Tune of steps, and leave the checkpoint of the last one with it, if that is new."""
        for row in rows:
            self._best = max(self._best, row["metrics"].get(metric_keys.QUALITY, 0.0))
            self._step = max(self._step, row["step"])
        left = {file.name for file in self._checkpoints.glob("*") if file.suffix in (".checkpoint", ".npz")}
        checkpoint = None
        if with_checkpoint and left != self._reported:
            self._reported = left
            checkpoint = tune.Checkpoint.from_directory(str(self._output))
        tune.report(
            {OBJECTIVE: self._best, STEP: self._step, PHASE: self._phase, ROWS: rows, IS_FINISHED: False},
            checkpoint=checkpoint,
        )
