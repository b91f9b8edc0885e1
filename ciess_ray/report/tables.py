"""Which tables a report has, as plain values, which the page escapes and sorts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from ciess_ray.config.credentials import without_secrets
from ciess_ray.names import EQUAL_SIZES, SEARCH, flatten
from ciess_ray.plain_text import percent
from ciess_ray.report.material import Search
from ciess_ray.report.measurements import FINISHED, QUALITY, Row, is_number
from ciess_ray.statistics import Spread
from envs.recommenders import RECOMMENDERS, ClosedForm

#: Columns that tell nothing where all rows say the same, which the title says too.
_IN_TITLE = ("dataset", "recommender")
#: Letters between columns, and those after which a text is broken.
_GAP, _LONG = 3, 30
_NUM_LARGEST = 5
#: How fields begin that say how recommenders are trained.
_OF_TRAINING = ("training.", "search.supernet_", "search.batches_per_step", "search.step_learning_rate")


@dataclass(frozen=True)
class Value:
    """One field of a table.

    Attributes:
        text: What is shown.
        sort: What is sorted by; None for nothing, which comes last.
        kind: How it looks: ``number``, ``text``, ``good``, ``bad``, ``long``.
    """

    text: str
    sort: float | str | None
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes:
        name: Unique in the page.
        caption: What it shows.
        headings: Text, and whether the column is of numbers.
        rows: As many values each as there are headings.
        strong: Rows to be seen first, by number.
    """

    name: str
    caption: str
    headings: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[Value]]
    strong: frozenset[int]

    @property
    def num_letters(self) -> int:
        """Of its columns beside each other, with the space between."""
        columns = zip(self.headings, zip(*self.rows, strict=True), strict=True) if self.rows else ()
        return sum(
            _GAP + max(len(heading), *(min(len(value.text), _LONG) for value in values))
            for (heading, _), values in columns
        )


#: How a number is written; None for what is text.
Style: TypeAlias = Callable[[Any], str] | None
#: A heading, the name of what is told of each row, and its style.
Column: TypeAlias = tuple[str, str, Style]


def _kept(ratio: float) -> str:
    return percent(100 * ratio, 2)


def metric_text(value: float | Spread) -> str:
    """Four decimals, of several seeds with their spread."""
    return str(value).replace("±", " ± ") if isinstance(value, Spread) else f"{value:.4f}"


WHOLE, TENTHS = "{:,.0f}".format, "{:.1f}".format
#: What the files of a search's folder are, those first that score.
_ROLES = {
    "table.safetensors": "the packed table: what the budget caps",
    "scorer.safetensors": "the recommender's other weights",
    "interactions.npz": "the training graph, and what users have seen",
    "ids.parquet": "the ids of your own data, by row",
    "test.npz": "the interactions that the test figures are of",
    "measured.safetensors": "the table that the figures are of, trained without test",
    "measured-scorer.safetensors": "its recommender's other weights",
    "sizes.parquet": "size and popularity of every entity",
    "candidates.parquet": "every step's sizes",
    "progress.jsonl": "a line a step",
    "sizes.png": "figure",
    "search.png": "figure",
    "checkpoints": "what --resume and --more-episodes need; may be removed where neither will follow",
}
_NAMES: tuple[Column, ...] = tuple(
    (name, name, None) for name in ("dataset", "recommender", "budget", "method", "settings")
)
_MEASURED: tuple[Column, ...] = (
    ("R@20", "test/recall@20", metric_text),
    ("N@20", "test/ndcg@20", metric_text),
    ("kept", "kept_ratio", _kept),
    ("packed bytes", "packed_bytes", WHOLE),
    ("served bytes", "served_bytes", WHOLE),
    ("with histories", "served_with_histories_bytes", WHOLE),
    ("parameters", "num_params", WHOLE),
    ("quality", QUALITY, metric_text),
    # Of those whose users have no rows it is nothing.
    ("user size", "mean_user_size", lambda size: TENTHS(size) if size else ""),
    ("item size", "mean_item_size", TENTHS),
)


def text(value: object, kind: str = "text") -> Value:
    """A word; nothing where there is none."""
    shown = "" if value is None else str(value)
    return Value(shown, shown.casefold() or None, kind)


def _value(value: Any, style: Style) -> Value:
    if isinstance(value, Value):
        return value
    if style is None:
        return text(value)
    order = getattr(value, "mean", value)
    return Value(style(value), order, "number") if is_number(order) else Value("", None, "number")


def make_table(
    name: str, caption: str, rows: Sequence[Mapping[Any, Any]], columns: Sequence[Column]
) -> Table:
    """A table of some rows; columns that tell nothing are left out.

    Args:
        name: Unique in the page.
        caption: What it shows.
        rows: What is told of each by name; ``is_strong`` of one that is to be seen first.
        columns: What is told.
    """
    values = [[_value(row.get(key), style) for _, key, style in columns] for row in rows]
    texts = [{value.text for value in column} for column in zip(*values, strict=True)]
    shown = [
        place
        for place, (column, column_texts) in enumerate(zip(columns, texts, strict=False))
        if column_texts - {""} and not (column[0] in _IN_TITLE and len(column_texts - {""}) == 1)
    ]
    return Table(
        name,
        caption,
        [(columns[place][0], columns[place][2] is not None) for place in shown],
        [[row[place] for place in shown] for row in values],
        frozenset(number for number, row in enumerate(rows) if row.get("is_strong")),
    )


def means_table(means: Sequence[Row]) -> Table:
    """Means over seeds."""
    rows = [
        row
        | {
            "settings": ", ".join(row["settings"]),
            "num_seeds": len(row["seeds"]) or None,
            "is_strong": row["method"] == SEARCH,
        }
        for row in means
    ]
    return make_table(
        "means",
        "Means and standard deviations over seeds. R@20 and N@20 are of test, quality is of validation.",
        rows,
        (*_NAMES, ("seeds", "num_seeds", WHOLE), *_MEASURED),
    )


def cells_table(cells: pd.DataFrame) -> Table:
    """Every method, budget and seed; of those that failed, why."""
    are_all_finished = (cells["status"] == FINISHED).all()
    rows = [
        row
        | {
            "settings": ", ".join(row["settings"]),
            # Where all are finished there is nothing to tell.
            "status": text(
                None if are_all_finished else row["status"], "good" if row["status"] == FINISHED else "bad"
            ),
            "error": text(row["error"], "long"),
            # What was computed took no batch.
            "best_batch": row["best_batch"] or None,
            "is_strong": (row["method"], row["status"]) == (SEARCH, FINISHED),
        }
        for row in cells.to_dict("records")
    ]
    return make_table(
        "cells",
        "Every table that was trained and measured. R@20 and N@20 are of test, quality is of validation.",
        rows,
        (
            *_NAMES,
            ("seed", "seed", str),
            ("status", "status", None),
            ("error", "error", None),
            *_MEASURED,
            ("best batch", "best_batch", WHOLE),
            ("trainings", "num_trainings", WHOLE),
            ("CPU s", "cpu_s", WHOLE),
            ("peak bytes", "peak_bytes", WHOLE),
        ),
    )


def budget_table(searches: Sequence[Search]) -> Table:
    """What was asked for, and what the packed table takes."""

    def met(budget: Mapping[str, Any]) -> Value:
        if "num_params" not in budget:
            return text("not yet", "bad")
        return text("met", "good") if budget["num_params"] <= budget["cap_params"] else text("not met", "bad")

    rows = [
        search.summary["budget"]
        | {
            "search": search.label,
            "packed_bytes": search.num_bytes.get("table.safetensors"),
            "met": met(search.summary["budget"]),
        }
        for search in searches
    ]
    return make_table(
        "budgets",
        "What was asked for and what was kept.",
        rows,
        (
            ("search", "search", None),
            ("asked", "asked", None),
            ("at most, parameters", "cap_params", WHOLE),
            ("kept, parameters", "num_params", WHOLE),
            ("kept", "kept_ratio", _kept),
            ("at most, bytes", "max_packed_bytes", WHOLE),
            ("packed bytes", "packed_bytes", WHOLE),
            ("budget", "met", None),
        ),
    )


def retrained_table(searches: Sequence[Search]) -> Table:
    """What was trained to convergence."""
    rows = [
        row
        | {
            "search": search.label if len(searches) > 1 else None,
            "table": row.get("table") or (EQUAL_SIZES if row["step"] is None else "candidate"),
            "best_batch": row.get("best_batch") or None,
            "packed": text("packed" if row.get("is_packed") else None, "good"),
            "is_strong": row.get("is_packed"),
        }
        for search in searches
        for row in search.retrained
    ]
    return make_table(
        "retrained",
        "What was trained to convergence first, by its validation quality, and which of these was packed.",
        rows,
        (
            ("search", "search", None),
            ("table", "table", None),
            ("step", "step", WHOLE),
            ("it was", "kind", None),
            ("in the search", "quality_in_search", metric_text),
            ("once trained", "quality", metric_text),
            ("best batch", "best_batch", WHOLE),
            ("", "packed", None),
        ),
    )


def files_table(searches: Sequence[Search]) -> Table:
    """Bytes of every file: a row a file of one search, or a row a search."""
    names = sorted(
        {name for search in searches for name in search.num_bytes},
        key=lambda name: ([*_ROLES, name].index(name), name),
    )
    rows: list[Row] = [search.num_bytes | {"search": search.label} for search in searches]
    columns: list[Column] = [("search", "search", None), *((name, name, WHOLE) for name in names)]
    if len(searches) == 1:
        rows = [
            {
                "file": name,
                "bytes": rows[0][name],
                "role": text(_ROLES.get(name), "long"),
                "is_strong": name == "table.safetensors",
            }
            for name in names
        ]
        columns = [("file", "file", None), ("bytes", "bytes", WHOLE), ("what it is", "role", None)]
    caption = "Bytes on disk. To score, the packed table needs the three files beside it."
    return make_table("files", caption, rows, columns)


def largest_table(searches: Sequence[Search]) -> Table:
    """The users and the items that were given the most."""
    rows = [
        row | {"search": search.label if len(searches) > 1 else None}
        for search in searches
        for entities in search.entities.values()
        for row in entities.nlargest(_NUM_LARGEST, ["embedding_size", "popularity"]).to_dict("records")
    ]
    return make_table(
        "largest",
        "Users and items with the largest sizes.",
        rows,
        (
            ("search", "search", None),
            ("kind", "kind", None),
            ("id", "id", None),
            ("size", "embedding_size", WHOLE),
            ("interactions", "popularity", WHOLE),
        ),
    )


def _used(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its fields by dotted name; what is computed has no use for those of training."""
    fields = flatten(config)
    recommender = RECOMMENDERS.get(str(fields.get("recommender.name")))
    if recommender is None or not issubclass(recommender, ClosedForm):
        return fields
    return {name: value for name, value in fields.items() if not name.startswith(_OF_TRAINING)}


def fields_tables(configs: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Fields of several configurations: those that differ, and those that are the same."""
    flat = [_used(config) for config in configs]
    values = {
        name: dict.fromkeys(without_secrets(config.get(name, "")) for config in flat)
        for name in dict.fromkeys(name for config in flat for name in config)
    }
    caption = "Fields of the configuration"
    same = f"{caption}." if len(flat) == 1 else f"{caption}, the same in all."
    return [
        make_table(
            name,
            note,
            [
                {"field": field, "value": text("; ".join(texts), "long")}
                for field, texts in values.items()
                if (len(texts) > 1) == are_different
            ],
            [("field", "field", None), ("value", "value", None)],
        )
        for name, note, are_different in (
            ("config-differ", f"{caption} that differ.", True),
            ("config-same", same, False),
        )
    ]


def data_table(searches: Iterable[Search]) -> Table:
    """The data sets, each once for every part of its users that was searched with."""
    datasets = {}
    for its in (search.summary for search in searches):
        searched = (its.get("sample") or {}).get("num_users")
        datasets[its["dataset"]["fingerprint"], searched] = its["dataset"] | {"searched": searched}
    return make_table(
        "data",
        "The interactions.",
        [
            dataset | {"source": text(dataset["source"], "long"), "fingerprint": fingerprint[:12]}
            for (fingerprint, _), dataset in datasets.items()
        ],
        (
            ("source", "source", None),
            ("users", "num_users", WHOLE),
            ("items", "num_items", WHOLE),
            ("interactions", "num_interactions", WHOLE),
            ("users searched with", "searched", WHOLE),
            ("duplicates merged", "num_duplicates", WHOLE),
            ("users not evaluated", "num_unevaluated_users", WHOLE),
            ("items without training", "num_untrained_items", WHOLE),
            ("cold rows left out", "num_cold_rows", WHOLE),
            ("fingerprint", "fingerprint", None),
        ),
    )


def versions_table(versions: Sequence[Mapping[str, str]]) -> Table:
    """Versions; where folders were made with different ones, all of them."""
    rows = [
        {
            "package": package,
            "version": ", ".join(dict.fromkeys(str(installed.get(package, "?")) for installed in versions)),
        }
        for package in dict.fromkeys(package for installed in versions for package in installed)
    ]
    caption = "Versions that the figures depend on."
    return make_table("versions", caption, rows, (("package", "package", None), ("version", "version", None)))
