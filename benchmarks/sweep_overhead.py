"""What a sweep costs beside its searches: a report of a trial, and the start of very many trials.

    python benchmarks/sweep_overhead.py

``report``: one trial tells of 300 steps with as many metrics as a search has, while the driver records them
in MLflow (SQLite); the seconds that each call keeps the trial. ``start``: from the call of a sweep with 1,000
trials to the start of the first one. Writes results/sweep_overhead.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from provenance import provenance
from ray import tune

from ciess_ray import metric_keys
from ciess_ray.config.run import RunConfig
from ciess_ray.sweeps import driver as sweeps
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.trial import IS_FINISHED, OBJECTIVE, PHASE, ROWS, STEP, Reporter
from ciess_ray.tracking.runs import RunsState
from envs.data import generate_interactions

NUM_REPORTS = 300


class Started(Exception):  # noqa: N818
    """The first trial has started."""


def plan_of(folder: Path, num_trials: int) -> SweepPlan:
    log = generate_interactions(300, 200, 8_000, seed=0)
    pq.write_table(pa.table({"user_id": log.user, "item_id": log.item}), folder / "log.parquet")
    values = {
        "base": {"dataset": {"path": str(folder / "log.parquet")}, "recommender": {"device": "cpu"}},
        "space": {"seed": list(range(num_trials))},
        "output": str(folder / "sweep"),
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
    }
    return SweepPlan.of(values, "benchmark", folder)


def report_often(config: dict[str, Any], location: str, sweep: str, shared: dict[str, Any]) -> None:
    """A trial that only reports."""
    run = RunConfig.model_validate({"dataset": {"path": "log.parquet"}, "output": f"{location}/nothing"})
    reporter = Reporter(run)
    keys = [*metric_keys.USER_SIZE_DECILES, *metric_keys.ITEM_SIZE_DECILES, metric_keys.QUALITY]
    keys += [f"benchmark/metric_{number}" for number in range(60 - len(keys))]
    seconds = []
    for step in range(1, NUM_REPORTS + 1):
        metrics = {key: step / (position + 1) for position, key in enumerate(keys)}
        started = time.perf_counter()
        reporter.log_metrics(metrics, step)
        seconds.append(time.perf_counter() - started)
    Path(location, "seconds.json").write_text(json.dumps(seconds))
    tune.report({OBJECTIVE: 1.0, STEP: NUM_REPORTS, PHASE: "done", ROWS: [], IS_FINISHED: False})


def measure_reports(folder: Path) -> dict[str, Any]:
    sweeps.run_trial = report_often
    results = sweeps.sweep(plan_of(folder, 1))
    seconds = json.loads((folder / "sweep" / "seconds.json").read_text())
    return {
        "num_metrics": 60,
        "num_reports": len(seconds),
        "median_ms": 1000 * statistics.median(seconds),
        "p99_ms": 1000 * statistics.quantiles(seconds, n=100)[98],
        "largest_ms": 1000 * max(seconds),
        "problems": results.problems,
    }


def measure_start(folder: Path, num_trials: int) -> dict[str, Any]:
    def follow(state: RunsState) -> None:
        if state.what == "started":
            raise Started

    started = time.perf_counter()
    plan = plan_of(folder, num_trials)
    planned = time.perf_counter()
    try:
        sweeps.sweep(plan, on_change=follow)
    except Started:
        pass
    ended = time.perf_counter()
    return {"num_trials": num_trials, "plan_s": planned - started, "start_s": ended - started}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-trials", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("results/sweep_overhead.json"))
    arguments = parser.parse_args()
    result = provenance()
    with tempfile.TemporaryDirectory() as folder:
        result |= {"report": measure_reports(Path(folder))}
        print(json.dumps(result["report"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result |= {"start": measure_start(Path(folder), arguments.num_trials)}
        print(json.dumps(result["start"]), flush=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
