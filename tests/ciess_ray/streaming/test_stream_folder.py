"""The folder of a stream: what is damaged is never gone on with, and nothing of others is lost in it."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from stream_log import CAP

from ciess_ray.serving.stream_tables import current_segment
from ciess_ray.streaming import driver
from ciess_ray.streaming import folder as folder_module
from ciess_ray.streaming.driver import resume_stream, run_stream
from ciess_ray.streaming.folder import StreamFolder
from envs.errors import ResultError


@pytest.fixture(scope="module")
def former(make, tmp_path_factory):
    """A stream of which the last segment is missing."""
    config = make(tmp_path_factory.mktemp("former") / "stream", methods=("equal sizes",))
    run_stream(config)
    shutil.rmtree(StreamFolder(config.output).segment(2))
    return config


@pytest.fixture
def left(former, tmp_path):
    """A copy of it."""
    path = tmp_path / "left"
    shutil.copytree(former.output, path, symlinks=True)
    return path


def damage_value(method):
    file = method / "table.safetensors"
    content = bytearray(file.read_bytes())
    # A bit in the middle of a value: still a number.
    content[8 + int.from_bytes(content[:8], "little") + 42] ^= 1
    file.write_bytes(content)


def damage_figure(method):
    file = method / "result.json"
    result = json.loads(file.read_text())
    result["figures"]["test/ndcg@20"] = 0.99
    file.write_text(json.dumps(result))


@pytest.mark.parametrize(
    "damage", [damage_value, damage_figure, lambda method: (method / "manifest.json").unlink()]
)
def test_what_is_damaged_is_refused_with_what_to_remove(left, damage):
    method = StreamFolder(left).method(1, "equal sizes")
    damage(method)
    with pytest.raises(ResultError, match="damaged.*remove .*segments/001/equal-sizes, and resume"):
        resume_stream(left)
    shutil.rmtree(method)
    assert len(resume_stream(left)) == 3


def test_a_page_of_somebody_else_is_not_replaced(make, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ResultError, match="there is report.html in it, and no stream.json"):
        run_stream(make(tmp_path))
    assert (tmp_path / "report.html").read_text() == "mine"


def test_nothing_of_a_stream_that_is_replaced_is_taken_for_the_new_ones(make, left, tmp_path):
    # Segments on another disk.
    shutil.move(left / "segments", tmp_path / "elsewhere")
    (left / "segments").symlink_to(tmp_path / "elsewhere")
    (left / "report.html").touch()
    rows = run_stream(make(left, methods=("equal sizes",), budget=f"{CAP * 2 // 3} params"), overwrite=True)
    assert max(row["num_params"] for row in rows) <= CAP * 2 // 3
    assert (left / "segments").is_symlink() and not (left / "report.html").exists()


def test_what_an_export_that_was_killed_left_stops_no_stream(left):
    (left / ".served.partial" / "new").mkdir(parents=True)
    (left / ".stream.json.0.partial").touch()
    assert len(resume_stream(left)) == 3
    assert (left / ".served.partial").is_dir() and not (left / ".stream.json.0.partial").exists()


def test_a_stream_that_came_to_its_end_meanwhile_is_not_replaced(make, left, monkeypatch):
    read_stream = driver.read_stream

    def slowly(config):
        if not left.exists():
            shutil.move(elsewhere, left)
        return read_stream(config)

    elsewhere = left.with_name("elsewhere")
    shutil.move(left, elsewhere)
    monkeypatch.setattr(driver, "read_stream", slowly)
    with pytest.raises(ResultError, match="already holds a stream"):
        run_stream(make(left, methods=("popular ever",)))

    def going_on(config):
        state = json.loads((left / "stream.json").read_text())
        (left / "stream.json").write_text(json.dumps(state | {"versions": {}}))
        return read_stream(config)

    monkeypatch.setattr(driver, "read_stream", going_on)
    with pytest.raises(ResultError, match="another process has just gone on"):
        resume_stream(left)


def test_where_validation_has_nobody_every_method_decides(make, tmp_path):
    import pandas as pd

    place = np.arange(20)
    log = pd.DataFrame({"user_id": place, "item_id": place, "timestamp": place})
    log.to_parquet(tmp_path / "log.parquet")
    dataset = {"path": str(tmp_path / "log.parquet")}
    config = make(
        tmp_path / "out", dataset=dataset, segments={"rows": 10}, budget="50%", methods=("table policy",)
    )
    rows = run_stream(config)
    assert [row["validation/num_users"] for row in rows] == [0, 0]


def test_what_serves_stays_while_a_stream_goes_on(left):
    resume_stream(left)
    seen = []

    def watch(news):
        if news.is_found:
            seen.append((current_segment(left).name, pq.read_table(left / "stream.parquet").num_rows))

    resume_stream(left, on_progress=watch)
    assert seen == [("002", 3)] * 3


def test_the_journal_is_read_once_and_again_if_somebody_else_has_written_it(tmp_path, monkeypatch):
    reads = []
    read = folder_module.read_json_lines
    monkeypatch.setattr(folder_module, "read_json_lines", lambda file: reads.append(file) or read(file))
    StreamFolder(tmp_path).log("method finished", segment=0, method="split")
    folder = StreamFolder(tmp_path)
    for _ in range(2):
        for segment in range(3):
            folder.log("method finished", segment=segment, method="split")
    assert len(reads) == 1 and len(read(tmp_path / "journal.jsonl")) == 3
    (tmp_path / "journal.jsonl").write_text('{"event": "method fin')
    folder.log("method finished", segment=0, method="split")
    assert len(reads) == 2 and [line["segment"] for line in read(tmp_path / "journal.jsonl")] == [0]
