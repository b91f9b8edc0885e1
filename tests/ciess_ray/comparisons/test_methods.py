"""Every method of a comparison: the exact budget, one seed one answer, and no look at test."""

import dataclasses
import functools

import numpy as np
import pytest
from scipy.sparse import csr_array

from ciess_ray.candidate import Candidate
from ciess_ray.comparisons import cell as cell_module
from ciess_ray.comparisons.cell import run_cell
from ciess_ray.comparisons.config import FORMER_METHODS, METHOD_NAMES
from ciess_ray.comparisons.methods import METHODS, Method, Problem
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.training.contest import select_finalists
from ciess_ray.training.convergence import Cost
from ciess_ray.training.preparing import Preparation
from envs.errors import BudgetError
from envs.sizes.embedding_sizes import is_plain_split

CAP = {"lightgcn": 171, "ncf": 342}


@pytest.fixture(scope="module")
def interactions(make_interactions):
    return make_interactions()


@pytest.fixture(scope="module")
def world(interactions, tmp_path_factory, ray_cluster):
    """A configuration a recommender with what its cells share."""
    folder = tmp_path_factory.mktemp("shared")
    made = {}

    def make(recommender="lightgcn"):
        if recommender not in made:
            config = parse_config(
                {
                    "dataset": {"path": "nothing.parquet"},
                    "budget": "20%",
                    "cache": folder,
                    "recommender": {"name": recommender, "max_embedding_size": 8, "device": "cpu"},
                    "training": {"batch_size": 128, "evaluate_every": 10, "patience": 1, "max_batches": 20},
                    "search": {
                        "num_episodes": 1,
                        "episode_length": 2,
                        "supernet_batches": 10,
                        "num_warmup_steps": 1,
                        "num_candidates": 2,
                    },
                    "agent": {"hiddens": (8,), "updates_per_step": 1},
                }
            )
            visible = interactions.without_test()
            full = Preparation.full_size(config, visible, keeps_state=True).train(visible)
            supernet = Preparation.supernet(config, visible, [CAP[recommender]]).train(visible)
            costs = [Cost(1.0, 1.0, 1, 1)] * 2
            made[recommender] = config, full, supernet.state, costs
        return made[recommender]

    return make


def cell(world, method, interactions, folder, recommender="lightgcn", seed=0, reveal=None):
    config, full, pretrained, costs = world(recommender)
    config = config.model_copy(update={"seed": seed})
    sizes = config.recommender.num_tables * interactions.num_entities * 8
    cap = sizes if method == "full size" else CAP[recommender]
    work = folder / f"{method}-{len(list(folder.iterdir()))}"
    work.mkdir()
    problem = Problem(config, interactions.without_test(), cap, work, full, pretrained)
    return run_cell(method, problem, costs, reveal or (lambda: interactions.test))


@pytest.fixture(scope="module")
def first(world, interactions, tmp_path_factory):
    """A cell of LightGCN and seed 0 for each method, for all that compare another with it."""
    folder = tmp_path_factory.mktemp("first")
    return functools.cache(lambda method: cell(world, method, interactions, folder))


@pytest.mark.parametrize("method", ["equal sizes", "pep"])
def test_a_method_keeps_the_weight_of_l2_that_suits_it(method, world, interactions, tmp_path):
    config, *others = world()

    def under(l2):
        recommender = config.recommender.model_copy(update={"options": {"l2": l2}})
        changed = config.model_copy(update={"recommender": recommender})
        return cell(lambda _: (changed, *others), method, interactions, tmp_path).row

    plain, tuned = under(1e-3), under([50.0, 1e-3, 20.0])
    assert plain["l2"] == tuned["l2"] == 1e-3
    assert tuned["num_trainings"] == plain["num_trainings"] + 2
    if method == "equal sizes":
        assert tuned["test/ndcg@20"] == plain["test/ndcg@20"]


def test_a_search_may_begin_its_rows_at_other_columns(world, interactions, tmp_path, monkeypatch):
    # Whatever they come to here: three communities are best, and what is worse ends the trying.
    bonus, converged, tried = {3: 1.0, 4: 0.5, 5: 2.0}, cell_module._converge, []

    def prefer_three(problem, allocation):
        found = converged(problem, allocation)
        if allocation.sizes.first_columns is not None:
            number = int(allocation.name.split()[-2])
            tried.append(number)
            found = dataclasses.replace(found, quality=found.quality + bonus[number])
        return found

    monkeypatch.setattr(cell_module, "_converge", prefer_three)
    config, *others = world()
    settings = config.search.model_copy(update={"tried_communities": (3, 4, 5)})
    changed = config.model_copy(update={"search": settings})
    for method, is_placed in (("random search", True), ("split in communities", True), ("split", False)):
        result = cell(lambda _: (changed, *others), method, interactions, tmp_path)
        assert ("first_columns" in result.sizes) == is_placed
        assert result.row["allocation"].endswith(", 3 communities") == is_placed
        assert result.row["num_params"] == CAP["lightgcn"]
    # For the best, and for the best plain split where that is another; five never, since four was worse.
    assert set(tried) == {3, 4}


@pytest.mark.parametrize(("method", "is_search"), [("random search", True), ("split", False)])
def test_a_search_is_never_worse_than_equal_sizes(
    method, is_search, world, interactions, tmp_path, monkeypatch
):
    converged = cell_module._converge

    def prefer_equal(problem, allocation):
        found = converged(problem, allocation)
        return dataclasses.replace(found, quality=found.quality + (allocation.name == "equal sizes"))

    monkeypatch.setattr(cell_module, "_converge", prefer_equal)
    equal, other = (cell(world, name, interactions, tmp_path) for name in ("equal sizes", method))
    assert (other.row["allocation"] == "equal sizes") == is_search
    assert (other.row["test/ndcg@20"] == equal.row["test/ndcg@20"]) == is_search


def test_the_table_of_methods_has_the_configured_names():
    assert tuple(METHODS) == (*METHOD_NAMES, *FORMER_METHODS)


@pytest.mark.parametrize("recommender", CAP)
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_method_uses_up_the_budget_and_is_measured(
    method, recommender, first, world, interactions, tmp_path
):
    is_first = recommender == "lightgcn"
    result = first(method) if is_first else cell(world, method, interactions, tmp_path, recommender)
    row = result.row
    num_tables = 2 if recommender == "ncf" else 1
    full = num_tables * interactions.num_entities * 8
    assert row["num_params"] == (full if method == "full size" else CAP[recommender])
    assert row["kept_ratio"] == row["num_params"] / full
    assert 4 * row["num_params"] < row["packed_bytes"] <= 4 * row["num_params"] + full / 8 + 1124
    assert 0 < row["test/ndcg@20"] <= 1 and 0 < row["validation/quality"] <= 1
    assert row["num_trainings"] >= 3 and row["cpu_s"] > 0 and row["peak_bytes"] > 10**7
    assert row["cpu_s"] == pytest.approx(
        row["cpu_s/shared"] + row["cpu_s/choosing"] + row["cpu_s/training"] + row["cpu_s/test"]
    )
    per_user = result.user_metrics["ndcg@20"]
    assert (
        per_user.dtype == np.float32
        and np.isnan(per_user).sum() == (np.diff(interactions.test.indptr) == 0).sum()
    )
    assert np.nanmean(per_user) == pytest.approx(row["test/ndcg@20"], rel=1e-5)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_test_interactions_change_nothing_but_the_test_figures(method, first, world, interactions, tmp_path):
    """Nothing is asked for before all is chosen, and other test data leaves all that was chosen."""
    asked = []
    rng = np.random.default_rng(0)
    shuffled = csr_array(interactions.test[:, rng.permutation(interactions.num_items)])
    shuffled.sort_indices()

    def reveal():
        asked.append(True)
        return shuffled

    one, other = first(method), cell(world, method, interactions, tmp_path, reveal=reveal)
    assert asked == [True]
    for name in ("allocation", "best_batch", "num_params", "validation/quality", "validation/recall@5"):
        assert one.row[name] == other.row[name], name
    for name in one.sizes:
        np.testing.assert_array_equal(one.sizes[name], other.sizes[name])
    assert one.row["test/ndcg@20"] != other.row["test/ndcg@20"]


@pytest.mark.parametrize("method", ["split", "magnitude pruning", "search"])
def test_test_interactions_are_fetched_when_all_else_is_done(
    method, world, interactions, tmp_path, monkeypatch
):
    from ciess_ray.comparisons import cell as cells

    events = []

    def told(name, function):
        def call(*arguments, **named):
            result = function(*arguments, **named)
            events.append((name, arguments[1].test.nnz))
            return result

        return call

    for name in ("fit_to_convergence", "train_for_test"):
        monkeypatch.setattr(cells, name, told(name, getattr(cells, name)))

    def reveal():
        events.append(("reveal", None))
        return interactions.test

    cell(world, method, interactions, tmp_path, reveal=reveal)
    assert events[-2:] == [("reveal", None), ("train_for_test", interactions.test.nnz)]
    assert len(events) > 3 and all(num_test == 0 for _, num_test in events[:-2])


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_one_seed_gives_one_answer(method, first, world, interactions, tmp_path):
    one, two = first(method), cell(world, method, interactions, tmp_path)
    for name, values in one.user_metrics.items():
        np.testing.assert_array_equal(values, two.user_metrics[name])
    other = cell(world, method, interactions, tmp_path, seed=1)
    assert not np.array_equal(other.user_metrics["ndcg@20"], one.user_metrics["ndcg@20"], equal_nan=True)


def test_a_method_is_handed_no_test_interactions(world, interactions, tmp_path, monkeypatch):
    seen = []

    def propose(problem):
        seen.append(problem.interactions)
        return original(problem)

    original = METHODS["equal sizes"].propose
    monkeypatch.setitem(METHODS, "equal sizes", Method(propose))
    cell(world, "equal sizes", interactions, tmp_path)
    (given,) = seen
    assert given.test.nnz == 0 and given.fingerprint == interactions.fingerprint
    assert given.train.nnz == interactions.train.nnz


def test_a_method_that_misses_the_budget_is_refused(world, interactions, tmp_path, monkeypatch):
    def propose(problem):
        return original(dataclasses.replace(problem, cap_params=CAP["lightgcn"] + 1))

    original = METHODS["equal sizes"].propose
    monkeypatch.setitem(METHODS, "equal sizes", Method(propose))
    with pytest.raises(BudgetError, match="equal sizes: equal sizes keeps 172 parameters where .* has 171"):
        cell(world, "equal sizes", interactions, tmp_path)


@pytest.fixture
def problem(world, interactions, tmp_path):
    config, full, pretrained, _ = world()
    visible = interactions.without_test()
    return Problem(config, visible, CAP["lightgcn"], tmp_path, full, pretrained)


def test_mixed_random_sizes_are_around_the_mean(problem):
    (allocation,) = METHODS["mixed random"].propose(dataclasses.replace(problem, cap_params=400))
    sizes = np.concatenate([allocation.sizes.user, allocation.sizes.item])
    assert sizes.sum() == 400 and sizes.min() == 1 and sizes.max() == 7 and len(set(sizes.tolist())) == 7


@pytest.fixture
def longer(problem):
    """With a search of 16 steps, 8 evaluations and a greedy step, whose warm-up has 3 plain splits."""

    def make(**fields):
        given = {"num_episodes": 4, "episode_length": 4, "evaluation_interval": 2, "num_warmup_steps": 40}
        settings = problem.config.search.model_copy(update=given | fields)
        config = problem.config.model_copy(update={"search": settings})
        return dataclasses.replace(problem, config=config)

    return make


def judged_by(problem, method):
    """What a method proposes, and every table that it judges, with its quality."""
    judged = []

    class Told(Problem):
        def judge(self, sizes):
            judged.append((sizes, super().judge(sizes)))
            return judged[-1][1]

    told = Told(**{field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)})
    return METHODS[method].propose(told), judged


def test_a_random_search_judges_as_many_tables_as_the_search(longer):
    for name in ("search", "random search"):
        problem = longer(num_warmup_steps=4)
        METHODS[name].propose(problem)
        assert problem.num_steps == 16 + 8 + 2


def test_a_random_search_begins_with_the_plain_splits_of_the_search(longer, monkeypatch):
    from ciess_ray.searches import candidates as searched

    problem = longer()
    seen, find = [], searched.find_candidates

    def remember(run, full, pretrained):
        find(run, full, pretrained)
        seen.extend(run.candidates)

    monkeypatch.setattr(searched, "find_candidates", remember)
    METHODS["search"].propose(problem)
    steps = [one.sizes for one in seen if one.kind == "warm-up"]
    _, judged = judged_by(problem, "random search")
    assert len(judged) == 26
    for mine, its in zip([sizes for sizes, _ in judged[:3]], steps[:3], strict=True):
        # The same but for who gets what rounding leaves.
        for kind in ("user", "item"):
            np.testing.assert_array_equal(np.sort(getattr(mine, kind)), np.sort(getattr(its, kind)))
        assert is_plain_split(mine)
    assert not is_plain_split(judged[3][0])
    assert len(judged_by(longer(num_warmup_steps=0), "random search")[1]) == 26


def test_a_random_search_trains_what_the_rule_of_the_search_chooses(longer):
    problem = longer(num_candidates=3)
    found, judged = judged_by(problem, "random search")
    candidates = [Candidate(number, sizes, sizes, quality) for number, (sizes, quality) in enumerate(judged)]
    expected = select_finalists(candidates, problem.cap_params, 3)
    assert [one.step_quality for one in found] == [one.quality for one in expected]
    for mine, its in zip(found, expected, strict=True):
        assert mine.sizes is its.sizes
    # Splits and powers beat splits here, and one of the last kind is trained in any case.
    assert any(is_plain_split(one.sizes) for one in found)


@pytest.mark.parametrize("method", ["split", "popularity", "popular items"])
def test_what_is_tuned_comes_best_first_and_is_no_worse_than_equal_sizes(method, problem):
    problem = dataclasses.replace(problem, cap_params=300)
    found = METHODS[method].propose(problem)
    qualities = [allocation.step_quality for allocation in found]
    assert qualities == sorted(qualities, reverse=True) and len(found) > 5
    tables = {allocation.sizes.user.tobytes() + allocation.sizes.item.tobytes() for allocation in found}
    assert len(tables) == len(found) == problem.num_steps
    (equal,) = METHODS["equal sizes"].propose(problem)
    # A grid need not hold them, a neighbour it does.
    assert qualities[0] >= problem.judge(equal.sizes) - 0.02


def test_where_users_have_no_rows_every_method_that_needs_no_gradient_meets_the_budget(
    interactions, tmp_path
):
    config = parse_config(
        {
            "dataset": {"path": "nothing.parquet"},
            "budget": "40%",
            "recommender": {
                "name": "spectral",
                "max_embedding_size": 8,
                "device": "cpu",
                "options": {"item_exponent": 0.35, "spectrum_exponent": 0.125},
            },
            "search": {"num_episodes": 1, "episode_length": 2, "num_warmup_steps": 1, "num_candidates": 2},
        }
    )
    visible = interactions.without_test()
    full = Preparation.full_size(config, visible, keeps_state=True).train(visible)
    problem = Problem(config, visible, 128, tmp_path, full, full.state)
    qualities = {}
    for method in METHODS.keys() - {"full size", "pep", "dnis", "search", "discrete"}:
        allocations = METHODS[method].propose(problem)
        for allocation in allocations:
            assert allocation.sizes.num_params == 128 and len(allocation.sizes.user) == 0
        qualities[method] = allocations[0].step_quality
    assert qualities["popularity"] >= qualities["split"] > 0
    row = run_cell("popularity", problem, [], lambda: interactions.test).row
    assert row["num_test_batches"] == row["mean_user_size"] == 0 and not row["is_still_rising"]
    # Masking is what computing the table for these sizes gives.
    assert row["validation/quality"] == pytest.approx(row["step_quality"], abs=2e-3)
