"""MovieLens-1M, where the environment names a file of it."""

import os
import time

import numpy as np
import pytest

from envs.data import TripleSampler, read_interactions, split_interactions

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        "CIESS_RAY_ML1M" not in os.environ, reason="set CIESS_RAY_ML1M to a MovieLens-1M file"
    ),
]


def test_reading_and_splitting_movielens_1m_takes_less_than_two_seconds() -> None:
    start = time.perf_counter()
    log = read_interactions(os.environ["CIESS_RAY_ML1M"])
    split = split_interactions(log, seed=0)
    assert time.perf_counter() - start < 2.0
    assert (split.num_users, split.num_items, split.num_interactions) == (6_040, 3_706, 1_000_209)
    assert split.num_unevaluated_users == 0
    assert 0.5 <= split.train.nnz / split.num_interactions < 0.51


def test_a_batch_of_triples_takes_milliseconds() -> None:
    split = split_interactions(read_interactions(os.environ["CIESS_RAY_ML1M"]), seed=0)
    sampler, rng = TripleSampler(split.train), np.random.default_rng(0)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        sampler.draw(10_000, rng)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 0.02
