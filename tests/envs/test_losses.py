"""Batches: never a positive for a negative, the distributions promised, and what they cost."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch import Tensor

from envs.errors import ConfigError, DataError
from envs.recommenders import MF, NCF
from envs.recommenders.losses import (
    BPR,
    LOSSES,
    POSITIVES,
    FullSoftmax,
    SampledSoftmax,
    ScalableCrossEntropy,
    Softmax,
    sce,
    softmax,
)
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes


def matrix_of(rows: list[set[int]], num_items: int) -> sparse.csr_array:
    dense = np.zeros((len(rows), num_items), np.float32)
    for user, items in enumerate(rows):
        dense[user, list(items)] = 1.0
    return sparse.csr_array(dense)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.sets(st.integers(0, 6), max_size=6), min_size=1, max_size=6).filter(any),
    seed=st.integers(0, 2**32),
)
def test_positives_are_positive_and_negatives_are_not(rows: list[set[int]], seed: int) -> None:
    train = matrix_of(rows, 7)
    user, positive, negative = BPR(train, 200).draw(np.random.default_rng(seed))
    dense = train.toarray()
    assert np.all(dense[user, positive] == 1.0)
    assert np.all(dense[user, negative] == 0.0)
    assert user.dtype == positive.dtype == negative.dtype == np.int64
    assert user.shape == positive.shape == negative.shape == (200,)


ROWS = [{0, 1, 2, 5}, set(), {4}, {0, 1, 2, 3, 4, 5, 6, 8, 9}]


def frequencies(values: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(values, minlength=size) / len(values)


def test_a_positive_is_uniform_over_users_then_over_their_items() -> None:
    user, positive, _ = BPR(matrix_of(ROWS, 10), 60_000).draw(np.random.default_rng(0))
    assert frequencies(user, 4) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.01)
    assert frequencies(positive[user == 0], 6) == pytest.approx([0.25, 0.25, 0.25, 0, 0, 0.25], abs=0.02)


def test_a_negative_is_uniform_over_the_items_without_interaction() -> None:
    user, _, negative = BPR(matrix_of(ROWS, 10), 60_000).draw(np.random.default_rng(0))
    for row in (0, 2, 3):
        share = np.array([item not in ROWS[row] for item in range(10)]) / (10 - len(ROWS[row]))
        assert frequencies(negative[user == row], 10) == pytest.approx(share, abs=0.02)


def test_the_generator_alone_decides() -> None:
    loss = BPR(matrix_of(ROWS, 10), 100)
    first, again, other = (np.stack(loss.draw(np.random.default_rng(seed))) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_a_user_with_every_item_is_passed_over_and_refused_where_there_is_no_other(loss) -> None:
    users, positives, *_ = loss(matrix_of([{0, 2}, {0, 1, 2}, {1}], 3), 200).draw(np.random.default_rng(0))
    assert set(zip(users, positives, strict=True)) == {(0, 0), (0, 2), (2, 1)}
    with pytest.raises(DataError, match="every user .*every one of the 3 items.*longer segments"):
        loss(matrix_of([set(), {0, 1, 2}], 3), 10)


def test_no_training_interactions_are_refused() -> None:
    with pytest.raises(DataError, match="no training interaction"):
        BPR(sparse.csr_array((3, 3), dtype=np.float32), 10)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_positives_by_interaction_are_as_likely_each(loss) -> None:
    train = matrix_of(ROWS, 10)
    rng = np.random.default_rng(0)
    drawn = [loss(train, 14, positives="interaction").draw(rng)[:2] for _ in range(1_500)]
    users, items = (np.concatenate(column) for column in zip(*drawn, strict=True))
    assert frequencies(users * 10 + items, 40)[train.toarray().ravel() > 0] == pytest.approx(1 / 14, abs=0.01)


def softmax_of(loss: Softmax, recommender: MF, users, items) -> Tensor:
    """Cross-entropy of every pair among all items, and the penalty, written out."""
    encoded = recommender.encode()
    scores = recommender.score(encoded, users)
    if loss.temperature is not None:
        user, item = (part / part.norm(dim=1, keepdim=True) for part in encoded)
        scores = (user @ item.T)[users] / loss.temperature
    costs = torch.nn.functional.cross_entropy(scores, items, reduction="none")
    of_user = [costs[users == user].mean() for user in users.unique()]
    cost = costs.mean() if loss.positives == "interaction" else torch.stack(of_user).mean()
    return cost + recommender.penalty(encoded, users, items)


class TestSoftmax:
    @pytest.fixture
    def train(self, make_interactions) -> sparse.csr_array:
        return make_interactions().train

    @pytest.fixture
    def recommender(self, train) -> MF:
        sizes = EmbeddingSizes.full(*train.shape, 6)
        return MF(train, sizes, generator=torch.Generator().manual_seed(0), init_std=1.0)

    def test_a_user_comes_with_all_of_its_items(self, train) -> None:
        users, items = FullSoftmax(train, 150).draw(np.random.default_rng(0))
        drawn = np.unique(users)
        assert len(drawn) == 150 * train.shape[0] // train.nnz < train.shape[0]
        expected = train[drawn].tocoo()
        assert np.array_equal(users, drawn[expected.coords[0]]) and np.array_equal(items, expected.coords[1])

    @pytest.mark.parametrize("positives", POSITIVES)
    @pytest.mark.parametrize("temperature", [None, 0.2])
    # A bucket of every item, and negatives beyond number, are the catalogue.
    @pytest.mark.parametrize(
        ("loss", "tolerance"), [(FullSoftmax, 1e-5), (SampledSoftmax, 0.02), (ScalableCrossEntropy, 1e-5)]
    )
    def test_is_the_cross_entropy_among_all_items(
        self, train, recommender, loss, tolerance, temperature, positives, monkeypatch
    ) -> None:
        monkeypatch.setattr(softmax, "SCORES_PER_PART", 7 * train.shape[1])
        monkeypatch.setattr(sce, "BUCKET_ITEMS", train.shape[1])
        more = {"num_negatives": 20_000} if loss is SampledSoftmax else {}
        loss = loss(train, 400, positives=positives, temperature=temperature, **more)
        batch = tuple(map(torch.from_numpy, loss.draw(np.random.default_rng(0))))
        if isinstance(loss, ScalableCrossEntropy):
            # As many buckets as there are users hold each of them.
            batch = *batch[:2], 1.0 * torch.eye(len(batch[0].unique()))
        values, gradients = [], []
        for cost in (loss(recommender, *batch), softmax_of(loss, recommender, *batch[:2])):
            recommender.zero_grad()
            cost.backward()
            values.append(cost.detach())
            gradients.append(recommender.table.weight.grad.clone())
        torch.testing.assert_close(*values, rtol=tolerance, atol=tolerance)
        error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
        assert error < 5 * tolerance

    def test_what_scores_beside_the_representations_learns_from_every_part(self, train, monkeypatch) -> None:
        sizes = EmbeddingSizes.full(*train.shape, 4, num_tables=2)
        recommender = NCF(train, sizes, generator=torch.Generator().manual_seed(0))
        loss = FullSoftmax(train, 300)
        batch = tuple(map(torch.from_numpy, loss.draw(np.random.default_rng(0))))
        gradients = []
        for num_users in (train.shape[0], 3):
            monkeypatch.setattr(softmax, "SCORES_PER_PART", num_users * train.shape[1])
            recommender.zero_grad()
            (2 * loss(recommender, *batch)).backward()
            gradients.append({name: value.grad for name, value in recommender.named_parameters()})
        assert gradients[0]["output_hidden"].abs().sum() > 0
        torch.testing.assert_close(*gradients)

    def test_more_scores_than_minutes_are_refused(self, monkeypatch) -> None:
        monkeypatch.setattr(softmax, "MOST_SCORES", 29)
        FullSoftmax(matrix_of(ROWS, 9 + 1), 10)
        with pytest.raises(ConfigError, match="all 10 items for the 3 users.*30 scores a batch.*loss=sce"):
            FullSoftmax(matrix_of(ROWS, 10), 14)

    def test_a_negative_is_drawn_by_half_for_its_popularity(self) -> None:
        loss = SampledSoftmax(matrix_of(ROWS, 10), 1, num_negatives=60_000)
        *_, negatives, expected = loss.draw(np.random.default_rng(0))
        popularity = np.bincount([item for row in ROWS for item in row], minlength=10) / 14
        share = 0.05 + popularity / 2
        assert frequencies(negatives, 10) == pytest.approx(share, abs=0.01)
        assert np.exp(expected) == pytest.approx(60_000 * share[negatives], rel=1e-5)

    @pytest.mark.parametrize("loss", [SampledSoftmax, ScalableCrossEntropy])
    def test_the_generator_alone_decides(self, loss) -> None:
        loss = loss(matrix_of(ROWS, 10), 5)
        first, again, other = (loss.draw(np.random.default_rng(seed)) for seed in (3, 3, 4))
        assert all(map(np.array_equal, first, again))
        assert not all(map(np.array_equal, first[2:], other[2:]))

    def test_a_user_who_knows_every_negative_is_no_nan(self, train, recommender) -> None:
        known = torch.from_numpy(train[[0]].indices.astype(np.int64))
        loss = SampledSoftmax(train, 2)
        got = loss(recommender, torch.zeros_like(known), known, known, torch.zeros(len(known)))
        got.backward()
        assert got.isfinite() and recommender.table.weight.grad.isfinite().all()


class TestBuckets:
    def test_hold_the_users_and_the_items_of_the_largest_products(self) -> None:
        # Two blocks of users and of items that point two ways; a direction is the one or the other.
        train = matrix_of([{block * 30 + n} for block in (0, 1) for n in range(20)], 60)
        sizes = EmbeddingSizes.full(*train.shape, 2)
        recommender = MF(train, sizes, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            recommender.table.weight.zero_()
            recommender.table.weight[:20, 0] = recommender.table.weight[20:40, 1] = 1.0
            recommender.table.weight[40:70, 0] = recommender.table.weight[70:, 1] = 1.0
        mixture = torch.zeros(2, 40)
        mixture[0, :20] = mixture[1, 20:] = 1.0
        for find in (sce.round_directions, sce.round_pivots):
            rows, items = find(recommender, recommender.encode(), torch.arange(40), mixture, 20, 30)
            assert [sorted(row.tolist()) for row in rows // 20] == [[0] * 20, [1] * 20], find
            assert [sorted(row.tolist()) for row in items // 30] == [[0] * 30, [1] * 30], find

    def test_who_is_in_none_waits(self, monkeypatch) -> None:
        train = matrix_of([{n} for n in range(30)], 40)
        sizes = EmbeddingSizes.full(*train.shape, 4)
        recommender = MF(train, sizes, generator=torch.Generator().manual_seed(0), l2=0.0)
        users = items = torch.arange(30)
        # There would be 11 buckets of 11 users each.
        ScalableCrossEntropy(train, 30)(recommender, users, items, torch.eye(30)[:2]).backward()
        rows, _ = sce.round_directions(recommender, recommender.encode(), users, torch.eye(30)[:2], 11, 40)
        is_moved = recommender.table.weight.grad[:30].abs().sum(dim=1) > 0
        assert 11 <= is_moved.sum() <= 22 and users[is_moved].tolist() == rows.unique().tolist()


@pytest.mark.parametrize("temperature", [1e-30, 9e-5, 101.0, -0.1, 0.0])
def test_a_temperature_that_leaves_nothing_to_learn_is_refused(temperature):
    with pytest.raises(ConfigError, match=r"training\.temperature=.*: choose 0\.0001 to 100; .*float32"):
        TrainingSettings(loss="sce", temperature=temperature)


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.has_temperature])
@pytest.mark.parametrize("temperature", [1e-4, 100.0])
def test_the_smallest_and_the_largest_temperature_train(loss, temperature):
    settings = TrainingSettings(loss=loss, temperature=temperature)
    recipe = Recipe(matrix_of([{0, 1}, {1, 2}, {3}], 6), settings, "mf")
    trainer = recipe.trainer(EmbeddingSizes.full(3, 6, 4), np.random.default_rng(0))
    before = trainer.recommender.table.weight.detach().clone()
    assert np.isfinite(trainer.train(1)) and not torch.equal(before, trainer.recommender.table.weight)
