"""How trainings were found that a search says nothing of."""

from collections.abc import Sequence

from ciess_ray.plain_text import percent
from ciess_ray.report.material import Search
from ciess_ray.report.tables import Table, make_table, metric_text


def recipes_table(searches: Sequence[Search]) -> Table:
    """Short trainings by which recipes were compared, a row each; none where a search says how it trains."""
    rows = [
        tried | {"search": search.label if len(searches) > 1 else None}
        for search in searches
        for tried in (search.summary.get("recipe") or {}).get("tried", ())
    ]
    return make_table(
        "recipes",
        "What was tried to find how to train, on some users of validation, and for which part of a training.",
        rows,
        (
            ("search", "search", None),
            ("table", "table", None),
            ("recipe", "recipe", None),
            ("part", "share", lambda share: percent(100 * share, 0)),
            ("quality", "quality", metric_text),
        ),
    )
