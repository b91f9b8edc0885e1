"""MovieLens-1M, where the environment names a file of it."""

import os

import pytest

from envs.data import read_interactions, split_interactions

# The data may not be passed on; the same readers are tried on files made up here.
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        "CIESS_RAY_ML1M" not in os.environ, reason="set CIESS_RAY_ML1M to a MovieLens-1M file"
    ),
]


def test_movielens_1m_is_read_and_split_whole() -> None:
    split = split_interactions(read_interactions(os.environ["CIESS_RAY_ML1M"]), seed=0)
    assert (split.num_users, split.num_items, split.num_interactions) == (6_040, 3_706, 1_000_209)
    assert split.num_unevaluated_users == 0
    assert 0.5 <= split.train.nnz / split.num_interactions < 0.51
