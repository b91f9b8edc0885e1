"""What a stream will be: its segments and what its budget leaves in each, before anything is trained."""

import numpy as np
from numpy.typing import NDArray

from ciess_ray.streaming.config import StreamConfig
from ciess_ray.streaming.work import cap_params
from ciess_ray.terminal import TextTable
from envs.data.stream import Segment, Stream

#: With fewer tested users the figures of a segment are chance for the most part.
_FEW_USERS = 30


def segments_table(config: StreamConfig, stream: Stream) -> TextTable:
    """A row a segment: its rows, users and items, how much of its test is cold, and the budget."""
    heads = ("segment", "rows", "users", "new", "items", "new", "tested users", "cold", "parameters", "a row")
    table = TextTable(*heads, first_number=1)
    num_users = num_items = 0
    for number, segment in enumerate(stream.segments):
        cap, tested = cap_params(config, stream, number), _tested(stream, segment)
        table.add_row(
            f"{number:03}",
            f"{segment.num_rows:,}",
            f"{segment.num_users:,}",
            f"{segment.num_users - num_users:,}",
            f"{segment.num_items:,}",
            f"{segment.num_items - num_items:,}",
            f"{len(np.unique(tested)):,}",
            f"{1 - len(tested) / (segment.end - segment.test_start):.0%}",
            f"{cap:,}",
            f"{cap / (segment.num_users + segment.num_items):.1f}",
        )
        num_users, num_items = segment.num_users, segment.num_items
    return table


def warning_of(stream: Stream) -> str:
    """What is to be said where most segments test too few users; else nothing."""
    counts = [len(np.unique(_tested(stream, segment))) for segment in stream.segments]
    num_few = sum(count < _FEW_USERS for count in counts)
    if 2 * num_few <= len(counts):
        return ""
    return (
        f"{num_few:,} of {len(counts):,} segments are tested on fewer than {_FEW_USERS} users who are known "
        "and have an item that is: their figures are chance for the most part. Choose longer segments."
    )


def _tested(stream: Stream, segment: Segment) -> NDArray[np.int32]:
    """The users of the test rows that are not cold."""
    rows = slice(segment.test_start, segment.end)
    is_cold = stream.is_cold(segment)[segment.test_start - segment.validation_start :]
    return stream.user[rows][~is_cold]
