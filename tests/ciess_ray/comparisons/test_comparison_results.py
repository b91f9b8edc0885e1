"""From cells to tables: means over seeds, and differences paired over users."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from ciess_ray.cli.searching import say_end
from ciess_ray.comparisons.cell import CellResult
from ciess_ray.comparisons.config import ComparisonPlan
from ciess_ray.comparisons.results import ComparisonResults, budget_of
from ciess_ray.statistics import Spread, paired_bootstrap
from ciess_ray.terminal import Terminal

NUM_USERS = 200
GAIN = {"search": 0.05, "split": 0.04, "full size": 0.1}


def result(method, seed):
    rng = np.random.default_rng([seed, len(method)])
    base = np.random.default_rng(0).uniform(0.2, 0.4, NUM_USERS)
    of_users = base + GAIN[method] + rng.normal(0, 0.01, NUM_USERS)
    of_users[3] = np.nan
    metrics = {name: of_users.astype(np.float32) for name in ("recall@20", "ndcg@20")}
    mean = float(np.nanmean(of_users))
    row = {
        "status": "finished",
        "num_params": 1000,
        "packed_bytes": 5000,
        "kept_ratio": 0.1,
        "mean_user_size": 2.0,
        "mean_item_size": 1.0,
        "step_quality": float("nan"),
        "is_still_rising": method == "split",
        "num_trainings": 4,
        "cpu_s": 10.0 + seed,
        "peak_bytes": 10**9,
        "validation/quality": mean,
        "test/recall@20": mean,
        "test/ndcg@20": mean,
    }
    return CellResult(row, metrics)


def make_results(tmp_path, yardsticks=(), **dataset):
    values = {
        "base": {"dataset": {"path": "log.parquet", **dataset}},
        "space": {"budget": ["5%", "10%"], "seed": [0, 1]},
        "methods": ["full size", "split", "search"],
        "yardsticks": yardsticks,
        "num_resamples": 500,
        "tracking": {"mlflow": False},
    }
    plan = ComparisonPlan.of(values, "comparison.yaml", tmp_path)
    cells = {cell.name: result(cell.method, cell.config.seed) for cell in plan.cells}
    failed = CellResult({"status": "failed", "error": "TrainingError: NaN"})
    cells["budget-10-percent_seed-1_split"] = failed
    del cells["budget-10-percent_seed-0_search"]
    return ComparisonResults(plan, cells, 12.0)


@pytest.fixture
def results(tmp_path):
    return make_results(tmp_path)


def test_the_hints_of_a_search_are_given_once_for_all_cells(tmp_path, capsys):
    values = make_results(tmp_path).plan.values() | {"methods": ["full size", "equal sizes", "search"]}
    values["base"]["training"] = {"evaluate_every": 20, "max_batches": 400, "patience": 5}
    values["base"]["recommender"] = {"options": {"l2": [1e-4, 1e-2]}}
    plan = ComparisonPlan.of(values, "comparison.yaml", tmp_path)
    best = {"full size": 20, "equal sizes": 200, "search": 380}
    qualities = {"full size": 0.4, "equal sizes": 0.3, "search": 0.2}
    cells = {}
    one = result("split", 0)
    for cell in plan.cells:
        row = one.row | {
            "best_batch": best[cell.method] - cell.config.seed,
            "l2": 1e-2 if cell.method == "search" and cell.config.seed else None,
            "allocation": "equal sizes" if budget_of(cell) == "5%" else "step 7",
            "validation/quality": qualities[cell.method],
        }
        cells[cell.name] = CellResult(row, one.user_metrics)
    told = ComparisonResults(plan, cells, 1.0)
    packed, better, first, last, weight = told.hints()
    assert packed == "5%: the budget has room for the full table: nothing had to shrink; ask for less."
    assert better == packed.replace("5%", "10%", 1)
    assert first.startswith("full size: best at the first validation, batch 20")
    assert "before search at 5% (best at batch 380), search at 10% (best at batch 380) had stopped" in last
    assert weight.startswith("search at 5%, search at 10%: better with the largest weight of L2")
    for name, found in cells.items():
        if "full-size" not in name:
            found.row["num_params"] = 100
    packed, better, *_ = told.hints()
    assert packed.startswith("5%: equal sizes were better on validation than all that the search found, and")
    assert better.startswith("10%: equal sizes were better on validation") and "were what" not in better
    told.write(tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())["hints"] == told.hints()
    say_end("compare", [], 1.0, "out", problems=[], hints=told.hints(), is_complete=True)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("hint: ")]
    assert shown == [f"hint: {hint}" for hint in told.hints()]


def test_a_row_a_cell(results, tmp_path):
    results.write(tmp_path)
    assert not results.is_complete
    rows = pq.read_table(tmp_path / "comparison.parquet").to_pylist()
    assert len(rows) == 10 and len(results.figures) == 5
    by_name = {row["cell"]: row for row in rows}
    assert by_name["seed-0_full-size"]["budget"] == "100%"
    failed = by_name["budget-10-percent_seed-1_split"]
    assert (failed["status"], failed["error"], failed["num_params"]) == ("failed", "TrainingError: NaN", None)
    pending = by_name["budget-10-percent_seed-0_search"]
    assert (pending["status"], pending["budget"], pending["seed"]) == ("pending", "10%", 0)
    done = by_name["budget-5-percent_seed-1_search"]
    assert (done["dataset"], done["method"], done["num_params"]) == ("log.parquet", "search", 1000)
    assert done["step_quality"] is None
    summary = json.loads((tmp_path / "comparison.json").read_text())
    assert summary["format"] == "ciess-ray comparison 1" and summary["provenance"]["seconds"] == 12.0
    assert summary["num_cells"] == {"finished": 8, "failed": 1, "pending": 1}
    assert ComparisonPlan.of(summary["config"], "json", tmp_path).cells[0].name == "seed-0_full-size"


def test_the_table_says_what_the_figures_say(results):
    table, figures = results.table(), results.figures
    assert table.index.tolist() == [one.method for one in figures]
    assert table["budget"].tolist() == [one.budget for one in figures]
    split = next(one for one in figures if (one.method, one.budget) == ("split", "5%"))
    row = table[table["budget"] == "5%"].loc["split"]
    assert row["seeds"] == 2 and row["ndcg@20"] == split.figures["test/ndcg@20"].mean
    assert row["ndcg@20/sd"] == split.figures["test/ndcg@20"].sd
    assert row["search/relative_low"] == split.differences["ndcg@20"].relative_low
    assert row["packed_bytes"] == split.figures["packed_bytes"].mean


def test_means_over_seeds_and_differences_over_users(results):
    figures = {(one.method, one.budget): one for one in results.figures}
    cells = results.results
    split, search = figures["split", "5%"], figures["search", "5%"]
    assert split.seeds == [0, 1] and split.num_missing == 0 and split.is_still_rising
    tested = [cells[f"budget-5-percent_seed-{seed}_split"].row["test/ndcg@20"] for seed in (0, 1)]
    assert split.figures["test/ndcg@20"] == Spread.of(tested)
    assert split.figures["cpu_s"].mean == 10.5 and search.differences == {}
    expected = paired(cells, lambda of_seeds: of_seeds)
    found = split.differences["ndcg@20"]
    assert split.split_seeds == [0, 1] and len(found.by_split) == 2
    assert found.by_split == pytest.approx(expected.by_split)
    assert found.mean == pytest.approx(expected.mean) and found.mean == pytest.approx(0.01, abs=0.003)
    assert found.low == pytest.approx(expected.low, abs=2e-4) and found.p < 0.01
    # One seed has both at no budget of 10 %: the search is missing there, or the split.
    assert figures["split", "10%"].differences == {} and figures["split", "10%"].num_missing == 1
    assert figures["full size", "100%"].seeds == [0, 1]


def paired(cells, pool):
    """The search against the split at 5 %, by what is made of the metrics of both seeds."""
    of_seeds = [
        np.stack([cells[f"budget-5-percent_seed-{s}_{method}"].user_metrics["ndcg@20"] for s in (0, 1)])
        for method in ("search", "split")
    ]
    (found,) = paired_bootstrap(*(pool(own)[..., None] for own in of_seeds), 500, np.random.default_rng(9))
    return found


def test_seeds_of_one_split_are_averaged_for_each_user(tmp_path):
    results = make_results(tmp_path, split_seed=7)
    (split,) = (one for one in results.figures if (one.method, one.budget) == ("split", "5%"))
    expected = paired(results.results, lambda of_seeds: of_seeds.mean(axis=0, keepdims=True))
    found = split.differences["ndcg@20"]
    assert split.split_seeds == [7] and len(found.by_split) == 1
    assert found.low == pytest.approx(expected.low, abs=2e-4)
    assert {row["split_seed"] for row in map(results.row, results.plan.cells)} == {7}


def test_shares_are_of_full_size_on_the_same_split(results):
    full = [results.results[f"seed-{seed}_full-size"].row["test/ndcg@20"] for seed in (0, 1)]
    mine = [results.results[f"budget-5-percent_seed-{seed}_split"].row["test/ndcg@20"] for seed in (0, 1)]
    figures = {(one.method, one.budget): one.figures["share_of_full"] for one in results.figures}
    assert figures["split", "5%"] == Spread.of([mine[0] / full[0], mine[1] / full[1]])
    assert figures["full size", "100%"].mean == 1.0


def test_the_table_tells_what_is_there(results):
    console = Terminal(width=200, record=True)
    console.show(results.to_rich())
    lines = console.export_text().splitlines()
    assert len(lines) == 6 and lines[1].startswith("lightgcn 100%")
    assert "2^" in lines[2] and "+3." in lines[2] and "[" in lines[2]
