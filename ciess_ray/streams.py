"""Every stream of random numbers that a run draws from, by name.

A draw's generator is seeded with (seed, number of the stream, counters), so that it depends on those alone
and there is no generator to checkpoint. NumPy pads such a key with zeros, (5, 21) is (5, 21, 0), hence all
keys of a stream have as many counters. What ``envs`` draws from is passed in.
"""

from enum import IntEnum, unique

import numpy as np


@unique
class Stream(IntEnum):
    """Numbers of the streams, and how many counters their keys have."""

    num_counters: int

    def __new__(cls, number: int, num_counters: int = 0) -> "Stream":
        """A member with its number as value."""
        stream = int.__new__(cls, number)
        stream._value_ = number
        stream.num_counters = num_counters
        return stream

    #: The split of a data set: ``envs.data`` draws it from ``dataset.split_seed`` alone, which NumPy pads.
    SPLIT = 0
    #: Seeds of the replay buffers.
    REPLAY = 1
    #: Target policy smoothing. Counters: updates so far, checksum of the module's name.
    TARGET_NOISE = 2, 2
    #: Seed of the draws from the best table so far.
    IMITATION = 3
    #: The environment's own draws. Counters: env runner, resets so far.
    RESET = 10, 2
    #: Noise and walks. Counters: env runner, steps so far.
    EXPLORATION = 11, 2
    #: What the warm-up proposes; part 1: the noise of its sizes.
    #: Counters: env runner, steps so far; in part 0: 0, policies so far.
    WARMUP = 12, 2
    #: Initial weights of SAC.
    SAC_WEIGHTS = 13
    #: What SAC explores and learns with; parts 1 and 2: what its environment draws in a step, and in a
    #: reset. Counter: table steps so far.
    SAC_STEP = 14, 1
    #: Batches of SAC. Counter: draws so far.
    SAC_REPLAY = 15, 1
    #: The training of the full-size table.
    FULL_SIZE = 20
    #: The training of the supernet.
    SUPERNET = 21
    #: Trainings to convergence: one for all, sizes are compared and not draws.
    RETRAINING = 22
    #: Trainings that are measured on test.
    TEST = 23
    #: Trainings of what is packed, on all interactions.
    REFIT = 28
    #: What is left over when candidates are projected onto a budget. Counter: the budget's position.
    PROJECTION = 24, 1
    #: A judgement beside the search. Counter: judgements so far.
    JUDGEMENT = 25, 1
    #: Communities, and the projection that pays for them. Counter: their number.
    PLACEMENT = 26, 1
    #: Who gets the larger of two equal sizes.
    EQUAL_SIZES = 27
    #: The users that a search is of.
    USERS = 35
    #: Recipes that are tried, and the users that they are judged on.
    RECIPE = 29
    #: The baselines, each its own.
    MIXED_RANDOM = 30
    HAND_MADE_SHAPE = 31
    RANDOM_SEARCH = 32
    PEP = 33
    DNIS = 34
    #: What is left over when the sizes of a stream's segment are projected. Counters: segment, method.
    STREAM_SIZES = 60, 2
    #: The training of a segment's table: columns and rows that are new, then triples. Counters: as above.
    STREAM_TRAINING = 61, 2
    #: The fresh trainings that SCALL judges tables by. Counter: the segment that they are of.
    STREAM_SEARCH = 62, 1
    #: Resampled users behind an interval; with 0 as seed, as it is of several. Counter: the grid's point.
    BOOTSTRAP = 40, 1
    #: What a sweep draws. Counters: sample, position of the dimension.
    SWEEP = 50, 2
    #: As above, for env runners that evaluate, whose worker 0 is not the training one.
    EVALUATION_RESET = 110, 2
    EVALUATION_EXPLORATION = 111, 2
    EVALUATION_WARMUP = 112, 2


def key_of(seed: int, stream: Stream, *counters: int, part: int = 0) -> tuple[int, ...]:
    """What a generator is seeded with; no two that differ are the same to NumPy.

    Args:
        seed: Of the run.
        stream: What is drawn.
        *counters: As many as the stream has.
        part: One of several draws at the same counters.
    """
    if len(counters) != stream.num_counters:
        raise TypeError(f"keys of {stream.name} have {stream.num_counters} counters, not {len(counters)}.")
    return (seed, int(stream), *counters, *([part] if part else []))


def rng_of(seed: int, stream: Stream, *counters: int, part: int = 0) -> np.random.Generator:
    """The generator of a :func:`key_of`."""
    return np.random.default_rng(key_of(seed, stream, *counters, part=part))


def seed_of(seed: int, stream: Stream, *counters: int) -> int:
    """A number of 32 bits that a :func:`key_of` gives, for what takes a single seed."""
    return int(np.random.SeedSequence(key_of(seed, stream, *counters)).generate_state(1)[0])
