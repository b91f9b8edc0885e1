"""Rows that begin at other columns, and the communities that say at which."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from envs.communities import find_communities
from envs.errors import EmbeddingSizeError
from envs.sizes.embedding_sizes import EmbeddingSizes


def sizes(user=(2, 1), item=(3,), **fields):
    return EmbeddingSizes(np.array(user), np.array(item), 1, 8, **fields)


def test_a_row_keeps_its_numbers_from_its_first_column_on():
    placed = sizes(first_columns=np.array([0, 3, 1]))
    assert placed.width == 4 and placed.num_params == 6
    assert placed.mask().astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1]]
    assert placed.mask(3).sum() == 4 and placed.mask(6).shape == (3, 6)
    assert placed.packed_bytes == sizes().packed_bytes + 3
    two = sizes(num_tables=2, first_columns=np.array([0, 3, 1]))
    np.testing.assert_array_equal(two.mask(), np.hstack([placed.mask()] * 2))


@pytest.mark.parametrize("first", [[0, 1], [0, 1, -1], [0, 1, 256], [0.5, 1, 2]])
def test_what_is_no_column_is_refused(first):
    with pytest.raises(EmbeddingSizeError, match="first columns must be 3 integers of 0 to 255"):
        sizes(first_columns=np.array(first))


def blocks_of_users(*overlaps):
    """Four blocks of 30 users who like 20 items of their own each, and some of other blocks."""
    rng = np.random.default_rng(0)
    likes = np.kron(np.eye(4), np.full((30, 20), 0.5))
    for first, second, share in overlaps:
        for one, other in ((first, second), (second, first)):
            likes[30 * one :][:30, 20 * other :][:, :20] = share
    train = csr_array(rng.random(likes.shape) < likes, dtype=np.float32)
    train.sort_indices()
    return train


def test_blocks_of_the_interactions_are_communities():
    train = blocks_of_users()
    found = find_communities(train, 4, np.random.default_rng(1)).reshape(4, 30)
    assert sorted(found[:, 0]) == [0, 1, 2, 3]
    assert (found == found[:, :1]).all()
    np.testing.assert_array_equal(found.ravel(), find_communities(train, 4, np.random.default_rng(1)))


@pytest.mark.parametrize("seed", range(5))
def test_communities_that_are_alike_are_neighbours(seed):
    train = blocks_of_users((0, 2, 0.2), (1, 3, 0.2), (2, 1, 0.1))
    found = find_communities(train, 4, np.random.default_rng(seed)).reshape(4, 30)
    assert found[[0, 2, 1, 3], 0].tolist() in ([0, 1, 2, 3], [3, 2, 1, 0])


def test_a_user_without_interactions_has_a_community_too():
    train = csr_array(np.pad(np.ones((5, 5), np.float32), 1))
    found = find_communities(train, 2, np.random.default_rng(0))
    assert found.shape == (7,) and len(set(found)) == found.max() + 1


@pytest.mark.parametrize("num_communities", [1, 5])
def test_there_are_fewer_communities_than_users_or_items(num_communities):
    train = csr_array(np.ones((9, 5), np.float32))
    with pytest.raises(EmbeddingSizeError, match="ask for 2 to 4"):
        find_communities(train, num_communities, np.random.default_rng(0))
