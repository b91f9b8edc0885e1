"""The live view of a comparison: a line a cell."""

import time

from ciess_ray.comparisons.driver import News
from ciess_ray.terminal import Terminal


class ComparisonLines:
    """Shows what becomes of cells, a line each; hand it to ``compare``.

    Args:
        console: Where to.
    """

    def __init__(self, console: Terminal) -> None:
        self._console, self._started = console, time.monotonic()

    def __call__(self, news: News) -> None:
        """Called with each piece of news."""
        parts = [f"{news.num_done}/{news.num_cells}", news.status, news.name]
        if news.row is not None:
            parts.append(
                f"validation {news.row['validation/quality']:.4f}, N@20 {news.row['test/ndcg@20']:.4f}, "
                f"{news.row['allocation']}"
            )
        parts += [news.error] if news.error else []
        parts.append(f"after {time.monotonic() - self._started:.0f} s")
        self._console.say("  ".join(parts))
