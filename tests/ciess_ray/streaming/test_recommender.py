"""Recommenders that go on from the packed one of the segment before."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ciess_ray.streaming.recommender import PackedRecommender, carry_over, train_segment
from ciess_ray.streaming.segment import segment_data
from envs.data import generate_interactions
from envs.data.stream import cut_stream
from envs.errors import ResultError
from envs.recommenders import MF, RECOMMENDERS, ClosedForm
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

SETTINGS = TrainingSettings(batch_size=256, learning_rate=0.05, max_batches=3)


@pytest.fixture(scope="module")
def segments():
    """Two neighbouring ones; the second brings users and items."""
    log = generate_interactions(60, 40, 900, seed=0)
    order = np.random.default_rng(0).permutation(log.num_rows)
    order = order[np.argsort(log.user[order] // 8, kind="stable")]
    stream = cut_stream(replace(log.select(order), timestamp=np.arange(log.num_rows)), rows=450)
    return segment_data(stream, 0).interactions, segment_data(stream, 1).interactions


TRAINED = [name for name, its_class in RECOMMENDERS.items() if not issubclass(its_class, ClosedForm)]


def sizes_for(name, interactions, largest, seed=0):
    rng = np.random.default_rng(seed)
    user, item = (
        np.append(rng.integers(1, largest + 1, count - 1), largest)
        for count in (interactions.num_users, interactions.num_items)
    )
    return EmbeddingSizes(user, item, 1, 8, num_tables=RECOMMENDERS[name].num_tables)


@pytest.mark.parametrize(("width", "next_width"), [(4, 7), (7, 4)])
@pytest.mark.parametrize("name", TRAINED)
def test_everything_that_was_learnt_is_carried_over(segments, name, width, next_width):
    first, second = segments
    sizes, next_sizes = (sizes_for(name, *args) for args in ((first, width, 1), (second, next_width, 2)))
    former = train_segment(Recipe(first.train, SETTINGS, name), sizes, np.random.default_rng(0)).packed
    recipe = Recipe(second.train, SETTINGS, name)
    recommender = recipe.recommender(next_sizes, np.random.default_rng(1))
    drawn = {key: value.detach().clone() for key, value in recommender.named_parameters()}
    resized = carry_over(recommender, name, former, np.random.default_rng(2))
    assert resized.num_new == second.num_entities - first.num_entities > 0

    tables = RECOMMENDERS[name].num_tables
    ours = recommender.table().detach().numpy().reshape(second.num_entities, tables, next_width)
    theirs = former.table.unpack().reshape(first.num_entities, tables, width)
    rows = np.r_[: first.num_users, second.num_users : second.num_users + first.num_items]
    kept = np.minimum(former.table.row_sizes, resized.table.row_sizes[rows])
    is_kept = np.arange(min(width, next_width)) < kept[:, None, None]
    shared = min(width, next_width)
    both = np.broadcast_to(is_kept, (len(rows), tables, shared))
    np.testing.assert_array_equal(ours[rows][:, :, :shared][both], theirs[:, :, :shared][both])
    assert np.abs(ours).max(axis=(1, 2)).min() > 0

    parameters = dict(recommender.named_parameters())
    assert former.state.keys() == parameters.keys() - {"table.weight"}
    for key, value in former.state.items():
        part = tuple(slice(min(pair)) for pair in zip(value.shape, drawn[key].shape, strict=True))
        now = parameters[key].detach().numpy()
        np.testing.assert_array_equal(now[part], value[part])
        is_drawn = np.ones(now.shape, bool)
        is_drawn[part] = False
        np.testing.assert_array_equal(now[is_drawn], drawn[key].numpy()[is_drawn])


def test_the_same_seed_gives_the_same_recommender_and_a_former_one_is_left_as_it_was(segments):
    first, second = segments
    former = train_segment(
        Recipe(first.train, SETTINGS, "ncf"), sizes_for("ncf", first, 4), np.random.default_rng(0)
    ).packed
    before = former.table.values.copy(), {key: value.copy() for key, value in former.state.items()}
    recipe = Recipe(second.train, SETTINGS, "ncf")
    one, other = (
        train_segment(recipe, sizes_for("ncf", second, 4), np.random.default_rng(5), former) for _ in range(2)
    )
    np.testing.assert_array_equal(one.packed.table.values, other.packed.table.values)
    np.testing.assert_array_equal(former.table.values, before[0])
    for key, value in before[1].items():
        np.testing.assert_array_equal(former.state[key], value)
        # The difference of two scores has no gradient in what both are raised by.
        assert key == "output_bias" or not np.array_equal(one.packed.state[key], value)


def test_what_goes_on_is_ahead_of_what_begins(segments):
    first, second = segments
    sizes, next_sizes = (sizes_for("lightgcn", interactions, 8) for interactions in segments)
    long = Recipe(first.train, SETTINGS.model_copy(update={"max_batches": 100}), "lightgcn")
    former = train_segment(long, sizes, np.random.default_rng(0)).packed
    short = Recipe(second.train, SETTINGS.model_copy(update={"max_batches": 2}), "lightgcn")
    losses = []
    for start in (None, former):
        training = train_segment(short, next_sizes, np.random.default_rng(1), start)
        assert training.packed.table.num_params == next_sizes.num_params
        assert training.cpu_s > 0 and (training.resized is None) == (start is None)
        losses.append(evaluate(training.recommender, second.train, second.validation).quality)
    assert losses[1] > 1.2 * losses[0]


class WithBiases(MF):
    """Has a number of its own for every row."""

    def __init__(self, train, sizes, **given):
        super().__init__(train, sizes, **given)
        self.bias = nn.Parameter(torch.zeros(sum(train.shape)))


def test_a_parameter_of_every_row_follows_its_row(segments):
    first, second = segments
    generator = torch.Generator().manual_seed(0)
    former = WithBiases(first.train, sizes_for("mf", first, 4), generator=generator)
    with torch.no_grad():
        former.bias += torch.arange(1.0, first.num_entities + 1)
    recommender = WithBiases(second.train, sizes_for("mf", second, 4), generator=generator)
    carry_over(recommender, "mine", PackedRecommender.of(former, "mine"), np.random.default_rng(0))
    expected = np.zeros(second.num_entities)
    expected[: first.num_users] = np.arange(1, first.num_users + 1)
    expected[second.num_users :][: first.num_items] = np.arange(first.num_users + 1, first.num_entities + 1)
    np.testing.assert_array_equal(recommender.bias.detach().numpy(), expected)


def test_another_recommender_s_table_is_refused(segments):
    first, second = segments
    former = train_segment(
        Recipe(first.train, SETTINGS, "mf"), sizes_for("mf", first, 4), np.random.default_rng(0)
    ).packed
    sizes = sizes_for("ngcf", second, 4)
    with pytest.raises(ResultError, match="of a mf, and a ngcf cannot"):
        train_segment(Recipe(second.train, SETTINGS, "ngcf"), sizes, np.random.default_rng(0), former)
    bare = PackedRecommender(replace(former.table, recommender="ngcf"), {})
    with pytest.raises(ResultError, match="no parameter"):
        train_segment(Recipe(second.train, SETTINGS, "ngcf"), sizes, np.random.default_rng(0), bare)
