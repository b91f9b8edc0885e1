"""One page from folders: what it says and shows, and that nothing in a file can make it do more."""

import json
import re
import subprocess
import sys
from functools import partial

import pytest
from matplotlib.figure import Figure
from report_folders import (
    comparison_row,
    write_comparison,
    write_search,
    write_sweep,
)
from report_page import Page, name_of

from ciess_ray.metric_keys import RANKING_TERMS
from ciess_ray.report import write_report
from ciess_ray.report.drawings import Drawing
from envs.errors import ResultError

HOSTILE = '</td></script><script>alert("x")</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The report of one search, with its page."""
    folder = tmp_path_factory.mktemp("quick")
    report = write_report([write_search(folder / "quick")], folder / "out" / "report.html")
    return report, Page(report.page)


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
    assert "search 0.2060 at 11 kB" in drawn[0]["aria-label"]
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


def test_what_is_measured_is_explained_where_it_first_stands(quick):
    _, page = quick
    for name, meaning in RANKING_TERMS.items():
        assert page.text.index(f"{name} is {meaning}") < page.text.index("Quality against memory")
    assert all(told["data-heading"] for told in page.attributes("td"))


def test_losing_is_said(make, tmp_path, without_figures):
    folder = write_search(tmp_path / "quick")
    summary = json.loads((folder / "result.json").read_text())
    summary["methods"][2]["test"]["recall@20"] = 0.15
    (folder / "result.json").write_text(json.dumps(summary))
    _, page = make(folder)
    assert "equal sizes are ahead of the search" in page.text


def test_all_kinds_in_one_page(make, tmp_path, without_figures):
    _, page = make(
        write_search(tmp_path / "quick", "20%"),
        write_sweep(tmp_path / "sweep"),
        write_comparison(tmp_path / "compared"),
    )
    assert "quick · sweep · compared" in page.text
    assert {"pruning", "search"} <= {row["method"] for row in page.rows("cells")}


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
        assert page.rows("largest")[0]["id"] == HOSTILE
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


def test_passwords_are_not_handed_on(make, tmp_path, without_figures):
    uri = "postgresql://me:secret@host/mlflow"
    report, page = make(write_search(tmp_path / "quick", config={"tracking": {"uri": uri}}))
    assert "secret" not in report.page.read_text()
    assert {"field": "tracking.uri", "value": "postgresql://…@host/mlflow"} in page.rows("config-same")


class TestFiles:
    def test_what_is_there_stays_but_a_report_on_the_same_folders(
        self, make, tmp_path, without_figures, monkeypatch
    ):
        folder = write_search(tmp_path / "quick")
        report, _ = make(folder)
        before = report.page.read_bytes()
        for others in ([write_search(tmp_path / "other")], [folder, tmp_path / "other"]):
            with pytest.raises(
                ResultError, match=r"report\.html: is there already, .*same folders; .*--overwrite"
            ):
                make(*others)
        assert report.page.read_bytes() == before
        write_report([tmp_path / "other"], report.page, overwrite=True)
        report.page.write_text("mine")
        with pytest.raises(ResultError, match="is there already"):
            make(folder)
        report.page.write_bytes(before.replace(b"CIESS-Ray report", b"of an older state"))
        monkeypatch.chdir(folder)
        write_report([folder / ".." / "quick"], report.page)
        assert report.page.read_bytes() == before

    def test_a_smaller_report_leaves_no_figures_of_a_larger_one(self, make, tmp_path, monkeypatch):
        def draw(groups, searches):
            """Three figures of a search, one of a comparison."""
            for name in ("quality", "sizes", "course")[: 1 + 2 * len(searches)]:
                yield Drawing("quality", name, name, name, Figure(figsize=(1, 1)))

        monkeypatch.setattr("ciess_ray.report.page.draw_all", draw)
        report, _ = make(write_search(tmp_path / "quick"))
        assert len(report.figures) == 3
        (report.figures_folder / "mine.png").write_text("mine")
        smaller = write_report([write_comparison(tmp_path / "compared")], report.page, overwrite=True)
        there = {file.name for file in report.figures_folder.iterdir()}
        assert len(smaller.figures) == 1
        assert there == {file.name for file in smaller.figures} | {"mine.png"}

    def test_a_folder_is_no_page(self, tmp_path):
        (tmp_path / "out").mkdir()
        with pytest.raises(ResultError, match="out: cannot be written; name an HTML file"):
            write_report([write_search(tmp_path / "quick")], tmp_path / "out", overwrite=True)


def test_the_same_folders_give_the_same_bytes(quick, tmp_path):
    searched, compared = quick[0].page.parents[1] / "quick", write_comparison(tmp_path / "compared")
    pairs = [
        (quick[0], write_report([searched], tmp_path / "searched" / "report.html")),
        [write_report([compared], tmp_path / name / "report.html") for name in ("one", "two")],
    ]
    for pair in pairs:
        first, second = ([report.page, *report.figures] for report in pair)
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


class TestCommand:
    @pytest.fixture
    def run(self, run_cli, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        return partial(run_cli, "report")

    def test_it_says_what_it_wrote(self, run, tmp_path, monkeypatch):
        folder = write_search(tmp_path / "quick")
        status, out, err = run(folder)
        assert status == 0, err
        headline, meaning, place = out.splitlines()
        assert (
            headline.startswith("At 11")
            and meaning.startswith("R@20 is Recall@20, the share")
            and place == "report: report.html, 8 figures in report_figures"
        )
        assert (tmp_path / "report.html").exists() and len([*(tmp_path / "report_figures").iterdir()]) == 8
        monkeypatch.setattr("ciess_ray.report.page.draw_all", lambda groups, searches: [])
        assert run(folder)[0] == 0
        (tmp_path / "report.html").write_text("mine")
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
            "from ciess_ray.report import page, write_report\n"
            # Drawing imports nothing more, and takes seconds.
            "page.draw_all = lambda groups, searches: []\n"
            "write_report([Path(sys.argv[1])], Path(sys.argv[2]))\n"
            "print([name for name in ('ray', 'mlflow') if name in sys.modules])\n"
        )
        command = [sys.executable, "-c", code, str(folder), str(tmp_path / "page.html")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
