import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from ciess_ray.comparisons.config import ComparisonPlan
from ciess_ray.config.data import caps_params_of, load_interactions
from ciess_ray.config.keys import digest, values_of_key
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.report.tables import data_table
from ciess_ray.result import SearchResult
from ciess_ray.searches.driver import resume, search
from ciess_ray.searches.finalists import Finalists
from ciess_ray.searches.run import Budget, Run
from ciess_ray.searches.sample import LEAST_JUDGED, draw_users, for_everybody, widened
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.training.contest import Allocation, place
from ciess_ray.training.convergence import Trained, equal_sizes, full_sizes
from envs.budget import MemoryBudget
from envs.errors import ConfigError
from envs.sizes.embedding_sizes import EmbeddingSizes

HALF = {"user_share": 0.5}


@pytest.fixture
def drawn_of(make_config, tmp_path):
    """The configuration of a search on some users, everybody and these."""

    def draw(share=0.5, **sections):
        config = make_config(tmp_path / "out", **{"search": {"user_share": share}} | sections)
        everybody = load_interactions(config)
        return config, everybody, draw_users(config, everybody)

    return draw


class TestDrawing:
    def test_users_are_drawn_by_seed_with_all_that_is_theirs(self, drawn_of):
        _, everybody, drawn = drawn_of()
        _, _, again = drawn_of()
        _, _, other = drawn_of(seed=1, dataset={"split_seed": 0})
        places = np.searchsorted(everybody.user_ids, drawn.user_ids)
        assert 0 < drawn.num_users == len(set(places)) < everybody.num_users == drawn.num_all_users
        for name in ("train", "validation", "test"):
            mine, theirs = getattr(drawn, name), getattr(everybody, name)
            assert (mine != theirs[places]).nnz == 0
        assert drawn.item_ids.tolist() == everybody.item_ids.tolist()
        assert drawn.fingerprint == again.fingerprint != other.fingerprint
        assert drawn.fingerprint != everybody.fingerprint

    def test_those_with_validation_are_kept_in_proportion(self, drawn_of):
        config, everybody, _ = drawn_of()
        counts = np.diff(everybody.validation.indptr)
        # Half of the users, those of even places, have none.
        validation = everybody.validation.tolil()
        validation[::2] = 0
        held_out = type(everybody.validation)(validation)
        held_out.eliminate_zeros()
        thinned = type(everybody)(
            everybody.train, held_out, everybody.test, everybody.user_ids, everybody.item_ids, 0, 0, "log"
        )
        is_judged = np.diff(thinned.validation.indptr) > 0
        assert is_judged.sum() == (counts[1::2] > 0).sum()
        drawn = draw_users(config, thinned)
        num_judged = np.count_nonzero(np.diff(drawn.validation.indptr))
        assert num_judged == round(0.5 * is_judged.sum())
        assert drawn.num_users - num_judged == round(0.5 * (~is_judged).sum())

    def test_a_share_of_all_is_everybody_and_known_by_the_same_keys(self, drawn_of):
        config, everybody, drawn = drawn_of(1.0)
        assert drawn is everybody
        plain = config.model_dump(mode="json")
        del plain["search"]["user_share"]
        keys = [digest(values_of_key(each, ())) for each in (config, parse_config(plain))]
        assert keys[0] == keys[1] and "user_share" not in values_of_key(config, ())["search"]

    def test_too_few_to_judge_are_refused_with_a_share_that_is_enough(self, drawn_of):
        with pytest.raises(ConfigError, match=r"0.2 of the 200 users .* are 40, .* ask for 0.25 or more"):
            drawn_of(0.2)
        _, _, drawn = drawn_of(0.25)
        assert np.count_nonzero(np.diff(drawn.validation.indptr)) == LEAST_JUDGED

    @pytest.mark.parametrize(
        "changes", [{"search": {"mode": "paper"}}, {"search": {"mode": "reference"}}, {"recommender": "auto"}]
    )
    def test_where_it_makes_no_sense_it_is_refused(self, changes):
        values = {"dataset": {"path": "log.csv"}, **changes}
        parse_config(values)
        values["search"] = {"user_share": 0.5, **changes.get("search", {})}
        with pytest.raises(ConfigError, match="user_share"):
            parse_config(values)


class TestBudgets:
    @pytest.mark.parametrize("budget", ["20%", "3 a row", "1000 params", "6kB"])
    @pytest.mark.parametrize("recommender", ["lightgcn", "spectral"])
    def test_a_row_has_as_much_in_the_search_as_in_the_end(self, drawn_of, budget, recommender):
        training = {"training": {}} if recommender == "spectral" else {}
        config, everybody, drawn = drawn_of(budget=budget, recommender={"name": recommender}, **training)
        (cap,), (its_cap,) = (caps_params_of(config, splits) for splits in (everybody, drawn))
        num_rows, its_num_rows = (sum(config.recommender.row_counts(splits)) for splits in (everybody, drawn))
        assert its_cap == cap * its_num_rows // num_rows
        assert (its_cap == cap) == (recommender == "spectral")


class TestWidening:
    def test_users_have_the_sizes_of_their_rank_and_the_budget_is_used_up(self, drawn_of):
        config, everybody, drawn = drawn_of()
        (cap_params,) = caps_params_of(config, everybody)
        (its_cap,) = caps_params_of(config, drawn)
        # The more popular the larger.
        ranks = np.argsort(np.argsort(drawn.user_popularity, kind="stable"))
        sizes = EmbeddingSizes.from_proposal(
            1 + 8 * ranks / len(ranks), np.full(drawn.num_items, 2), its_cap, 1, 16, np.random.default_rng(0)
        )
        wide = widened(sizes, drawn, everybody, cap_params, np.random.default_rng(0))
        assert wide.num_params == cap_params
        assert len(wide.user) == everybody.num_users
        by_rank = wide.user[np.argsort(everybody.user_popularity, kind="stable")]
        # What is left over is given to some of equals.
        assert (np.maximum.accumulate(by_rank) - by_rank <= 1).all()
        mine, theirs = (np.quantile(users, [0.1, 0.5, 0.9]) for users in (wide.user, sizes.user))
        assert np.abs(mine - theirs).max() <= 1.5
        assert np.abs(wide.item - sizes.item).max() <= 1

    def test_of_all_users_sizes_that_use_up_the_budget_stay_what_they_are(self, drawn_of):
        config, everybody, _ = drawn_of()
        (cap_params,) = caps_params_of(config, everybody)
        proposal = np.random.default_rng(1).uniform(1, 9, everybody.num_entities)
        sizes = EmbeddingSizes.from_proposal(
            *np.split(proposal, [everybody.num_users]), cap_params, 1, 16, np.random.default_rng(0), fill=True
        )
        wide = widened(sizes, everybody, everybody, cap_params, np.random.default_rng(2))
        np.testing.assert_array_equal(wide.user, sizes.user)
        np.testing.assert_array_equal(wide.item, sizes.item)

    def test_everybody_is_in_as_many_communities_within_the_bytes_of_the_budget(self, drawn_of, ray_cluster):
        config, everybody, drawn = drawn_of(budget="6kB")
        ((cap_params,), (its_cap,)) = (caps_params_of(config, splits) for splits in (everybody, drawn))
        asked = MemoryBudget.parse("6kB")
        equal = equal_sizes(config, drawn, its_cap)
        placed = place(equal, 3, asked, config, drawn)
        trained = Trained({}, 0.1, 40)
        equal, best, whole = (
            Allocation(name, sizes, trained=trained)
            for name, sizes in (("equal", equal), ("best", placed), ("full", full_sizes(config, drawn)))
        )
        run = Run(config, drawn, None, [Budget("6kB", its_cap)], SimpleNamespace())
        last, whole, (found,) = for_everybody(run, everybody, whole, [Finalists(equal, best, [])])
        assert whole.sizes.num_rows == everybody.num_entities
        sizes = found.best.sizes
        assert set(sizes.first_columns[: everybody.num_users]) == {1, 2, 3}
        assert sizes.packed_bytes <= 6_000 < sizes.packed_bytes + 4
        assert found.equal.sizes.num_params == cap_params
        assert last.growth == everybody.train.nnz / drawn.train.nnz
        # Where equal sizes are what is packed they still are.
        _, _, (same,) = for_everybody(run, everybody, whole, [Finalists(equal, equal, [])])
        assert same.best is same.equal


@pytest.fixture(scope="module")
def sampled(make_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    config = make_config(
        folder / "out", cache=None, budget=["20%", "30%"], search={"user_share": 0.5, "refit": True}
    )
    return config, search(config)


def table_of(result):
    return pq.read_table(result.path / "sizes.parquet").to_pandas()


class TestSearch:
    def test_everybody_has_a_row_and_the_budgets_are_used_up(self, sampled):
        config, result = sampled
        everybody = load_interactions(config)
        drawn = draw_users(config, everybody)
        for its, cap_params in zip(
            (result, SearchResult.load(config.output / "at-30-percent")),
            caps_params_of(config, everybody),
            strict=True,
        ):
            summary = its.summary
            assert summary["sample"] == {
                "user_share": 0.5,
                "num_users": drawn.num_users,
                "num_judged_users": 100,
                "num_interactions": drawn.num_interactions,
            }
            assert summary["dataset"]["num_users"] == everybody.num_users
            assert summary["budget"]["num_params"] == summary["budget"]["cap_params"] == cap_params
            full, equal, searched = summary["methods"]
            assert full["num_params"] == full_sizes(config, everybody).num_params
            assert equal["num_params"] <= searched["num_params"] == cap_params
            assert len(table_of(its)) == everybody.num_entities
            assert its.packed_table.num_bytes <= summary["budget"]["max_packed_bytes"]
            both = everybody.train.nnz + everybody.validation.nnz
            growth = everybody.train.nnz / drawn.train.nnz
            for row in summary["methods"]:
                batches = round(round(growth * row["best_batch"]) * both / everybody.train.nnz)
                assert row["num_test_batches"] == batches
                # Of everybody's items.
                assert 0 < row["test"]["ndcg@20"] < 1
            assert summary["refit"]["num_interactions"] == everybody.num_interactions
        steps = pq.read_table(config.output / "candidates.parquet").num_rows
        assert steps == result.summary["num_steps"]

    def test_the_clock_reckons_with_everybody_at_the_end(self, sampled):
        _, result = sampled
        phases = result.summary["clock"]["phases"]
        assert all(phases[name]["predicted_cpu_s"] >= 0 for name in ("test", "refit"))
        assert list(phases)[-2:] == ["test", "refit"]

    def test_a_report_says_whom_it_searched_with(self, sampled):
        _, result = sampled
        plain = SimpleNamespace(summary=result.summary | {"sample": None})
        table = data_table([SimpleNamespace(summary=result.summary), plain])
        column = [heading for heading, _ in table.headings].index("users searched with")
        assert [row[column].text for row in table.rows] == ["100", ""]
        assert "users searched with" not in dict(data_table([plain]).headings)

    @pytest.mark.parametrize(("phase", "step"), [("search", 3), ("test", 2)])
    def test_a_search_that_was_broken_off_ends_as_if_it_had_not_been(
        self, sampled, make_config, tmp_path, phase, step
    ):
        def stop(progress):
            if (progress.phase, progress.step) == (phase, step) and progress.is_step:
                raise KeyboardInterrupt

        whole, expected = sampled
        config = whole.model_copy(update={"output": tmp_path / "out"})
        config = config.model_copy(
            update={"search": config.search.model_copy(update={"checkpoint_interval_s": 0.0})}
        )
        with pytest.raises(KeyboardInterrupt):
            search(config, on_progress=stop)
        mine = resume(config.output)
        for name in ("sizes.parquet", "candidates.parquet"):
            assert pq.read_table(mine.path / name).equals(pq.read_table(expected.path / name)), name
        np.testing.assert_array_equal(mine.packed_table.values, expected.packed_table.values)
        for name in ("methods", "retrained", "budget", "sample"):
            assert mine.summary[name] == expected.summary[name]

    def test_a_table_of_items_has_the_sizes_that_were_chosen(self, make_config, tmp_path):
        config = make_config(
            tmp_path, recommender={"name": "spectral"}, training={}, search=HALF | {"refit": True}
        )
        result = search(config)
        summary = result.summary
        assert summary["budget"]["num_params"] == summary["budget"]["cap_params"]
        assert len(table_of(result)) == summary["dataset"]["num_items"] == 120
        assert summary["sample"]["num_users"] == 100

    def test_a_recipe_is_found_on_the_sample(self, make_config, tmp_path):
        """Its keys are those of the sample, and what is told of the budget is everybody's."""
        told = json.loads(json.dumps(make_config(tmp_path / "a").model_dump(mode="json")))
        del told["training"]
        told["search"] = {"user_share": 0.5, "num_episodes": 1, "num_candidates": 1, "tried_recipes": []}
        told["recommender"] |= {"name": "mf", "options": {"l2": 0.01, "init_std": 0.1}}
        result = search(parse_config(told))
        summary = result.summary
        assert summary["recipe"]["tried"]
        assert summary["budget"]["num_params"] == summary["budget"]["cap_params"]
        assert summary["budget"]["cap_params"] == int(0.2 * 320 * 16)


@pytest.mark.parametrize("plan", [ComparisonPlan, SweepPlan])
def test_many_runs_that_share_what_is_trained_refuse_it(plan, tmp_path):
    base = {"dataset": {"path": "log.csv"}}
    values = {"base": base, "space": {"seed": [0, 1]}}
    plan.of(values, "many.yaml", tmp_path)
    with pytest.raises(ConfigError, match="many.yaml: .*search.user_share: .* leave it out"):
        plan.of(values | {"base": base | {"search": HALF}}, "many.yaml", tmp_path)
