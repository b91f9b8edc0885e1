"""Folders as they are read: what is none is refused, and whatever is damaged is named."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_folders import (
    write_comparison,
    write_search,
    write_sweep,
)

from envs.errors import ResultError


class TestRefusals:
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
            match=r"runs: neither a search, a sweep, a comparison nor a stream: it holds no result\.json, no "
            r"results\.json, no comparison\.json and no stream\.json\. "
            r"Searches lie in its folders mine: name these",
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


_FILES = ("result.json", "progress.jsonl", "sizes.parquet", "comparison.json", "comparison.parquet")


def test_steps_of_a_search_of_before_are_numbered_from_1(make, tmp_path, without_figures):
    folder = write_search(tmp_path / "quick")
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
