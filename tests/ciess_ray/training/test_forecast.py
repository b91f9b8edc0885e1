"""What a search will take, added up from what its trainings take."""

import time
from dataclasses import replace

import pytest

from ciess_ray.config.yaml_file import parse_config
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, USERS_FIRST
from ciess_ray.training.convergence import full_sizes
from ciess_ray.training.forecast import Paces, Phase, add_up, phases_of, spelt
from ciess_ray.training.pace import Pace, Probe, measure_pace, usual_batches
from ciess_ray.training.preparing import SUPERNET, file_of, preparations_of
from ciess_ray.training.recipes import first_round, with_rules
from ciess_ray.training.usage import Amounts, Usage
from envs.recommenders.training import TrainingSettings

#: A second a batch, and nothing else.
PLAIN = {FULL_SIZE: 1.0, EQUAL_SIZES: 0.25, USERS_FIRST: 0.5, SUPERNET: 1.0}


def paces_of(*losses):
    return Paces(
        {
            (name, loss): Pace(0.0, each, 0.0, 10**8)
            for loss in losses or [("bpr", 10_000)]
            for name, each in PLAIN.items()
        },
        0.0,
    )


def run_of(**values):
    training = {"max_batches": 100, "patience": None}
    search = {"num_candidates": 2, "supernet_batches": 30}
    given = {"dataset": {"path": "log.csv"}, "cache": "nowhere", "budget": "25%"}
    return parse_config(given | {"training": training, "search": search} | values)


def by_name(config, interactions, paces=None, asked=None):
    phases = phases_of(asked or config, config, interactions, paces or paces_of())
    return {phase.name: phase for phase in phases}


class TestPhases:
    def test_trainings_that_run_side_by_side_take_as_long_as_the_longest_or_their_share(self):
        phase = Phase("retraining", (((4, 10.0),), ((1, 30.0), (1, 10.0))), own_s=5.0)
        assert phase.cpu_s == 85.0 and phase.num_trainings == 6
        assert phase.wall_s(2) == 20 + 30 + 5 and phase.wall_s(1) == 85
        assert phase.wall_s(2, num_threads=2) == 10 + 15 + 5

    def test_every_training_of_a_search_counts(self, make_interactions):
        found = by_name(run_of(), make_interactions())
        assert list(found) == ["full-size fit", "supernet", "search", "retraining", "test", "refit"]
        assert found["full-size fit"].cpu_s == 100 and found["supernet"].cpu_s == 30
        # Equal sizes, and two candidates, each half as wide.
        assert found["retraining"].cpu_s == 25 + 2 * 50 and found["retraining"].num_trainings == 3
        assert found["test"].num_trainings == 3 and found["refit"].num_trainings == 1

    def test_what_is_tried_beside_comes_in_rounds_of_its_own(self, make_interactions):
        interactions = make_interactions()
        ways = run_of(recommender={"options": {"l2": [0.1, 0.2]}})
        assert len(by_name(ways, interactions)["retraining"].rounds) == 2
        search = {"num_candidates": 2, "supernet_batches": 30, "tried_communities": [2]}
        ways = run_of(search=search | {"tried_recipes": [{"l2": 0.3}]})
        assert len(by_name(ways, interactions)["retraining"].rounds) == 3

    def test_every_budget_has_candidates_of_its_own(self, make_interactions):
        found = by_name(run_of(budget=["25%", "50%"]), make_interactions())
        assert found["retraining"].num_trainings == 6 and found["test"].num_trainings == 5

    def test_what_is_kept_takes_nothing(self, make_interactions, tmp_path):
        config, interactions = run_of(cache=tmp_path), make_interactions()
        for preparation in preparations_of(config, interactions):
            file_of(preparation, tmp_path).touch()
        found = by_name(config, interactions)
        assert found["full-size fit"].cpu_s == found["supernet"].cpu_s == 0

    def test_a_recipe_that_is_found_is_a_phase_until_all_of_it_is_kept(self, make_interactions, tmp_path):
        interactions = make_interactions()
        asked = parse_config({"dataset": {"path": "log.csv"}, "cache": tmp_path})
        config, paces = with_rules(asked, interactions), paces_of(("full_softmax", 4096), ("bpr", 4096))
        phase = by_name(config, interactions, paces, asked)["recipe"]
        tried = first_round(asked, interactions)
        assert phase.num_trainings == len(tried) + pytest.approx(10, abs=0.2) and len(phase.rounds) == 2
        for file in tried.values():
            file.touch()
        assert by_name(config, interactions, paces, asked)["recipe"].cpu_s == 0

    def test_patience_ends_a_training_before_its_last_batch(self):
        settings = TrainingSettings(max_batches=4_000, patience=5, evaluate_every=100)
        assert usual_batches(settings) == 2_500
        assert usual_batches(settings.model_copy(update={"patience": None})) == 4_000

    def test_a_closed_form_takes_no_batches(self, make_interactions):
        config = run_of(recommender={"name": "spectral"})
        loss = (config.training.loss, config.training.batch_size)
        paces = Paces({(name, loss): Pace(7.0, 0.0, 1.0, 10**8) for name in PLAIN}, 0.0)
        found = by_name(config, make_interactions(), paces)
        assert "supernet" not in found and found["full-size fit"].cpu_s == 8.0

    def test_all_of_it_is_the_sum_and_what_had_been_taken(self, make_interactions):
        config, interactions = run_of(), make_interactions()
        found = add_up(config, config, interactions, paces_of(), Amounts(11.0, 3.0, 10**9), at_once=2)
        assert found.amounts.cpu_s >= 11 + sum(phase.cpu_s for phase in found.phases)
        assert found.amounts.wall_s == 3 + sum(phase.wall_s(2) for phase in found.phases)
        assert found.peak_bytes > 10**9 and "on 2 CPUs" in found.line


def test_a_busy_machine_takes_longer_and_no_more_cpu_seconds(make_interactions):
    config, interactions, idle = run_of(), make_interactions(), paces_of()
    busy = Paces({key: replace(pace, slowness=3.0) for key, pace in idle.of_trainings.items()}, idle.pass_s)
    phases = [
        add_up(config, config, interactions, paces, Amounts(0.0, 0.0, 0), at_once=2) for paces in (idle, busy)
    ]
    first, second = (forecast.phases[0] for forecast in phases)
    assert first == second and phases[1].wall_s_of(second) == 3 * phases[0].wall_s_of(first)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 CPU s"), (89, "89 CPU s"), (360, "6 CPU min"), (9_000, "2.5 CPU h")]
)
def test_durations_are_spelt_as_people_say_them(seconds, text):
    assert spelt(seconds, "CPU ") == text


def test_what_is_measured_is_what_a_training_takes(make_interactions):
    interactions = make_interactions(400, 300, 8_000)
    config = run_of(training={"batch_size": 512}, recommender={"max_embedding_size": 32})
    pace = measure_pace(Probe(config, full_sizes(config, interactions)), interactions)
    before = time.process_time()
    # It can be measured again, and comes to the same within the noise of a busy machine.
    again = measure_pace(Probe(config, full_sizes(config, interactions)), interactions)
    assert 0 < again.batch_s < time.process_time() - before
    assert 1 / 8 < pace.batch_s / again.batch_s < 8
    assert pace.validation_s > 0 and pace.peak_bytes > 10**7


def test_usage_goes_on_from_what_was_taken_before():
    with Usage({"cpu_s": 100.0, "wall_s": 50.0, "peak_bytes": 10**15}) as usage:
        began = time.process_time()
        while time.process_time() - began < 0.3:
            sum(range(1_000))
        now = usage.look()
    assert 100.2 < now.cpu_s < 160 and now.wall_s > 50.2 and now.peak_bytes == 10**15
