"""Streams as a whole: what they leave, what they go on with, and what they refuse before any work."""

import io
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moments import moments_of
from stream_content import plain
from stream_log import CAP, NUM_ROWS, write_log

from ciess_ray.files.formats import read_json_lines
from ciess_ray.packed.table import PackedTable
from ciess_ray.serving import ServedRecommender
from ciess_ray.serving.stream_tables import current_segment
from ciess_ray.streaming.config import DEFAULT_METHODS, TABLE_METHODS
from ciess_ray.streaming.driver import read_stream, resume_stream, run_stream
from ciess_ray.streaming.folder import MEMORY_FILE, StreamFolder
from ciess_ray.streaming.live import StreamView
from ciess_ray.streaming.methods import METHODS
from ciess_ray.streaming.segment import segment_data
from ciess_ray.streaming.yardsticks import popular_items
from ciess_ray.terminal import Terminal
from envs.errors import BudgetError, ConfigError, ResultError


@pytest.fixture(scope="module")
def done(make, tmp_path_factory):
    """A stream of all methods, its rows and what it said on its way."""
    config = make(tmp_path_factory.mktemp("done") / "stream")
    news = []
    return config, run_stream(config, on_progress=news.append), news


def test_every_method_is_within_the_budget_in_every_segment_and_uses_it(done):
    config, rows, _ = done
    assert [(row["segment"], row["method"]) for row in rows] == [
        (number, method) for number in range(rows[-1]["segment"] + 1) for method in DEFAULT_METHODS
    ]
    assert rows[-1]["segment"] >= 2
    for row in rows:
        if row["method"] in TABLE_METHODS:
            table = PackedTable.open(
                StreamFolder(config.output).method(row["segment"], row["method"]) / "table.safetensors"
            )
            most = min(CAP, 8 * (row["num_users"] + row["num_items"]))
            assert table.num_params == row["num_params"] == most
            assert table.num_bytes == row["num_bytes"]
    assert pq.read_table(config.output / "stream.parquet").num_rows == len(rows)


def test_what_is_cold_is_counted_and_the_rest_is_judged(done):
    _, rows, _ = done
    assert all(0 < row["cold_share"] < 1 for row in rows)
    for row in rows:
        assert 0 <= row["test/ndcg@20"] <= 1 and row["test_cold/num_users"] > 0
    # Whom nobody knows gets what is popular, from whichever method.
    of_last = [row["test_cold/recall@20"] for row in rows if row["segment"] == rows[-1]["segment"]]
    assert len(of_last) == len(DEFAULT_METHODS) and max(of_last) > 0


def test_last_sizes_are_kept_and_newcomers_get_the_least(done):
    config, rows, _ = done
    folder = StreamFolder(config.output)
    last, former = (
        PackedTable.open(folder.method(number, "last sizes") / "table.safetensors").sizes for number in (2, 1)
    )
    new = np.concatenate([last.user[len(former.user) :], last.item[len(former.item) :]])
    known = np.concatenate([last.user[: len(former.user)], last.item[: len(former.item)]])
    assert set(new) == {1} and (known <= np.concatenate([former.user, former.item])).all()
    row = next(row for row in rows if (row["segment"], row["method"]) == (2, "last sizes"))
    assert row["num_new"] == len(new) and row["num_grown"] == 0 < row["num_shrunk"]
    assert row["num_moved"] == int((np.concatenate([former.user, former.item]) - known).sum())


def test_a_method_chooses_among_what_it_has_tried_on_validation(done):
    config, rows, _ = done
    by_method = {row["method"]: row for row in rows if row["segment"] == 1}
    assert by_method["equal sizes"]["num_trainings"] == by_method["last sizes"]["num_trainings"] == 1
    assert 2 <= by_method["split"]["num_trainings"] <= 5
    assert by_method["rank power"]["num_trainings"] > by_method["split"]["num_trainings"]
    assert by_method["split"]["chosen"].startswith("users : items")


def test_the_latest_segment_serves(done):
    config, rows, _ = done
    segment = current_segment(config.output)
    assert segment == (config.output / "segments" / f"{rows[-1]['segment']:03}").resolve()
    served = ServedRecommender.open(config.output / "current" / "split")
    assert len(served.recommend(["u000"], 5).items[0]) == 5
    # Of what happened in validation and test nothing is recommended again.
    stream = read_stream(config)
    is_known = (stream.user < served.table.num_users) & (stream.item < len(served.item_ids))
    assert served.seen.nnz == is_known.sum() and served.seen.max() == 1


def test_everybody_of_the_next_segment_gets_a_list(done):
    config, _, _ = done
    stream, folder = read_stream(config), StreamFolder(config.output)
    of_kind = np.zeros(4, int)
    for number, then in enumerate(stream.segments[1:]):
        served = ServedRecommender.open(folder.method(number, "split"))
        num_users, num_items = served.table.num_users, len(served.item_ids)
        user, item = (side[then.start : then.end] for side in (stream.user, stream.item))
        lists = served.recommend(stream.user_ids[np.unique(user)], 5, unknown="popular")
        assert (lists.items[:, 0] >= 0).all() and np.isfinite(lists.scores[:, 0]).all()
        np.testing.assert_array_equal(lists.is_popular, np.unique(user) >= num_users)
        # What cold rows are judged by is what is served.
        judged = popular_items(segment_data(stream, number), 5)
        assert (lists.items[lists.is_popular] == judged).all() and lists.is_popular.any()
        for one in np.unique(user[user >= num_users]):
            had = np.unique(item[user == one])
            of_items = served.recommend_to_new([stream.item_ids[had]], 5, unknown="popular")
            assert of_items.items[0, 0] >= 0 and not np.isin(of_items.items, had).any()
            assert of_items.is_popular == (had >= num_items).all()
            of_kind[int(of_items.is_popular[0])] += 1
        for one in np.unique(item[item >= num_items]):
            first = np.unique(user[(item == one) & (user < num_users)])
            of_kind[2 + (len(first) == 0)] += 1
            if len(first):
                assert np.isfinite(served.score_new_items([stream.user_ids[first]], ["u000"])).all()
    # A user with items, an item with users, and either without.
    assert (of_kind[[0, 2, 3]] > 0).all()


def test_without_links_a_file_names_the_latest_segment(done, tmp_path, monkeypatch):
    config, _, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(config.output, copy, symlinks=True)

    def refused(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", refused)
    StreamFolder(copy).point_to(1)
    assert not (copy / "current").is_symlink() and current_segment(copy).name == "001"
    assert (copy / "current").read_text() == "segments/001\n"


def test_a_stream_that_is_killed_goes_on_to_the_same_end(make, tmp_path):
    methods = ["split", "last sizes", "popular of late"]
    config = make(tmp_path / "stream", methods=methods, segments={"rows": 90})
    config.output.mkdir()
    with moments_of(config.output, tmp_path / "moments") as copies:
        run_stream(config)
    end = plain(config.output)
    begun = [copy for copy in copies if (copy / "stream.json").exists()]
    assert len(begun) > 40
    for copy in begun[:: len(begun) // 9]:
        finished = read_json_lines(copy / "journal.jsonl") if (copy / "journal.jsonl").exists() else []
        there = [line for line in finished if line["event"] == "method finished"]
        news = []
        resume_stream(copy, on_progress=news.append)
        assert plain(copy) == end, copy
        assert sum(one.is_found for one in news) in (len(there), len(there) + 1)
        assert not list(copy.glob("**/*.partial"))


def test_side_by_side_on_ray_a_stream_comes_to_the_same(make, tmp_path, ray_cluster):
    """To the bit, tables and figures, whoever trains; the Ray that is there is used, and left."""
    folders = []
    for num_workers in (0, 2):
        stream = make(tmp_path / f"{num_workers}", methods=["split"], resources={"num_workers": num_workers})
        run_stream(stream)
        folders.append(plain(stream.output))
    assert folders[0] == folders[1] and ray_cluster.is_initialized()
    with pytest.raises(ConfigError, match="room for 0 such.*resources.num_cpus_per_training"):
        run_stream(make(tmp_path / "x", resources={"num_workers": 1, "num_cpus_per_training": 500}))


def test_a_stream_goes_on_as_its_log_does(make, log, tmp_path):
    dataset, methods = {"path": str(tmp_path / "log.parquet")}, ["last sizes", "popular of late"]
    whole = pq.read_table(log)
    pq.write_table(whole.slice(0, 130), dataset["path"])
    config = make(tmp_path / "stream", dataset=dataset, methods=methods)
    before = {row["segment"] for row in run_stream(config)}
    news = []
    # Whoever comes again for the same is no news, and leaves what was as it was.
    again = whole.slice(0, 40).set_column(2, "timestamp", pa.array(np.arange(10_000, 10_040)))
    pq.write_table(pa.concat_tables([whole, again]), dataset["path"])
    rows = resume_stream(config.output, on_progress=news.append)
    assert max(before) < rows[-1]["segment"]
    # The last one has more rows now.
    kept = {one.segment for one in news if one.is_found}
    assert kept == before - {max(before)}
    run_stream(anew := make(tmp_path / "anew", dataset=dataset, methods=methods))
    once, at_once = (plain(folder) for folder in (config.output, anew.output))
    assert len(once.pop("journal.jsonl")) > len(at_once.pop("journal.jsonl"))
    assert once == at_once


def test_a_stream_goes_on_where_its_log_lies_now(make, log, tmp_path):
    pq.write_table(pq.read_table(log).slice(0, 130), tmp_path / "log.parquet")
    dataset = {"path": str(tmp_path / "log.parquet")}
    config = make(tmp_path / "stream", dataset=dataset, methods=["popular ever"])
    before = run_stream(config)
    (tmp_path / "log.parquet").unlink()
    assert len(resume_stream(config.output, [f"dataset.path={log}"])) > len(before)
    assert StreamFolder(config.output).read()["config"]["dataset"]["path"] == str(log)


def test_a_torn_line_of_the_journal_takes_none_with_it(tmp_path):
    folder = StreamFolder(tmp_path)
    folder.log("method finished", segment=0, method="split")
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"event": "meth')
    for _ in range(2):
        folder.log("segment finished", segment=0)
    lines = read_json_lines(tmp_path / "journal.jsonl")
    assert [line["event"] for line in lines] == ["method finished", "segment finished"]


def test_another_seed_draws_otherwise_and_the_same_seed_not(make, tmp_path):
    ends = [
        plain(config.output)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
        if run_stream(config := make(tmp_path / name, seed=seed, methods=["equal sizes"]))
    ]
    assert ends[0] == ends[1] != ends[2]


def test_a_budget_too_small_for_the_last_segment_is_refused_with_the_least(make, done, tmp_path):
    _, rows, _ = done
    least = rows[-1]["num_users"] + rows[-1]["num_items"]
    assert rows[0]["num_users"] + rows[0]["num_items"] < least - 1
    with pytest.raises(
        BudgetError, match=f"segment {rows[-1]['segment']:03}.* the least .* is {least} params"
    ):
        run_stream(make(tmp_path / "out", budget=f"{least - 1} params"))
    assert not (tmp_path / "out").exists()


def test_a_stream_is_not_overwritten_without_a_word(make, done, tmp_path):
    config, _, _ = done
    with pytest.raises(ResultError, match="already holds a stream.*--resume.*--overwrite"):
        run_stream(config)
    (tmp_path / "out" / "segments").mkdir(parents=True)
    with pytest.raises(ResultError, match="there is segments in it"):
        run_stream(make(tmp_path / "out"), overwrite=True)
    copy = tmp_path / "copy"
    shutil.copytree(config.output, copy, symlinks=True)
    run_stream(make(copy, methods=["popular ever"]), overwrite=True)
    assert {path.name for path in (copy / "segments" / "000").iterdir()} == {"popular-ever"}


def test_a_dry_run_shows_the_segments_and_writes_nothing(log, done, tmp_path, run_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, rows, _ = done
    arguments = [log, "segments.rows=60", f"budget={CAP} params", "recommender.max_embedding_size=8"]
    status, said, complained = run_cli("stream", *arguments, "--dry-run")
    assert (status, complained) == (0, "") and not list(tmp_path.iterdir())
    for row in rows:
        if row["method"] != "equal sizes":
            continue
        cells = next(line for line in said.splitlines() if line.startswith(f"{row['segment']:03} ")).split()
        assert cells[1:3] + cells[4:5] == [str(row[name]) for name in ("num_rows", "num_users", "num_items")]
        assert cells[6:9] == [
            str(row["test/num_users"]),
            f"{row['cold_share']:.0%}",
            str(row["cap_params"]),
        ]
    assert "3 of 3 segments are tested on fewer than 30 users" in said


def test_rows_that_came_late_are_named(done, log, tmp_path):
    config, _, _ = done
    once, path = pq.read_table(log), tmp_path / "late.parquet"
    late = pa.table({"user_id": ["new", "u000", "last"], "item_id": [0, 7, 7], "timestamp": [800, 5, 10**6]})
    pq.write_table(pa.concat_tables([once, late]), path)
    with pytest.raises(
        ResultError, match="has 2 new rows of .* first that of user new, item 0 and time 800;"
    ):
        resume_stream(config.output, [f"dataset.path={path}"])
    # In order of time nothing tells which is new.
    pq.write_table(pa.concat_tables([once, late.slice(0, 1)]).sort_by("timestamp"), path)
    with pytest.raises(ResultError, match="differ first in segment 001, which is of times 600 to 1180 now;"):
        resume_stream(config.output, [f"dataset.path={path}"])


def test_a_stream_does_not_go_on_with_another_log(done, tmp_path):
    config, _, _ = done
    write_log(tmp_path / "other.parquet", num_rows=NUM_ROWS - 20)
    with pytest.raises(ResultError, match="does not begin with the .* rows"):
        resume_stream(config.output, [f"dataset.path={tmp_path / 'other.parquet'}"])
    with pytest.raises(
        ConfigError, match="'budget=40kB': a stream stays as it was.*dataset.*tracking.uri=URI"
    ):
        resume_stream(config.output, ["budget=40kB"])
    with pytest.raises(ResultError, match="no stream: there is no stream.json"):
        resume_stream(tmp_path)
    (tmp_path / "stream.json").write_text('{"format": "ciess-ray stream 1", "config": {}}')
    with pytest.raises(ResultError, match="damaged: num_rows is missing"):
        resume_stream(tmp_path)


def test_a_terminal_shows_a_row_a_method(done):
    config, rows, news = done
    view = StreamView(Terminal(file=io.StringIO(), force_terminal=True, width=200))
    for one in news:
        view.take(one, False)
    page = Terminal(file=io.StringIO(), width=200)
    page.print(view)
    shown = page.file.getvalue().splitlines()
    assert shown[0].split()[:4] == ["method", "segment", "R@20", "N@20"]
    number = f"{rows[-1]['segment']:03}"
    assert [line for line in shown if f"{number} of 000 to {number}" in line] == shown[
        1 : 1 + len(DEFAULT_METHODS)
    ]
    last = next(row for row in rows[::-1] if row["method"] == "split")
    assert f"{last['num_bytes']:,}" in shown[3] and last["chosen"] in shown[3]


def test_the_command(tmp_path, run_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log, num_rows = tmp_path / "again.parquet", write_log(tmp_path / "log.parquet")
    once = pq.read_table(tmp_path / "log.parquet")
    pq.write_table(pa.concat_tables([once, once.slice(0, 5)]), log)
    told = (
        f"{log}: {num_rows + 5} rows, of which {num_rows} are the first of their user and item; 3 segments, "
    )
    arguments = [log, "segments.rows=60", "methods=[popular ever, item cosine]", "budget=150 params"]
    arguments.append("tracking.mlflow=false")
    # For the seconds that figures take.
    monkeypatch.setattr("ciess_ray.report.page.draw_stream", lambda material: [])
    columns = {role: f"{role}_id" for role in ("user", "item")} | {"timestamp": "timestamp"}
    options = [word for role, name in columns.items() for word in (f"--{role}", name)]
    status, said, complained = run_cli("stream", *arguments, *options, "--output", "out")
    assert (
        (status, complained) == (0, "")
        and said.startswith(f"{told}000 to 002\nsegment 000 of")
        and "results: out" in said
    )
    assert StreamFolder(tmp_path / "out").read()["config"]["dataset"]["columns"] == columns
    assert "item cosine" in (tmp_path / "out" / "report.html").read_text()
    assert any(line.split()[:2] == ["item", "cosine"] for line in said.splitlines())
    status, again, _ = run_cli("stream", "--resume", "out")
    assert status == 0 and "found" in again
    status, _, complained = run_cli("stream", *arguments, "--output", "out")
    assert status == 2 and "already holds a stream" in complained
    status, _, complained = run_cli("stream", *arguments, "--user", "customer", "--item", "item_id")
    assert (
        status == 2
        and "no column 'customer' for the user" in complained
        and "--user and --item" in complained
    )
    search = tmp_path / "search.yaml"
    search.write_text("recommender: {options: {l2: [0.1, 0.2]}}\nsearch: {num_episodes: 3}\n")
    status, _, complained = run_cli("stream", search)
    assert (
        status == 2 and "search.yaml: segments is missing" in complained and "ciess-ray search" in complained
    )
    status, listed, _ = run_cli("fields", "--stream")
    assert status == 0 and "segments.new_entities" in listed and "training.warm_batches" in listed


def test_what_a_method_keeps_for_the_next_segment_is_there_and_is_checked(make, tmp_path, monkeypatch):
    """In order, by name, with the table; damaged it is named."""
    found = []

    def counting(problem, judge):
        found.append(dict(problem.memory))
        problem.memory["steps"] = problem.memory.get("steps", np.zeros(2, np.int64)) + [1, 2]
        METHODS["equal sizes"](problem, judge)

    monkeypatch.setitem(METHODS, "last sizes", counting)
    config = make(tmp_path / "stream", methods=["last sizes"])
    run_stream(config)
    assert [memory.get("steps", np.zeros(0)).tolist() for memory in found][:3] == [[], [1, 2], [2, 4]]
    folder = StreamFolder(config.output)
    file = folder.method(1, "last sizes") / MEMORY_FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ResultError, match=MEMORY_FILE):
        folder.memory(1, "last sizes")
