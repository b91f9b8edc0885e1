import inspect
import json
import os
import re
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from rich.markup import render

from ciess_ray.cli.main import app
from ciess_ray.config.yaml_file import field_table
from ciess_ray.plain_text import paragraphs
from envs.data import read_interactions, split_interactions


@pytest.fixture
def run(run_cli):
    return run_cli


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("dataset: {path: nowhere.csv}\n")
    return path


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["search", "no.yaml"], "no.yaml: no such configuration"),
            (["search", "CONFIG", "sed=1"], "Did you mean 'seed'"),
            (["search", "CONFIG", "--budget", "150%"], "more than the full table"),
            (["search", "CONFIG", "--seed", "-1"], "seed=-1"),
            (["search", "CONFIG", "--device", "gpu"], "unknown device 'gpu'"),
            (["search", "CONFIG", "recommender.name=lightgnc"], "Did you mean 'lightgcn'"),
            (["search", "CONFIG"], "nowhere.csv"),
            (["search", "CONFIG", "--budget", "5%", "--budget", "150%"], "more than the full table"),
            (["data", "describe", "nowhere.csv"], "nowhere.csv"),
            (["search", "configs/quickstart-sweep.yaml"], "'ciess-ray sweep' or 'ciess-ray compare'"),
            (["search", "configs/quickstart-comparison.yaml"], "hand it to 'ciess-ray compare'"),
            (["search", "configs/stream-quickstart.yaml"], "hand it to 'ciess-ray stream'"),
            (["compare", "configs/quickstart.yaml"], "hand it to 'ciess-ray search'"),
            (["sweep", "configs/quickstart.yaml"], "hand it to 'ciess-ray search'"),
            (["search", "CONFIG", "--output", ""], "after '--output': an empty name or value"),
            (["search", "--resume="], "--resume: an empty name or value"),
            (["report", "", "--overwrite"], "after 'report': an empty name or value; give one, or leave it"),
        ],
    )
    def test_one_line_and_exit_status_2(self, run, config_file, tmp_path, arguments, says):
        given = [config_file if argument == "CONFIG" else argument for argument in arguments]
        if arguments[0] == "search":
            given.append(f"output={tmp_path / 'out'}")
        status, out, err = run(*given)
        assert status == 2 and out == ""
        assert err.startswith("error: ") and says in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--resume", "EMPTY"], "result.json: no such file"),
            (["CONFIG", "--resume", "FOLDER"], "give only --more-episodes"),
            (["--resume", "FOLDER", "--seed", "1"], "give only --more-episodes"),
            (["--resume", "FOLDER", "--overwrite"], "give only --more-episodes"),
            (["CONFIG", "--more-episodes", "3"], "--resume FOLDER, the search to extend, is missing"),
            ([], "CONFIG, a YAML file, is missing"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, run, config_file, tmp_path, arguments, says):
        places = {"CONFIG": config_file, "FOLDER": tmp_path / "folder", "EMPTY": tmp_path}
        status, out, err = run("search", *(places.get(argument, argument) for argument in arguments))
        assert status == 2 and out == "" and says in err

    @pytest.mark.parametrize("command", ["search", "sweep", "compare"])
    def test_a_folder_to_go_on_with_that_is_not_there(self, run, tmp_path, command):
        status, out, err = run(command, "--resume", tmp_path / "folder")
        assert status == 2 and out == "" and "folder: no such folder" in err

    def test_brackets_in_a_message_are_text(self, run, config_file):
        status, _, err = run("search", config_file, "budget=[red]x[/red]")
        assert status == 2 and "[red]x[/red]" in err

    def test_wrong_usage(self, run):
        for arguments in (["serach"], ["search", "--bugdet", "1"], ["data", "generate", "x", "--users", "0"]):
            status, out, err = run(*arguments)
            assert status == 2 and out == "" and "Usage: ciess-ray" in err

    def test_nothing_at_all_shows_the_help(self, run):
        status, out, err = run()
        assert status == 2 and "Usage: ciess-ray" in out + err and "search" in out + err

    def test_ctrl_c(self, run, config_file, monkeypatch):
        def interrupt(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr("ciess_ray.config.yaml_file.load_config", interrupt)
        status, _, err = run("search", config_file)
        assert status == 130 and err.startswith("interrupted")

    def test_sigterm_is_as_ctrl_c_and_has_its_own_status(self, run, config_file, monkeypatch):
        def end(*args):
            os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr("ciess_ray.config.yaml_file.load_config", end)
            status, _, err = run("search", config_file)
        assert status == 143 and "ended by SIGTERM; it goes on with --resume" in err
        # It is forgotten with the next command.
        assert run("serach")[0] == 2

    def test_the_installed_command_shows_no_traceback(self):
        code = "from ciess_ray.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "search", "no.yaml"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr == (
            "error: no.yaml: no such configuration; the ones that come along lie in configs/.\n"
        )


class TestHelp:
    def test_overrides_are_explained(self, run):
        status, out, _ = run("search", "--help")
        assert status == 0
        for text in (
            "section.field=value",
            "search.num_episodes=3",
            "--budget",
            "--overwrite",
            "ciess-ray fields",
        ):
            assert text in out

    @pytest.mark.parametrize("command", ["search", "sweep", "compare", "report"])
    def test_lines_are_broken_where_the_terminal_ends(self, run, command, monkeypatch):
        monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 90)
        status, out, _ = run(command, "--help")
        lines = out.replace("\xa0", " ").splitlines()
        prose = [line.strip() for line in lines if line and line[:1] == " " and "ciess-ray" not in line]
        short = [line for line, after in zip(prose, prose[1:], strict=False) if after and 0 < len(line) < 60]
        assert status == 0 and set(short) <= {"Examples"}

    def test_what_is_in_brackets_is_shown(self, run):
        status, out, _ = run("stream", "--help")
        assert status == 0 and '"methods=[split, item cosine]"' in " ".join(out.split())
        for command in app.registered_commands:
            said = re.sub(r"\[/?bold\]", "", inspect.getdoc(command.callback))
            assert render(command.help).plain == paragraphs(said)

    def test_fields_are_all_listed(self, run):
        status, out, _ = run("fields")
        assert status == 0
        listed = {line.split()[0] for line in out.splitlines() if line.strip()}
        assert {name for name, _, _ in field_table()} <= listed
        assert "{'name': 'random_walk'" in out


class TestData:
    def test_generated_interactions_are_described(self, run, tmp_path):
        file = tmp_path / "log.parquet"
        arguments = ("data", "generate", file, "--users", 50, "--items", 40, "--interactions", 600)
        status, out, _ = run(*arguments)
        assert status == 0 and out == f"600 interactions of 50 users and 40 items: {file}\n"
        assert pq.read_table(file).num_rows == 600

        status, out, _ = run("data", "describe", file)
        assert status == 0
        rows = {line[:17].strip(): line[17:].strip() for line in out.splitlines()}
        assert (rows["users"], rows["items"], rows["interactions"]) == ("50", "40", "600")
        assert rows["density"] == "30.0000%" and rows["ratings"] == rows["timestamps"] == "no"

    def test_generating_the_same_twice_gives_the_same(self, run, tmp_path):
        files = [tmp_path / f"{name}.parquet" for name in "ab"]
        for file in files:
            run("data", "generate", file, "--users", 9, "--items", 9, "--interactions", 30)
        assert pq.read_table(files[0]).equals(pq.read_table(files[1]))

    def test_what_is_generated_is_parquet_and_is_called_so(self, run, tmp_path):
        status, _, err = run("data", "generate", tmp_path / "log.csv")
        assert status == 2 and "name a file that ends in .parquet" in err and not list(tmp_path.iterdir())

    def test_generating_overwrites_nothing(self, run, tmp_path):
        file = tmp_path / "mine.parquet"
        file.write_text("mine")
        status, _, err = run("data", "generate", file)
        assert status == 2 and f"{file}: exists; name another file" in err
        assert file.read_text() == "mine"

    def test_a_core_tells_what_it_leaves_out(self, run, tmp_path):
        file, config = tmp_path / "log.csv", tmp_path / "comparison.json"
        # Four users who have the same four items, and one who has three that nobody else has.
        pairs = [f"{user},{item}" for user in range(4) for item in range(4)] + ["9,10", "9,11", "9,12"]
        file.write_text("\n".join(["user_id,item_id", *pairs]))
        left_out = "1 of 5 users (20.0%), 3 of 7 items (42.9%) and 3 of 19 interactions (15.8%)."
        status, out, err = run("data", "describe", file, "--k-core", 3)
        assert status == 0 and err == f"note: {file}: the 3-core leaves out {left_out}\n"
        rows = {line[:17].strip(): line[17:].strip() for line in out.splitlines()}
        assert (rows["users"], rows["items"], rows["interactions"]) == ("4", "4", "16")

        dataset = {"path": str(file), "split_seed": 0}
        (tmp_path / "base.yaml").write_text(json.dumps({"dataset": dataset, "recommender": {"name": "mf"}}))
        values = {"base": "base.yaml", "space": {"budget": ["50%"]}, "methods": ["equal sizes"]}
        config.write_text(json.dumps(values))
        arguments = ["compare", config, "--dry-run", "--output", tmp_path / "out"]
        status, out, err = run(*arguments)
        log = read_interactions(file)
        num_untrained = split_interactions(log, seed=0).num_untrained_items
        told = (
            f"{num_untrained} of 7 items have no interaction in training, so that nothing is learnt of them."
        )
        short = (
            "most users lack so few of the {} items that a list of 20 holds all of them: their Recall@20 is "
            "1 in any order, and says nothing of a table. Bring data with more items."
        )
        assert status == 0 and num_untrained == 2
        assert err == f"note: {file}: {told}\nnote: {file}: {short.format(7)}\n"
        (tmp_path / "base.yaml").write_text(json.dumps({"dataset": dataset | {"k_core": 3}}))
        status, _, err = run(*arguments)
        assert status == 0
        assert err == f"note: {file}: the 3-core leaves out {left_out}\nnote: {file}: {short.format(4)}\n"

    def test_columns_can_be_named(self, run, tmp_path):
        file = tmp_path / "log.csv"
        file.write_text("customer,sku,stars\n" + "".join(f"{n},{n % 3},{n % 5}\n" for n in range(10)))
        status, _, err = run("data", "describe", file, "--user", "custmer", "--item", "sku")
        assert status == 2 and "Did you mean 'customer'" in err
        given = ("--user", "customer", "--item", "sku", "--rating", "stars")
        status, out, _ = run("data", "describe", file, *given)
        assert status == 0 and "0 to 4" in out


def test_a_search_from_beginning_to_end(run, ray_cluster, tmp_path):
    log, config, output = tmp_path / "log.parquet", tmp_path / "run.yaml", tmp_path / "out"
    run("data", "generate", log, "--users", 60, "--items", 40, "--interactions", 900)
    values = {
        "dataset": {"path": str(log)},
        "cache": None,
        "recommender": {"max_embedding_size": 8, "device": "cpu"},
        "training": {"batch_size": 128, "evaluate_every": 10, "patience": 1, "max_batches": 20},
        "search": {
            "num_episodes": 1,
            "episode_length": 2,
            "batches_per_step": 2,
            "supernet_batches": 20,
            "num_candidates": 1,
        },
        "agent": {"hiddens": [8], "updates_per_step": 2},
        "tracking": {"mlflow": False},
    }
    config.write_text(json.dumps(values))
    arguments = ("search", config, "--budget", "25%", "--output", output)
    status, out, err = run(*arguments)
    assert status == 0, err
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0].startswith("clock  takes about ") and lines[0].endswith(" GB of memory")
    assert lines[1] == "full-size fit 0/20" and lines[2].startswith("full-size fit 10/20")
    assert any(line.startswith("search 1/4  kept 25.00%  quality ") for line in lines)
    (equal,) = (line for line in lines if line.strip("│ ").startswith("equal sizes"))
    assert "25.00%" in equal and " 200 " in equal
    assert "budget 25%: at most 200 parameters, 200 kept" in lines
    num_bytes = (output / "table.safetensors").stat().st_size
    assert any(line.startswith(f"bytes: table.safetensors {num_bytes:,}; beside it") for line in lines)
    assert f"result: {output}" in lines and "mlflow" not in out
    assert any(line.startswith("refit: the table is trained on all 900 interactions; ") for line in lines)
    refit = json.loads((output / "result.json").read_text())["refit"]
    assert any(
        line.startswith(f"served, after the refit: {refit['served_bytes']:,} bytes (") for line in lines
    )
    assert f"look at it: ciess-ray report {output}" in lines

    status, out, err = run("report", output, "--output", tmp_path / "report.html")
    assert status == 0 and "8 figures" in out, err

    status, out, err = run(*arguments)
    assert status == 2 and "replace it with --overwrite" in err

    status, out, err = run("search", "--resume", output, "--more-episodes", 1)
    assert status == 0, err
    assert "search 2/6  goes on after step 2" in out.splitlines()
    assert any(line.startswith("search 6/6  kept 25.00%") for line in out.splitlines())
