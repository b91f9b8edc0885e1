"""What keeps to no budget beside the methods of a comparison: a cell a split, and apart in every table."""

import json
from pathlib import Path

import numpy as np
import pytest

from ciess_ray.cli.searching import say_end
from ciess_ray.comparisons import yardsticks
from ciess_ray.comparisons.cell import CellResult
from ciess_ray.comparisons.config import ComparisonPlan
from ciess_ray.comparisons.results import ComparisonResults
from ciess_ray.comparisons.yardsticks import YARDSTICKS, best_of_ladder, run_yardstick
from ciess_ray.names import YARDSTICKS as NAMES
from envs.errors import NoMemoryError
from envs.metrics import RankingMetrics


def plan_of(space, base=None, **fields):
    values = {
        "base": {"dataset": {"path": "log.parquet"}} | (base or {}),
        "space": space,
        "methods": ["full size", "equal sizes", "search"],
        "num_resamples": 50,
        "tracking": {"mlflow": False},
    }
    return ComparisonPlan.of(values | fields, "comparison.yaml", Path())


def beside(plan):
    return [cell for cell in plan.cells if cell.is_yardstick]


def test_names_are_those_of_the_configuration():
    assert tuple(YARDSTICKS) == NAMES


def test_one_cell_a_split_serves_all_budgets_and_recommenders():
    space = {"budget": ["5%", "10%"], "recommender.name": ["mf", "spectral"], "seed": [0, 1]}
    plan = plan_of(space | {"dataset.path": ["a.parquet", "b.parquet"]})
    assert [cell.name for cell in beside(plan)][:4] == [
        "seed-0_path-a.parquet_ease",
        "seed-0_path-a.parquet_item-cosine",
        "seed-0_path-a.parquet_most-popular",
        "seed-0_path-b.parquet_ease",
    ]
    assert len(beside(plan)) == 3 * 2 * 2
    # Seeds of one split have one set of training interactions.
    fixed = beside(plan_of(space, {"dataset": {"path": "log.parquet", "split_seed": 3}}))
    assert [cell.name for cell in fixed] == ["ease", "item-cosine", "most-popular"]
    assert beside(plan_of(space, yardsticks=[])) == []
    assert [cell.method for cell in beside(plan_of({"seed": [0]}, yardsticks="ease"))] == ["ease"]


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_chooses_on_validation_and_measures_on_test_once(make_interactions, name):
    interactions, asked = make_interactions(), []

    def reveal():
        asked.append(name)
        return interactions.test

    result = run_yardstick(name, interactions.without_test(), reveal)
    row = result.row
    assert len(asked) == 1 and 0 < row["test/ndcg@20"] < 1 and 0 < row["validation/quality"] < 1
    assert np.nanmean(result.user_metrics["ndcg@20"]) == pytest.approx(row["test/ndcg@20"], rel=1e-5)
    is_tested = np.diff(interactions.test.indptr) > 0
    assert (np.isfinite(result.user_metrics["ndcg@20"]) == is_tested).all()
    assert row["served_with_histories_bytes"] > row["served_bytes"] > 0 and row["ids_bytes"] > 0
    assert (row["l2"] is not None) == (name == "ease") == row["options"].startswith("L2 ")
    assert row["cpu_s"] == row["cpu_s/choosing"] + row["cpu_s/test"]


def metrics_of(quality):
    return RankingMetrics(np.full((1, 3), quality), np.full((1, 3), quality))


@pytest.mark.parametrize(("best", "num_judged"), [(1.0, 3), (8.0, 5), (0.25, 5)])
def test_a_ladder_is_climbed_as_long_as_that_is_better(best, num_judged):
    judged = []

    def quality(value):
        judged.append(value)
        return metrics_of(1.0 / (1.0 + abs(np.log(value / best))))

    assert best_of_ladder(quality, 1.0)[0] == best and len(judged) == num_judged


def test_what_the_machine_cannot_hold_is_refused_with_a_word_and_the_rest_is_complete(
    make_interactions, monkeypatch, capsys, tmp_path
):
    def too_large(data, l2):
        raise NoMemoryError("EASE inverts a matrix")

    monkeypatch.setitem(yardsticks.YARDSTICKS, "ease", (too_large, 1.0))
    interactions = make_interactions()
    refused = run_yardstick("ease", interactions.without_test(), lambda: interactions.test)
    assert refused.row == {"status": "refused", "error": "EASE inverts a matrix"}
    plan = plan_of({"budget": ["5%"], "seed": [0]}, methods=["equal sizes"], yardsticks=["ease"])
    cells = {plan.cells[0].name: finished(0.3), "seed-0_ease": refused}
    results = ComparisonResults(plan, cells, 1.0)
    assert results.is_complete
    shown = [row.split() for row in text_of(results)]
    assert any(row[:2] == ["no", "budget"] and row[-2:] == ["0", "refused"] for row in shown)
    results.write(tmp_path)
    summary = json.loads((tmp_path / "comparison.json").read_text())
    assert summary["num_cells"] == {"finished": 1, "refused": 1} and summary["failed"] == {}
    assert summary["cells"][0]["refused"] == "EASE inverts a matrix"
    parts = [(row["cell"], row["status"], row["error"]) for row in results.rows]
    say_end("compare", parts, 1.0, "out", problems=[], is_complete=True)
    assert "refused: seed-0_ease: EASE inverts a matrix" in capsys.readouterr().out


def finished(quality, **more):
    row = {
        "status": "finished",
        "packed_bytes": 500,
        "mean_user_size": 1.0,
        "mean_item_size": 1.0,
        "best_batch": 10,
        "is_still_rising": False,
        "num_params": 100,
        "num_trainings": 1,
        "cpu_s": 1.0,
        "peak_bytes": 1e6,
        "allocation": "equal sizes",
        "validation/quality": quality,
        "test/recall@20": quality,
        "test/ndcg@20": quality,
    }
    of_users = {name: np.full(9, quality, np.float32) for name in ("ndcg@20", "recall@20")}
    return CellResult(row | more, of_users)


def of_yardstick(quality, options=""):
    whole = finished(quality, options=options, served_bytes=9_000)
    own = ("status", "cpu_s", "peak_bytes", "options", "served_bytes")
    row = {name: value for name, value in whole.row.items() if name in own or "/" in name}
    return CellResult(row, whole.user_metrics)


def text_of(results):
    from ciess_ray.terminal import Terminal

    console = Terminal(width=250, record=True)
    console.show(results.to_rich())
    return console.export_text().splitlines()


def test_tables_show_them_apart_from_what_keeps_to_the_budget():
    plan = plan_of({"budget": ["5%", "10%"], "seed": [0, 1]})
    without = plan_of({"budget": ["5%", "10%"], "seed": [0, 1]}, yardsticks=[])
    cells = {cell.name: finished(0.2 + len(cell.method) / 100) for cell in without.cells}
    before = ComparisonResults(without, cells, 1.0)
    cells = cells | {
        cell.name: of_yardstick(0.5, "L2 300" if cell.method == "ease" and cell.config.seed else "")
        for cell in beside(plan)
    }
    results = ComparisonResults(plan, cells, 1.0)
    figures = {(one.method, one.budget): one for one in results.figures}
    full, ease, *_ = results.figures
    assert (full.method, ease.method, ease.recommender, ease.budget) == ("full size", "ease", "", "no budget")
    assert ease.seeds == [0, 1] and ease.differences == {}
    # Of one full size on the same split alone.
    assert ease.figures["share_of_full"].mean == pytest.approx(0.5 / full.figures["test/ndcg@20"].mean)
    assert ease.options == ["as searched with", "L2 300"]
    # What was said of the methods is said unchanged, the draws of the bootstrap included.
    assert {key for key, one in figures.items() if one.budget != "no budget"} == {
        (one.method, one.budget) for one in before.figures
    }
    for one in before.figures:
        assert figures[one.method, one.budget].differences == one.differences
    assert results.hints() == before.hints()
    table = results.table()
    assert table.loc["ease", "served_bytes"] == 9_000 and np.isnan(table.loc["ease", "packed_bytes"])
    lines = text_of(results)
    (heading, *rows) = [line for line in lines if line.strip()]
    assert heading.split()[-1] == "options" and rows[1].split()[:3] == ["no", "budget", "ease"]
    assert rows[1].rstrip().endswith("as searched with; L2 300")
    assert not any("options" in line for line in text_of(before))
    assert before.is_complete and results.is_complete


def test_a_comparison_of_before_lacks_them_and_is_read():
    plan = plan_of({"budget": ["5%"], "seed": [0]})
    cells = {cell.name: finished(0.3) for cell in plan.cells if not cell.is_yardstick}
    results = ComparisonResults(plan, cells, 1.0)
    assert not results.is_complete and len(text_of(results)) >= 7
    assert {row["status"] for row in results.rows} == {"finished", "pending"}
