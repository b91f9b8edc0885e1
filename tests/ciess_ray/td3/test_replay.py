import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ciess_ray.td3.replay import COLUMNS, ReplayBuffer


def transitions(first, count, has_quality=None):
    """Transition i carries i in every number, so that rows can be told apart."""
    number = np.arange(first, first + count, dtype=np.float32)
    quality = number.copy()
    if has_quality is not None:
        quality[~has_quality] = np.nan
    return {
        "obs": np.stack([number] * 3, axis=1),
        "action": number,
        "quality": quality,
        "memory_cost": number / 2,
        "next_obs": np.stack([number + 1] * 3, axis=1),
        "terminated": number % 2 == 0,
    }


def test_rewards_are_formed_with_the_memory_weight_of_the_draw():
    buffer = ReplayBuffer(100, seed=0)
    buffer.add(transitions(0, 100))
    for memory_weight in (0.0, 0.4, 2.0):
        batch = buffer.sample(500, memory_weight)
        number = batch["action"]
        np.testing.assert_allclose(batch["reward"], number - memory_weight * number / 2, rtol=1e-6)
        np.testing.assert_array_equal(batch["obs"][:, 2], number)
        np.testing.assert_array_equal(batch["next_obs"][:, 0], number + 1)
        np.testing.assert_array_equal(batch["terminated"], number % 2 == 0)


def test_entities_without_quality_are_left_out():
    buffer = ReplayBuffer(100, seed=0)
    has_quality = np.arange(10) % 3 == 0
    buffer.add(transitions(0, 10, has_quality))
    assert len(buffer) == 4
    assert set(buffer.sample(200, 0.0)["action"].tolist()) == {0.0, 3.0, 6.0, 9.0}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_the_ring_holds_the_last_transitions(capacity, counts):
    buffer = ReplayBuffer(capacity, seed=0)
    first = 0
    for count in counts:
        buffer.add(transitions(first, count))
        first += count
    kept = sorted(buffer.get_state()["transitions"][:, COLUMNS["action"]].tolist())
    assert kept == list(range(max(first - capacity, 0), first))
    assert len(buffer) == len(kept)


def test_a_restored_buffer_draws_and_overwrites_alike():
    buffer, other = ReplayBuffer(50, seed=1), ReplayBuffer(50, seed=1)
    for first in (0, 40, 80):
        buffer.add(transitions(first, 33))
    buffer.sample(5, 0.1)
    other.set_state(buffer.get_state())
    for step in range(3):
        for each in (buffer, other):
            each.add(transitions(200 + step, 11))
        mine, theirs = buffer.sample(64, 0.3), other.sample(64, 0.3)
        for name, column in mine.items():
            np.testing.assert_array_equal(column, theirs[name])


def test_another_seed_draws_others():
    buffers = [ReplayBuffer(100, seed) for seed in (0, 1)]
    for buffer in buffers:
        buffer.add(transitions(0, 100))
    assert not np.array_equal(*[buffer.sample(32, 0.0)["action"] for buffer in buffers])


def test_a_million_take_less_than_64_mb():
    buffer = ReplayBuffer(1_000_000, seed=0)
    for _ in range(11):
        buffer.add(transitions(0, 100_000))
    assert len(buffer) == 1_000_000
    assert buffer.get_state()["transitions"].nbytes < 64e6
