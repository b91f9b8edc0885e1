"""Which tables a report has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ciess_ray.config.credentials import without_secrets
from ciess_ray.names import EQUAL_SIZES, SEARCH, flatten
from ciess_ray.plain_text import percent
from ciess_ray.report.cells import Measurement
from ciess_ray.report.groups import SeedMeans
from ciess_ray.report.material import About, Search
from ciess_ray.report.table import Table, Value, make_table, number, text
from ciess_ray.statistics import Spread
from envs.mdp import KINDS

_NUM_LARGEST = 5

#: What the files of a search's folder are.
_ROLES = {
    "table.safetensors": "the packed table: what the budget caps",
    "scorer.safetensors": "the recommender's other weights",
    "interactions.npz": "the training graph, and what users have seen",
    "ids.parquet": "the ids of your own data, by row",
    "sizes.parquet": "size and popularity of every entity",
    "candidates.parquet": "every step's sizes",
    "progress.jsonl": "a line a step",
    "sizes.png": "figure",
    "search.png": "figure",
    "checkpoints": "what --resume and --more-episodes need; may be removed where neither will follow",
}
_SCORING = ("table.safetensors", "scorer.safetensors", "interactions.npz", "ids.parquet")


def _spread(value: Spread | None) -> Value:
    if value is None:
        return Value("", None, "number")
    return Value(str(value).replace("±", " ± "), value.mean, "number")


def _kept(ratio: float) -> str:
    return percent(100 * ratio, 2)


_FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("kept", "kept_ratio", _kept),
    ("packed bytes", "packed_bytes", "{:,.0f}".format),
    ("served bytes", "served_bytes", "{:,.0f}".format),
    ("with histories", "served_with_histories_bytes", "{:,.0f}".format),
    ("parameters", "num_params", "{:,.0f}".format),
)
_MORE_FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("user size", "mean_user_size", "{:.1f}".format),
    ("item size", "mean_item_size", "{:.1f}".format),
    ("best batch", "best_batch", "{:,.0f}".format),
    ("trainings", "num_trainings", "{:,.0f}".format),
    ("CPU s", "cpu_s", "{:,.0f}".format),
    ("peak bytes", "peak_bytes", "{:,.0f}".format),
)
_METRICS = (("R@20", "recall@20"), ("N@20", "ndcg@20"))


def means_table(groups: Sequence[SeedMeans]) -> Table:
    """Means over seeds."""
    return make_table(
        "means",
        "Means and standard deviations over seeds. R@20 and N@20 are of test, quality is of validation.",
        groups,
        (
            ("dataset", False, lambda group: text(group.cell.dataset)),
            ("recommender", False, lambda group: text(group.cell.recommender)),
            ("budget", False, lambda group: text(group.cell.budget)),
            ("method", False, lambda group: text(group.method)),
            ("settings", False, lambda group: text(", ".join(group.cell.settings))),
            ("seeds", True, lambda group: number(len(group.seeds) or None)),
            *((title, True, _metric_of(name)) for title, name in _METRICS),
            *((title, True, _figure_of(name, style)) for title, name, style in _FIGURES),
            ("quality", True, lambda group: _spread(group.validation.get("quality"))),
            *((title, True, _figure_of(name, style)) for title, name, style in _MORE_FIGURES[:2]),
        ),
        lambda group: group.method == SEARCH,
    )


def cells_table(cells: Sequence[Measurement]) -> Table:
    """Every method, budget and seed; of those that failed, why."""
    are_all_finished = all(cell.is_finished for cell in cells)

    def status(cell: Measurement) -> Value:
        # Where all are finished there is nothing to tell.
        shown = None if are_all_finished else cell.status
        return text(shown, "good" if cell.is_finished else "bad")

    plain: Callable[[float], str] = "{:.4f}".format
    return make_table(
        "cells",
        "Every table that was trained and measured. R@20 and N@20 are of test, quality is of validation.",
        cells,
        (
            ("dataset", False, lambda cell: text(cell.dataset)),
            ("recommender", False, lambda cell: text(cell.recommender)),
            ("budget", False, lambda cell: text(cell.budget)),
            ("method", False, lambda cell: text(cell.method)),
            ("settings", False, lambda cell: text(", ".join(cell.settings))),
            ("seed", True, lambda cell: number(cell.seed, str)),
            ("status", False, status),
            ("error", False, lambda cell: text(cell.error, "long")),
            *((title, True, _number_of(name, plain)) for title, name in _METRICS),
            *((title, True, _figure_of(name, style)) for title, name, style in _FIGURES),
            ("quality", True, lambda cell: number(cell.validation.get("quality"), plain)),
            *((title, True, _figure_of(name, style)) for title, name, style in _MORE_FIGURES),
        ),
        lambda cell: cell.method == SEARCH and cell.is_finished,
    )


def budget_table(searches: Sequence[Search]) -> Table:
    """What was asked for, and what the packed table takes."""

    def met(search: Search) -> Value:
        budget = search.summary["budget"]
        if "num_params" not in budget:
            return text("not yet", "bad")
        is_met = budget["num_params"] <= budget["cap_params"]
        return text("met" if is_met else "not met", "good" if is_met else "bad")

    def budget(name: str) -> Callable[[Search], Value]:
        return lambda search: number(search.summary["budget"].get(name))

    return make_table(
        "budgets",
        "What was asked for and what was kept.",
        searches,
        (
            ("search", False, lambda search: text(search.label)),
            ("asked", False, lambda search: text(search.summary["budget"]["asked"])),
            ("at most, parameters", True, budget("cap_params")),
            ("kept, parameters", True, budget("num_params")),
            (
                "kept",
                True,
                lambda search: number(search.summary["budget"].get("kept_ratio"), _kept),
            ),
            ("at most, bytes", True, budget("max_packed_bytes")),
            ("packed bytes", True, lambda search: number(_bytes(search).get("table.safetensors"))),
            ("budget", False, met),
        ),
    )


def retrained_table(searches: Sequence[Search]) -> Table:
    """What was trained to convergence."""
    rows = [(search, row) for search in searches for row in search.retrained]
    plain: Callable[[float], str] = "{:.4f}".format
    return make_table(
        "retrained",
        "What was trained to convergence first, by its validation quality, and which of these was packed.",
        rows,
        (
            ("search", False, lambda pair: text(pair[0].label if len(searches) > 1 else None)),
            ("table", False, lambda pair: text(EQUAL_SIZES if pair[1]["step"] is None else "candidate")),
            ("step", True, lambda pair: number(pair[1]["step"])),
            ("it was", False, lambda pair: text(pair[1].get("kind"))),
            ("in the search", True, lambda pair: number(pair[1]["quality_in_search"], plain)),
            ("once trained", True, lambda pair: number(pair[1]["quality"], plain)),
            ("best batch", True, lambda pair: number(pair[1]["best_batch"])),
            ("", False, lambda pair: text("packed" if pair[1].get("is_packed") else None, "good")),
        ),
        lambda pair: bool(pair[1].get("is_packed")),
    )


def files_table(searches: Sequence[Search]) -> Table:
    """Bytes of every file: a row a file of one search, or a row a search."""
    caption = "Bytes on disk. To score, the packed table needs the three files beside it."
    if len(searches) == 1:
        return make_table(
            "files",
            caption,
            sorted(_bytes(searches[0]).items(), key=lambda file: _order(file[0])),
            (
                ("file", False, lambda file: text(file[0])),
                ("bytes", True, lambda file: number(file[1])),
                ("what it is", False, lambda file: text(_ROLES.get(file[0]), "long")),
            ),
            lambda file: file[0] == _SCORING[0],
        )
    names = sorted({name for search in searches for name in _bytes(search)}, key=_order)
    return make_table(
        "files",
        caption,
        searches,
        (
            ("search", False, lambda search: text(search.label)),
            *((name, True, _bytes_of(name)) for name in names),
        ),
    )


def largest_tables(searches: Sequence[Search]) -> list[Table]:
    """The users and the items that were given the most: two tables of one search, one of several."""
    rows: list[tuple[str, str, object, int, int]] = []
    for search in searches:
        for kind, own in search.entities.items():
            order = np.lexsort((-own.popularity, -own.sizes))[:_NUM_LARGEST]
            rows += [
                (search.label, kind, own.ids[int(row)].as_py(), int(own.sizes[row]), int(own.popularity[row]))
                for row in order
            ]
    numbers = (
        ("size", True, lambda row: number(row[3])),
        ("interactions", True, lambda row: number(row[4])),
    )
    if len(searches) > 1:
        names = (
            ("search", False, lambda row: text(row[0])),
            ("kind", False, lambda row: text(row[1])),
            ("id", False, lambda row: text(row[2])),
        )
        return [make_table("largest", "Users and items with the largest sizes.", rows, (*names, *numbers))]
    return [
        make_table(
            f"largest-{kind}",
            f"The {kind}s with the largest sizes.",
            [row for row in rows if row[1] == kind],
            ((kind, False, lambda row: text(row[2])), *numbers),
        )
        for kind in KINDS
    ]


def fields_table(name: str, caption: str, sections: Sequence[Mapping[str, Any]]) -> tuple[Table, Table]:
    """Fields of several configurations: those that differ, and those that are the same.

    Args:
        name: Begins the names of both tables.
        caption: What the fields are.
        sections: Of each its fields; sections of them become dotted names.
    """
    flat = [flatten(values) for values in sections]
    names = list(dict.fromkeys(field for values in flat for field in values))
    told = {
        field: list(dict.fromkeys(without_secrets(values.get(field, "")) for values in flat))
        for field in names
    }
    tables = []
    for kind, is_shown in (("differ", True), ("same", False)):
        rows = [(field, "; ".join(values)) for field, values in told.items() if (len(values) > 1) == is_shown]
        note = (
            f"{caption} that differ."
            if is_shown
            else f"{caption}."
            if len(flat) == 1
            else f"{caption}, the same in all."
        )
        tables.append(
            make_table(
                f"{name}-{kind}",
                note,
                rows,
                (
                    ("field", False, lambda row: text(row[0])),
                    ("value", False, lambda row: text(row[1], "long")),
                ),
            )
        )
    return tables[0], tables[1]


def data_table(searches: Iterable[Search]) -> Table:
    """The data sets, each once."""
    datasets = {search.summary["dataset"]["fingerprint"]: search.summary["dataset"] for search in searches}

    def count(name: str) -> Callable[[Mapping[str, Any]], Value]:
        return lambda dataset: number(dataset.get(name))

    return make_table(
        "data",
        "The interactions.",
        list(datasets.values()),
        (
            ("source", False, lambda dataset: text(dataset["source"], "long")),
            ("users", True, count("num_users")),
            ("items", True, count("num_items")),
            ("interactions", True, count("num_interactions")),
            ("duplicates merged", True, count("num_duplicates")),
            ("users not evaluated", True, count("num_unevaluated_users")),
            ("items without training", True, count("num_untrained_items")),
            ("fingerprint", False, lambda dataset: text(dataset["fingerprint"][:12])),
        ),
    )


def versions_table(about: Sequence[About]) -> Table:
    """Versions; where folders were made with different ones, all of them."""
    names = dict.fromkeys(name for own in about for name in own.versions)
    rows = [
        (name, ", ".join(dict.fromkeys(str(own.versions.get(name, "?")) for own in about))) for name in names
    ]
    return make_table(
        "versions",
        "Versions that the figures depend on.",
        rows,
        (("package", False, lambda row: text(row[0])), ("version", False, lambda row: text(row[1]))),
    )


def _figure_of(name: str, style: Callable[[float], str]) -> Callable[[Any], Value]:
    return lambda entry: number(entry.figures.get(name), style)


def _number_of(name: str, style: Callable[[float], str]) -> Callable[[Measurement], Value]:
    return lambda cell: number(cell.test.get(name), style)


def _metric_of(name: str) -> Callable[[SeedMeans], Value]:
    return lambda group: _spread(group.test.get(name))


def _bytes_of(name: str) -> Callable[[Search], Value]:
    return lambda search: number(_bytes(search).get(name))


def _bytes(search: Search) -> Mapping[str, int]:
    sizes: Mapping[str, int] = search.summary.get("bytes", {})
    return sizes


def _order(name: str) -> tuple[int, str]:
    return (_SCORING.index(name) if name in _SCORING else len(_SCORING), name)
