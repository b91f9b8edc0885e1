import numpy as np
import pytest
import torch

from envs.errors import ConfigError
from envs.recommenders import NGCF
from envs.recommenders.propagation import SparseMatrix, row_normalised_adjacency
from envs.recommenders.training import Trainer, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

CPU = torch.device("cpu")


@pytest.fixture
def train(make_interactions):
    return make_interactions().train


@pytest.fixture
def make(train):
    def make(largest=8, seed=0, **options):
        rng = np.random.default_rng(0)
        user, item = rng.integers(1, largest + 1, 60), rng.integers(1, largest + 1, 40)
        user[0] = largest
        sizes = EmbeddingSizes(user, item, 1, 16)
        return NGCF(train, sizes, generator=torch.Generator().manual_seed(seed), **options)

    return make


def test_rows_of_the_adjacency_are_means_over_neighbours_and_self(train):
    adjacency = row_normalised_adjacency(train)
    assert adjacency.dtype == np.float32 and adjacency.indices.dtype == adjacency.indptr.dtype == np.int32
    dense = np.eye(100)
    dense[:60, 60:], dense[60:, :60] = train.toarray(), train.toarray().T
    np.testing.assert_allclose(adjacency.toarray(), dense / dense.sum(axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_a_product_and_its_gradient_are_those_of_the_dense_matrix(train, rate):
    matrix = SparseMatrix.of(row_normalised_adjacency(train), CPU)
    if rate:
        matrix = matrix.drop(rate, torch.Generator().manual_seed(0))
    dense = matrix.matrix.to_dense()
    torch.testing.assert_close(matrix.transposed.to_dense(), dense.T)
    x, grad = torch.randn(2, 100, 5, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    got, expected = matrix @ x, dense @ x
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(*(torch.autograd.grad(product, x, grad)[0] for product in (got, expected)))


def test_dropping_entries_keeps_the_expectation_and_the_matrix(train):
    matrix = SparseMatrix.of(row_normalised_adjacency(train), CPU)
    before = matrix.matrix.to_dense()
    dropped = matrix.drop(0.3, torch.Generator().manual_seed(0)).matrix.to_dense()
    assert torch.equal(matrix.matrix.to_dense(), before)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], before[kept] / 0.7)
    assert kept.sum() / (before != 0).sum() == pytest.approx(0.7, abs=0.05)
    # Neither direction of an interaction knows of the other.
    assert not torch.equal(kept, kept.T)


def test_layers_are_as_wide_as_d_max_and_normalised(make):
    for largest in (1, 8, 16):
        recommender = make(largest).eval()
        assert [tuple(w.shape) for w in recommender.weights_sum] == [(largest, 16), (16, 16), (16, 16)]
        user, item = recommender.encode()
        assert user.shape == (60, largest + 48) and item.shape == (40, largest + 48)
        torch.testing.assert_close(torch.cat([user, item])[:, :largest], recommender.table())
        norms = user[:, largest:].view(60, 3, 16).norm(dim=2)
        torch.testing.assert_close(norms, torch.ones(60, 3))


def test_the_number_of_layers_is_an_option(make):
    user, item = make(num_layers=0).encode()
    assert user.shape == (60, 8) and item.shape == (40, 8)
    assert make(num_layers=1).encode()[0].shape == (60, 24)


def test_dropout_acts_in_training_alone(make):
    recommender = make()
    first, second = recommender.encode()[0], recommender.encode()[0]
    assert not torch.equal(first, second)
    recommender.eval()
    assert torch.equal(recommender.encode()[0], recommender.encode()[0])
    off = make(node_dropout=0.0, message_dropout=0.0)
    assert torch.equal(off.encode()[0], recommender.encode()[0])
    for options in ({"node_dropout": 0.0}, {"message_dropout": 0.0}):
        one = make(**options)
        assert not torch.equal(one.encode()[0], one.encode()[0])


def test_message_dropout_zeroes_its_share(make):
    recommender = make(node_dropout=0.0, message_dropout=0.3)
    shown = torch.cat(recommender.encode())[:, 8:]
    assert (shown == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_dropout_is_that_of_the_seed_and_of_no_global_state(make, train):
    trained = []
    for seed, elsewhere in ((0, 0), (0, 1), (1, 0)):
        torch.manual_seed(elsewhere)
        recommender = make(seed=seed)
        Trainer(recommender, train, TrainingSettings(batch_size=64), np.random.default_rng(0)).train(3)
        trained.append(recommender.table.packed_values())
    assert torch.equal(trained[0], trained[1]) and not torch.equal(trained[0], trained[2])


def test_evaluating_draws_nothing(make):
    one, other = make(), make()
    other.eval().encode()
    assert torch.equal(one.encode()[0], other.train().encode()[0])


@pytest.mark.parametrize("option", ["node_dropout", "message_dropout"])
def test_a_dropout_that_leaves_nothing_is_refused(make, option):
    with pytest.raises(ConfigError, match=f"{option} of the recommender ngcf must be below 1, not 1"):
        make(**{option: 1.0})
