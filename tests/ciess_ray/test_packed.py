import json
import struct

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from ciess_ray.packed import FORMAT, PackedTable, pack_recommender, unpack_recommender
from envs.budget import HEADER_BYTES, EmbeddingSizes, index_bytes_per_row
from envs.errors import CiessError, ResultError
from envs.recommenders import RECOMMENDERS, build_recommender
from envs.recommenders.training import Trainer, TrainingSettings


@st.composite
def tables(draw):
    """A table with sizes, and the same with zeros beyond them."""
    d_max = draw(st.sampled_from([1, 2, 7, 255, 256, 65_535, 65_536, 70_000]))
    d_min = draw(st.integers(1, min(d_max, 3)))
    num_users = draw(st.integers(1, 20 if d_max < 300 else 3))
    num_items = draw(st.integers(1, 20 if d_max < 300 else 3))
    # Hypothesis likes the ends: a row of d_max beside one of d_min.
    row_sizes = np.array([draw(st.integers(d_min, d_max)) for _ in range(num_users + num_items)])
    num_tables = draw(st.integers(1, 2))
    sizes = EmbeddingSizes(row_sizes[:num_users], row_sizes[num_users:], d_min, d_max, num_tables)
    width = draw(st.integers(sizes.width, sizes.width + 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    tables = rng.standard_normal((num_users + num_items, num_tables, width), np.float32)
    masked = np.where(np.arange(width) < row_sizes[:, None, None], tables, np.float32(0))
    return *(part.reshape(len(row_sizes), -1) for part in (tables, masked)), sizes


@given(tables())
def test_packing_and_unpacking_is_the_identity_and_keeps_to_the_bytes(tmp_path_factory, case):
    table, masked, sizes = case
    path = tmp_path_factory.getbasetemp() / "table.safetensors"
    num_bytes = PackedTable.pack(table, sizes).save(path)
    index = sizes.num_rows * index_bytes_per_row(sizes.max_embedding_size)
    assert num_bytes == path.stat().st_size
    assert num_bytes <= 4 * sizes.num_params + index + HEADER_BYTES == sizes.packed_bytes
    loaded = PackedTable.load(path)
    np.testing.assert_array_equal(loaded.unpack(table.shape[1] // sizes.num_tables), masked)
    assert loaded.unpack().shape == (sizes.num_rows, sizes.num_tables * sizes.width)
    np.testing.assert_array_equal(loaded.sizes.user, sizes.user)
    np.testing.assert_array_equal(loaded.sizes.item, sizes.item)
    assert loaded.sizes.min_embedding_size == sizes.min_embedding_size
    assert loaded.sizes.max_embedding_size == sizes.max_embedding_size
    assert loaded.sizes.num_tables == sizes.num_tables


def test_a_file_from_before_there_were_several_tables_has_one(tmp_path):
    tensors = {"values": np.arange(6, dtype=np.float32), "sizes": np.array([1, 3, 2], np.uint8)}
    metadata = {"num_users": "2", "min_embedding_size": "1", "max_embedding_size": "4", "format": FORMAT}
    (tmp_path / "table").write_bytes(safetensors.numpy.save(tensors, metadata))
    loaded = PackedTable.load(tmp_path / "table")
    assert loaded.sizes.num_tables == 1
    assert loaded.unpack().tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 0]]


@pytest.mark.parametrize(("d_max", "num_bytes"), [(255, 1), (256, 2), (65_535, 2), (65_536, 4)])
def test_a_row_costs_no_more_index_than_its_largest_size_asks_for(d_max, num_bytes):
    sizes = EmbeddingSizes(np.ones(5000, np.int32), np.ones(1, np.int32), 1, d_max)
    content = PackedTable.pack(np.ones((5001, 1), np.float32), sizes).to_bytes()
    assert len(content) - 4 * 5001 - num_bytes * 5001 <= HEADER_BYTES


def test_values_that_do_not_belong_to_the_sizes_are_refused():
    with pytest.raises(ResultError, match="3 parameters cannot hold values of shape"):
        PackedTable(np.zeros(4, np.float32), EmbeddingSizes(np.array([1]), np.array([2])))


class TestLoading:
    @pytest.fixture
    def path(self, tmp_path):
        sizes = EmbeddingSizes(np.array([1, 3]), np.array([2]), 1, 4)
        path = tmp_path / "table.safetensors"
        PackedTable.pack(np.arange(12, dtype=np.float32).reshape(3, 4), sizes).save(path)
        return path

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(ResultError, match="nowhere: no such file"):
            PackedTable.load(tmp_path / "nowhere")

    def test_a_folder(self, tmp_path):
        with pytest.raises(ResultError, match="damaged"):
            PackedTable.load(tmp_path)

    def test_a_file_that_was_cut_off_anywhere(self, path):
        content = path.read_bytes()
        for length in range(0, len(content), 7):
            path.write_bytes(content[:length])
            with pytest.raises(ResultError, match="damaged, or no safetensors file"):
                PackedTable.load(path)

    def test_a_file_that_is_something_else(self, path):
        path.write_text("user,item\n1,2\n" * 100)
        with pytest.raises(ResultError, match="damaged, or no safetensors file"):
            PackedTable.load(path)

    def test_a_safetensors_file_of_another_kind(self, path):
        path.write_bytes(safetensors.numpy.save({"values": np.zeros(3, np.float32)}))
        with pytest.raises(ResultError, match="its format is None, not 'ciess-ray packed table 1'"):
            PackedTable.load(path)

    @pytest.mark.parametrize("missing", ["values", "sizes", "num_users", "max_embedding_size"])
    def test_a_file_of_which_a_part_is_missing(self, path, missing):
        tensors = {"values": np.zeros(6, np.float32), "sizes": np.array([1, 3, 2], np.uint8)}
        metadata = {"num_users": "2", "min_embedding_size": "1", "max_embedding_size": "4"}
        content = [{k: v for k, v in part.items() if k != missing} for part in (tensors, metadata)]
        path.write_bytes(safetensors.numpy.save(content[0], content[1] | {"format": FORMAT}))
        with pytest.raises(ResultError, match=f"damaged.*{missing}"):
            PackedTable.load(path)

    @pytest.mark.parametrize(("row", "size"), [(0, 9), (0, 0), (2, 4)])
    def test_sizes_that_were_changed(self, path, row, size):
        content = bytearray(path.read_bytes())
        (header_bytes,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + header_bytes])
        content[8 + header_bytes + header["sizes"]["data_offsets"][0] + row] = size
        path.write_bytes(content)
        with pytest.raises(CiessError):
            PackedTable.load(path)


@pytest.mark.parametrize("name", RECOMMENDERS)
class TestRecommender:
    @pytest.fixture
    def trained(self, name, make_interactions):
        train = make_interactions().train
        rng = np.random.default_rng(0)
        num_tables = RECOMMENDERS[name].num_tables
        sizes = EmbeddingSizes(rng.integers(1, 8, 60), rng.integers(1, 6, 40), 1, 16, num_tables)
        recommender = build_recommender(name, train, sizes, generator=torch.Generator().manual_seed(0))
        Trainer(recommender, train, TrainingSettings(batch_size=128), rng).train(10)
        return recommender.eval(), train

    def test_scores_as_the_one_that_was_packed(self, name, trained, tmp_path):
        recommender, train = trained
        pack_recommender(recommender).save(tmp_path / "table")
        scorer = {key: value.numpy() for key, value in recommender.scorer_state().items()}
        unpacked = unpack_recommender(PackedTable.load(tmp_path / "table"), train, name, {}, scorer)
        users = torch.arange(60)
        with torch.no_grad():
            expected = recommender.score(recommender.encode(), users)
            got = unpacked.score(unpacked.encode(), users)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)

    def test_other_interactions_are_refused(self, name, trained):
        recommender, _ = trained
        with pytest.raises(ResultError, match="60 users and 40 items, the interactions 60 and 41"):
            unpack_recommender(pack_recommender(recommender), csr_array((60, 41)), name, {}, {})

    def test_another_recommenders_weights_are_refused(self, name, trained):
        recommender, train = trained
        with pytest.raises(ResultError, match=f"the scorer's weights are not those of {name}.*other"):
            unpack_recommender(
                pack_recommender(recommender), train, name, {}, {"other": np.zeros(1, np.float32)}
            )
