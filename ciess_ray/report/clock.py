"""What searches were said to take, and took."""

from collections.abc import Sequence

from ciess_ray.report.material import Search
from ciess_ray.report.tables import Table, make_table

_UNITS = {"CPU s": ("cpu_s", 1.0), "s": ("wall_s", 1.0), "memory, MB": ("peak_bytes", 1e6)}


def clock_table(searches: Sequence[Search]) -> Table:
    """A row a search and an amount; none of those that nobody has looked at."""
    rows = [
        {
            "search": search.label if len(searches) > 1 else None,
            "what": what,
            "said": clock["predicted"][name] / unit,
            "taken": clock["taken"][name] / unit,
        }
        for search in searches
        if (clock := search.summary.get("clock")) and clock["predicted"]
        for what, (name, unit) in _UNITS.items()
        if name in clock["predicted"] and name in clock["taken"]
    ]
    return make_table(
        "clock",
        "What was said before a search began that it takes, and what it took of this machine.",
        rows,
        (
            ("search", "search", None),
            ("", "what", None),
            ("said", "said", lambda amount: f"{amount:,.0f}"),
            ("taken", "taken", lambda amount: f"{amount:,.0f}"),
        ),
    )
