import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.files import TABLE_FILE
from ciess_ray.serving.recommender import ServedRecommender


@pytest.fixture
def run(run_cli):
    return run_cli


@pytest.fixture(scope="module")
def folder(make_result):
    return make_result("lightgcn")[0]


@pytest.fixture(scope="module")
def expected(folder):
    """What users 3 and 4 are recommended, as item ids, with the scores."""
    found = ServedRecommender.open(folder).recommend([3, 4], 5)
    return found.items.tolist(), found.scores.tolist()


class TestRecommend:
    def test_a_table_for_people(self, run, folder, expected):
        status, out, _ = run("recommend", folder, "--user", "3", "-k", "5")
        lines = [line.split() for line in out.splitlines()]
        assert status == 0 and lines[0] == ["rank", "item_id", "score"]
        items, scores = expected
        assert lines[1:] == [
            [str(rank), str(item), f"{score:.4f}"]
            for rank, (item, score) in enumerate(zip(items[0], scores[0], strict=True), 1)
        ]

    def test_several_users_and_other_programs(self, run, folder, expected):
        items, scores = expected
        many = ["recommend", folder, "--user", "3", "--user", "4", "-k", "5", "--format"]
        rows = json.loads(run(*many, "json")[1])
        assert [row["item_id"] for row in rows] == items[0] + items[1]
        assert [row["score"] for row in rows] == pytest.approx(scores[0] + scores[1])
        assert [row["user_id"] for row in rows] == ["3"] * 5 + ["4"] * 5
        table = list(csv.DictReader(io.StringIO(run(*many, "csv")[1])))
        assert [{**row, "item_id": str(row["item_id"])} for row in rows] == [
            {**row, "rank": int(row["rank"]), "score": float(row["score"])} for row in table
        ]
        assert run(*many, "table")[1].split()[:2] == ["user_id", "rank"]

    def test_somebody_new(self, run, folder):
        status, out, _ = run("recommend", folder, "--item", "3", "--item", "5", "--format", "json")
        found = ServedRecommender.open(folder).recommend_to_new([[3, 5]], 10)
        assert status == 0 and [row["item_id"] for row in json.loads(out)] == found.items[0].tolist()

    def test_of_users_who_came_since_the_others_are_not_stopped(self, run, folder, expected):
        many = ["recommend", folder, "--user", "nobody", "--user", "3", "-k", "5", "--unknown", "popular"]
        status, out, err = run(*many, "--format", "json")
        rows = json.loads(out)
        assert status == 0 and [row["item_id"] for row in rows[5:]] == expected[0][0]
        served = ServedRecommender.open(folder)
        popular = np.argsort(-served.item_popularity, kind="stable")[:5]
        assert [row["item_id"] for row in rows[:5]] == served.ids_of(popular).tolist()
        assert "1 of 2 lists are of what is popular" in err
        status, out, err = run(
            "recommend", folder, "--item", "777", "--unknown", "popular", "--format", "json"
        )
        assert [row["item_id"] for row in json.loads(out)][:5] == served.ids_of(popular).tolist()
        assert status == 0 and "1 of 1 lists" in err

    def test_lists_that_say_little_are_told(self, run, folder, make_result):
        ids = [str(item) for item in ServedRecommender.open(folder).item_ids.tolist()]
        status, out, err = run("recommend", folder, *(part for item in ids for part in ("--item", item)))
        assert status == 0 and out.split() == ["rank", "item_id", "score"]
        assert err == "1 of 1 lists are empty: whoever they are for had every item.\n"
        neighbours = make_result("neighbours")[0]
        status, out, err = run("recommend", neighbours, "--user", "3", "-k", str(len(ids)))
        assert status == 0 and " 0.0000" in out and err.startswith("a score of 0 says that nothing is known")
        assert not run("recommend", neighbours, "--user", "3", "-k", "1")[2]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ([], "give either --user, of a user in the data, or --item"),
            (["--user", "1", "--item", "2"], "give either --user"),
            (["--item", "1", "--include-seen"], "--include-seen is for --user"),
            (["--user", "1", "--format", "xml"], "unknown --format 'xml'. Known: csv, json, table"),
            (["--user", "1", "--unknown", "populr"], "unknown --unknown 'populr'. Did you mean 'popular'"),
            (["--user", "nobody"], "not in the table: 1 of 1 users, e.g. nobody"),
            (["--item", "777"], "not in the table: 1 of 1 items, e.g. 777"),
        ],
    )
    def test_one_line_and_exit_status_2(self, run, folder, arguments, says):
        status, out, err = run("recommend", folder, *arguments)
        assert status == 2 and not out and says in err and len(err.splitlines()) == 1

    def test_neither_ray_nor_torch_is_imported_by_the_command(self, folder):
        code = (
            "import sys; from ciess_ray.cli.main import app\n"
            f"app(['recommend', {str(folder)!r}, '--user', '3'], standalone_mode=False)\n"
            "print({name.split('.')[0] for name in sys.modules} & {'ray', 'torch', 'mlflow', 'pandas'})\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "set()", done.stderr


class TestExport:
    def test_both_sizes_and_both_figures_are_shown(self, run, folder, tmp_path):
        status, out, _ = run("export", folder, tmp_path / "served", "--dtype", "int8")
        lines = [line.split() for line in out.splitlines()]
        before, after = ((path / TABLE_FILE).stat().st_size for path in (folder, tmp_path / "served"))
        assert status == 0 and lines[0] == ["file", "bytes", "N@20"]
        assert ["float32", TABLE_FILE, f"{before:,}"] == lines[1][:3] and 0 < float(lines[1][3]) < 1
        (served,) = (line for line in lines if line[:2] == ["int8", TABLE_FILE])
        assert served[2] == f"{after:,}" and 0 < float(served[3]) < 1
        assert lines[-1] == ["exported:", str(tmp_path / "served")]
        status, out, _ = run("verify", tmp_path / "served")
        assert status == 0 and "parameters in int8" in out and "all is well" in out

    def test_a_form_without_figures(self, run, folder, tmp_path):
        status, out, _ = run("export", folder, tmp_path / "x.parquet", "--format", "parquet")
        assert status == 0 and "N@20" not in out and "x.parquet" in out


@pytest.mark.parametrize("arguments", [["recommend", "--user", "1"], ["verify"], ["export", "served"]])
def test_a_search_that_is_not_finished_says_so_and_how_it_goes_on(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("out", "many/first/result"):
        Path(folder).mkdir(parents=True)
        described = {"format": "ciess-ray result 1", "status": "interrupted", "phase": "retraining"}
        (Path(folder) / "result.json").write_text(json.dumps(described))
    Path("many/sweep.json").touch()
    name, *others = arguments
    said = "this search is 'interrupted', not finished (phase 'retraining'), and has no table yet; "
    assert f"{said}wait" in (err := run(name, "out", *others)[2])
    assert err.endswith("go on with: ciess-ray search --resume out\n")
    err = run(name, "many/first/result", *others)[2]
    assert said in err and err.endswith(f"go on with: ciess-ray sweep --resume {tmp_path / 'many'}\n")


def test_a_damaged_table_is_found(run, folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    table = PackedTable.open(tmp_path / TABLE_FILE)
    table.values[0] = np.inf
    table.save(tmp_path / TABLE_FILE)
    status, out, err = run("verify", tmp_path)
    assert status == 2 and not out and "is no finite number" in err
