"""Who decides the sizes of a segment: each proposes tables, and validation says which is kept."""

from collections.abc import Callable

from ciess_ray.names import FULL_SIZE
from ciess_ray.streaming.methods.by_hand import equal_sizes, full_size, last_sizes, rank_power, split
from ciess_ray.streaming.methods.by_scall import scall, scall_reference
from ciess_ray.streaming.methods.policy_search import table_policy
from ciess_ray.streaming.methods.problem import Judge, Problem, Proposal, SegmentBefore

#: Each proposes the tables of a segment; ``ciess_ray.streaming.config`` has the names.
METHODS: dict[str, Callable[[Problem, Judge], None]] = {
    "equal sizes": equal_sizes,
    "last sizes": last_sizes,
    "split": split,
    "rank power": rank_power,
    "table policy": table_policy,
    "scall": scall,
    "scall reference": scall_reference,
    FULL_SIZE: full_size,
}

__all__ = ["METHODS", "Judge", "Problem", "Proposal", "SegmentBefore"]
