"""What a search says that it takes, and what it takes."""

import json

import pytest
import yaml

from ciess_ray.searches.clock import Clock
from ciess_ray.training.forecast import Forecast, Phase
from ciess_ray.training.usage import Amounts


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


class TestClock:
    @pytest.fixture
    def clock(self):
        phases = (
            Phase("recipe", (((4, 20.0),),)),
            Phase("search", own_s=10.0),
            Phase("retraining", (((2, 30.0),),)),
        )
        clock = Clock()
        clock.foretell(Forecast(phases, 2, 1, 10**9, Amounts(1.0, 1.0, 1)))
        return clock

    def test_what_is_left_is_that_of_all_phases(self, clock):
        assert clock.remaining_s("recipe", 0.0, None) == 40 + 10 + 30
        assert clock.remaining_s("recipe", 30.0, 0.0) == 10 + 10 + 30
        assert clock.remaining_s("search", 0.0, 10.0) == 10 + 30

    def test_a_phase_that_is_late_makes_those_to_come_longer(self, clock):
        assert clock.remaining_s("recipe", 80.0, 0.0) == 2 * (10 + 30)
        # What its round tells of itself is known better.
        assert clock.remaining_s("recipe", 80.0, 20.0) == 20 + 2 * (10 + 30)

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
