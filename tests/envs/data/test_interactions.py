"""The frozen splits."""

import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from logs import log_of
from scipy import sparse

from envs.data import Interactions, generate_interactions, split_interactions
from envs.errors import DataError


@pytest.fixture(scope="module")
def interactions() -> Interactions:
    return split_interactions(generate_interactions(60, 40, 600, seed=1), seed=2)


def test_splits_are_sorted_binary_and_read_only(interactions: Interactions) -> None:
    for matrix in (interactions.train, interactions.validation, interactions.test):
        assert isinstance(matrix, sparse.csr_array)
        assert matrix.shape == (60, 40) and matrix.has_canonical_format
        assert (matrix.dtype, matrix.indices.dtype, matrix.indptr.dtype) == (np.float32, np.int32, np.int32)
        assert np.all(matrix.data == 1.0)
        for array in (matrix.data, matrix.indices, matrix.indptr):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 5
    with pytest.raises(FrozenInstanceError):
        interactions.train = interactions.test  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        interactions.user_ids[0] = 5


def test_read_only_splits_serve_every_usual_operation(interactions: Interactions) -> None:
    train = interactions.train
    dense = train.toarray()
    assert np.array_equal((train @ np.eye(40, dtype=np.float32)), dense)
    assert np.array_equal(train.T.tocsr().toarray(), dense.T)
    assert np.array_equal(train[[3, 1]].toarray(), dense[[3, 1]])
    assert np.array_equal(train.sum(axis=0), dense.sum(axis=0))


def test_counts_and_popularity(interactions: Interactions) -> None:
    assert (interactions.num_users, interactions.num_items, interactions.num_entities) == (60, 40, 100)
    assert interactions.num_interactions == 600
    dense = interactions.train.toarray()
    assert np.array_equal(interactions.user_popularity, dense.sum(axis=1))
    assert np.array_equal(interactions.item_popularity, dense.sum(axis=0))
    assert interactions.user_popularity.dtype == interactions.item_popularity.dtype == np.int64


def test_validation_merges_into_training(interactions: Interactions) -> None:
    merged = interactions.merge_validation_into_training()
    expected = interactions.train.toarray() + interactions.validation.toarray()
    assert np.array_equal(merged.train.toarray(), expected)
    assert merged.validation.nnz == 0 and merged.validation.shape == (60, 40)
    assert np.array_equal(merged.test.toarray(), interactions.test.toarray())
    known = interactions.merge_all_into_training()
    assert np.array_equal(known.train.toarray(), expected + interactions.test.toarray())
    assert known.validation.nnz == 0 and (known.test != interactions.test).nnz == 0
    assert merged.fingerprint != interactions.fingerprint
    assert np.array_equal(merged.user_popularity, expected.sum(axis=1))


def test_a_pickled_copy_is_equal_and_still_read_only(interactions: Interactions) -> None:
    copy = pickle.loads(pickle.dumps(interactions))
    assert copy.fingerprint == interactions.fingerprint
    assert not copy.train.indices.flags.writeable and not copy.user_popularity.flags.writeable


def test_the_fingerprint_is_of_splits_and_ids(interactions: Interactions) -> None:
    assert replace(interactions, source="elsewhere").fingerprint == interactions.fingerprint
    assert replace(interactions, item_ids=interactions.item_ids + 1).fingerprint != interactions.fingerprint
    assert replace(interactions, test=interactions.validation).fingerprint != interactions.fingerprint


def test_the_fingerprint_keeps_text_ids_apart() -> None:
    def fingerprint(ids: list[str]) -> str:
        return split_interactions(log_of([1, 1, 1], ids), seed=0).fingerprint

    assert fingerprint(["a", "bc", "d"]) != fingerprint(["ab", "c", "d"])
    # The same on every machine and in every version, so that results can be compared.
    assert fingerprint(["a", "é", "z"]) == (
        "dea6fd51a23048bedbb47485995d3ea6357ea006ed50d4e0893313cb8e752ecb"
    )


def test_splits_of_another_shape_are_refused(interactions: Interactions) -> None:
    with pytest.raises(DataError, match=r"test split has shape \(1, 1\).*60 user ids and 40 item ids"):
        replace(interactions, test=sparse.csr_array((1, 1), dtype=np.float32))


def test_unsorted_matrices_are_put_in_order_without_touching_the_callers() -> None:
    matrix = sparse.csr_array((np.array([2.0, 2.0]), np.array([1, 0]), np.array([0, 2])), shape=(1, 2))
    empty = sparse.csr_array((1, 2), dtype=np.float32)
    made = Interactions(matrix, empty, empty, np.arange(1), np.arange(2), 0, 0, "here")
    assert made.train.indices.tolist() == [0, 1] and made.train.data.tolist() == [1.0, 1.0]
    assert matrix.indices.tolist() == [1, 0] and matrix.indices.flags.writeable


def test_without_test_the_fingerprint_stays_and_test_comes_back(make_interactions):
    whole = make_interactions()
    visible = pickle.loads(pickle.dumps(whole.without_test()))
    assert visible.test.nnz == 0 and visible.fingerprint == whole.fingerprint
    assert (visible.train != whole.train).nnz == 0 and (visible.validation != whole.validation).nnz == 0
    again = visible.with_test(whole.test)
    assert (again.test != whole.test).nnz == 0 and again.fingerprint == whole.fingerprint
    # What was never taken away is not what another split has.
    assert whole.merge_validation_into_training().fingerprint != whole.fingerprint
