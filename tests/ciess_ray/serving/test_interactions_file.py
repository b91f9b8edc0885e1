"""Everybody's interactions in a file."""

import lzma

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from ciess_ray.serving.interactions_file import FILTERS, read_interactions_file, write_interactions
from envs.data import generate_interactions, split_interactions
from envs.errors import ResultError


@given(st.integers(1, 40), st.sampled_from([1, 3, 300, 70_000]), st.floats(0, 1), st.integers(0, 9))
def test_what_is_written_is_read(tmp_path_factory, num_users, num_items, density, seed):
    file = tmp_path_factory.getbasetemp() / "interactions.npz"
    rng = np.random.default_rng(seed)
    sizes = rng.binomial(min(num_items, 50), density, num_users)
    sizes[rng.integers(num_users)] = 0
    rows = [np.sort(rng.choice(num_items, size, replace=False)) for size in sizes]
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    indices = np.concatenate([*rows, np.zeros(0, int)]).astype(np.int32)
    written = csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=(num_users, num_items))
    write_interactions(file, written)
    for shape in ((num_users, num_items), (None, num_items)):
        read = read_interactions_file(file, shape)
        assert read.shape == written.shape and read.dtype == np.float32
        np.testing.assert_array_equal(read.indptr, written.indptr)
        np.testing.assert_array_equal(read.indices, written.indices)
        assert (read.data == 1).all()


def test_it_takes_little_more_than_half_of_what_scipy_takes(tmp_path):
    train = split_interactions(generate_interactions(2_000, 800, 80_000, seed=0), seed=0).train
    write_interactions(tmp_path / "ours.npz", train)
    scipy.sparse.save_npz(tmp_path / "scipys.npz", train)
    ours, scipys = ((tmp_path / f"{name}.npz").stat().st_size for name in ("ours", "scipys"))
    assert ours < 0.6 * scipys


def test_the_same_makes_the_same_bytes(tmp_path):
    train = split_interactions(generate_interactions(60, 40, 900, seed=0), seed=0).train
    for name in ("one", "two"):
        write_interactions(tmp_path / name, train)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_all_alike_is_not_taken_for_an_attack(tmp_path):
    everything = csr_array(np.ones((4_000, 1_000), np.float32))
    write_interactions(tmp_path / "file", everything)
    read = read_interactions_file(tmp_path / "file", (4_000, 1_000))
    assert read.nnz == 4_000_000 and (tmp_path / "file").stat().st_size < 200_000


def test_a_small_file_that_claims_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    plain = bytes(10**8)
    packed = lzma.compress(plain, lzma.FORMAT_RAW, filters=FILTERS)
    numbers = np.array([0, 40, 10**8, 1, 1])
    np.savez(tmp_path / "file", numbers=numbers, packed=np.frombuffer(packed, np.uint8))
    monkeypatch.setattr(lzma, "LZMADecompressor", None)
    with pytest.raises(ResultError, match=r"damaged \(it claims 100,000,000 bytes\)"):
        read_interactions_file(tmp_path / "file.npz", (None, 40))


@pytest.mark.parametrize("item", [40, 300])
def test_an_item_that_there_is_not_is_refused(tmp_path, item):
    write_interactions(tmp_path / "file.npz", csr_array(([1.0], ([3], [item])), shape=(60, 301)))
    with np.load(tmp_path / "file.npz") as arrays:
        parts = dict(arrays)
    parts["numbers"][1] = 40
    np.savez(tmp_path / "file.npz", **parts)
    with pytest.raises(ResultError, match=f"it has an item {item} of 40"):
        read_interactions_file(tmp_path / "file.npz", (60, 40))
