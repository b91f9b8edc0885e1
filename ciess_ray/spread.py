"""Mean and spread over seeds."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the latter None for a single one."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of at least one value."""
        known = list(values)
        return cls(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.sd is None else f"±{self.sd:.4f}")
