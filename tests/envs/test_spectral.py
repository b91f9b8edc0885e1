"""The closed form against values by hand, against dense algebra, and where there is next to nothing."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from envs.errors import ConfigError
from envs.recommenders import Spectral
from envs.recommenders.spectral import item_factors
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

PLAIN = {"user_exponent": 0.0, "item_exponent": 0.0, "spectrum_exponent": 0.0}
#: Two users who had the same two items, and one who had a third.
BLOCKS = csr_array(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], np.float32))


def rng(seed=0):
    return np.random.default_rng(seed)


def solved(train, width, sizes=None, **options):
    recommender = Spectral(
        train,
        sizes or EmbeddingSizes.full(0, train.shape[1], width),
        generator=torch.Generator(),
        **options,
    )
    recommender.solve(rng())
    return recommender.eval()


def scores_of(recommender):
    with torch.no_grad():
        return recommender.score(recommender.encode(), torch.arange(recommender.num_users)).numpy()


def test_plain_factors_by_hand():
    found = item_factors(BLOCKS, 3, rng(), **PLAIN)
    half = 0.5**0.5
    np.testing.assert_allclose(found.rows, [[half, 0, 0], [half, 0, 0], [0, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(found.history_weights, 1.0)
    # Squared singular values 4 and 1; a third factor there is not.
    np.testing.assert_allclose(found.fold_in, [1 / 4, 1, 0])


def test_normalised_factors_by_hand():
    found = item_factors(BLOCKS, 2, rng(), user_exponent=0.0, item_exponent=0.5, spectrum_exponent=1.0)
    # X has 1/sqrt(2) four times, and 1: squared singular values 2 and 1.
    half = 0.5**0.5
    np.testing.assert_allclose(found.rows, [[1, 0], [1, 0], [0, half]], atol=1e-12)
    np.testing.assert_allclose(found.history_weights, [half, half, 2 * half])
    np.testing.assert_allclose(found.fold_in, [half / 2, half])


@pytest.mark.parametrize("width", [8, 30])
def test_they_are_those_of_dense_algebra(make_interactions, width):
    train = make_interactions().train
    found = item_factors(train, width, rng(), user_exponent=0.3, item_exponent=0.4, spectrum_exponent=0.2)
    dense = train.toarray().astype(np.float64)
    users, items = np.maximum(dense.sum(axis=1), 1), np.maximum(dense.sum(axis=0), 1)
    _, values, vectors = np.linalg.svd(users[:, None] ** -0.3 * dense * items**-0.4)
    rows = items[:, None] ** 0.4 * vectors[:width].T * (values[:width] / values[0]) ** 0.2
    np.testing.assert_allclose(np.abs(found.rows), np.abs(rows), atol=1e-4)
    assert (found.rows[np.argmax(np.abs(vectors[:width]), axis=1), np.arange(width)] > 0).all()


def test_with_every_factor_at_full_strength_it_is_item_cosine(make_interactions):
    train = make_interactions().train
    recommender = solved(train, 40, user_exponent=0.0, item_exponent=0.5, spectrum_exponent=1.0)
    dense = train.toarray()
    norms = np.sqrt(np.maximum(dense.sum(axis=0), 1))
    # A user's items count by their norm once more than in the plain sum of cosines.
    expected = (dense / norms) @ (dense / norms).T @ (dense / norms) * norms
    found = scores_of(recommender)
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), atol=2e-3)


def test_a_narrow_table_is_the_start_of_a_wide_one(make_interactions):
    train = make_interactions().train
    narrow, wide = solved(train, 5), solved(train, 12)
    torch.testing.assert_close(narrow.table.weight, wide.table.weight[:, :5], rtol=0, atol=1e-4)
    masked = EmbeddingSizes.full(0, 40, 12)
    wide.table.mask_to(EmbeddingSizes(masked.user, np.full(40, 5), max_embedding_size=12))
    np.testing.assert_allclose(scores_of(wide), scores_of(narrow), atol=1e-4)


def test_what_is_judged_is_what_is_computed_for_those_sizes_alone(make_interactions):
    interactions = make_interactions()
    sizes = EmbeddingSizes(np.zeros(0, int), rng().integers(1, 9, 40), max_embedding_size=12)
    recipe = Recipe(interactions.train, TrainingSettings(), "spectral")
    judged = recipe.recommender(EmbeddingSizes.full(0, 40, 12), rng(0)).eval()
    judged.table.mask_to(sizes)
    trainer = recipe.trainer(sizes, rng(1))
    trainer.train(10)
    report = trainer.fit(interactions.validation)
    assert (trainer.num_batches, report.best_batch) == (0, 0) and report.best.quality > 0
    np.testing.assert_allclose(scores_of(trainer.recommender.eval()), scores_of(judged), atol=1e-3)


@pytest.mark.parametrize(
    "dense",
    [
        np.ones((1, 1)),
        np.ones((6, 5)),
        np.ones((1, 40)),
        np.eye(40)[:3],
        np.tile(np.eye(40)[:1], (5, 1)),
        np.zeros((4, 30)),
    ],
    ids=["one pair", "every pair", "one user", "items of one user each", "one popular item", "nothing"],
)
@pytest.mark.parametrize("width", [2, 12])
def test_next_to_nothing_is_no_trouble(dense, width):
    recommender = solved(csr_array(dense.astype(np.float32)), width)
    scores = scores_of(recommender)
    assert np.isfinite(scores).all()
    assert all(value.isfinite().all() for value in recommender.state_dict().values())
    had = dense > 0
    # What somebody had, and nothing else, is what they are.
    assert (scores[had] > 0).all() or width < np.linalg.matrix_rank(dense)
    np.testing.assert_allclose(scores[:, ~had.any(axis=0)], 0.0, atol=1e-6)


def test_an_exponent_that_float16_has_no_room_for_is_refused():
    users = np.arange(70_000)
    train = csr_array((np.ones(70_001, np.float32), (np.append(users, 0), np.append(0 * users, 1))))
    with pytest.raises(ConfigError, match="item_exponent of spectral is 1, .* float16"):
        solved(train, 2, item_exponent=1.0)
    assert solved(train, 2, item_exponent=0.9).history_weight.isfinite().all()
