import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.errors import EmbeddingSizeError
from envs.recommenders import RECOMMENDERS, ClosedForm
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes, ScatteredSizes, keep_largest

SETTINGS = TrainingSettings(batch_size=256, learning_rate=0.05, evaluate_every=20, max_batches=40)


@given(
    num_rows=st.integers(1, 12),
    width=st.integers(1, 6),
    num_tables=st.integers(1, 2),
    least=st.integers(0, 2),
    share=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_the_largest_are_kept_and_a_minimum_of_each_row(num_rows, width, num_tables, least, share, seed):
    least = min(least, width)
    importance = np.random.default_rng(seed).random((num_rows, num_tables * width))
    protected = num_rows * num_tables * least
    num_kept = protected + int(share * (importance.size - protected))
    kept = keep_largest(importance, num_kept, least, num_tables)
    assert kept.sum() == num_kept
    rows, of_rows = kept.reshape(-1, width), importance.reshape(-1, width)
    assert (rows.sum(axis=1) >= least).all()
    # Within a row a kept number is larger than any that is not.
    assert all(row[k].min(initial=1) >= row[~k].max(initial=0) for row, k in zip(of_rows, rows, strict=True))
    # Beyond the protected ones nothing that is kept is smaller than anything that is not.
    rank = (of_rows[:, :, None] < of_rows[:, None, :]).sum(axis=2)
    free = rows & (rank >= least)
    assert of_rows[free].min(initial=1) >= of_rows[~rows].max(initial=0)


def test_equals_are_kept_in_order_and_too_many_are_refused():
    assert keep_largest(np.ones((2, 3)), 3, 1).tolist() == [[True, True, False], [True, False, False]]
    with pytest.raises(EmbeddingSizeError, match="cannot keep 1 of 6 numbers and 1 of each row"):
        keep_largest(np.ones((2, 3)), 1, 1)
    with pytest.raises(EmbeddingSizeError, match="cannot keep 7 of 6"):
        keep_largest(np.ones((2, 3)), 7, 0)


def test_what_a_mask_counts():
    kept = np.zeros((3, 16), bool)
    kept[0, [1, 5, 9]] = kept[2, 15] = True
    sizes = ScatteredSizes.of(kept, 2, 1, 16)
    assert sizes.user.tolist() == [3, 0] and sizes.item.tolist() == [1]
    assert (sizes.num_params, sizes.kept_ratio, sizes.width) == (4, 4 / 48, 16)
    # Of the two indices: one bit a number, 6 bytes, against a column a number and a count a row, 7.
    assert sizes.packed_bytes == 4 * 4 + 6 + 1024
    np.testing.assert_array_equal(sizes.mask(), kept)
    np.testing.assert_array_equal(sizes.mask(10), kept[:, :10])
    two = ScatteredSizes.of(kept, 2, 1, 8, 2)
    assert two.user.tolist() == [2, 0] and two.num_params == 4 and two.kept_ratio == 4 / 48
    np.testing.assert_array_equal(two.mask(4), kept[:, [0, 1, 2, 3, 8, 9, 10, 11]])
    wide = ScatteredSizes.of(np.eye(4, 128, dtype=bool), 2, 1, 128)
    assert wide.packed_bytes == 4 * 4 + 8 + 1024
    with pytest.raises(EmbeddingSizeError, match=r"must be boolean and of shape \(3, 8\)"):
        ScatteredSizes.of(kept, 2, 1, 8)


@pytest.mark.parametrize(
    "name", [name for name, its in RECOMMENDERS.items() if not issubclass(its, ClosedForm)]
)
def test_a_recommender_learns_under_a_scattered_mask_and_nothing_else_moves(name, make_interactions):
    interactions = make_interactions()
    num_tables = RECOMMENDERS[name].num_tables
    rng = np.random.default_rng(0)
    kept = rng.random((interactions.num_entities, 8 * num_tables)) < 0.3
    sizes = ScatteredSizes.of(kept, interactions.num_users, 1, 8, num_tables)
    trainer = Recipe(interactions.train, SETTINGS, name).trainer(sizes, np.random.default_rng(1))
    before = evaluate(trainer.recommender, interactions.train, interactions.validation).quality
    trainer.train(40)
    recommender = trainer.recommender
    after = evaluate(recommender, interactions.train, interactions.validation).quality
    assert after > before and recommender.sizes is sizes
    table = recommender.table()
    assert not table[~torch.from_numpy(kept)].any()
    assert len(recommender.table.packed_values()) == sizes.num_params


def test_a_mask_of_prefixes_trains_as_the_sizes_do(make_interactions):
    interactions = make_interactions()
    prefix = EmbeddingSizes(np.full(interactions.num_users, 8), np.full(interactions.num_items, 3), 1, 8)
    scattered = ScatteredSizes.of(prefix.mask(8), interactions.num_users, 1, 8)
    recipe = Recipe(interactions.train, SETTINGS, "lightgcn")
    tables = []
    for sizes in (prefix, scattered):
        trainer = recipe.trainer(sizes, np.random.default_rng(0))
        trainer.train(5)
        tables.append(trainer.recommender.table().detach())
    torch.testing.assert_close(*tables)
