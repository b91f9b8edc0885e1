"""Real logs, where the environment names files of them: MovieLens-1M, Online Retail II."""

import os

import pytest

from envs.data import read_interactions, split_interactions
from envs.data.stream import cut_stream

# The data may not be passed on, or are large; the same readers are tried on files made up here.
pytestmark = pytest.mark.data


@pytest.fixture
def file_of(request) -> str:
    if request.param not in os.environ:
        pytest.skip(f"set {request.param} to the file")
    return os.environ[request.param]


@pytest.mark.parametrize("file_of", ["CIESS_RAY_ML1M"], indirect=True)
def test_movielens_1m_is_read_and_split_whole(file_of) -> None:
    split = split_interactions(read_interactions(file_of), seed=0)
    assert (split.num_users, split.num_items, split.num_interactions) == (6_040, 3_706, 1_000_209)
    assert split.num_unevaluated_users == 0
    assert 0.5 <= split.train.nnz / split.num_interactions < 0.51


@pytest.mark.parametrize("file_of", ["CIESS_RAY_ONLINE_RETAIL"], indirect=True)
def test_online_retail_is_cut_into_its_six_segments(file_of) -> None:
    stream = cut_stream(read_interactions(file_of, keep="first"), new_entities=1750)
    segments = stream.segments
    assert [segment.num_rows for segment in segments] == [4_584, 19_117, 51_483, 96_411, 142_475, 166_908]
    assert [(segment.num_users, segment.num_items) for segment in segments] == [
        (139, 1281),
        (709, 2464),
        (1656, 3148),
        (2932, 3620),
        (4274, 3999),
        (5575, 4582),
    ]
    shares = [stream.is_cold(part)[part.test_start - part.validation_start :].mean() for part in segments]
    assert [round(float(share), 3) for share in shares] == [0.972, 0.631, 0.543, 0.406, 0.349, 0.218]
