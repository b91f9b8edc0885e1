"""Rows that begin at other columns, and the communities that say where."""

import numpy as np
import pytest
from scipy.sparse import block_diag, csr_array

from envs.budget import EmbeddingSizes
from envs.communities import find_communities
from envs.errors import EmbeddingSizeError
from envs.placed_sizes import PlacedSizes


def sizes(user=(2, 1), item=(3,), **fields):
    return EmbeddingSizes(np.array(user), np.array(item), 1, 8, **fields)


def test_a_row_keeps_its_numbers_from_its_first_column_on():
    placed = PlacedSizes.of(sizes(), np.array([0, 3, 1]))
    assert placed.width == 4 and placed.num_params == 6
    assert placed.mask().astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1]]
    assert placed.mask(3).sum() == 4 and placed.mask(6).shape == (3, 6)
    assert placed.packed_bytes == sizes().packed_bytes + 3
    two = PlacedSizes.of(sizes(num_tables=2), np.array([0, 3, 1]))
    np.testing.assert_array_equal(two.mask(), np.hstack([placed.mask()] * 2))


@pytest.mark.parametrize("first", [[0, 1], [0, 1, -1], [0, 1, 256], [0.5, 1, 2]])
def test_what_is_no_column_is_refused(first):
    with pytest.raises(EmbeddingSizeError, match="first columns must be 3 integers of 0 to 255"):
        PlacedSizes.of(sizes(), np.array(first))


def test_blocks_of_the_interactions_are_communities():
    rng = np.random.default_rng(0)
    blocks = [rng.random((30, 20)) < 0.5 for _ in range(4)]
    train = csr_array(block_diag(blocks), dtype=np.float32)
    train.sort_indices()
    found = find_communities(train, 4, np.random.default_rng(1))
    user, item = np.split(found, [120])
    assert len({tuple(user[first : first + 30]) for first in range(0, 120, 30)}) == 4
    for block in range(4):
        assert (
            set(user[30 * block :][:30]) == set(item[20 * block :][:20])
            and len(set(user[30 * block :][:30])) == 1
        )
    np.testing.assert_array_equal(found, find_communities(train, 4, np.random.default_rng(1)))


def test_an_entity_without_interactions_has_a_community_too():
    train = csr_array(np.pad(np.ones((5, 5), np.float32), 1))
    assert find_communities(train, 2, np.random.default_rng(0)).shape == (14,)


@pytest.mark.parametrize("num_communities", [1, 5])
def test_there_are_fewer_communities_than_users_or_items(num_communities):
    train = csr_array(np.ones((9, 5), np.float32))
    with pytest.raises(EmbeddingSizeError, match="ask for 2 to 4"):
        find_communities(train, num_communities, np.random.default_rng(0))
