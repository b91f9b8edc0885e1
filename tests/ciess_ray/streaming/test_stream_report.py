"""The page of a stream: every part, every method, the figures that its folder has, and no network."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_page import Page, name_of
from scipy.sparse import csr_array

from ciess_ray.report import write_report
from ciess_ray.serving import ServedRecommender
from ciess_ray.serving.stream_tables import current_segment, tables_of
from ciess_ray.streaming.driver import run_stream
from ciess_ray.streaming.folder import LISTS_FILE, StreamFolder
from ciess_ray.streaming.judging import list_overlap, top_lists
from envs.errors import CiessError, ResultError
from envs.yardsticks import best_by

METHODS = ["equal sizes", "last sizes", "popular ever"]


@pytest.fixture(scope="module")
def done(make, tmp_path_factory):
    """A stream with its rows, and its page."""
    config = make(tmp_path_factory.mktemp("done") / "stream", methods=METHODS, budget="2 kB")
    rows = run_stream(config)
    report = write_report([config.output], config.output / "report.html")
    return config.output, rows, report, Page(report.page)


def rank_by(scores):
    def rank(seen, users, depth):
        return best_by(lambda rows: np.tile(scores, (len(rows), 1)).astype(float), seen, users, depth)

    return rank


def test_of_lists_counts_what_stays_and_not_what_was_had_since():
    seen = np.zeros((3, 25), np.float32)
    former = top_lists(rank_by(np.arange(25)[::-1]), csr_array(seen))
    assert former["user"].tolist() == [0, 1, 2] and former["item"][0].tolist() == list(range(20))
    # Of 25 items the last 20 are first now; one user has had one that is still there, one two that are not.
    seen[1, 10], seen[2, [0, 1]] = 1, 1
    now = rank_by(np.where(np.arange(25) < 5, 0, 1) + np.linspace(0, 0.1, 25))
    # The list of somebody who has had one goes one further down.
    expected = (15 / 20 + 15 / 19 + 15 / 18) / 3
    assert list_overlap(former, now, csr_array(seen)) == pytest.approx(expected)
    assert list_overlap({}, now, csr_array(seen)) is None
    # Newcomers and new items move no user of before.
    more = np.zeros((5, 40), np.float32)
    worst = rank_by(np.r_[np.arange(25)[::-1] + 1, np.zeros(15)])
    assert list_overlap(former, worst, csr_array(more)) == 1.0


def test_lists_are_kept_with_a_segment_and_set_against_the_next(done):
    folder, rows, _, _ = done
    overlaps = {(row["segment"], row["method"]): row["list_overlap@20"] for row in rows}
    assert all((segment == 0) == (value is None) for (segment, _), value in overlaps.items())
    assert all(0 <= value <= 1 for value in overlaps.values() if value is not None)
    first, second = (StreamFolder(folder).kept(LISTS_FILE, number, "popular ever") for number in (0, 1))
    assert len(second["user"]) == rows[-4]["num_users"] > len(first["user"])
    # By hand, for those who were there.
    shares = []
    for user, former in zip(first["user"], first["item"], strict=True):
        left = set(former[former >= 0]) & set(range(10_000))
        now = set(second["item"][user])
        had = seen_by(folder, user)
        shares.append(len((left - had) & now) / len(left - had))
    assert overlaps[1, "popular ever"] == pytest.approx(np.mean(shares))


def seen_by(folder, user):
    """What a user has had in training of the second segment, by number."""
    state = json.loads((folder / "stream.json").read_text())
    log = pq.read_table(state["config"]["dataset"]["path"]).to_pylist()[
        : state["segments"][1]["validation_start"]
    ]
    numbers = {name: list(dict.fromkeys(row[name] for row in log)) for name in ("user_id", "item_id")}
    return {
        numbers["item_id"].index(row["item_id"])
        for row in log
        if numbers["user_id"].index(row["user_id"]) == user
    }


def test_the_page_has_every_part_and_every_method(done):
    folder, rows, report, page = done
    sections = [told["id"] for told in page.attributes("section")]
    assert sections == ["quality", "memory", "sizes", "churn", "took", "about"]
    assert [name_of(file) for file in report.figures] == [
        "01-quality-test.png",
        "02-quality-validation.png",
        "03-memory-bytes.png",
        "04-memory-size.png",
        "05-sizes-means.png",
        "06-sizes-ages.png",
        "07-deciles.png",
        "08-churn.png",
        "09-churn-lists.png",
        "10-seconds.png",
    ]
    labels = [told["aria-label"] for told in page.attributes("svg")]
    assert len(labels) == 10 and len(set(page.ids)) == len(page.ids)
    for place in (0, 1, 8, 9):
        assert all(method in labels[place] for method in METHODS)
    assert report.headline in page.text and "One seed" in page.text
    for table in ("means", "segments", "costs", "churn-means"):
        assert {row["method"] for row in page.rows(table)} == {*METHODS}, table
    number = rows[-1]["segment"]
    assert len(page.rows("segments")) == len(rows) == 3 * (number + 1)
    assert [row["rows"] for row in page.rows("memory")] == [str(row["num_rows"]) for row in rows[::3]]
    assert {row["budget"] for row in page.rows("memory")} == {"kept"}
    for name in ("ages", "tenths"):
        told = [(row["method"], row["of"]) for row in page.rows(name)]
        assert told == [(method, kind) for method in METHODS[:2] for kind in ("users", "items")]
    assert {"field": "budget", "value": "2 kB"} in page.rows("config-same")


def test_its_figures_are_those_of_the_folder(done):
    folder, rows, _, page = done
    last = rows[-3:]
    segments = page.rows("segments")[-3:]
    for row, told in zip(last, segments, strict=True):
        assert (told["segment"], told["method"]) == (f"{row['segment']:03}", row["method"])
        assert told["N@20"] == f"{row['test/ndcg@20']:.4f}"
        assert told["cold R@20"] == f"{row['test_cold/recall@20']:.4f}"
    churn = next(row for row in page.rows("churn")[::-1] if row["method"] == "last sizes")
    row = last[1]
    assert churn["new rows"] == f"{row['num_new']:,}" and churn["shrunk"] == f"{row['num_shrunk']:,}"
    assert churn["of the table"] == f"{100 * row['num_moved'] / row['num_params']:.1f}%"
    # What came last has the least size, where sizes are kept.
    ages = next(row for row in page.rows("ages") if (row["method"], row["of"]) == ("last sizes", "users"))
    assert ages[f"{row['segment']:03}"] == "1.0" < ages["000"]
    sizes = pq.read_table(folder / "current" / "last-sizes" / "sizes.parquet").to_pandas()
    users = sizes[sizes["kind"] == "user"]["embedding_size"].to_numpy()
    state = json.loads((folder / "stream.json").read_text())
    assert ages["000"] == f"{users[: state['segments'][0]['num_users']].mean():.1f}"
    costs = next(row for row in page.rows("costs") if row["method"] == "equal sizes")
    of_method = [row["cpu_s"] for row in rows if row["method"] == "equal sizes"]
    assert costs["CPU s"] == f"{sum(of_method):.1f}"


def test_the_page_asks_nobody_for_anything(done):
    _, _, report, page = done
    for tag, told in page.elements:
        for name in ("src", "href", "xlink:href"):
            place = told.get(name) or ""
            assert not place or place.startswith(("#", "data:", "report_figures/")), (tag, place)
    (policy,) = (told["content"] for told in page.attributes("meta") if "http-equiv" in told)
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy
    assert not re.search(r"url\((?!#)", report.page.read_text())


def test_what_is_no_page_of_a_stream_is_said(done, tmp_path, monkeypatch):
    monkeypatch.setattr("ciess_ray.report.page.draw_stream", lambda material: [])
    folder, rows, _, _ = done
    with pytest.raises(ResultError, match="a page of its own; name it alone"):
        write_report([folder, folder], tmp_path / "report.html")
    for part in (folder / "current" / "last-sizes", folder / "segments" / "000", folder / "segments"):
        with pytest.raises(ResultError, match="of a stream, of which a page tells as a whole; name .*stream"):
            write_report([part], tmp_path / "report.html")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, symlinks=True)
    table = pq.read_table(copy / "stream.parquet")
    # One that is under way, at its first segment.
    pq.write_table(table.slice(0, 3), copy / "stream.parquet")
    page = Page(write_report([copy], copy / "first.html").page)
    assert f"1 of {rows[-1]['segment'] + 1} are finished" in page.text and "churn" not in page.tables
    pq.write_table(table.slice(3), copy / "stream.parquet")
    with pytest.raises(ResultError, match="stream.parquet: damaged"):
        write_report([copy], tmp_path / "report.html")
    (copy / "stream.parquet").unlink()
    with pytest.raises(ResultError, match="no segment of this stream is finished yet"):
        write_report([copy], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_commands_find_the_table_of_a_stream_that_validation_likes_best(done, run_cli, tmp_path):
    folder, rows, _, _ = done
    quality = {row["method"]: row["validation/quality"] for row in rows[-3:-1]}
    best = max(quality, key=quality.get).replace(" ", "-")
    (other,) = {"equal-sizes", "last-sizes"} - {best}
    latest = f"{rows[-1]['segment']:03}"
    answers = []
    for place in (folder, folder / "current", folder / "segments" / latest, folder / "current" / best):
        status, said, told = run_cli("recommend", place, "--user", "u000", "-k", "3")
        assert status == 0
        is_named = place.name == best
        assert (
            is_named or f"{best}: the best table of segment {latest} on validation; there are {other}" in told
        )
        answers.append(said)
    assert len(set(answers)) == 1
    assert run_cli("verify", folder)[0] == 0
    status, _, _ = run_cli("export", folder, tmp_path / "out.parquet", "--format", "parquet")
    assert status == 0 and (tmp_path / "out.parquet").exists()
    # Without a terminal nothing is chosen for anybody.
    with pytest.raises(ResultError, match=f"of a stream, .* name one of .*{best}, .*{other}; the first is"):
        ServedRecommender.open(folder)
    (tmp_path / "stream.json").write_text("{}")
    with pytest.raises(ResultError, match="no segment of a stream is finished here"):
        ServedRecommender.open(tmp_path)


def test_whoever_names_a_table_of_a_stream_gets_no_other_one(done, run_cli, tmp_path):
    folder = done[0]
    for place, says in (
        (
            "current/equal sizes",
            "current: unknown folder of a table 'equal sizes'. Did you mean 'equal-sizes'?",
        ),
        (
            "segments/000/last-size",
            "segments/000: unknown folder of a table 'last-size'. Did you mean 'last-s",
        ),
        ("current/popular-ever", "popular-ever: there is no table of it; these have one: "),
        ("segments/0", "segments/0: no such segment of this stream; its latest is 002."),
        ("segments/009/equal-sizes", "segments/009: no such segment of this stream; its"),
    ):
        for rest in (["recommend", folder / place, "--user", "u000"], ["verify", folder / place]):
            status, said, told = run_cli(*rest)
            assert (status, said) == (2, "") and says in told
        status, _, told = run_cli("export", folder / place, tmp_path / "out", "--dtype", "int8")
        assert status == 2 and says in told and not (tmp_path / "out").exists()
        with pytest.raises(CiessError):
            ServedRecommender.open(folder / place)
    # A trial of a sweep, and a sweep.
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "result").symlink_to(folder)
    for place in (tmp_path / "trial", tmp_path):
        status, _, told = run_cli("recommend", place, "--user", "u000")
        assert status == 2 and f"{place}: there is no table in it; name {tmp_path / 'trial/result'}" in told


def test_what_is_beyond_the_budget_is_shown_and_is_not_chosen(done, tmp_path, monkeypatch):
    monkeypatch.setattr("ciess_ray.report.page.draw_stream", lambda material: [])
    copy = tmp_path / "copy"
    shutil.copytree(done[0], copy, symlinks=True)
    latest = current_segment(copy)
    rows = pq.read_table(copy / "stream.parquet").to_pylist()
    for row in rows:
        if row["method"] == "last sizes":
            row |= {"method": "full size", "num_params": 9_999, "validation/quality": 1.0}
    pq.write_table(pa.Table.from_pylist(rows), copy / "stream.parquet")
    (latest / "last-sizes").rename(latest / "full-size")
    result = json.loads((latest / "full-size" / "result.json").read_text())
    result["figures"] |= {"validation/quality": 1.0, "num_params": 9_999}
    (latest / "full-size" / "result.json").write_text(json.dumps(result))
    assert [table.name for table in tables_of(copy)] == ["equal-sizes", "full-size"]
    report = write_report([copy], tmp_path / "report.html")
    page = Page(report.page)
    assert "equal sizes was the best table on validation" in report.headline
    assert {row["method"] for row in page.rows("means")} == {"equal sizes", "full size", "popular ever"}
    assert {row["budget"] for row in page.rows("memory")} == {"kept"}
    assert {row["method"] for row in page.rows("ages")} == {"equal sizes"}
    # A method that ought to keep to the budget, and does not.
    for row in rows:
        row["method"] = row["method"].replace("full size", "scall reference")
    pq.write_table(pa.Table.from_pylist(rows), copy / "stream.parquet")
    page = Page(write_report([copy], tmp_path / "reference.html").page)
    assert {row["budget"] for row in page.rows("memory")} == {"exceeded"}
