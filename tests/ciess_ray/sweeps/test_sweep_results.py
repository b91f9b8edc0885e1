import io
import json

import pyarrow.parquet as pq
import pytest

from ciess_ray.config.yaml_file import parse_config
from ciess_ray.sweeps.results import SweepResults
from ciess_ray.sweeps.storage import Storage
from ciess_ray.terminal import Terminal
from ciess_ray.tracking.runs import RunState

BYTES = {"5%": 5_000, "10%": 10_000, "20%": 20_000}


def row(name, num_bytes, quality, test):
    return {
        "name": name,
        "num_params": num_bytes // 4,
        "packed_bytes": num_bytes,
        "kept_ratio": num_bytes / 100_000,
        "validation": {"quality": quality, "recall@20": quality},
        "test": {"recall@20": test, "ndcg@20": test + 0.1},
        "best_batch": 7,
        "mean_user_size": 2.0,
        "mean_item_size": 1.0,
    }


def outcome(budget, recommender, seed, quality, test, status="finished", **fields):
    own = {"budget": budget, "recommender.name": recommender, "seed": seed, **fields}
    config = parse_config(
        {
            "dataset": {"path": "log.parquet"},
            "budget": budget,
            "recommender": {"name": recommender},
            "seed": seed,
        }
        | ({"agent": {"gamma": fields["agent.gamma"]}} if fields else {})
    )
    name = f"{budget}-{recommender}-{seed}-{len(fields)}"
    if status != "finished":
        failed = RunState(name, own, config, status=status, quality=0.1, step=3, num_failures=4)
        failed.error = "TrainingError: NaN"
        return failed
    summary = {
        "status": "finished",
        "budget": {
            "asked": budget,
            "cap_params": 9_999,
            "num_params": 9_998,
            "kept_ratio": 0.1,
            "max_packed_bytes": 1,
        },
        "methods": [
            row("full size", 100_000, 0.4, 0.35),
            row("equal sizes", BYTES[budget], 0.2, 0.15),
            row("search", BYTES[budget], quality, test),
        ],
        "seconds": {"search": 1.5},
    }
    return RunState(name, own, config, status="finished", summary=summary, quality=quality, step=12)


@pytest.fixture
def results():
    return SweepResults(
        "runs/there",
        [
            outcome("20%", "lightgcn", 0, 0.30, 0.25),
            outcome("5%", "lightgcn", 0, 0.20, 0.20),
            outcome("5%", "lightgcn", 1, 0.22, 0.24),
            # Worse than half of it.
            outcome("10%", "lightgcn", 0, 0.19, 0.60),
            outcome("5%", "mf", 0, 0.10, 0.10),
            outcome("20%", "mf", 0, 0.0, 0.0, status="failed"),
        ],
        12.5,
    )


def test_groups_are_means_over_seeds_the_smallest_tables_first(results):
    groups = results.groups()
    assert [(g.recommender, g.budget, g.seeds) for g in groups] == [
        ("lightgcn", "5%", [0, 1]),
        ("lightgcn", "10%", [0]),
        ("lightgcn", "20%", [0]),
        ("mf", "5%", [0]),
    ]
    first = groups[0].metrics
    assert first["search"]["recall@20"].mean == pytest.approx(0.22)
    assert first["search"]["recall@20"].sd == pytest.approx(0.02828, abs=1e-5)
    assert str(first["search"]["recall@20"]) == "0.2200±0.0283"
    assert first["equal"]["quality"].mean == 0.2 and groups[1].metrics["full"]["ndcg@20"].sd is None
    assert groups[0].fields == {"budget": "5%", "recommender.name": "lightgcn"}


def test_the_front_is_chosen_on_validation(results):
    front = [(group.recommender, group.budget) for group in results.groups() if group.is_on_front]
    # Test alone would have chosen 10 %.
    assert front == [("lightgcn", "5%"), ("lightgcn", "20%"), ("mf", "5%")]


def test_other_fields_make_groups_of_their_own():
    own = [
        outcome("5%", "mf", seed, 0.1, 0.1, **{"agent.gamma": gamma})
        for seed in (0, 1)
        for gamma in (0.0, 0.5)
    ]
    groups = SweepResults("there", own, 1.0).groups()
    assert [(group.seeds, group.fields["agent.gamma"]) for group in groups] == [([0, 1], 0.0), ([0, 1], 0.5)]


def test_all_trials_are_rows_of_a_table(results):
    table = results.to_table().to_pylist()
    assert len(table) == 6 and table[0]["search/test/ndcg@20"] == pytest.approx(0.35)
    failed = table[-1]
    assert (
        failed["status"] == "failed"
        and failed["error"] == "TrainingError: NaN"
        and failed["num_failures"] == 4
    )
    assert failed["search/test/ndcg@20"] is None and failed["field/budget"] == "20%" and failed["seed"] == 0
    assert table[0]["seconds/search"] == 1.5 and table[0]["cap_params"] == 9_999
    assert table[0]["folder"] == "runs/there/20%-lightgcn-0-0/result"


def test_values_of_several_kinds_are_one_column():
    mixed = [outcome("5%", "mf", 0, 0.1, 0.1), outcome("10%", "mf", 0, 0.1, 0.1)]
    mixed[0].fields["agent.hiddens"], mixed[1].fields["agent.hiddens"] = [64, 64], None
    mixed[0].fields["search.memory_weight"], mixed[1].fields["search.memory_weight"] = "auto", 0.4
    mixed[0].fields["agent.gamma"], mixed[1].fields["agent.gamma"] = 1, 0.5
    table = SweepResults("there", mixed, 1.0).to_table()
    assert table["field/agent.hiddens"].to_pylist() == ["[64, 64]", None]
    assert table["field/search.memory_weight"].to_pylist() == ["auto", "0.4"]
    assert table["field/agent.gamma"].to_pylist() == [1.0, 0.5]


def test_files_are_written_and_read_back(results, tmp_path):
    results.write(Storage(tmp_path / "sweep"))
    assert sorted(file.name for file in (tmp_path / "sweep").iterdir()) == [
        "pareto.png",
        "results.json",
        "results.parquet",
    ]
    assert pq.read_table(tmp_path / "sweep" / "results.parquet").equals(results.to_table())
    summary = json.loads((tmp_path / "sweep" / "results.json").read_text())
    assert summary["num_trials"] == {"finished": 5, "failed": 1} and len(summary["groups"]) == 4
    assert summary["groups"][0]["metrics"]["search"]["recall@20"]["mean"] == pytest.approx(0.22)


def test_a_sweep_of_which_nothing_is_finished_has_results_too(tmp_path):
    results = SweepResults("there", [outcome("5%", "mf", 0, 0.0, 0.0, status="failed")], 1.0)
    results.write(Storage(tmp_path))
    assert results.groups() == [] and not results.is_complete and results.to_table().num_rows == 1


def test_people_see_it_within_80_columns(results):
    console = Terminal(width=80, record=True, file=io.StringIO())
    console.show(results.to_rich())
    text = console.export_text()
    assert "0.2200±0.0283" in text and "*" in text and "…" not in text
    assert not results.is_complete
