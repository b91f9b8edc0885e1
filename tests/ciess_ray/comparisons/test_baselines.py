"""What characterises each method."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.utils.parametrize import register_parametrization

from ciess_ray.comparisons.methods import METHODS, Problem
from ciess_ray.comparisons.methods.by_hand import (
    by_popularity,
    head,
    mean_sizes,
    powers,
    proportional,
    tune,
)
from ciess_ray.comparisons.methods.masks import Selection, Thresholds, _Bilevel, blocks_of, prune
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.streams import Stream
from ciess_ray.training.contest import Start
from ciess_ray.training.convergence import Trained, recipe_of
from envs.sizes.embedding_sizes import keep_largest
from envs.step_modes import state_of


@pytest.fixture
def make_problem(make_interactions, tmp_path):
    def make(cap_params=300, full=None, **training):
        config = parse_config(
            {
                "dataset": {"path": "nothing.parquet"},
                "recommender": {"max_embedding_size": 16, "device": "cpu"},
                "training": {"batch_size": 256, "evaluate_every": 10, "max_batches": 30} | training,
            }
        )
        return Problem(config, make_interactions().without_test(), cap_params, tmp_path, full)

    return make


def test_splits_go_from_one_end_of_the_budget_to_the_other(make_problem):
    problem = make_problem(500)
    users, items = problem.interactions.num_users, problem.interactions.num_items
    means = [mean_sizes(problem, split) for split in np.linspace(0, 1, 9)]
    assert all(users * user + items * item == pytest.approx(500) for user, item in means)
    assert means[0] == pytest.approx((1.0, (500 - users) / items))
    assert means[-1] == pytest.approx(((500 - items) / users, 1.0))
    ratios = np.diff([np.log(user / item) for user, item in means])
    assert ratios == pytest.approx(ratios[0]) and ratios[0] > 0
    # d_max binds where there is much to give.
    (user, item) = mean_sizes(dataclasses.replace(problem, cap_params=1200), 1.0)
    assert user == pytest.approx(16) and item == pytest.approx((1200 - 16 * users) / items)


def test_sizes_in_proportion_keep_their_mean_within_the_bounds():
    weights = np.array([0.01, 1.0, 2.0, 4.0, 400.0])
    sizes = proportional(weights, 6.0, 1, 16)
    assert sizes.mean() == pytest.approx(6.0) and sizes[0] == 1 and sizes[-1] == 16
    assert sizes[2] == pytest.approx(2 * sizes[1]) and sizes[3] == pytest.approx(4 * sizes[1])
    assert proportional(weights, 1.0, 1, 16) == pytest.approx(np.ones(5))
    assert proportional(weights, 16.0, 1, 16) == pytest.approx(np.full(5, 16))


def test_a_head_is_the_most_popular_share():
    assert head(np.array([5, 1, 9, 9]), 0.5, 7.0).tolist() == [1, 1, 7, 7]
    assert head(np.array([5, 5, 5]), 0.01, 7.0).tolist() == [7, 1, 1]
    assert powers(np.array([0, 4, 9]), -0.5) == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize("power", [-0.6, 0.6])
def test_a_power_favours_the_popular_or_the_others(power, make_problem):
    problem = make_problem(600)
    sizes = by_popularity(problem, 0.5, power, -power)
    assert sizes.num_params == 600
    for own, popularity, sign in (
        (sizes.user, problem.interactions.user_popularity, power),
        (sizes.item, problem.interactions.item_popularity, -power),
    ):
        order = np.argsort(popularity, kind="stable")
        tenth = len(order) // 5
        assert sign * (own[order[-tenth:]].mean() - own[order[:tenth]].mean()) > 0


def test_tuning_closes_in_on_the_best(make_problem, monkeypatch):
    problem = make_problem(600)
    best = by_popularity(problem, 0.7, -0.2, 0.1)

    def judge(self, sizes):
        self.num_steps += 1
        distance = np.abs(sizes.user - best.user).sum() + np.abs(sizes.item - best.item).sum()
        return -float(distance)

    monkeypatch.setattr(Problem, "judge", judge)
    axes = {"split": [0.0, 0.5, 1.0], "user_power": [-0.6, 0.0, 0.6], "item_power": [-0.6, 0.0, 0.6]}
    found = [
        tune(problem, axes, lambda **point: by_popularity(problem, **point), num)[0].step_quality
        for num in (0, 1, 3)
    ]
    assert found[0] < found[1] < found[2]


def test_pruning_keeps_the_largest_of_the_trained_table(make_problem):
    problem = make_problem()
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(problem.interactions.num_entities, 16)).astype(np.float32)
    weight[3] *= 1e-3
    quality = {"user": np.ones(1), "item": np.ones(1)}
    full = Trained({}, 0.1, 70, {"table.weight": weight}, quality)
    best, _, on, anew = METHODS["magnitude pruning"].propose(dataclasses.replace(problem, full=full))
    assert on.name == "users x 1, trained on" and best.name != on.name and best.sizes.num_params == 300
    kept = on.sizes.mask()
    assert kept.sum() == 300 and kept[3].sum() == 1 and kept[3].argmax() == np.abs(weight[3]).argmax()
    assert kept.sum(axis=1).min() == 1
    threshold = np.sort(np.abs(weight).ravel())[-300]
    assert kept[np.abs(weight) > 1.5 * threshold].all()
    np.testing.assert_array_equal(anew.sizes.mask(), kept)
    assert on.start.full_batches == 70 and on.start.state is full.state and anew.start is None


def test_thresholds_prune_more_as_they_grow():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    thresholds = Thresholds(values)

    def left(logit):
        thresholds.logits.data.fill_(logit)
        return int(thresholds(values).count_nonzero())

    counts = [left(logit) for logit in (-12, -4, -3, -2, 9)]
    assert counts[0] >= 999 and counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 5 and counts[-1] == 0
    some = torch.tensor([-8.0, -0.1, 0.1, 8.0], requires_grad=True)
    thresholds = Thresholds(some)
    thresholds.logits.data.zero_()
    out = thresholds(some)
    assert out.tolist() == [-3, 0, 0, 3]
    assert thresholds.margins(some).tolist() == pytest.approx([3, -4.9, -4.9, 3])
    out.sum().backward()
    # Of what is cut off, neither value nor threshold moves.
    assert some.grad.tolist() == [1, 0, 0, 1] and thresholds.logits.grad.tolist() == [2.5, 0, 0, -2.5]


def test_pep_meets_the_budget_by_its_thresholds_and_starts_anew_from_its_first_values(make_problem):
    problem = make_problem(400, max_batches=300, learning_rate=0.1)
    (found,) = METHODS["pep"].propose(problem)
    assert found.sizes.num_params == 400
    num_batches = int(found.name.split()[2])
    # Long before the last batch.
    assert 50 < num_batches < 300
    first = found.start.state["table.weight"]
    fresh = recipe_of(problem.config, problem.interactions).recommender(
        problem.full_sizes, problem.rng(Stream.PEP)
    )
    np.testing.assert_array_equal(first, fresh.table.weight.detach().numpy())
    assert set(found.start.state) == set(fresh.state_dict())


def test_thresholds_at_first_leave_the_table_as_it_was(make_problem):
    problem = make_problem()
    recommender = recipe_of(problem.config, problem.interactions).recommender(
        problem.full_sizes, np.random.default_rng(0)
    )
    weight = recommender.table.weight
    torch.testing.assert_close(Thresholds(weight)(weight), weight, atol=1e-3, rtol=0)


def test_blocks_are_of_one_size_and_by_popularity(make_interactions):
    interactions = make_interactions()
    blocks = blocks_of(interactions, 4)
    users, items = np.split(blocks, [interactions.num_users])
    assert np.bincount(users).tolist() == [15] * 4 and np.bincount(items - 4).tolist() == [10] * 4
    for own, popularity in ((users, interactions.user_popularity), (items, interactions.item_popularity)):
        means = [popularity[own == block].mean() for block in np.unique(own)]
        assert means == sorted(means)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_a_selection_goes_against_its_gradient_on_validation_alone(loss, make_problem):
    problem = make_problem(loss=loss)
    interactions = problem.interactions
    recipe = recipe_of(problem.config, interactions)
    recommender = recipe.recommender(problem.full_sizes, np.random.default_rng(0))
    weight = recommender.table.weight
    selection = Selection(weight, blocks_of(interactions))
    register_parametrization(recommender.table, "weight", selection)
    bilevel = _Bilevel(recipe.loss, problem, selection.columns)
    with torch.no_grad():
        selection.columns.fill_(0.5)
    columns = bilevel.draw(np.random.default_rng(0))
    num_columns = len(recipe.loss.draw(np.random.default_rng(0)))
    validation = columns[num_columns:]
    users, items = validation[:2]
    assert len(users) > 20 and interactions.validation[users, items].all()
    batch = [torch.from_numpy(column) for column in columns]
    cost = bilevel._both(recommender, *batch[num_columns:])
    (gradient,) = torch.autograd.grad(cost, [selection.columns])
    before = weight.detach().clone()
    bilevel(recommender, *batch)
    moved = selection.columns.detach() - 0.5
    clear = gradient.abs() > 1e-7
    assert clear.any() and (torch.sign(moved) == -torch.sign(gradient))[clear].all()
    assert torch.equal(weight.detach(), before)
    (parameter,) = recommender.parameters()
    assert parameter is weight


def test_dnis_prunes_the_weighed_table(make_problem):
    problem = make_problem()
    *_, on, anew = METHODS["dnis"].propose(problem)
    state = on.start.state["table.weight"]
    kept = on.sizes.mask()
    assert kept.sum() == 300 and kept.sum(axis=1).min() >= 1 and on.start.full_batches is None
    assert (kept == keep_largest(np.abs(state), 300, 1)).all() or on.name != "users x 1, trained on"
    np.testing.assert_array_equal(anew.sizes.mask(), kept)


@pytest.mark.parametrize(("sign", "scales"), [(1, [128, 1]), (-1, [0.25, 1]), (0, [1])])
def test_the_balance_of_users_and_items_is_tuned_on_validation(sign, scales, make_problem, monkeypatch):
    problem = make_problem(500)
    interactions, judged = problem.interactions, []

    def evaluate(recommender, seen, relevant):
        assert seen is interactions.train and relevant is interactions.validation
        judged.append(recommender.sizes)
        return SimpleNamespace(quality=sign * len(judged))

    monkeypatch.setattr("ciess_ray.comparisons.methods.masks.evaluate", evaluate)
    recommender = recipe_of(problem.config, interactions).recommender(
        problem.full_sizes, np.random.default_rng(0)
    )
    state = state_of(recommender)
    found = prune(problem, state, Start(state))
    expected = [f"users x {scale:g}, trained {how}" for scale in scales for how in ("on", "anew")]
    assert [allocation.name for allocation in found] == expected
    assert all(allocation.sizes.num_params == 500 for allocation in found)
    means = [sizes.user.mean() for sizes in judged]
    assert means == sorted(means) and means[0] < means[-1]
