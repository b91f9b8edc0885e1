"""What moves in a terminal, and the lines that are there where nothing moves."""

import io
import re
import time
from dataclasses import replace

import pytest

from ciess_ray import metric_keys
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.result import ResultFolder
from ciess_ray.searches.live import RunsView, SearchView, remaining_s
from ciess_ray.searches.run import Journal, Progress
from ciess_ray.terminal import Terminal
from ciess_ray.tracking.runs import RunsState, RunState


class TestSearchView:
    STEP = Progress("search", 2, 10, "warm-up", 0.1, 0.95, 0.4, 65.0, 3725.0)

    def test_a_line_a_step_where_there_is_no_terminal(self):
        stream = io.StringIO()
        with SearchView(Terminal(file=stream, width=200)) as view:
            view(Progress("search", 0, 10, is_step=False))
            view(Progress("search", 0, 10, "batch 5", is_step=False))
            view(self.STEP)
        assert stream.getvalue().splitlines() == [
            "search 0/10",
            "search 2/10  kept 10.00%  quality 95.0% of full-size fit  λ 0.400  1:02:05 left  warm-up",
        ]

    def test_a_table_that_moves_in_a_terminal(self, monkeypatch):
        # One that is dumb has no table that moves.
        monkeypatch.setenv("TERM", "xterm")
        stream = io.StringIO()
        with SearchView(Terminal(file=stream, width=200, force_terminal=True)) as view:
            view(self.STEP)
            view(replace(self.STEP, note="batch 5", elapsed_s=66.0, is_step=False))
        last = stream.getvalue().splitlines()[-2]
        for text in ("2/10", "10.00%", "95.0% of full", "0.400", "1:06", "1:02:05", "batch 5"):
            assert text in last


def test_news_from_within_a_step_leave_the_figures_of_the_last_step_where_they_are(tmp_path):
    news = []
    journal = Journal(ResultFolder(tmp_path), news.append)
    with journal.phase("search", 10):
        journal.advance(2, {metric_keys.KEPT_RATIO: 0.1}, note="warm-up")
        journal.tell("batch 5")
    told = [(each.step, each.kept_ratio, each.note, each.is_step) for each in news]
    assert told == [(0, None, "", False), (2, 0.1, "warm-up", True), (2, 0.1, "batch 5", False)]


def test_rounds_of_a_phase_are_counted_anew(tmp_path):
    news = []
    journal = Journal(ResultFolder(tmp_path), news.append)
    with journal.phase("retraining", 4):
        for num_steps in (4, 3):
            journal.begin_round(num_steps)
            journal.tell("batch 5")
            for step in range(num_steps):
                journal.advance(step + 1, {})
    told = [f"{each.step}/{each.num_steps}" for each in news]
    assert told == ["0/4", "0/4", "1/4", "2/4", "3/4", "4/4", "0/3", "1/3", "2/3", "3/3"]
    # What the first round took is no measure of the second.
    assert news[-1].remaining_s == 0.0 and news[-3].remaining_s < news[-3].elapsed_s * 2


def state_of(**changes):
    now, config = time.monotonic(), parse_config({"dataset": {"path": "log.parquet"}})
    names = (
        "0_budget-5-percent_recommender-lightgcn_seed-0",
        "1_budget-5-percent_seed-1",
        "2_budget-10-percent_seed-0",
    )
    trials = {
        names[0]: RunState(
            names[0], {}, config, "5%", "finished", quality=0.2, started=now - 90, seconds=60.0
        ),
        names[1]: RunState(names[1], {}, config, "5%", "running", quality=0.15, step=17, started=now - 20),
        names[2]: RunState(names[2], {}, config, "10%"),
    }
    return RunsState("trials", trials, now - 90, **changes)


class TestRunsView:
    def test_plain_lines_are_one_a_trial_and_no_more(self):
        out = io.StringIO()
        first, second, _ = state_of().runs
        with RunsView(Terminal(file=out, width=80)) as view:
            view(state_of(changed=first, what="finished"))
            for _ in range(50):
                view(state_of(changed=second, what="reported"))
        lines = out.getvalue().splitlines()
        assert (
            lines[0].startswith(f"finished {first}") and "quality 0.2000" in lines[0] and "1:00" in lines[0]
        )
        assert lines[1].startswith("1 of 3 trials done, 1 running, 1 pending, 1:30 so far, 1:40 left")
        assert len(lines) == 2

    def test_a_line_has_the_note_of_a_run_and_names_what_runs_share(self):
        out, (first, *_) = io.StringIO(), state_of().runs
        with RunsView(Terminal(file=out, width=80)) as view:
            state = state_of(changed=first, what="finished")
            state.runs[first].note = "N@20 0.1234, split"
            view(state)
            view(state_of(changed="full-size fit of seed=0", what="found in the cache"))
        lines = [line for line in out.getvalue().splitlines() if "trials done" not in line]
        assert lines == [
            f"finished {first}  quality 0.2000  N@20 0.1234, split  1:00",
            "found in the cache full-size fit of seed=0",
        ]

    def test_a_terminal_shows_counts_the_best_and_what_runs_within_80_columns(self):
        out = io.StringIO()
        console = Terminal(file=out, width=80, height=40, force_terminal=True, color_system=None)
        with RunsView(console) as view:
            view(state_of(changed="1_budget-5-percent_seed-1", what="reported", num_waiting=99))
        text = " ".join(out.getvalue().split())
        assert "1 of 3 trials done" in text and "99 writes wait for MLflow" in text
        assert "17/" in text and "5%" in text and "0.2000" in text
        shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", out.getvalue())
        assert max(len(line) for line in shown.splitlines()) <= 80

    def test_time_left_is_unknown_until_a_trial_has_ended(self):
        state = state_of()
        state.runs["0_budget-5-percent_recommender-lightgcn_seed-0"].seconds = None
        assert remaining_s(state) is None
        assert remaining_s(state_of()) == pytest.approx(100.0, abs=1.0)
