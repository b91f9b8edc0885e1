"""How recommenders and trainings were found that a search says nothing of."""

from collections.abc import Sequence

from ciess_ray.plain_text import percent
from ciess_ray.report.material import Search
from ciess_ray.report.tables import Table, make_table, metric_text


def _counted(value: float) -> str:
    return f"{value:,.0f}"


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
            ("of", "recommender", None),
            ("table", "table", None),
            ("recipe", "recipe", None),
            ("part", "share", lambda share: percent(100 * share, 0)),
            ("quality", "quality", metric_text),
        ),
    )


def recommenders_table(searches: Sequence[Search]) -> Table:
    """Recommenders that a search chose among, a row each; none where searches name theirs."""
    rows = [
        row | {"search": search.label if len(searches) > 1 else None, "is_strong": row["why"] == "chosen"}
        for search in searches
        for row in (search.summary.get("recipe") or {}).get("recommenders", ())
    ]
    return make_table(
        "recommenders",
        "Recommenders within one budget of served bytes, each at its best table on some users of validation. "
        "Bytes are those at most: packed, of the table's file; served, of all that answers a request that "
        "brings its own history.",
        rows,
        (
            ("search", "search", None),
            ("of", "recommender", None),
            ("table", "table", None),
            ("recipe", "recipe", None),
            ("part", "share", lambda share: percent(100 * share, 0)),
            ("quality", "quality", metric_text),
            ("parameters", "num_params", _counted),
            ("packed bytes", "file_bytes", _counted),
            ("served bytes", "served_bytes", _counted),
            ("CPU s", "cpu_s", lambda seconds: f"{seconds:.1f}"),
            ("", "why", None),
        ),
    )
