"""Which tables the report of a stream has."""

from collections.abc import Mapping, Sequence
from typing import Any

from ciess_ray.names import FULL_SIZE
from ciess_ray.plain_text import percent
from ciess_ray.report.measurements import Row, is_number
from ciess_ray.report.stream import OVERLAP, QUALITY, StreamMaterial, age_rows, tenth_rows
from ciess_ray.report.tables import (
    TENTHS,
    WHOLE,
    Column,
    Table,
    fields_tables,
    make_table,
    metric_text,
    text,
    versions_table,
)

_MEASURED: tuple[Column, ...] = (
    ("R@20", "test/recall@20", metric_text),
    ("N@20", "test/ndcg@20", metric_text),
    ("cold R@20", "test_cold/recall@20", metric_text),
    ("cold N@20", "test_cold/ndcg@20", metric_text),
    ("quality", QUALITY, metric_text),
    ("cold quality", "validation_cold/quality", metric_text),
)
#: Of a method, means over segments.
_MEANS = (*(name for _, name, _ in _MEASURED), "num_moved", OVERLAP)
_COLD = "Cold are rows of somebody or something that training does not know."
#: A segment is called what its folder is.
_NUMBER = "{:03}".format


def _share(value: float) -> str:
    return percent(100 * value, 1)


def stream_tables(material: StreamMaterial) -> dict[str, list[Table]]:
    """All tables, by the part of the page in which they stand."""
    return {
        "quality": [_means_table(material), _segments_table(material)],
        "memory": [_memory_table(material)],
        "sizes": [_ages_table(material), _tenths_table(material)],
        "churn": _churn_tables(material),
        "took": [_costs_table(material)],
        "about": [versions_table([material.versions]), *fields_tables([material.config])],
    }


def _means_table(material: StreamMaterial) -> Table:
    rows = [
        {"method": method, "is_strong": method == material.best}
        | {name: material.mean(method, name) for name in _MEANS}
        | {"num_bytes": material.of_method(method)[-1]["num_bytes"]}
        for method in material.methods
    ]
    over = (
        "of the one segment that is finished"
        if len(material.segments) == 1
        else "over segments after the first"
    )
    return make_table(
        "means",
        f"Means {over}; bytes are the last one's. R@20 and N@20 are of test, quality is of validation. "
        f"{_COLD}",
        rows,
        (
            ("method", "method", None),
            *_MEASURED,
            ("bytes", "num_bytes", WHOLE),
            ("list kept", OVERLAP, _share),
        ),
    )


def _segments_table(material: StreamMaterial) -> Table:
    rows = [
        row | {"chosen": text(row.get("chosen"), "long"), "is_strong": row["method"] == material.best}
        for row in material.rows
    ]
    return make_table(
        "segments",
        "Every segment and method, with what validation chose.",
        rows,
        (
            ("segment", "segment", _NUMBER),
            ("method", "method", None),
            *_MEASURED,
            ("users", "test/num_users", WHOLE),
            ("cold users", "test_cold/num_users", WHOLE),
            ("chosen", "chosen", None),
        ),
    )


def _memory_table(material: StreamMaterial) -> Table:
    rows: list[Row] = []
    for number, segment in enumerate(material.segments):
        here = [row for row in material.rows if row["segment"] == number]
        tables = [row for row in here if row["method"] != FULL_SIZE and is_number(row.get("cap_params"))]
        row: Row = {
            "segment": number,
            "rows": segment["end"] - segment["start"],
            "users": segment["num_users"],
            "items": segment["num_items"],
            "cold": here[0].get("cold_share"),
        }
        if tables:
            most = max(row["num_params"] for row in tables)
            cap = tables[0]["cap_params"]
            row |= {
                "cap": cap,
                "params": most,
                "used": most / cap if cap else None,
                "size": most / (segment["num_users"] + segment["num_items"]),
                "bytes": max(row["num_bytes"] for row in tables),
                "met": text("kept", "good") if most <= cap else text("exceeded", "bad"),
            }
        rows.append(row)
    return make_table(
        "memory",
        "What a segment brings, what the budget allows in it, and what the largest table takes, in all and "
        "for each user or item.",
        rows,
        (
            ("segment", "segment", _NUMBER),
            ("rows", "rows", WHOLE),
            ("users known", "users", WHOLE),
            ("items known", "items", WHOLE),
            ("cold test rows", "cold", _share),
            ("at most, parameters", "cap", WHOLE),
            ("parameters", "params", WHOLE),
            ("used", "used", _share),
            ("for each", "size", TENTHS),
            ("bytes", "bytes", WHOLE),
            ("budget", "met", None),
        ),
    )


def _ages_table(material: StreamMaterial) -> Table:
    names, rows = age_rows(material)
    return _sizes_table(
        "ages",
        "Mean sizes in the last segment by the segment in which users and items arrived.",
        names,
        rows,
        "all",
    )


def _tenths_table(material: StreamMaterial) -> Table:
    names, rows = tenth_rows(material)
    return _sizes_table(
        "tenths", "The same by tenth of popularity in training, 10 the most popular.", names, rows
    )


def _sizes_table(
    name: str, caption: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]], *first: str
) -> Table:
    columns = [(column, column, TENTHS) for column in (*first, *names)]
    return make_table(name, caption, rows, (("method", "method", None), ("of", "kind", None), *columns))


_MOVES: tuple[Column, ...] = (
    ("new rows", "num_new", WHOLE),
    ("grown", "num_grown", WHOLE),
    ("shrunk", "num_shrunk", WHOLE),
    ("numbers moved", "num_moved", WHOLE),
    ("of the table", "moved", _share),
    ("list kept", OVERLAP, _share),
)


def _churn_tables(material: StreamMaterial) -> list[Table]:
    """Means of every method, and every segment."""
    rows, means = [], []
    for method in material.methods:
        moved = material.changes(method)["moved"]
        rows += [
            row | {"moved": moved.get(row["segment"])}
            for row in material.of_method(method)
            if row["segment"] > 0
        ]
        mean: Row = {name: material.mean(method, name) for _, name, _ in _MOVES if name != "moved"}
        share = sum(moved.values()) / len(moved) if moved else None
        means.append(mean | {"method": method, "moved": share, "is_strong": method == material.best})
    rows.sort(key=lambda row: row["segment"])
    means = means if rows else []
    return [
        make_table(
            "churn-means",
            "From a segment to the next, on average: rows that are new or have another size, the numbers "
            "that these gain or lose, and the share of a known user's first 20 that stays.",
            means,
            (("method", "method", None), *_MOVES),
        ),
        make_table(
            "churn",
            "What changes in every segment.",
            rows,
            (("segment", "segment", _NUMBER), ("method", "method", None), *_MOVES),
        ),
    ]


def _costs_table(material: StreamMaterial) -> Table:
    names = ("cpu_s/choosing", "cpu_s/testing", "cpu_s", "wall_s", "num_trainings")
    rows: list[Row] = []
    for method in material.methods:
        values = {name: material.by_segment(method, name).values() for name in names}
        sums: Row = {name: sum(of_name) for name, of_name in values.items() if of_name}
        rows.append({"method": method, "num_bytes": material.of_method(method)[-1]["num_bytes"]} | sums)
    return make_table(
        "costs",
        "Of all segments together. Choosing is all that was tried and trained.",
        rows,
        (
            ("method", "method", None),
            ("trainings", "num_trainings", WHOLE),
            ("choosing, CPU s", "cpu_s/choosing", TENTHS),
            ("testing, CPU s", "cpu_s/testing", TENTHS),
            ("CPU s", "cpu_s", TENTHS),
            ("seconds", "wall_s", TENTHS),
        ),
    )
