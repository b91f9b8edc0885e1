"""How trainings are found from the data where a run says nothing of them."""

import json
import re
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from ciess_ray import metric_keys
from ciess_ray.config.data import check_budgets, load_interactions
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.report.recipes import recipes_table
from ciess_ray.result import read_summary, search_lines
from ciess_ray.searches import driver
from ciess_ray.searches.beginning import describe, recorded
from ciess_ray.searches.driver import resume, search
from ciess_ray.training import arms, recipes
from ciess_ray.training.arms import arms_of, fields_of
from ciess_ray.training.convergence import Trained
from ciess_ray.training.recipes import find_recipe, full_size_quality
from ciess_ray.training.rules import pinned, with_rules
from envs.errors import ConfigError
from envs.recommenders import MF
from envs.recommenders.training import TrainingSettings


class Bare(MF):
    """A recommender without options."""

    def __init__(self, train, sizes, *, generator, device=None):
        super().__init__(train, sizes, generator=generator, device=device)


@pytest.fixture
def run_of(make_config, tmp_path):
    """Makes a run that says nothing of training."""

    def make(name="lightgcn", **sections):
        config = make_config(tmp_path / "out", recommender={"name": name}, **sections)
        return config.model_copy(update={"training": TrainingSettings()})

    return make


@pytest.fixture
def short_trainings(monkeypatch):
    for name, value in {"_SOFTMAX_BATCHES": 8, "_BPR_BATCHES": 12, "_EPOCHS": 0}.items():
        monkeypatch.setattr(arms, name, value)


@pytest.mark.parametrize(
    ("recipes_asked", "says"),
    [([{}], "is what is searched with"), ([{"l2": 0.1}] * 2, "stands there twice")],
)
def test_a_recipe_that_says_nothing_or_says_it_twice_is_refused(recipes_asked, says):
    search = {"tried_recipes": recipes_asked}
    with pytest.raises(ConfigError, match=says):
        parse_config({"dataset": {"path": "log.csv"}, "search": search})


class TestRules:
    def test_what_a_user_says_stays(self, make_config, run_of, tmp_path, make_interactions):
        says = make_config(tmp_path)
        assert with_rules(says, make_interactions()) is says
        config = run_of()
        ruled = with_rules(config, make_interactions())
        assert ruled.search.num_episodes == 2 and ruled.agent.hiddens == (16, 16)
        # What it leaves alone follows from the data.
        assert config.search.num_candidates == 2 and ruled.search.evaluation_interval == 5

    def test_bare_runs_are_filled(self, make_interactions):
        config = parse_config({"dataset": {"path": "log.csv"}})
        ruled = with_rules(config, make_interactions())
        assert ruled.training.loss == "full_softmax" and ruled.training.patience is None
        assert ruled.agent.hiddens == (64, 64) and ruled.search.num_warmup_steps == 120
        assert ruled.search.supernet_batches == 2 * ruled.training.max_batches
        # 12.8 numbers a row are not few; users of this data have few held-out interactions.
        assert not ruled.search.tried_communities and not ruled.search.shows_quality
        tight = with_rules(config.model_copy(update={"budget": "5%"}), make_interactions())
        assert tight.search.tried_communities == (16, 32)

    @pytest.mark.parametrize("mode", ["paper", "reference"])
    def test_modes_of_the_paper_are_left_as_they_are(self, make_interactions, mode):
        config = parse_config({"dataset": {"path": "log.csv"}, "search": {"mode": mode}})
        assert with_rules(config, make_interactions()) is config

    @pytest.mark.parametrize("name", ["mf", "ncf", "ngcf"])
    def test_every_recipe_is_one_that_its_recommender_takes(self, make_interactions, name):
        config = parse_config({"dataset": {"path": "log.csv"}, "recommender": {"name": name}})
        ruled = with_rules(config, make_interactions())
        for arm in arms_of(config):
            asked = recipes._with_arm(config, ruled, make_interactions(), arm)
            assert parse_config(json.loads(asked.model_dump_json())).training == asked.training
            assert asked.recommender.weights_of_l2[0] == arm.l2

    def test_a_loss_without_temperature_is_tried_beside_every_recipe(self, make_interactions):
        search = {"tried_recipes": [{"training.loss": "bpr"}]}
        config = parse_config({"dataset": {"path": "log.csv"}, "search": search})
        ruled = with_rules(config, make_interactions())
        for arm in arms_of(config):
            found = recipes._with_arm(config, ruled, make_interactions(), arm)
            assert found.with_options(found.ways[1].options).training.temperature is None

    def test_options_that_a_user_names_are_not_tried(self, make_interactions):
        options = {"l2": 0.5, "init_std": 0.2, "num_layers": 1}
        config = parse_config({"dataset": {"path": "log.csv"}, "recommender": {"options": options}})
        assert with_rules(config, make_interactions()).recommender.options == options

    @pytest.mark.parametrize(
        ("name", "options", "num_arms"),
        [
            ("ncf", {"l2": 0.5}, 2),
            ("mf", {"l2": [0.5, 0.7]}, 3),
            ("lightgcn", {"l2": 0.5, "init_std": 0.2}, 6),
        ],
    )
    def test_recipes_that_options_of_a_user_make_alike_are_tried_once(self, name, options, num_arms):
        recommender = {"name": name, "options": options}
        tried = arms_of(parse_config({"dataset": {"path": "log.csv"}, "recommender": recommender}))
        # A reader is told the weight that they are trained with.
        assert len(tried) == num_arms and all("L2 0.5" in str(arm) for arm in tried)

    def test_a_recommender_without_l2_has_no_recipes_that_differ_in_it(self):
        config = parse_config({"dataset": {"path": "log.csv"}, "recommender": {"name": f"{__name__}:Bare"}})
        assert len(arms_of(config)) == 3

    @pytest.mark.parametrize(
        ("num_users", "num_items", "budget", "tried"),
        [
            (5, 40, "5%", ()),
            (40, 21, "5%", (16,)),
            (60, 40, "5%", (16, 32)),
            (60, 40, "1800B", (16, 32)),
            (60, 40, "1600B", ()),
        ],
    )
    def test_communities_that_data_or_budget_have_no_room_for_are_not_tried(
        self, make_interactions, num_users, num_items, budget, tried
    ):
        interactions = make_interactions(num_users, num_items, 10 * num_users)
        ruled = with_rules(parse_config({"dataset": {"path": "log.csv"}, "budget": budget}), interactions)
        assert ruled.search.tried_communities == tried
        check_budgets(ruled, interactions)

    def test_what_is_pinned_is_all_that_was_found(self, make_interactions):
        values = {"dataset": {"path": "log.csv"}, "budget": "5%"}
        found = with_rules(parse_config(values), make_interactions())
        again = parse_config(values | json.loads(json.dumps(pinned(found, found))))
        assert not again.finds_recipe and again.model_dump() == found.model_dump()

    def test_a_closed_form_is_not_trained(self, make_interactions):
        config = parse_config({"dataset": {"path": "log.csv"}, "recommender": {"name": "spectral"}})
        ruled, tried = find_recipe(config, make_interactions(), None, lambda *news: None)
        assert tried == [] and ruled.recommender.options == {} and ruled.search.num_warmup_steps == 120

    @pytest.mark.parametrize(
        ("num_interactions", "num_items", "loss", "batch_size", "num_batches"),
        [
            (900, 40, "full_softmax", 4096, 600),
            (750_000, 3_706, "full_softmax", 2**15, 600),
            (10_000_000, 30_000, "softmax", 2**15, 2442),
        ],
    )
    def test_batches_and_losses_follow_the_size_of_the_data(
        self, num_interactions, num_items, loss, batch_size, num_batches
    ):
        arm = arms_of(parse_config({"dataset": {"path": "log.csv"}}))[0]
        data = SimpleNamespace(train=SimpleNamespace(nnz=num_interactions), num_items=num_items)
        fields = fields_of(arm, data)
        assert (fields["loss"], fields["batch_size"], fields["max_batches"]) == (
            loss,
            batch_size,
            num_batches,
        )


class TestChoosing:
    """Qualities are given; nothing is trained."""

    def found(self, config, interactions, monkeypatch, quality):
        asked = []

        def train(config, trainings, reference, num_threads):
            asked.append([training.name for training in trainings])
            # They end in any order.
            for position in reversed(range(len(trainings))):
                table, arm = trainings[position].name.split(", ", 1)
                yield position, (5, 0.5)
                yield position, Trained({}, quality(table, arm), 1)

        monkeypatch.setattr(recipes, "train_side_by_side", train)
        told = []
        config, tried = find_recipe(config, interactions, None, lambda *news: told.append(news))
        done = [news for news in told if news[3] and news[4] is None]
        assert len(done) == len(tried) == sum(map(len, asked))
        # A round begins without a name, and what is under way says how far it has come.
        assert [news[1] for news in told if not news[3]] == list(map(len, asked))
        assert {news[2:5:2] for news in told if news[4]} == {(0.5, 5)}
        return config, tried, asked

    def test_the_best_of_the_split_is_searched_with_and_the_best_of_each_table_is_tried(
        self, run_of, make_interactions, monkeypatch
    ):
        def quality(table, arm):
            if arm.startswith("bpr by user, learning rate 0.5") and table == "users first":
                # It learns slowly.
                return 0.16 if arm.endswith("of the batches") else 0.3
            return 0.2 if "0.15, L2 0.003" in arm else 0.15

        config, tried, asked = self.found(run_of(), make_interactions(), monkeypatch, quality)
        num_arms = len(arms_of(run_of()))
        assert len(asked[0]) == 3 * num_arms
        # The best two of each loss, of the full table the best.
        assert len(asked[1]) == 4 + 2 + 4
        assert config.training.loss == "bpr" and config.training.learning_rate == 0.5
        assert config.recommender.options["l2"] == 0.0005
        (other,) = config.search.tried_recipes
        assert other["training.loss"] == "full_softmax" and other["l2"] == 0.003
        assert config.with_options(other).training.learning_rate == 0.15
        # Each is named, in the order in which they were tried.
        assert [(row.table, row.share) for row in tried[:2]] == [("equal sizes", 0.25), ("full size", 0.25)]
        again = parse_config(json.loads(config.model_dump_json()))
        assert not again.finds_recipe and pinned(again, again) == pinned(config, config)

    @pytest.mark.parametrize("most_users", [3_000, 2])
    def test_a_short_training_that_is_better_than_a_whole_one_is_what_is_found(
        self, run_of, make_interactions, monkeypatch, most_users
    ):
        """As long as both are judged by the same users."""
        monkeypatch.setattr(recipes, "MOST_USERS", most_users)
        config, *_ = self.found(
            run_of("mf"), make_interactions(), monkeypatch, lambda _, arm: 0.1 + ("of the batches" in arm)
        )
        whole = fields_of(arms_of(run_of("mf"))[0], make_interactions())["max_batches"]
        share = 0.25 if most_users == 3_000 else 1
        assert config.training.max_batches == share * whole

    def test_where_one_is_the_best_of_all_no_other_is_tried(self, run_of, make_interactions, monkeypatch):
        config, *_ = self.found(
            run_of("mf"), make_interactions(), monkeypatch, lambda table, arm: 0.1 + ("L2 0.1" in arm)
        )
        assert config.recommender.options["l2"] == 0.1 and config.search.tried_recipes == ()

    def test_a_budget_with_room_for_everything_has_one_table(self, run_of, make_interactions, monkeypatch):
        *_, asked = self.found(run_of(budget="100%"), make_interactions(), monkeypatch, lambda *_: 0.0)
        assert {name.split(", ")[0] for name in asked[0]} == {"equal sizes"}


def test_a_search_that_is_broken_off_while_it_finds_its_recipe_ends_as_if_it_had_not_been(
    run_of, tmp_path, short_trainings, ray_cluster
):
    config = run_of().model_copy(update={"cache": None})
    num_done = 0

    def stop(progress):
        nonlocal num_done
        num_done += progress.is_step
        if progress.phase == "recipe" and num_done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(config, on_progress=stop)
    summary = read_summary(config.output)
    assert (summary["status"], summary["phase"]) == ("interrupted", "recipe")
    assert "training" not in summary["config"]
    told = []
    result = resume(config.output, on_progress=told.append)
    other = search(config.model_copy(update={"output": tmp_path / "other"}))
    for name in ("sizes.parquet", "candidates.parquet"):
        assert pq.read_table(result.path / name).equals(pq.read_table(other.path / name))
    assert result.summary["recipe"] == other.summary["recipe"]
    assert result.summary["config"]["training"]["loss"] == "full_softmax" or result.summary["recipe"]
    # Of a training that is under way there is news, which is no step.
    within = [news.note for news in told if news.phase == "recipe" and not news.is_step]
    assert any(re.search(r"^\S.*: batch \d+, quality 0\.\d+$", note) for note in within)
    assert told[0].phase == "recipe" and len(result.summary["recipe"]["tried"]) >= 27 + 6
    shown = recipes_table([SimpleNamespace(label="mine", summary=result.summary)])
    assert len(shown.rows) == len(result.summary["recipe"]["tried"])
    assert {row[0].text for row in shown.rows} == {"equal sizes", "full size", "users first"}
    # The split that leaves items the least is trained whatever steps make of it.
    assert [row["step"] is None for row in result.summary["retrained"]].count(True) == 2
    assert [row["is_packed"] for row in result.summary["retrained"]].count(True) == 1
    # Retraining finds equal sizes again, as they were trained here.
    equal = next(row for row in result.summary["retrained"] if row["name"] == "equal sizes")
    assert equal["quality"] in [
        row["quality"] for row in result.summary["recipe"]["tried"] if row["table"] == "equal sizes"
    ]
    # Qualities are told as shares of the full table's in the recipe that it is best with.
    tried = result.summary["recipe"]["tried"]
    full = [row["quality"] for row in tried if row["table"] == "full size" and row["share"] == 1]
    assert full_size_quality(tried, "lightgcn") == max(full) and full_size_quality([], "mf") == 0
    shares = {news.step: news.quality_share for news in told if news.phase == "search" and news.is_step}
    lines = {line["step"]: line[metric_keys.QUALITY] for line in search_lines(result.path) if line["step"]}
    # The full-size fit, of another seed, may be better still.
    wholes = [lines[step] / share for step, share in shares.items()]
    assert wholes == pytest.approx([wholes[0]] * len(shares)) and wholes[0] >= max(full) - 1e-9
    # What was found is what it was searched with.
    found = parse_config(json.loads(json.dumps(result.summary["config"])))
    assert not found.finds_recipe and found.training.max_batches in (8, 12)
    interactions = load_interactions(found)
    assert len(found.ways) == 1 + len(found.search.tried_recipes) and interactions.num_users == 200


@pytest.mark.parametrize("is_found", [True, False])
def test_a_search_that_is_told_its_configuration_anew_goes_on_with_what_it_found(
    run_of, make_interactions, monkeypatch, is_found
):
    asked, begun = run_of(), []
    found = with_rules(asked, make_interactions())
    config = found if is_found else asked
    summary = {
        "status": "interrupted",
        "config": recorded(config, found),
        "dataset": describe(config, make_interactions()),
        "recipe": {"pinned": pinned(found, asked), "tried": []} if is_found else None,
    }
    monkeypatch.setattr(driver, "read_summary", lambda folder: summary)
    monkeypatch.setattr(driver, "_search", lambda config, *others, **rest: begun.append(config))
    resume(asked.output, config=asked)
    (config,) = begun
    assert config.finds_recipe is not is_found
    assert config.training == (found if is_found else asked).training
