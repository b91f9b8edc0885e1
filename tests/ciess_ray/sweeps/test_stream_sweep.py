"""Streams that differ in some fields, side by side: gone on with, and compared over seeds."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from stream_log import CAP, write_log

from ciess_ray.statistics import Spread
from ciess_ray.streaming.config import StreamConfig
from ciess_ray.streaming.driver import run_stream
from ciess_ray.streaming.work import News
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.driver import check, resume_sweep, sweep
from ciess_ray.sweeps.streams import STREAMS_FILE, Reporter
from ciess_ray.sweeps.trial import OBJECTIVE, PHASE
from envs.errors import CiessError

METHODS = ["equal sizes", "popular ever"]


@pytest.fixture
def base(tmp_path):
    write_log(tmp_path / "log.parquet")
    return {
        "dataset": {"path": str(tmp_path / "log.parquet")},
        "segments": {"rows": 60},
        "budget": f"{CAP} params",
        "methods": METHODS,
        "recommender": {"max_embedding_size": 8, "device": "cpu"},
        "training": {"batch_size": 64, "batches": 3, "warm_batches": 2},
    }


@pytest.fixture
def make(base, tmp_path):
    def make(**fields):
        values = {
            "base": base,
            "space": {"seed": [0, 1]},
            "output": str(tmp_path / "sweep"),
            "tracking": {"mlflow": False},
            "max_failures": 0,
        }
        return SweepPlan.of(values | fields, "made up", tmp_path)

    return make


def plain(rows):
    """Figures without seconds, of a table's or a stream's rows."""
    return [
        {
            name: value
            for name, value in row.items()
            if "_s" not in name and name not in ("trial", "budget", "seed") and value is not None
        }
        for row in rows
    ]


def test_streams_are_gone_on_with_and_one_that_fails_stops_no_other(
    make, base, tmp_path, ray_cluster, run_cli
):
    plan, folder = make(), tmp_path / "sweep"
    # As a disk may leave what was begun.
    damaged = folder / plan.trials[1].name / "result" / "stream.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    results = sweep(plan)
    assert [outcome.status for outcome in results.outcomes] == ["finished", "failed"]
    assert f"{damaged}: damaged" in results.outcomes[1].error and not results.is_complete
    assert {row["seed"] for row in results.rows()} == {0}
    damaged.unlink()
    results = resume_sweep(str(folder))
    assert results.is_complete
    status, _, complained = run_cli("report", folder)
    assert status == 2 and "its trials are streams" in complained
    rows = pq.read_table(folder / STREAMS_FILE).to_pylist()
    for seed in (0, 1):
        alone = StreamConfig(**base, seed=seed, output=tmp_path / str(seed), tracking={"mlflow": False})
        assert plain(run_stream(alone)) == plain([row for row in rows if row["seed"] == seed])
    equal, popular = (
        [cell.plain for cell in row]
        for row in zip(*(c.cells for c in results.to_rich().columns), strict=True)
    )
    assert equal[:3] == [f"{CAP} params", "equal sizes", "2"] and popular[:3] == [
        f"{CAP} params",
        "popular ever",
        "2",
    ]
    later = [
        [
            row["test/ndcg@20"]
            for row in rows
            if row["method"] == METHODS[0] and row["segment"] and row["seed"] == seed
        ]
        for seed in (0, 1)
    ]
    assert equal[3] == str(Spread.of([np.mean(of_seed) for of_seed in later])) and equal[8] == "1.0000±0.0000"


def test_the_quality_of_a_stream_is_that_of_tables_within_the_budget_after_the_first_segment(
    base, monkeypatch
):
    told = []
    monkeypatch.setattr("ray.tune.report", told.append)
    within, beyond, none = {"num_params": 9, "cap_params": 9}, {"num_params": 10, "cap_params": 9}, {}
    methods = {
        "equal sizes": [(0.9, within), (0.1, within), (0.2, within)],
        "split": [(0.1, within), (0.3, within), (0.2, within)],
        "scall reference": [(0.1, within), (0.8, within), (0.8, beyond)],
        "item cosine": [(0.9, none)] * 3,
    }
    report = Reporter(StreamConfig(**base | {"methods": list(methods)}))
    for number in range(3):
        for method, of_segments in methods.items():
            quality, figures = of_segments[number]
            result = {"figures": {"validation/quality": quality, **figures}}
            report(News(number, 3, method, result=result))
    assert [one[PHASE] for one in told] == [
        "1 of 3 segments",
        "2 of 3 segments, best: scall reference",
        "3 of 3 segments, best: split",
    ]
    assert told[0][OBJECTIVE] == 0 and told[2][OBJECTIVE] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"scheduler": {"name": "asha"}}, "streams are followed to their end"),
        ({"output": "s3://bucket/sweep"}, "name one on a disk that all nodes share"),
        ({"space": {"budget": ["3 params"]}}, "the trial 0_budget-3-params.*segment 002, the last"),
        ({"set": {"resources.num_workers": 9}}, r"claims 1 \+ 9 x 1 = 10 CPU.* lower resources.num_workers"),
        ({"set": {"search.num_episodes": 9}}, "search"),
    ],
)
def test_what_cannot_work_is_told_before_any_stream_begins(make, tmp_path, ray_cluster, fields, says):
    with pytest.raises(CiessError, match=f"(?s){says}"):
        check(make(**fields))
    assert not (tmp_path / "sweep").exists()
