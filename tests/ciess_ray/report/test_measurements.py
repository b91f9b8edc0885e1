"""What was measured, side by side: cells, means over seeds, what a table costs."""

import json
import re

import pytest
from report_folders import (
    comparison_row,
    comparison_rows,
    method_row,
    write_comparison,
    write_search,
    write_sweep,
)
from report_page import name_of

from ciess_ray.report.measurements import whole_percent
from envs.errors import ResultError


def test_several_searches_stand_side_by_side(make, tmp_path):
    folders = [
        write_search(tmp_path / "a", "5%"),
        write_search(tmp_path / "b", "10%"),
        write_search(tmp_path / "c", "10%", config={"agent": {"gamma": 0.5}}),
    ]
    report, page = make(*folders)
    cells = page.rows("cells")
    # Full size is the same beside all, equal sizes beside those of one budget.
    assert [(row["method"], row["budget"]) for row in cells] == [
        ("full size", ""),
        ("equal sizes", "5%"),
        ("search", "5%"),
        ("equal sizes", "10%"),
        ("search", "10%"),
        ("search", "10%"),
    ]
    assert [row["settings"] for row in cells if row["method"] == "search"] == [
        "agent.gamma=0.0",
        "agent.gamma=0.0",
        "agent.gamma=0.5",
    ]
    assert {row["search"] for row in page.rows("budgets")} == {"a", "b", "c"}
    assert {"field": "agent.gamma", "value": "0.0; 0.5"} in page.rows("config-differ")
    assert len([file for file in report.figures if "sizes-" in file.name]) == 3


def test_seeds_become_means(make, tmp_path, without_figures):
    folders = [write_search(tmp_path / f"s{seed}", seed=seed) for seed in range(2)]
    summary = json.loads((folders[1] / "result.json").read_text())
    summary["methods"][2]["test"]["recall@20"] = 0.226
    (folders[1] / "result.json").write_text(json.dumps(summary))
    _, page = make(*folders)
    means = {row["method"]: row for row in page.rows("means")}
    assert means["search"]["R@20"] == "0.2160 ± 0.0141" and means["search"]["seeds"] == "2"
    assert "One seed" not in page.text and "standard deviations over seeds" in page.text


def test_the_same_search_twice_is_told_apart(make, tmp_path, without_figures):
    _, page = make(write_search(tmp_path / "one"), write_search(tmp_path / "two"))
    settings = [row["settings"] for row in page.rows("cells") if row["method"] == "search"]
    assert settings == ["one", "two"]
    _, page = make(write_search(tmp_path / "x/run"), write_search(tmp_path / "y/run"), name="names.html")
    assert [row["search"] for row in page.rows("budgets")] == ["run (1)", "run (2)"]


def test_a_search_of_before_differs_in_no_field_that_is_now_as_it_was_there(make, tmp_path, without_figures):
    folders = [write_search(tmp_path / name, "10%", seed) for seed, name in enumerate(("now", "before"))]
    summary = json.loads((folders[1] / "result.json").read_text())
    summary["config"] |= {"looser_budgets": [], "agent": summary["config"]["agent"] | {"tau": 0.005}}
    (folders[1] / "result.json").write_text(json.dumps(summary))
    _, page = make(*folders)
    cells = page.rows("cells")
    assert len(cells) > 2 and {row.get("settings", "") for row in cells} == {""}


def test_looser_budgets_of_one_search_come_with_it(make, tmp_path, without_figures):
    folder = write_search(tmp_path / "quick", "5%", looser_budgets={"20%": "at-20-percent"})
    write_search(folder / "at-20-percent", "20%", num_steps=0)
    _, page = make(folder)
    assert [row["search"] for row in page.rows("budgets")] == ["quick", "quick/at-20-percent"]
    assert [row["budget"] for row in page.rows("cells")] == ["", "5%", "5%", "20%", "20%"]


def test_a_sweep(make, tmp_path):
    report, page = make(write_sweep(tmp_path / "sweep"))
    cells = page.rows("cells")
    assert len(cells) == 2 + 4 + 4 + 1
    (failed,) = (row for row in cells if row["status"] != "finished")
    assert (failed["status"], failed["error"], failed["budget"]) == (
        "failed",
        "TrainingError: NaN <b>",
        "20%",
    )
    means = [(row["method"], row["budget"], row["seeds"]) for row in page.rows("means")]
    assert means == [
        ("search", "5%", "2"),
        ("equal sizes", "5%", "2"),
        ("search", "10%", "2"),
        ("equal sizes", "10%", "2"),
        ("full size", "", "2"),
    ]
    assert report.headline.startswith("At 6.0\N{NO-BREAK SPACE}% of the bytes the search keeps 95")
    # Of the trial whose folder is there.
    assert [row["search"] for row in page.rows("budgets")] == ["0_budget-5-percent_seed-0"]
    assert any("sizes-1" in file.name for file in report.figures)


def test_a_sweep_under_way(make, tmp_path, without_figures):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "sweep.json").write_text("{}")
    with pytest.raises(ResultError, match=r"sweep: no trial of this sweep is finished yet"):
        make(folder)
    write_search(folder / "0_seed-0" / "result")
    _, page = make(folder)
    assert len(page.rows("cells")) == 3


def test_a_comparison(make, tmp_path):
    cosine = comparison_row("item cosine", "no budget", 0, 0.31, 0, recommender="", packed_bytes=None)
    refused = comparison_row("ease", "no budget", 0, 0.0, 0, recommender="", packed_bytes=None)
    refused |= {name: None for name in refused if "/" in name} | {"status": "refused", "error": "too large"}
    report, page = make(write_comparison(tmp_path / "compared", [*comparison_rows(), cosine, refused]))
    *cells, beside, too_large = page.rows("cells")
    assert len(cells) == 3 + 3 * 5 * 3
    # Lists within no budget stand below what keeps to one, and are the best of nothing.
    assert (beside["method"], beside["budget"], beside["R@20"]) == ("item cosine", "", "0.3100")
    assert (too_large["status"], too_large["error"]) == ("refused", "too large")
    assert "recommender" not in beside
    failed = {row["status"]: row["error"] for row in cells if row["status"] != "finished"}
    assert failed == {"failed": "BudgetError: no room for d_min", "pending": ""}
    assert cells[-4]["CPU s"] == "12" and cells[-4]["peak bytes"] == "1,000,000"
    means = page.rows("means")
    assert {row["method"] for row in means} == {
        "full size",
        "search",
        "equal sizes",
        "by popularity",
        "hashing",
        "pruning",
        "item cosine",
    }
    assert means[-1]["method"] == "item cosine"
    # The best of the others on validation.
    assert "and pruning, on validation the best of the other methods, 84" in report.headline
    names = [name_of(file) for file in report.figures]
    assert names == ["01-quality-recall-20-1.png", "02-quality-ndcg-20-1.png"]
    label = page.attributes("svg")[0]["aria-label"]
    assert "hashing" in label and "±" in label and "item cosine 0.3100, uncut" in label
    assert {"field": "base.training.max_batches", "value": "60"} in page.rows("config-same")


def test_a_comparison_with_little_in_it(make, tmp_path):
    known = ("dataset", "recommender", "budget", "method", "seed", "test/recall@20", "packed_bytes")
    rows = [{name: row[name] for name in known} for row in comparison_rows() if row["packed_bytes"]]
    report, page = make(write_comparison(tmp_path / "little", rows))
    assert report.headline and len(report.figures) == 1
    assert {row["method"] for row in page.rows("cells")} > {"search", "hashing"}


def test_of_a_full_table_that_finds_nothing_no_share_is_kept(make, tmp_path, without_figures):
    rows = [method_row(name, 1_000, 0.0) for name in ("full size", "equal sizes", "search")]
    report, page = make(write_search(tmp_path / "quick", methods=rows))
    assert report.headline == "" and "beside a full one that finds anything" in page.text
    assert "keeps" not in page.text


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_a_search_that_is_not_finished(make, tmp_path, status):
    folder = write_search(tmp_path / "quick")
    (folder / "sizes.parquet").unlink()
    summary = json.loads((folder / "result.json").read_text())
    for name in ("methods", "retrained", "hints"):
        del summary[name]
    summary |= {"status": status, "phase": "search", "reason": "TrainingError: NaN"}
    summary["budget"] = {"asked": "10%", "cap_params": 2_750}
    (folder / "result.json").write_text(json.dumps(summary))
    report, page = make(folder)
    (cell,) = page.rows("cells")
    assert cell["status"] == f"{status} (search)" and cell["error"] == "TrainingError: NaN"
    assert report.headline == "" and "Nothing is finished yet." in page.text
    assert [name_of(file) for file in report.figures] == [
        "01-course.png",
        "02-course-memory.png",
        "03-seconds.png",
    ]


def test_each_search_is_measured_against_full_size_of_its_own_settings(make, tmp_path, without_figures):
    folders = [
        write_search(tmp_path / str(size), budget, config={"recommender": {"max_embedding_size": size}})
        for size, budget in ((16, "5%"), (64, "10%"))
    ]
    summary = json.loads((folders[1] / "result.json").read_text())
    summary["methods"][0]["test"]["recall@20"] = 0.412
    (folders[1] / "result.json").write_text(json.dumps(summary))
    _, page = make(*folders)
    cards = re.sub(r"\s+", " ", page.text)
    assert "103 % of full size's R@20 at 6.0 % of its bytes" in cards
    assert "50 % of full size's R@20 at 11 % of its bytes" in cards


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (100.0, "100 %"),
        (99.96, "99.96 %"),
        (99.4, "99 %"),
        (100.2, "100.2 %"),
        (9.99, "10 %"),
        (0.004, "0.004 %"),
    ],
)
def test_what_is_not_100_percent_is_not_called_so(value, told):
    assert whole_percent(value).replace("\N{NO-BREAK SPACE}", " ") == told
