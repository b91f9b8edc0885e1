"""What work costs: CPU seconds and memory of the process that does it."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass


def cpu_seconds() -> float:
    """User and system seconds of this process, all its threads, and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_bytes() -> int:
    """The most memory that this process has ever held; what it had imported is in it."""
    # Bytes on macOS, kilobytes elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Cost:
    """What something took.

    Attributes:
        cpu_s: CPU seconds.
        wall_s: Seconds.
        peak_bytes: Of the process that did it.
        num_trainings: Recommenders trained.
    """

    cpu_s: float
    wall_s: float
    peak_bytes: int
    num_trainings: int


class Meter:
    """Times the phases of one piece of work.

    Attributes:
        cpu_s: CPU seconds by phase.
        wall_s: Seconds by phase.
    """

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self.wall_s: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What the block takes counts for this phase."""
        cpu, wall = cpu_seconds(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu_s[name] = cpu_seconds() - cpu
            self.wall_s[name] = time.perf_counter() - wall

    def cost(self, num_trainings: int) -> Cost:
        """Of all phases together, after so many trainings."""
        return Cost(sum(self.cpu_s.values()), sum(self.wall_s.values()), peak_bytes(), num_trainings)
