"""What a search takes of its machine: seconds, CPU seconds, memory."""

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil

#: Seconds between two looks at memory.
_INTERVAL_S = 2.0
_RAY = "raylet"


@dataclass(frozen=True)
class Amounts:
    """What is taken.

    Attributes:
        cpu_s: CPU seconds, of all processes.
        wall_s: Seconds.
        peak_bytes: The most memory that all processes hold at a time.
    """

    cpu_s: float
    wall_s: float
    peak_bytes: int

    def told(self) -> dict[str, float]:
        """As ``result.json`` has it."""
        return {name: round(value, 1) for name, value in asdict(self).items()}


class Usage:
    """Looks now and then at this process, and at those of a Ray that it has started.

    A Ray that others have started works for others too: what it does for a search is then not seen.

    Args:
        before: What a search that is gone on with had taken.
    """

    def __init__(self, before: Mapping[str, Any] | None = None) -> None:
        self._before = Amounts(0.0, 0.0, 0) if not before else Amounts(**before)
        self._process = psutil.Process()
        self._began, self._first_cpu_s = time.perf_counter(), self._look()[0]
        self._cpu_s, self._peak_bytes = self._first_cpu_s, self._before.peak_bytes
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look_on, name="usage", daemon=True)

    def __enter__(self) -> "Usage":
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watch.join()

    def _look_on(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            self.look()

    def look(self) -> Amounts:
        """What has been taken by now."""
        cpu_s, num_bytes = self._look()
        # Of processes that ended without anybody waiting for them the system forgets what they took.
        self._cpu_s, self._peak_bytes = max(self._cpu_s, cpu_s), max(self._peak_bytes, num_bytes)
        before = self._before
        return Amounts(
            before.cpu_s + self._cpu_s - self._first_cpu_s,
            before.wall_s + time.perf_counter() - self._began,
            self._peak_bytes,
        )

    def _look(self) -> tuple[float, int]:
        """CPU seconds so far, and bytes that are held."""
        try:
            below = self._process.children(recursive=True)
            is_ours = any(_RAY in process.name() for process in below)
        except psutil.Error:
            is_ours = False
        cpu_s, num_bytes = 0.0, 0
        for process in [self._process, *(below if is_ours else ())]:
            try:
                with process.oneshot():
                    used, memory = process.cpu_times(), process.memory_full_info()
            except psutil.Error:
                continue
            cpu_s += used.user + used.system + used.children_user + used.children_system
            # What processes share counts once, where the system tells.
            num_bytes += getattr(memory, "pss", memory.uss)
        return cpu_s, num_bytes
