"""Neighbour tables against values by hand, against dense algebra, and where there is next to nothing."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from envs.errors import ConfigError
from envs.recommenders import evaluation, neighbours
from envs.recommenders.evaluation import rank_items
from envs.recommenders.neighbours import Ease, Neighbours, cut_rows, ease, shared_users
from envs.recommenders.protocol import check_protocol
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Items 0 and 1 share two users, 1 and 2 one, 3 has a user of its own and 4 none.
TRAIN = csr_array(np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]], np.float32))

COSINES = {"user_exponent": 0.0, "item_exponent": 0.5}


def solved(train, width, item=None, cls=Neighbours, **options):
    sizes = EmbeddingSizes.full(0, train.shape[1], width)
    if item is not None:
        sizes = EmbeddingSizes(np.zeros(0, int), np.asarray(item), max_embedding_size=width)
    recommender = cls(train, sizes, generator=torch.Generator(), **options)
    recommender.solve(np.random.default_rng(0))
    return recommender.eval()


def scores_of(recommender):
    with torch.no_grad():
        return recommender.score(recommender.encode(), torch.arange(recommender.num_users)).numpy()


@pytest.mark.parametrize("options", [(), (("outgoing", 1),)])
def test_it_keeps_to_the_protocol(options):
    check_protocol(Neighbours, options)


def test_cosines_by_hand():
    found = shared_users(TRAIN, 1).toarray()
    expected = np.zeros((5, 5))
    # Of item 1 item 0 is nearer than item 2.
    expected[0, 1] = expected[1, 0] = 2 / np.sqrt(2 * 3)
    expected[2, 1] = 1 / np.sqrt(3)
    np.testing.assert_allclose(found, expected)
    both = shared_users(TRAIN, 2).toarray()
    assert (both[1, 2], both[1, 0]) == pytest.approx((1 / np.sqrt(3), expected[1, 0]))


def test_scores_by_hand():
    near, far = 2 / np.sqrt(6), 1 / np.sqrt(3)
    incoming, outgoing = (scores_of(solved(TRAIN, 1, outgoing=way, **COSINES)) for way in (0, 1))
    # Item 1 asks whether a user had item 0, and item 2 whether item 1.
    np.testing.assert_allclose(incoming[2], [near, 0, far, 0, 0], rtol=1e-6, atol=1e-20)
    # Items 1 and 2, which the third user had, speak for their nearest.
    np.testing.assert_allclose(outgoing[2], [near, far, 0, 0, 0], rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("options", [{}, {"outgoing": 1}, {"cls": Ease}])
def test_items_of_which_nothing_is_known_stand_by_popularity(options):
    # The first user had an item beside item 3; items 4 to 9 have 1, 4, 2, 4, 3 and no users of their own.
    pairs = [(0, 0), (1, 0), (1, 3)]
    counts = dict(zip(range(4, 10), (1, 4, 2, 4, 3, 0), strict=True))
    pairs += [(2 + user, item) for item, count in counts.items() for user in range(count)]
    user, item = np.array(pairs).T
    train = csr_array((np.ones(len(pairs), np.float32), (user, item)), shape=(6, 10))
    recommender = solved(train, 1, **options)
    ranked = rank_items(recommender, train, np.array([0]), 9)
    assert ranked.tolist() == [[3, 5, 7, 8, 6, 4, 1, 2, 9]]
    # A score that says something is what it was.
    assert scores_of(recommender)[0, 3] == recommender.table.weight[0 if options else 3, 0]


def test_powers_of_degrees_by_hand():
    found = shared_users(TRAIN, 2, 0.5, 0.25).toarray()
    # Each of the two users of both had two items, and so had the third.
    np.testing.assert_allclose(found[0, 1], (1 / 2 + 1 / 2) / 6**0.25)
    np.testing.assert_allclose(found[1, 2], (1 / 2) / 3**0.25)


@pytest.mark.parametrize("at_once", [1, 50, 2**24])
def test_cosines_a_block_at_a_time_are_those_of_dense_algebra(make_interactions, monkeypatch, at_once):
    monkeypatch.setattr(neighbours, "_PRODUCTS_AT_ONCE", at_once)
    train = make_interactions().train
    dense = train.toarray().astype(np.float64)
    scaled = dense / np.sqrt(np.maximum(dense.sum(axis=0), 1))
    expected = scaled.T @ scaled
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(shared_users(train, 40).toarray(), expected, atol=1e-12)
    cut = shared_users(train, 5)
    assert (np.diff(cut.indptr) == 5).all()
    np.testing.assert_allclose(cut.data.reshape(40, 5), -np.sort(-expected, axis=1)[:, :5])


def test_ease_is_the_least_squares_without_oneself(make_interactions):
    dense = make_interactions().train.toarray().astype(np.float64)
    found = ease(csr_array(dense), 3.0, 40).toarray()
    for item in range(0, 40, 7):
        others = np.delete(np.arange(40), item)
        rest = dense[:, others]
        expected = np.linalg.solve(rest.T @ rest + 3.0 * np.eye(39), rest.T @ dense[:, item])
        np.testing.assert_allclose(found[others, item], expected, atol=1e-9)
        assert found[item, item] == 0


def test_the_largest_come_first_by_absolute_value():
    cut = cut_rows(csr_array(np.array([[1.0, -3.0, 2.0, 0.0], [0, 0, 0, 5.0]])), 2)
    assert cut.data.tolist() == [-3.0, 2.0, 5.0] and cut.indices.tolist() == [1, 2, 3]


@pytest.mark.parametrize("options", [{}, {"outgoing": 1}, {"cls": Ease}])
def test_a_mask_is_what_would_have_been_computed(make_interactions, options):
    train = make_interactions().train
    item = np.random.default_rng(0).integers(1, 6, 40)
    masked, narrow = solved(train, 8, **options), solved(train, 8, item=item, **options)
    masked.table.mask_to(narrow.sizes)
    assert narrow.table.packed_values().shape == narrow.table.packed_ids().shape == (item.sum(),)
    np.testing.assert_allclose(scores_of(masked), scores_of(narrow), atol=1e-6)


def test_a_recipe_computes_it_and_a_machine_too_small_for_ease_is_told(make_interactions, monkeypatch):
    interactions = make_interactions()
    sizes = EmbeddingSizes.full(0, 40, 10)
    trainer = Recipe(interactions.train, TrainingSettings(), "neighbours").trainer(
        sizes, np.random.default_rng(0)
    )
    assert trainer.fit(interactions.validation).best.quality > 0.1
    monkeypatch.setattr(neighbours, "_NUM_DENSE", 2**40)
    with pytest.raises(ConfigError, match="of 40 x 40 numbers take .* GB, and this machine has"):
        ease(interactions.train, 1.0, 5)


@pytest.mark.parametrize("options", [{}, {"cls": Ease}])
@pytest.mark.parametrize(
    "dense",
    [np.ones((1, 1)), np.ones((6, 5)), np.ones((1, 9)), np.eye(9)[:3], np.zeros((4, 9))],
    ids=["one pair", "every pair", "one user", "items of one user each", "nothing"],
)
def test_next_to_nothing_is_no_trouble(dense, options):
    recommender = solved(csr_array(dense.astype(np.float32)), 4, **options)
    assert np.isfinite(scores_of(recommender)).all()
    assert recommender.table.weight.isfinite().all()


@pytest.mark.parametrize("l2", [5e-324, 1e-20])
def test_an_l2_that_rounding_loses_is_refused(l2):
    # Items that share every user, and one that nobody had.
    train = csr_array(np.repeat([[1, 1, 1, 0]], 6, axis=0).astype(np.float32))
    with pytest.raises(ConfigError, match=f"an l2 of {l2:g} is too little for EASE"):
        solved(train, 2, cls=Ease, l2=l2)
    assert np.isfinite(scores_of(solved(train, 2, cls=Ease, l2=1e-3))).all()


@pytest.mark.parametrize("num_kept", [1, 3])
def test_rows_of_any_length_are_cut_as_a_sort_of_all_cuts_them(num_kept):
    rng = np.random.default_rng(0)
    # Few values, so that many are equals; rows with nothing, with little, and with more than is looked at.
    dense = rng.integers(-6, 7, (40, 400)) * (rng.random((40, 400)) < rng.random((40, 1)) ** 2)
    dense[[0, 7, 8]] = 0
    dense[39, [0, 399]] = 1, -7
    cut = cut_rows(csr_array(dense.astype(float)), num_kept, first=11).toarray()
    dense[np.arange(40), np.arange(11, 51)] = 0
    best = np.argsort(-np.abs(dense), axis=1, kind="stable")[:, :num_kept]
    expected = np.zeros(dense.shape)
    np.put_along_axis(expected, best, np.take_along_axis(dense, best, 1), 1)
    np.testing.assert_array_equal(cut, expected)


def test_sums_that_differ_in_their_last_bits_are_equals():
    nearly = [0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1]
    assert nearly[0] > nearly[1]
    assert cut_rows(csr_array([[0, nearly[1], nearly[0]]]), 1).indices.tolist() == [1]


def test_columns_of_a_sparse_matrix_are_not_cut_for_every_block(make_interactions, monkeypatch):
    train = make_interactions().train
    recommender = solved(train, 8)
    users = np.arange(train.shape[0])
    expected = rank_items(recommender, train, users, 5)
    monkeypatch.setattr(evaluation, "ITEMS_PER_TILE", 7)
    asked = []
    score = recommender.score
    monkeypatch.setattr(
        recommender, "score", lambda encoded, users, items=None: asked.append(items) or score(encoded, users)
    )
    np.testing.assert_array_equal(rank_items(recommender, train, users, 5), expected)
    assert set(asked) == {None}
