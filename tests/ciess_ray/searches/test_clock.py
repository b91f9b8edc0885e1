"""What a search says that it takes, and what it takes."""

import json
from types import SimpleNamespace

import pytest
import yaml

from ciess_ray.config.yaml_file import parse_config
from ciess_ray.report.clock import clock_table
from ciess_ray.searches.clock import Clock, Outlook, fit
from ciess_ray.searches.driver import resume, search
from ciess_ray.training.effort import EFFORTS, WHOLE, Effort
from ciess_ray.training.forecast import Forecast, Phase
from ciess_ray.training.rules import with_rules
from ciess_ray.training.usage import Amounts
from envs.errors import ConfigError


@pytest.fixture
def config_file(make_config, tmp_path):
    """A configuration of a search that takes seconds, as a file; its output and cache are not there."""
    config = make_config(tmp_path / "out", cache=tmp_path / "cache", seed=3)
    values = json.loads(config.model_dump_json(exclude_unset=True))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "run.yaml"


def test_a_dry_run_says_what_a_search_takes_and_writes_nothing(run_cli, config_file, tmp_path):
    before = sorted(tmp_path.iterdir())
    status, out, err = run_cli("search", config_file, "--dry-run")
    assert (status, sorted(tmp_path.iterdir())) == (0, before), err
    lines = out.splitlines()
    assert "200 users, 120 items" in lines[0] and "at most 1,024 of 5,120 parameters, 4,096 bytes" in lines[1]
    assert lines[2].startswith("takes about ") and " of memory" in lines[2]
    assert [line.split("  ")[0] for line in lines[4:]] == [
        "full-size fit",
        "supernet",
        "search",
        "retraining",
        "test",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budget", "1 params"], "budget"),
        (["search.tried_communities=[200]"], "tried_communities"),
        (["search.num_env_runners=99"], "has room for"),
        (["resources.num_cpus_per_training=64"], "has room for"),
    ],
)
def test_a_dry_run_refuses_what_a_search_would(run_cli, config_file, tmp_path, arguments, says):
    status, out, err = run_cli("search", config_file, "--dry-run", *arguments)
    assert status == 2 and says in err and not (tmp_path / "out").exists()


def test_a_result_is_not_replaced_in_a_dry_run_either(run_cli, config_file, finished):
    status, _, err = run_cli("search", config_file, "--dry-run", "--output", finished[0].output)
    assert status == 2 and "already holds a search" in err
    status, _, err = run_cli("search", "--resume", finished[0].output, "--dry-run")
    assert status == 2 and "give only" in err


def test_a_search_begins_with_what_it_takes_and_ends_with_what_it_took(finished):
    _, result, news = finished
    assert news[0].phase == "clock" and news[0].note.startswith("takes about ")
    clock = result.summary["clock"]
    predicted, taken = clock["predicted"], clock["taken"]
    assert set(predicted) == set(taken) == {"cpu_s", "wall_s", "peak_bytes"}
    # The Ray of these tests has started before, and holds what others left in it.
    assert 1 / 8 < taken["cpu_s"] / predicted["cpu_s"] < 8
    assert taken["peak_bytes"] > 1e8
    phases = clock["phases"]
    assert set(phases) == {"full-size fit", "supernet", "search", "retraining", "test"}
    of_phases = sum(amounts["taken_cpu_s"] for amounts in phases.values())
    assert 0 < of_phases <= taken["cpu_s"] + 1


LATE = {"cpu_s": 1.0, "peak_bytes": 1}


def outlook_of(*phases, effort=WHOLE):
    return Outlook(None, effort, Forecast(phases, 2, 1, 10**9, Amounts(1.0, 1.0, 1)))


PHASES = (
    Phase("recipe", (((4, 20.0),),)),
    Phase("search", own_s=10.0),
    Phase("retraining", (((2, 20.0),), ((2, 10.0),))),
)


def test_a_report_has_what_was_said_beside_what_was_taken(finished):
    _, result, _ = finished
    table = clock_table([SimpleNamespace(label="one", summary=result.summary)])
    cells = [[value.text for value in row] for row in table.rows]
    assert [row[0] for row in cells] == ["CPU s", "s", "memory, MB"]
    assert cells[2][2] == f"{result.summary['clock']['taken']['peak_bytes'] / 1e6:,.0f}"
    # A search from before knew no clock.
    assert not clock_table([SimpleNamespace(label="old", summary={})]).rows


class TestClock:
    @pytest.fixture
    def clock(self):
        clock = Clock()
        clock.foretell(outlook_of(*PHASES))
        return clock

    def test_what_is_left_is_that_of_all_phases(self, clock):
        assert clock.remaining_s("recipe", 0.0, None) == 40 + 10 + 30
        assert clock.remaining_s("recipe", 30.0, 0.0) == 10 + 10 + 30
        assert clock.remaining_s("search", 0.0, 10.0) == 10 + 30

    def test_a_phase_that_is_late_makes_those_to_come_longer(self, clock):
        assert clock.remaining_s("recipe", 80.0, 0.0) == 2 * (10 + 30)
        # What its round tells of itself is known better.
        assert clock.remaining_s("recipe", 80.0, 20.0) == 20 + 2 * (10 + 30)

    def test_the_first_steps_of_a_phase_do_not_say_how_long_it_takes(self, clock):
        # A second of 201 by its own pace, of ten by what was said.
        assert clock.remaining_s("search", 1.0, 200.0) == 9 + 30
        assert clock.remaining_s("search", 3.0, 9.0) == 9 + 30
        assert clock.remaining_s("search", 11.0, 2.0) == 2 + 1.1 * 30

    def test_without_a_forecast_a_round_tells_of_itself_alone(self):
        assert Clock().remaining_s("search", 3.0, 5.0) == 5.0
        assert Clock().remaining_s("search", 3.0, None) is None

    def test_it_goes_on_from_what_was_told(self, clock):
        told = json.loads(json.dumps(clock.told()))
        again = Clock(told)
        assert again.remaining_s("recipe", 0.0, None) == 80
        with again.phase("recipe"):
            sum(range(10**6))
        later = again.told()
        assert later["predicted"] == told["predicted"]
        assert later["taken"]["cpu_s"] >= told["taken"]["cpu_s"]


class TestTime:
    @pytest.mark.parametrize("time", ["10", "0m", "soon", "-1s", "1 day"])
    def test_what_is_no_duration_is_refused(self, run_cli, config_file, time):
        status, out, err = run_cli("search", config_file, "--time", time)
        assert status == 2 and "time" in err and "90s, 10m or 1h" in err

    @pytest.mark.parametrize(("time", "seconds"), [("90s", 90), ("1.5 m", 90), ("2min", 120), ("1h", 3600)])
    def test_durations_have_units(self, time, seconds):
        assert parse_config({"dataset": {"path": "log.csv"}, "time": time}).time_s == seconds

    @pytest.mark.parametrize(
        ("time_s", "effort"),
        [(1_000, WHOLE), (80, EFFORTS[2]), (30, EFFORTS[6]), (21, EFFORTS[7])],
    )
    def test_as_little_is_left_out_as_can_be(self, time_s, effort):
        takes = dict(zip(EFFORTS, (90, 85, 75, 60, 50, 40, 30, 20), strict=True))
        found = fit(lambda each: outlook_of(Phase("search", own_s=takes[each] - 1), effort=each), time_s)
        assert found.effort == effort

    def test_batches_and_episodes_come_last_and_what_cannot_be_is_refused(self):
        def takes(effort):
            return outlook_of(Phase("search", own_s=100 * effort.part), effort=effort)

        found = fit(takes, 50.0)
        assert found.effort.num_arms == 1 and 45 < found.forecast.amounts.wall_s <= 50
        assert "batches and episodes" in found.line and "without other values of options" in found.line
        with pytest.raises(ConfigError, match="about 6 s here, and it is given 5 s: give it 6s"):
            fit(takes, 5.0)

    def test_an_effort_cuts_down_what_a_user_says_and_what_follows_from_data(
        self, make_config, make_interactions, tmp_path
    ):
        search = {"num_episodes": 10, "tried_communities": [2], "tried_recipes": [{"l2": 0.3}]}
        options = {"options": {"l2": [0.1, 0.2]}}
        said = make_config(tmp_path, recommender=options, search=search)
        less = with_rules(said, make_interactions(), Effort(False, False, False, 1, 0.5))
        assert less.training.max_batches == 30 and less.search.num_episodes == 5
        assert not less.search.tried_communities and len(less.ways) == 1 and not less.ways[0].others
        bare = parse_config({"dataset": {"path": "log.csv"}, "budget": "5%"})
        less = with_rules(bare, make_interactions(), Effort(has_communities=False, part=0.1))
        assert less.training.max_batches == 60 and less.search.supernet_batches == 120
        assert less.search.num_episodes == 2 and not less.search.tried_communities
        closed = parse_config({"dataset": {"path": "log.csv"}, "recommender": {"name": "spectral"}})
        assert closed.ways[0].others and not Effort(has_values=False).reduced(closed).ways[0].others

    def test_what_time_is_left_for_is_decided_once(self):
        clock = Clock(time_s=40.0)
        clock.foretell(outlook_of(*PHASES))
        # A round of retraining takes 15 s, and episodes have the rest of it.
        assert clock.has_time_for("l2") and clock.num_episodes(20) == 20
        late = Clock(json.loads(json.dumps(clock.told())) | {"taken": {**LATE, "wall_s": 39.0}}, 40.0)
        assert late.has_time_for("l2") and late.num_episodes(20) == 20
        assert not late.has_time_for("other ways")
        assert not Clock(json.loads(json.dumps(late.told())), 1e9).has_time_for("other ways")

    def test_episodes_that_time_is_not_left_for_are_not_taken(self, monkeypatch):
        clock = Clock({"taken": {**LATE, "wall_s": 20.0}}, 40.0)
        clock.foretell(outlook_of(*PHASES))
        # On a busy machine this test takes some of the time that is left.
        assert 0.0 < clock._left_s() <= 20.0
        monkeypatch.setattr(Clock, "_left_s", lambda clock: 20.0)
        # Of which a round of retraining takes 15.
        assert clock.num_episodes(20) == 10

    def test_a_search_in_time_leaves_out_what_does_not_fit_and_goes_on_alike(
        self, make_config, tmp_path, monkeypatch
    ):
        options = {"options": {"l2": [0.1, 0.2, 0.3]}}
        search_section = {"num_episodes": 3, "tried_recipes": [{"l2": 0.4}]}
        config = make_config(
            tmp_path / "out", cache=None, seed=5, recommender=options, search=search_section, time="1h"
        )
        # An hour is enough; that it is over by retraining is what is tried here.
        late = []

        def on_progress(news):
            if news.phase == "retraining" and not late:
                late.append(news)
                monkeypatch.setattr(Clock, "_left_s", lambda clock: -1.0)
            if news.phase == "test":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search(config, on_progress=on_progress)
        monkeypatch.undo()
        summary = resume(tmp_path / "out").summary
        assert summary["clock"]["decided"]["other ways"] is False
        assert summary["clock"]["decided"]["l2"] is False
        names = [path.name for path in (tmp_path / "out" / "checkpoints").glob("training-*.npz")]
        # Equal sizes and candidates, and three tables for test: in one way alone.
        assert len(names) <= 3 + 3


def test_a_dry_run_of_a_search_that_chooses_its_recommender_says_what_each_has_room_for(run_cli, config_file):
    values = yaml.safe_load(config_file.read_text())
    for section in ("training", "recommender", "search"):
        values.pop(section)
    values |= {"recommender": {"max_embedding_size": 16, "device": "cpu"}, "budget": ["20kB", "25kB"]}
    config_file.write_text(yaml.safe_dump(values))
    status, out, err = run_cli("search", config_file, "--dry-run")
    assert status == 0, err
    first, second = (line for line in out.splitlines() if line.startswith("budget "))
    assert first.startswith(
        "budget 20kB: 20,000 bytes to serve, of which validation chooses who makes the most"
    )
    rooms = [
        {part.split()[0]: int(part.split()[1].replace(",", "")) for part in line.split(": ")[2].split(", ")}
        for line in (first, second)
    ]
    assert {"neighbours", "spectral", "mf"} <= rooms[0].keys() == rooms[1].keys()
    assert all(0 < rooms[0][name] <= rooms[1][name] for name in rooms[0])
