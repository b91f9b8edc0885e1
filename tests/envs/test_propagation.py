"""Propagation of a table, against the same with dense matrices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import block_array, csr_array

from envs.recommenders.propagation import TiledAdjacency, mean_of_layers, symmetric_weights
from envs.sizes.embedding_sizes import EmbeddingSizes, ScatteredSizes

NUM_USERS, NUM_ITEMS = 7, 5


@pytest.fixture
def train():
    rng = np.random.default_rng(0)
    # A user and an item without interactions among them.
    dense = (rng.random((NUM_USERS, NUM_ITEMS)) < 0.4).astype(np.float32)
    dense[3], dense[:, 2] = 0, 0
    return csr_array(dense)


@pytest.mark.parametrize("num_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("widths", [(4, 1), (2, 4), (4, 4), (1, 1), (21, 1), (18, 24)])
@pytest.mark.parametrize("tile_bytes", [1, 2**20])
def test_mean_of_layers_and_its_gradient(train, num_layers, widths, tile_bytes):
    generator = torch.Generator().manual_seed(1)
    width = max(widths)
    table = torch.randn(NUM_USERS + NUM_ITEMS, width, generator=generator)
    is_used = torch.arange(width) < torch.tensor([widths[0]] * NUM_USERS + [widths[1]] * NUM_ITEMS)[:, None]
    table = (table * is_used).requires_grad_()
    weights = torch.randn(table.shape, generator=generator)

    weights_of_pairs = symmetric_weights(train)
    adjacency = block_array([[None, weights_of_pairs], [weights_of_pairs.T, None]])
    dense = torch.from_numpy(adjacency.toarray())
    layers = [table]
    for _ in range(num_layers):
        layers.append(dense @ layers[-1])
    expected = torch.stack(layers).mean(dim=0)
    (expected_grad,) = torch.autograd.grad((weights * expected).sum(), table)

    tiled = TiledAdjacency(train, width, torch.device("cpu"), tile_bytes, least_entries=0)
    found = mean_of_layers(tiled, table, widths, num_layers)
    (grad,) = torch.autograd.grad((weights * found).sum(), table)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grad, expected_grad * is_used)


def test_widths_are_those_of_the_masks():
    sizes = EmbeddingSizes(np.array([3, 2]), np.array([1, 1, 1]), 1, 8)
    placed = replace(sizes, first_columns=np.array([4, 1, 0, 2, 0]))
    kept = np.zeros((5, 8), bool)
    kept[:, 0] = True
    scattered = ScatteredSizes.of(kept, 2, 1, 8)
    assert (sizes.widths, placed.widths, scattered.widths) == ((3, 1), (7, 3), (8, 8))
    for each in (sizes, placed):
        columns = [int(np.flatnonzero(rows.any(axis=0)).max()) + 1 for rows in np.split(each.mask(), [2])]
        assert each.widths == tuple(columns) and each.width == max(columns)


def test_slices_keep_some_entries_a_row():
    train = csr_array(np.ones((6, 12), np.float32))

    def num_slices(**options):
        tiled = TiledAdjacency(train, 4, torch.device("cpu"), tile_bytes=1, **options)
        return len(tiled.user_tiles), len(tiled.item_tiles)

    # 12 entries for a user, 6 for an item.
    assert num_slices(least_entries=0) == num_slices(least_entries=1) == (12, 6)
    assert num_slices(least_entries=4) == num_slices() == (3, 1)
    assert num_slices(least_entries=100) == (1, 1)
