"""What is known when the table of a segment is trained, and what it is judged on.

A held-out row whose user or item no training row has is cold: no table can rank it, so it is kept apart from
those that are judged, and counted. What a segment is tested on is revealed separately, so that nothing which
chooses can have seen it.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from envs.data import Interactions
from envs.data.stream import Segment, Stream


@dataclass(frozen=True, eq=False)
class ColdRows:
    """Rows whose user or item no training row has, numbered as the stream numbers them.

    Attributes:
        user: Shape (num_rows,), int32.
        item: Shape (num_rows,), int32.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]

    @property
    def num_rows(self) -> int:
        """Each is one user and one item."""
        return len(self.user)


@dataclass(frozen=True, eq=False)
class SegmentData:
    """Everything that the table of a segment may be chosen by; nothing in it comes from its test rows.

    Attributes:
        number: Of the segment.
        interactions: Training are all earlier rows, whatever they were for then, and the segment's training
            rows; validation are its validation rows without the cold ones; test is empty. Rows and columns
            are the users and items known in training, in order of arrival, as are the ids.
        cold_validation: The validation rows that are left out.
        past: The stream as far as training knows it: its last row is the segment's last training row.
    """

    number: int
    interactions: Interactions
    cold_validation: ColdRows
    past: Stream

    def popularity(self, decay: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Training rows of each known user and item, older segments' counted for less.

        See :meth:`envs.data.stream.Stream.popularity`.
        """
        return self.past.popularity(self.number, decay)


@dataclass(frozen=True, eq=False)
class SegmentTest:
    """What a segment is tested on.

    Attributes:
        known: Ones where a known user interacts with a known item, shape (num_users, num_items), float32.
        seen: What has happened to known users and items before, training and validation, the same shape.
        cold: The rows that are left out.
    """

    known: csr_array
    seen: csr_array
    cold: ColdRows

    @property
    def cold_share(self) -> float:
        """Of all test rows, those that are cold."""
        return self.cold.num_rows / (self.cold.num_rows + int(self.known.nnz))


def segment_data(stream: Stream, number: int) -> SegmentData:
    """What may be looked at until the table of a segment is done.

    Args:
        stream: The stream; its pairs of user and item are unique, as those of a log are.
        number: Of the segment, from 0.
    """
    segment = stream.segments[number]
    known_rows = slice(segment.validation_start)
    past = replace(
        stream,
        user=stream.user[known_rows],
        item=stream.item[known_rows],
        timestamp=stream.timestamp[known_rows],
        user_ids=stream.user_ids[: segment.num_users],
        item_ids=stream.item_ids[: segment.num_items],
        segments=(
            *stream.segments[:number],
            replace(segment, test_start=segment.validation_start, end=segment.validation_start),
        ),
    )
    validation, cold = _held_out(stream, segment, segment.validation_start, segment.test_start)
    interactions = Interactions(
        _matrix(past.user, past.item, segment),
        validation,
        csr_array(validation.shape, dtype=np.float32),
        past.user_ids,
        past.item_ids,
        num_unevaluated_users=0,
        num_duplicates=0,
        source=f"{stream.source}, segment {number:03}",
    )
    return SegmentData(number, interactions, cold, past)


def hindsight(data: SegmentData) -> SegmentData:
    """The segment before, whose validation are all rows that this one's training has of what came after it.

    Args:
        data: Of a segment that is not the first; its own validation rows are not looked at.
    """
    past, number = data.past, data.number - 1
    last = replace(past.segments[number], test_start=past.num_rows, end=past.num_rows)
    return segment_data(replace(past, segments=(*past.segments[:number], last)), number)


def reveal_test(stream: Stream, number: int) -> SegmentTest:
    """What the table of a segment is tested on, once it is done.

    Args:
        stream: As in :func:`segment_data`.
        number: Of the segment, from 0.
    """
    segment = stream.segments[number]
    known, cold = _held_out(stream, segment, segment.test_start, segment.end)
    before = slice(segment.test_start)
    is_known = (stream.user[before] < segment.num_users) & (stream.item[before] < segment.num_items)
    seen = _matrix(stream.user[before][is_known], stream.item[before][is_known], segment)
    return SegmentTest(known, seen, cold)


def _held_out(stream: Stream, segment: Segment, start: int, end: int) -> tuple[csr_array, ColdRows]:
    """Rows of a segment as a matrix of known users and items, and those that are cold."""
    user, item = stream.user[start:end], stream.item[start:end]
    first = start - segment.validation_start
    is_cold = stream.is_cold(segment)[first : first + end - start]
    return _matrix(user[~is_cold], item[~is_cold], segment), ColdRows(user[is_cold], item[is_cold])


def _matrix(user: NDArray[np.int32], item: NDArray[np.int32], segment: Segment) -> csr_array:
    """Ones at pairs of known users and items."""
    shape = segment.num_users, segment.num_items
    return csr_array((np.ones(len(user), np.float32), (user, item)), shape=shape)
