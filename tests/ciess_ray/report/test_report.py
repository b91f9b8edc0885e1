"""One page from folders: what it says, what it refuses, and that nothing in a file can make it do more."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_folders import (
    comparison_row,
    comparison_rows,
    write_comparison,
    write_search,
    write_sweep,
)

from ciess_ray.figures import Point, draw_quality, format_bytes, to_svg
from ciess_ray.metric_keys import RANKING_TERMS
from ciess_ray.report import write_report
from ciess_ray.report.measurements import whole_percent
from ciess_ray.statistics import Spread
from envs.errors import ResultError

HOSTILE = '</td></script><script>alert("x")</script><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its text, and its tables as rows of text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.ids, self.tables, self.text = [], [], {}, ""
        self._table = None
        self._is_code = self._is_cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.elements.append((tag, told))
        self.ids += [told["id"]] if "id" in told else []
        self._is_code = tag in ("style", "script")
        if tag == "table":
            self._table = self.tables.setdefault(told["id"].removeprefix("table-"), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag):
        self._is_code = False
        if tag in ("td", "th"):
            self._is_cell = False
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        if not self._is_code:
            self.text += data
        if self._is_cell:
            self._table[-1][-1] += data

    def attributes(self, tag):
        return [told for name, told in self.elements if name == tag]

    def rows(self, table):
        """Rows of a table by heading."""
        headings, *rows = self.tables[table]
        return [dict(zip(headings, row, strict=True)) for row in rows]


def name_of(figure):
    """The name of a figure's file without what it has of its content."""
    assert re.fullmatch(r".*-[0-9a-f]{8}\.png", figure.name)
    return f"{figure.name[:-13]}.png"


@pytest.fixture
def make(tmp_path):
    def make(*folders, name="report.html"):
        report = write_report(folders, tmp_path / "out" / name)
        return report, Page(report.page)

    return make


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The report of one search, with its page."""
    folder = tmp_path_factory.mktemp("quick")
    report = write_report([write_search(folder / "quick")], folder / "out" / "report.html")
    return report, Page(report.page)


@pytest.fixture
def without_figures(monkeypatch):
    """Of what is in the tables alone, for the seconds that figures take."""
    monkeypatch.setattr("ciess_ray.report.draw_all", lambda groups, searches: [])


def test_one_search(quick):
    report, page = quick
    assert report.headline.replace("\N{NO-BREAK SPACE}", " ") == (
        "At 11 % of the bytes the search keeps 103 % of full size's R@20; equal sizes keep 87 %."
    )
    assert report.headline in page.text and "One seed" in page.text
    assert "training ended at training.max_batches=60: raise it." in page.text
    cells = page.rows("cells")
    assert [row["method"] for row in cells] == ["full size", "equal sizes", "search"]
    assert cells[2] | {"R@20": "0.2060", "packed bytes": "11,000", "kept": "11.00%"} == cells[2]
    assert cells[2]["user size"] == "8.0" and "status" not in cells[2]
    # Of one data set and one recommender the title tells.
    assert "dataset" not in cells[0] and "lightgcn on log.csv" in page.text
    assert [row["note"] for row in page.rows("retrained")] == ["", "", "packed"]
    files = {row["file"]: row for row in page.rows("files")}
    assert files["table.safetensors"]["bytes"] == "11,000"
    assert page.rows("budgets")[0]["budget"] == "met"
    assert {"field": "search.mode", "value": "projected"} in page.rows("config-same")
    assert {row["package"] for row in page.rows("versions")} >= {"python", "ray", "torch"}
    sections = [told["id"] for told in page.attributes("section")]
    assert sections == ["quality", "tables", "sizes", "course", "retrained", "took", "about"]


def test_bytes_of_checkpoints_are_among_the_files(without_figures, make, tmp_path):
    folder = write_search(tmp_path / "quick")
    assert "checkpoints" not in {row["file"] for row in make(folder)[1].rows("files")}
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-00000012.checkpoint").write_bytes(bytes(4321))
    files = {row["file"]: row for row in make(folder, name="again.html")[1].rows("files")}
    assert (
        files["checkpoints"]["bytes"] == "4,321" and "--more-episodes" in files["checkpoints"]["what it is"]
    )


def test_figures_are_in_the_page_and_beside_it(quick):
    report, page = quick
    names = [file.name for file in report.figures]
    assert [name_of(file) for file in report.figures] == [
        "01-quality-recall-20-1.png",
        "02-quality-ndcg-20-1.png",
        "03-sizes-1.png",
        "04-deciles.png",
        "05-course.png",
        "06-course-memory.png",
        "07-retrained.png",
        "08-seconds.png",
    ]
    assert all(file.parent == report.page.parent / "report_figures" for file in report.figures)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in report.figures)
    drawn = page.attributes("svg")
    assert len(drawn) == len(names) == len(page.attributes("figcaption"))
    assert all(told["role"] == "img" and len(told["aria-label"]) > 30 for told in drawn)
    assert "search 0.2060 at 11.0 kB" in drawn[0]["aria-label"]
    links = [told["href"] for told in page.attributes("a") if told["href"].endswith(".png")]
    assert links == [f"report_figures/{name}" for name in names]
    # Text stays text, and no two figures share an id.
    assert "warm-up" in page.text and len(page.attributes("text")) > 50
    assert len(set(page.ids)) == len(page.ids)
    inner = re.findall(r"url\(#([^)]+)\)", report.page.read_text()) + [
        told["href"][1:] for told in page.attributes("use")
    ]
    assert inner and set(inner) <= set(page.ids)


def test_the_page_needs_nothing_else(quick):
    _, page = quick
    for tag, told in page.elements:
        for name in ("src", "href", "xlink:href"):
            place = told.get(name) or ""
            assert not place or place.startswith(("#", "data:", "report_figures/")), (tag, place)
    assert len(page.attributes("script")) == 1 and not page.attributes("img")
    (policy,) = (told["content"] for told in page.attributes("meta") if "http-equiv" in told)
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy


def test_headings_and_tables_are_for_everyone(quick):
    _, page = quick
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and set(levels[1:]) == {2}
    headings = page.attributes("th")
    assert headings and all(told["aria-sort"] == "none" and told["scope"] == "col" for told in headings)
    assert len([1 for tag, told in page.elements if tag == "button"]) == len(headings)
    labels = {told["aria-labelledby"] for told in page.attributes("table")}
    assert labels <= set(page.ids)


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


def test_a_search_of_before_differs_in_no_field_that_is_now_as_it_was_there(make, tmp_path):
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
    report, page = make(write_comparison(tmp_path / "compared"))
    cells = page.rows("cells")
    assert len(cells) == 3 + 3 * 5 * 3
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
    }
    # The best of the others on validation.
    assert "and pruning, on validation the best of the other methods, 84" in report.headline
    names = [name_of(file) for file in report.figures]
    assert names == ["01-quality-recall-20-1.png", "02-quality-ndcg-20-1.png"]
    label = page.attributes("svg")[0]["aria-label"]
    assert "hashing" in label and "±" in label
    assert {"field": "base.training.max_batches", "value": "60"} in page.rows("config-same")


def test_a_comparison_with_little_in_it(make, tmp_path):
    known = ("dataset", "recommender", "budget", "method", "seed", "test/recall@20", "packed_bytes")
    rows = [{name: row[name] for name in known} for row in comparison_rows() if row["packed_bytes"]]
    report, page = make(write_comparison(tmp_path / "little", rows))
    assert report.headline and len(report.figures) == 1
    assert {row["method"] for row in page.rows("cells")} > {"search", "hashing"}


def test_all_kinds_in_one_page(make, tmp_path, without_figures):
    _, page = make(
        write_search(tmp_path / "quick", "20%"),
        write_sweep(tmp_path / "sweep"),
        write_comparison(tmp_path / "compared"),
    )
    assert "quick · sweep · compared" in page.text
    assert {"pruning", "search"} <= {row["method"] for row in page.rows("cells")}


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


def test_what_is_measured_is_explained_where_it_first_stands(quick):
    _, page = quick
    for name, meaning in RANKING_TERMS.items():
        assert page.text.index(f"{name} is {meaning}") < page.text.index("Quality against memory")
    assert all(told["data-heading"] for told in page.attributes("td"))


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


def test_an_axis_that_does_not_begin_at_0_bears_a_mark():
    def marks(*values):
        points = [
            Point(f"m{place}", 10.0 ** (place + 1), Spread(value, None)) for place, value in enumerate(values)
        ]
        (axes,) = draw_quality({"": points}, "R@20").axes
        return [line for line in axes.lines if line.get_transform() == axes.transAxes]

    assert len(marks(0.20, 0.21)) == 1 and marks(0.0, 0.21) == []


def test_losing_is_said(make, tmp_path, without_figures):
    folder = write_search(tmp_path / "quick")
    summary = json.loads((folder / "result.json").read_text())
    summary["methods"][2]["test"]["recall@20"] = 0.15
    (folder / "result.json").write_text(json.dumps(summary))
    _, page = make(folder)
    assert "equal sizes are ahead of the search" in page.text


class TestHostileNames:
    """Ids, configurations and errors are somebody's data and can hold anything."""

    def check(self, page, report):
        text = report.page.read_text()
        assert "<script>alert" not in text and "<img" not in text
        assert len(page.attributes("script")) == 1
        assert not any(name.startswith("on") for _, told in page.elements for name in told)

    def test_in_a_search(self, make, tmp_path):
        ids = [HOSTILE] * 60
        folder = write_search(
            tmp_path / "quick",
            user_ids=ids,
            hints=[HOSTILE],
            config={"dataset": {"path": f"data/{HOSTILE.replace('/', '')}"}},
            versions={"ray": HOSTILE},
        )
        report, page = make(folder)
        self.check(page, report)
        assert page.rows("largest-user")[0]["user"] == HOSTILE
        assert HOSTILE in page.text and HOSTILE.replace("/", "") in page.text

    def test_in_a_comparison(self, make, tmp_path):
        names = {"dataset": HOSTILE, "recommender": "$\\frac{$", "settings": HOSTILE}
        rows = [
            comparison_row("full size", None, 0, 0.2, 100_000, **names),
            comparison_row("search", HOSTILE, 0, 0.2, 10_000, **names),
            comparison_row(HOSTILE, HOSTILE, 0, 0.2, 10_000, **names),
            comparison_row("_hidden $x^2$ \x07 名前", HOSTILE, 0, 0.1, 10_000, **names),
            comparison_row("search", "5%", 0, 0.1, 10_000, **(names | {"status": HOSTILE, "error": HOSTILE})),
        ]
        report, page = make(write_comparison(tmp_path / HOSTILE.replace("/", "|"), rows))
        self.check(page, report)
        assert "_hidden $x^2$" in page.text and page.rows("cells")[-1]["error"] == HOSTILE

    def test_a_label_changes_no_attribute(self):
        point = Point('"><script> id="x" #1d2733 url(#a)', 10.0, Spread(0.1, None))
        svg = to_svg(draw_quality({"": [point]}, "<R&D>"), "one", 'an "alt" <text>')
        assert 'aria-label="an &quot;alt&quot; &lt;text&gt;"' in svg
        assert "<script" not in svg and "&lt;R&amp;D&gt;" in svg
        assert 'id="x" #1d2733 url(#a)' in svg


def test_passwords_are_not_handed_on(make, tmp_path, without_figures):
    uri = "postgresql://me:secret@host/mlflow"
    report, page = make(write_search(tmp_path / "quick", config={"tracking": {"uri": uri}}))
    assert "secret" not in report.page.read_text()
    assert {"field": "tracking.uri", "value": "postgresql://…@host/mlflow"} in page.rows("config-same")


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


class TestRefusals:
    def test_what_is_there_stays(self, make, tmp_path, without_figures):
        folder = write_search(tmp_path / "quick")
        report, _ = make(folder)
        before = report.page.read_bytes()
        with pytest.raises(ResultError, match=r"report\.html: is there already; .*--overwrite"):
            make(folder)
        assert report.page.read_bytes() == before
        write_report([folder], report.page, overwrite=True)

    def test_a_smaller_report_leaves_no_figures_of_a_larger_one(self, make, tmp_path):
        report, _ = make(write_search(tmp_path / "quick"))
        (report.figures_folder / "mine.png").write_text("mine")
        smaller = write_report([write_comparison(tmp_path / "compared")], report.page, overwrite=True)
        there = {file.name for file in report.figures_folder.iterdir()}
        assert there == {file.name for file in smaller.figures} | {"mine.png"}

    def test_a_folder_is_no_page(self, tmp_path):
        (tmp_path / "out").mkdir()
        with pytest.raises(ResultError, match="out: cannot be written; name an HTML file"):
            write_report([write_search(tmp_path / "quick")], tmp_path / "out", overwrite=True)

    def test_no_folder_at_all(self, make):
        with pytest.raises(ResultError, match="no folder is named"):
            make()

    def test_what_is_not_there(self, make, tmp_path):
        with pytest.raises(ResultError, match="nowhere: no such folder"):
            make(tmp_path / "nowhere")
        with pytest.raises(ResultError, match="no such folder. Copy it to this machine first"):
            make(Path("s3://bucket/sweep"))

    def test_what_is_none_of_them(self, make, tmp_path):
        write_search(tmp_path / "runs" / "mine")
        with pytest.raises(
            ResultError,
            match=r"runs: neither a search, a sweep nor a comparison: it holds no result\.json, no "
            r"results\.json and no comparison\.json\. Searches lie in its folders mine: name these",
        ):
            make(tmp_path / "runs")
        assert not (tmp_path / "out").exists()

    def test_cells_without_their_summary(self, make, tmp_path):
        (tmp_path / "com pared" / "cells").mkdir(parents=True)
        with pytest.raises(
            ResultError, match=r"It holds cells of a comparison; .* --output '.*com pared' again"
        ):
            make(tmp_path / "com pared")
        (tmp_path / "com pared" / "plan.json").write_text("{}")
        with pytest.raises(
            ResultError, match=r"once these are done: ciess-ray compare --resume '.*com pared'"
        ):
            make(tmp_path / "com pared")

    @pytest.mark.parametrize(
        ("file", "content", "says"),
        [
            ("comparison.json", "{", r"comparison\.json: damaged"),
            ("comparison.json", "[]", r"comparison\.json: not of the format 'ciess-ray comparison 1'"),
            ("comparison.parquet", "x", r"comparison\.parquet: damaged"),
            ("comparison.parquet", None, r"comparison\.parquet: no such file"),
        ],
    )
    def test_damage_in_a_comparison(self, make, tmp_path, file, content, says):
        folder = write_comparison(tmp_path / "compared")
        (folder / file).unlink()
        if content is not None:
            (folder / file).write_text(content)
        with pytest.raises(ResultError, match=says):
            make(folder)

    @pytest.mark.parametrize(
        ("file", "says"),
        [("result.json", r"result\.json: damaged"), ("sizes.parquet", r"sizes\.parquet: damaged")],
    )
    def test_damage_in_a_search(self, make, tmp_path, file, says):
        folder = write_search(tmp_path / "quick")
        (folder / file).write_text("x")
        with pytest.raises(ResultError, match=says):
            make(folder)

    def test_a_column_that_is_missing(self, make, tmp_path):
        folder = write_search(tmp_path / "quick")
        pq.write_table(pa.table({"kind": ["user"]}), folder / "sizes.parquet")
        with pytest.raises(ResultError, match=r"sizes\.parquet: damaged"):
            make(folder)


def _set(values, path, value):
    *parents, last = path
    for name in parents:
        values = values[name]
    if value is _GONE:
        del values[last]
    else:
        values[last] = value


_GONE = object()


def test_a_search_of_before_whose_steps_and_evaluations_are_numbered_alike(make, tmp_path, without_figures):
    folder = write_search(tmp_path / "quick")
    steps = {"step": pa.array(range(12), pa.int32()), "is_greedy": [False] * 10 + [True] * 2}
    pq.write_table(pa.table(steps | {"user_sizes": [[1]] * 12}), folder / "candidates.parquet")
    summary = json.loads((folder / "result.json").read_text())
    for row in summary["retrained"]:
        row.pop("kind", None)
    (folder / "result.json").write_text(json.dumps(summary))
    _, page = make(folder)
    assert [row["step"] for row in page.rows("retrained")] == ["", "9", "11"]


class TestDamage:
    """Whatever is in a folder, a report is made or one line says which file is wrong, and where."""

    @pytest.mark.parametrize(
        ("path", "value", "says"),
        [
            (("methods", 2, "test"), _GONE, "methods.2.test"),
            (("methods", 2, "validation", "quality"), "high", "methods.2.validation.quality"),
            (("methods", 0, "num_params"), 0, "methods.0.num_params"),
            (("methods",), [], "no method was measured"),
            (("config", "recommender"), None, "config.recommender"),
            (("config", "seed"), "1", "config.seed"),
            (("budget", "cap_params"), 10**4000, "budget.cap_params"),
            (("retrained", 1, "quality"), True, "retrained.1.quality"),
            (("dataset",), _GONE, "dataset"),
            (("seconds", "search"), -1, "seconds.search"),
            (("hints",), "none", "hints"),
            (("looser_budgets",), {"20%": "../other"}, "looser_budgets names '../other'"),
            (("looser_budgets",), {"20%": ".."}, "looser_budgets names '..'"),
        ],
    )
    def test_in_a_summary(self, make, tmp_path, path, value, says):
        folder = write_search(tmp_path / "quick")
        summary = json.loads((folder / "result.json").read_text())
        _set(summary, path, value)
        (folder / "result.json").write_text(json.dumps(summary))
        with pytest.raises(ResultError, match=rf"quick/result\.json: .*{re.escape(says)}"):
            make(folder)

    @pytest.mark.parametrize("text", ["1" * 5_000, "[" * 5_000, "[" * 100 + "]" * 100, "[]", "", "\x80"])
    @pytest.mark.parametrize("file", ["quick/result.json", "compared/comparison.json", "sweep/results.json"])
    def test_no_json_of_ours(self, make, tmp_path, file, text):
        write = {"quick": write_search, "compared": write_comparison, "sweep": write_sweep}
        folder = write[file.partition("/")[0]](tmp_path / file.partition("/")[0])
        if text[:1] in ("1", "["):
            text = f'{{"format": "ciess-ray result 1", "seed": {text}}}'
        (tmp_path / file).write_text(text, encoding="latin-1")
        with pytest.raises(ResultError, match=rf"{file}: (damaged|not of the format)"):
            make(folder)

    @pytest.mark.parametrize(
        ("line", "says"),
        [("[1, 2]", ""), ('{"phase": "search"}', "step"), ('{"phase": 1, "step": 2}', "phase")]
        + [
            (f'{{"phase": "search", "step": 2, "search/quality": {value}}}', "search/quality")
            for value in ('"x"', 1e308)
        ],
    )
    def test_in_steps(self, make, tmp_path, line, says):
        folder = write_search(tmp_path / "quick")
        lines = (folder / "progress.jsonl").read_text().splitlines()
        (folder / "progress.jsonl").write_text("\n".join([*lines, line, '{"phase": "sea']))
        with pytest.raises(ResultError, match=rf"progress\.jsonl, line {len(lines) + 1}: damaged .*{says}"):
            make(folder)

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("embedding_size", 0),
            ("embedding_size", 1.5),
            ("embedding_size", None),
            ("popularity", -1),
            ("id", None),
        ],
    )
    def test_in_sizes(self, make, tmp_path, column, value):
        folder = write_search(tmp_path / "quick")
        table = pq.read_table(folder / "sizes.parquet")
        values = table.column(column).to_pylist()
        changed = pa.array([value, *values[1:]])
        pq.write_table(
            table.set_column(table.column_names.index(column), column, changed), folder / "sizes.parquet"
        )
        with pytest.raises(ResultError, match=r"sizes\.parquet: damaged"):
            make(folder)

    @pytest.mark.parametrize(
        ("column", "value"), [("trial", ".."), ("seed", "one"), ("seed", 0.5), ("dataset", _GONE)]
    )
    def test_in_the_rows_of_a_sweep(self, make, tmp_path, column, value):
        folder = write_sweep(tmp_path / "sweep")
        table = pq.read_table(folder / "results.parquet")
        place = table.column_names.index(column)
        table = table.drop_columns([column])
        if value is not _GONE:
            table = table.add_column(place, column, pa.array([value] * table.num_rows))
        pq.write_table(table, folder / "results.parquet")
        with pytest.raises(ResultError, match=rf"results\.parquet.*{column}"):
            make(folder)

    @pytest.mark.parametrize("file", ["progress.jsonl", "sizes.parquet"])
    def test_a_pipe_in_place_of_a_file_is_not_waited_for(self, make, tmp_path, file):
        folder = write_search(tmp_path / "quick")
        (folder / file).unlink()
        os.mkfifo(folder / file)
        with pytest.raises(ResultError, match=rf"{file}: damaged: it is no regular file"):
            make(folder)

    def test_a_pipe_in_place_of_a_folder(self, make, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ResultError, match="pipe: no such folder"):
            make(tmp_path / "pipe")

    def test_more_rows_than_its_bytes_hold_are_not_unpacked(self, make, tmp_path):
        folder = write_search(tmp_path / "quick")
        ones = pa.repeat(pa.scalar(1, pa.int16()), 3_000_000)
        names = ("kind", "id", "embedding_size", "popularity")
        pq.write_table(pa.table(dict.fromkeys(names, ones)), folder / "sizes.parquet", compression="zstd")
        with pytest.raises(ResultError, match=r"sizes\.parquet: claims 3,000,000 rows"):
            make(folder)

    def test_a_text_beyond_what_is_read(self, make, tmp_path):
        folder = write_search(tmp_path / "quick")
        # Without a byte of it on the disk.
        os.truncate(folder / "progress.jsonl", 10**12)
        with pytest.raises(
            ResultError, match=r"progress\.jsonl: damaged: 1,000,000,000,000 bytes are more than"
        ):
            make(folder)

    def test_any_bytes_lost_or_changed(self, make, tmp_path, without_figures):
        folders = [write_search(tmp_path / "quick"), write_comparison(tmp_path / "compared")]
        files = [folder / file for folder in folders for file in _FILES if (folder / file).exists()]
        whole = {file: file.read_bytes() for file in files}
        rng = np.random.default_rng(0)
        num_refused = 0
        for turn in range(60):
            file = files[turn % len(files)]
            content = bytearray(whole[file])
            if turn % 2:
                del content[rng.integers(len(content)) :]
            else:
                content[rng.integers(len(content))] ^= rng.integers(1, 256)
            file.write_bytes(content)
            try:
                make(file.parent, name=f"{turn}.html")
            except ResultError as error:
                num_refused += 1
                assert file.name in str(error)
            file.write_bytes(whole[file])
        assert 20 < num_refused < 60


_FILES = ("result.json", "progress.jsonl", "sizes.parquet", "comparison.json", "comparison.parquet")


def test_the_same_folders_give_the_same_bytes(tmp_path):
    folders = [write_search(tmp_path / "quick"), write_comparison(tmp_path / "compared")]
    reports = [write_report(folders, tmp_path / name / "report.html") for name in ("one", "two")]
    first, second = ([report.page, *report.figures] for report in reports)
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_a_large_search_stays_small(make, tmp_path):
    report, _ = make(write_search(tmp_path / "quick", num_entities=50, num_steps=200))
    assert report.page.stat().st_size < 1_500_000


def test_many_searches_are_chosen_from(make, tmp_path):
    folders = [write_search(tmp_path / f"s{seed}", seed=seed) for seed in range(7)]
    summary = json.loads((folders[3] / "result.json").read_text())
    summary["methods"][2]["validation"]["quality"] = 0.9
    (folders[3] / "result.json").write_text(json.dumps(summary))
    _, page = make(*folders)
    assert "Shown are 1 of 7 searches" in page.text and len(page.rows("budgets")) == 7
    assert "s3: every user" in page.text and "s2: every user" not in page.text


@pytest.mark.parametrize(
    ("num_bytes", "told"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (259_289, "259 kB"),
        (999_700, "1.00 MB"),
        (2.5e6, "2.50 MB"),
    ],
)
def test_bytes_are_told_in_three_digits(num_bytes, told):
    assert format_bytes(num_bytes) == told


class TestCommand:
    @pytest.fixture
    def run(self, run_cli, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        return partial(run_cli, "report")

    def test_it_says_what_it_wrote(self, run, tmp_path):
        folder = write_search(tmp_path / "quick")
        status, out, err = run(folder)
        assert status == 0, err
        headline, meaning, place = out.splitlines()
        assert (
            headline.startswith("At 11")
            and meaning.startswith("R@20 is Recall@20, the share")
            and place == "report: report.html, 8 figures in report_figures"
        )
        assert (tmp_path / "report.html").exists()
        status, out, err = run(folder)
        assert status == 2 and out == "" and "is there already" in err
        assert run(folder, "--overwrite")[0] == 0
        assert run(folder, "--output", "new/other.html")[0] == 0 and (tmp_path / "new/other.html").exists()

    def test_a_mistake_is_one_line(self, run, tmp_path):
        status, out, err = run(tmp_path / "nothing")
        assert status == 2 and out == "" and len(err.splitlines()) == 1

    def test_help(self, run):
        status, out, _ = run("--help")
        assert status == 0 and "ciess-ray report runs/quickstart" in out and "--overwrite" in out

    def test_neither_ray_nor_mlflow_is_imported(self, tmp_path):
        folder = write_search(tmp_path / "quick")
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "from ciess_ray.report import write_report\n"
            "write_report([Path(sys.argv[1])], Path(sys.argv[2]))\n"
            "print([name for name in ('ray', 'mlflow') if name in sys.modules])\n"
        )
        command = [sys.executable, "-c", code, str(folder), str(tmp_path / "page.html")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
