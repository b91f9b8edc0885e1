"""No two draws of a run are the same draw."""

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ciess_ray
from ciess_ray.streams import Stream, key_of


@st.composite
def keys(draw):
    stream = draw(st.sampled_from(Stream))
    # Small numbers, among which zeros, ones and the streams' own are frequent.
    numbers = st.one_of(st.integers(0, 3), st.sampled_from([int(one) for one in Stream]))
    counters = draw(st.lists(numbers, min_size=stream.num_counters, max_size=stream.num_counters))
    return key_of(draw(st.integers(0, 1)), stream, *counters, part=draw(st.integers(0, 2)))


@given(keys(), keys())
def test_numpy_tells_every_two_keys_apart(one, other):
    states = [tuple(np.random.SeedSequence(key).generate_state(4)) for key in (one, other)]
    assert (states[0] == states[1]) == (one == other)


def test_a_key_has_the_counters_of_its_stream():
    with pytest.raises(TypeError, match="PROJECTION have 1 counters, not 0"):
        key_of(5, Stream.PROJECTION)


def test_no_other_file_makes_a_key():
    """A seed beside a number of the file's own is what the streams' names are for."""
    folder = Path(ciess_ray.__file__).parent
    found = [
        f"{file.relative_to(folder)}:{node.lineno}"
        for file in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Tuple)
        and len(node.elts) > 1
        and ast.unparse(node.elts[0]).endswith(("config.seed", "_STREAM"))
        and file.name != "streams.py"
    ]
    assert found == []
