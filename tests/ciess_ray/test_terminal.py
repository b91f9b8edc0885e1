"""What others named is shown as it is, whole, and nothing that is only shown ends a command."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from report_folders import config_of, outcome_of, summary_of, write_search

from ciess_ray.comparisons.cell import CellResult
from ciess_ray.comparisons.config import ComparisonPlan
from ciess_ray.comparisons.results import ComparisonResults
from ciess_ray.config.run import RunConfig
from ciess_ray.files.whole import write_whole
from ciess_ray.plain_text import command, visible, visible_line
from ciess_ray.searches.live import RunsView, SearchView
from ciess_ray.searches.run import Progress
from ciess_ray.sweeps.results import SweepResults
from ciess_ray.terminal import Terminal, spell_out, write_data
from ciess_ray.tracking.runs import RunsState, RunState
from envs.errors import ConfigError, ResultError

#: Linux has a device that is always full; without one these two cannot be tried.
on_a_full_disk = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")

#: Rich's markup and pictures, what a terminal obeys, what turns the order of letters, and what is long.
NAMES = [
    "[/b]",
    "[dvd] Heat",
    "[bold]x[/bold]",
    ":heart:",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\u202egnp.exe",
    "two\nlines\r",
    "שלום עליכם",
    "an id of a " + "very " * 60 + "long name",
    'it\'s $(here) & "there"',
]
#: Together, for one place that shows a single name.
HOSTILE = " ".join(NAMES)
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def state_of(config):
    run = RunState(HOSTILE, {}, config, HOSTILE, "running", quality=0.15, phase=HOSTILE, error=HOSTILE)
    return RunsState("trials", {HOSTILE: run}, changed=HOSTILE, what="failed")


def check(shown, name=HOSTILE):
    """The name is there as it is, and nothing that a terminal would obey."""
    assert visible(name) in shown or visible_line(name) in shown
    assert not _OBEYED.search(shown)


@pytest.mark.parametrize("name", [*NAMES, HOSTILE, "plain", "", "-x", "no UTF-8: \udcff\udcfe"])
def test_a_printed_command_is_read_by_a_shell_as_what_it_was(name):
    line = command("printf", "%s", name)
    assert visible_line(line) == line
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on the PATH, which could read it")
    done = subprocess.run([bash, "-c", line], capture_output=True, check=True)
    assert done.stdout == os.fsencode(name)


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("dataset: {path: nowhere.csv}\n")
    return file


@pytest.fixture(scope="module")
def folder(make_result, tmp_path_factory):
    """A result whose ids and whose path are hostile."""
    items = [*NAMES, *(f"i{row}" for row in range(40 - len(NAMES)))]
    users = [HOSTILE, *(f"u{row}" for row in range(59))]
    path, *_ = make_result("lightgcn", ids=(np.array(users), np.array(items)))
    named = tmp_path_factory.mktemp("named") / "[dvd] :heart: [b]"
    shutil.copytree(path, named)
    return named


class TestNamesAreText:
    def test_in_recommend(self, run_cli, folder):
        status, out, err = run_cli("recommend", folder, "--user", "u0", "--user", HOSTILE, "-k", 40)
        assert status == 0, err
        for name in NAMES:
            check(out, name)
        check(out)
        assert "…" not in out

    def test_in_recommend_for_others(self, run_cli, folder):
        asked = ("recommend", folder, "--user", HOSTILE, "--include-seen", "-k", 40, "--format", "json")
        rows = json.loads(run_cli(*asked)[1])
        assert {row["item_id"] for row in rows} >= set(NAMES) and rows[0]["user_id"] == HOSTILE

    def test_in_what_is_unknown(self, run_cli, folder):
        for arguments in (
            ("recommend", folder, "--user", f"nobody {HOSTILE}"),
            ("recommend", folder / HOSTILE.replace("/", "|"), "--user", "1"),
            ("search", f"{HOSTILE.replace('/', '|')}.yaml"),
            ("search", "--resume", HOSTILE.replace("/", "|")),
            ("report", HOSTILE.replace("/", "|")),
        ):
            status, out, err = run_cli(*arguments)
            assert status == 2 and out == "" and "[dvd] Heat [bold]x" in err, arguments
            assert not _OBEYED.search(err)

    def test_in_paths(self, run_cli, folder, tmp_path):
        status, out, err = run_cli("verify", folder)
        assert status == 0 and out.startswith(f"{folder}: "), err
        status, out, err = run_cli("export", folder, tmp_path / ":heart: [b].parquet", "--format", "parquet")
        assert status == 0 and f"exported: {tmp_path}/:heart: [b].parquet" in out, err

    def test_in_interactions(self, run_cli, tmp_path):
        file = tmp_path / "[dvd] :heart:.csv"
        file.write_text("[dvd] Heat,:heart:\n" + "".join(f"{n},{n % 3}\n" for n in range(10)))
        status, out, err = run_cli("data", "describe", file)
        assert status == 2 and f"{tmp_path}/[dvd] :heart:.csv" in err and "[dvd] Heat" in err
        status, out, err = run_cli("data", "describe", file, "--user", "[dvd] Heat", "--item", ":heart:")
        assert status == 0, err
        made = tmp_path / ":heart: [b].parquet"
        sizes = ("--users", 9, "--items", 9, "--interactions", 30)
        assert run_cli("data", "generate", made, *sizes)[1].endswith(f" items: {made}\n")

    def test_in_a_report(self, run_cli, tmp_path, monkeypatch):
        # Figures take seconds.
        monkeypatch.setattr("ciess_ray.report.page.draw_all", lambda groups, searches: [])
        folder = write_search(tmp_path / "[dvd] :heart: [b]")
        page = tmp_path / ":heart: [b].html"
        status, out, err = run_cli("report", folder, "--output", page)
        assert status == 0 and f"report: {page}, 0 figures" in out, err

    def test_at_the_end_of_a_search(self, run_cli, monkeypatch, tmp_path, config_file):
        files = ("table.safetensors", "scorer.safetensors", "interactions.npz", "ids.parquet")
        uri = f"sqlite:///{HOSTILE}.db"
        summary = summary_of(config_of(tracking={"mlflow": True, "uri": uri}), hints=[HOSTILE])
        summary |= {"bytes": dict.fromkeys(files, 1)}
        summary["methods"][1]["name"] = HOSTILE
        done = SimpleNamespace(path=tmp_path / "it's [dvd] :heart:", summary=summary, looser=lambda: [])
        monkeypatch.setattr("ciess_ray.searches.driver.search", lambda *_, **__: done)
        write_whole(done.path / "checkpoints" / "step-00000012.checkpoint", bytes(4321))
        status, out, err = run_cli("search", config_file)
        assert status == 0, err
        check(out)
        kept = f"checkpoints: 4,321 bytes in {done.path / 'checkpoints'}, for --more-episodes alone"
        assert f"{kept}; it may be removed\n" in out
        told = f"look at it: {command('ciess-ray', 'report', done.path)}\n"
        assert f"result: {done.path}\n" in out and told in out
        assert f"--backend-store-uri {command(uri)}\n" in out and "it'\"'\"'s [dvd]" in out

    def test_at_the_end_of_a_sweep(self, run_cli, monkeypatch, tmp_path):
        config = config_of()
        fields = {"budget": "10%", "agent.gamma": HOSTILE, "seed": 0}
        failed = outcome_of(HOSTILE, fields, config, error=HOSTILE)
        outcomes = [outcome_of(HOSTILE, fields, config, summary_of(config)), failed]
        done = SweepResults(f"{tmp_path}/{HOSTILE}", outcomes, 60.0, [HOSTILE])
        monkeypatch.setattr("ciess_ray.sweeps.driver.resume_sweep", lambda *_, **__: done)
        status, out, err = run_cli("sweep", "--resume", tmp_path)
        assert status == 1 and err == ""
        lines = out.splitlines()
        told = visible_line(HOSTILE)
        for start in (f"*  {config['recommender']['name']}", "failed: ", "not recorded: ", "results: "):
            assert any(line.lstrip("* ").startswith(start.lstrip("* ")) for line in lines), start
        assert f"try again: {command('ciess-ray', 'sweep', '--resume', done.location)}" in lines
        assert told in lines[1] and lines[2].startswith("R@20: Recall@20") and not _OBEYED.search(out)

    def test_at_the_end_of_a_comparison(self, run_cli, monkeypatch, tmp_path):
        # What is longer no name of a file may be.
        file = tmp_path.joinpath(*(name.replace("/", "|")[:99] for name in NAMES))
        file.parent.mkdir(parents=True)
        file.touch()
        values = {
            "base": {"dataset": {"path": str(file)}},
            "space": {"budget": ["5%"], "agent.gamma": [0.5, 0.25]},
            "methods": ["full size", "search"],
            "output": str(tmp_path / "[dvd] it's :heart:"),
            "tracking": {"mlflow": False},
        }
        plan = ComparisonPlan.of(values, "comparison.yaml", tmp_path)
        failed = CellResult({"status": "failed", "error": HOSTILE})
        results = ComparisonResults(plan, {cell.name: failed for cell in plan.cells}, 12.0, [HOSTILE])

        def compare(plan, on_change, **_):
            on_change(state_of(plan.cells[0].config))
            return results

        monkeypatch.setattr("ciess_ray.comparisons.driver.read_plan", lambda folder, *_: plan)
        monkeypatch.setattr("ciess_ray.comparisons.driver.compare", compare)
        status, out, err = run_cli("compare", "--resume", tmp_path)
        assert status == 1 and err == ""
        check(out)
        again = command("ciess-ray", "compare", "--resume", plan.config.output)
        assert f"try again: {again}\n" in out and f"results: {plan.config.output}\n" in out
        assert "agent.gamma" in out or "gamma=0.5" in out

    def test_of_a_search_under_way(self):
        for is_terminal in (False, True):
            stream = io.StringIO()
            with SearchView(Terminal(file=stream, width=9999, force_terminal=is_terminal)) as view:
                view(Progress(HOSTILE, 2, 10, HOSTILE, 0.1, 0.95, 0.4, 65.0, 3725.0))
            check(_without_moves(stream.getvalue()))

    def test_of_a_sweep_under_way(self):
        for is_terminal in (False, True):
            stream = io.StringIO()
            with RunsView(Terminal(file=stream, width=9999, force_terminal=is_terminal)) as view:
                view(state_of(RunConfig.model_validate(config_of())))
            check(_without_moves(stream.getvalue()))


def _without_moves(shown):
    """What a terminal shows: colours and moves are Rich's own."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "", shown)


class TestStreams:
    """Each of these has ended a search at its first line."""

    @pytest.fixture
    def watch(self, monkeypatch, capfd):
        """Shows a search on a standard output; gives what was complained of."""

        def watch(stream):
            monkeypatch.setattr("sys.stdout", stream)
            spell_out()
            with SearchView(Terminal()) as view:
                for step in range(3):
                    view(Progress("search", step, 9, "caf\xe9", 0.1, 0.95, 0.4, 65.0, 3725.0))
            monkeypatch.undo()
            return capfd.readouterr().err

        return watch

    @pytest.mark.parametrize(("encoding", "told"), [("ascii", "caf\\xe9"), ("latin-1", "caf\xe9")])
    def test_letters_that_the_encoding_lacks_are_spelt_out(self, watch, encoding, told):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        assert watch(stream) == ""
        lines = stream.buffer.getvalue().decode(encoding).splitlines()
        assert len(lines) == 3 and lines[0].endswith(f"lambda 0.400  1:02:05 left  {told}")

    def test_a_reader_that_left(self, watch):
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "w") as stream:
            assert watch(stream) == ""

    @on_a_full_disk
    def test_a_disk_that_is_full(self, watch):
        with open("/dev/full", "w") as full:
            (line,) = watch(full).splitlines()
        assert line.startswith("output: [Errno 28]") and line.endswith("the work goes on.")

    def test_a_stream_that_is_closed(self, watch):
        stream = io.StringIO()
        stream.close()
        assert "nothing more is shown" in watch(stream)

    def test_help_in_ascii(self):
        code = "from ciess_ray.cli.main import main; main()"
        command, variables = [sys.executable, "-c", code, "--help"], {"PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, capture_output=True, check=False, env=os.environ | variables)
        assert done.returncode == 0 and done.stderr == b"" and b"+- Commands" in done.stdout


class TestData:
    def test_they_are_written_as_they_are_or_not_at_all(self, monkeypatch):
        stream = io.TextIOWrapper(io.BytesIO(), "ascii")
        monkeypatch.setattr("sys.stdout", stream)
        spell_out()
        with pytest.raises(ConfigError, match=r"'\\xe9' is not in .* encoding ascii; .* --format json"):
            write_data("caf\xe9")
        write_data("cafe\n")
        assert stream.buffer.getvalue() == b"cafe\n"

    @on_a_full_disk
    def test_a_full_disk_is_an_error_and_a_reader_that_left_is_none(self, monkeypatch):
        with open("/dev/full", "w") as full:
            monkeypatch.setattr("sys.stdout", full)
            with pytest.raises(ResultError, match="the output cannot be written"):
                write_data("x")
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "w") as stream:
            monkeypatch.setattr("sys.stdout", stream)
            write_data("x")
