"""Which figures the report of a stream has, with what they say in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from ciess_ray.figures import Panel, draw_deciles, draw_seconds, draw_segments
from ciess_ray.report.drawings import CUT, Drawing
from ciess_ray.report.stream import OVERLAP, StreamMaterial, ages
from envs.budget import MemoryBudget
from envs.mdp import KINDS

_PHASES = ("choosing", "testing")
_CHANGES: tuple[tuple[str, str, Literal["number", "share"]], ...] = (
    ("rows of another size", "resized", "number"),
    ("numbers that move, of all of the table", "moved", "share"),
)


def draw_stream(material: StreamMaterial) -> Iterator[Drawing]:
    """Every figure that there is material for, one after the other."""
    yield from _qualities(material)
    yield from _memory(material)
    yield from _sizes(material)
    yield from _churn(material)
    seconds = [
        (
            method,
            {phase: sum(material.by_segment(method, f"cpu_s/{phase}").values()) for phase in _PHASES},
        )
        for method in material.methods
    ]
    listed = "; ".join(f"{method}: {sum(of_phases.values()):.1f} s" for method, of_phases in seconds)
    yield Drawing(
        "took",
        "seconds",
        "CPU seconds of all segments by phase; choosing is all that was tried and trained.",
        f"Bars of CPU seconds by phase. {listed}.",
        draw_seconds(seconds),
    )


def _lines(material: StreamMaterial, methods: Sequence[str], name: str) -> dict[str, dict[int, float]]:
    lines = {method: material.by_segment(method, name) for method in methods}
    return {method: line for method, line in lines.items() if line}


def _panels(material: StreamMaterial, methods: Sequence[str], titles: Mapping[str, str]) -> Iterator[Panel]:
    for name, title in titles.items():
        lines = _lines(material, methods, name)
        if lines:
            yield Panel(title, lines)


def _told(lines: Mapping[str, Mapping[int, float]], form: str = "{:.4f}") -> str:
    """The last value of every line."""
    return "; ".join(f"{name} {form.format(list(line.values())[-1])}" for name, line in lines.items() if line)


def _qualities(material: StreamMaterial) -> Iterator[Drawing]:
    methods = material.methods
    for part, where in (("test", "on test"), ("validation", "on validation")):
        titles = {
            f"{part}/ndcg@20": f"NDCG@20 {where}, known users and items",
            f"{part}_cold/ndcg@20": f"NDCG@20 {where}, cold rows",
        }
        panels = list(_panels(material, methods, titles))
        if panels:
            yield Drawing(
                "quality",
                f"quality-{part}",
                f"Quality {where} by segment: of known users among all known items, and of rows of somebody "
                f"or something that training does not know.{CUT}",
                f"Lines of NDCG@20 by segment. In the last one: {_told(panels[0].lines)}.",
                draw_segments(panels, methods),
            )


def _memory(material: StreamMaterial) -> Iterator[Drawing]:
    tables, methods = material.tables, material.methods
    lines = _lines(material, [method for method in methods if method not in tables], "num_bytes")
    # All tables use the same budget, so that their lines would be one.
    name = tables[0] if len(tables) == 1 else "all tables"
    if tables:
        lines = {name: _most(material, "num_bytes"), **lines}
    budget = MemoryBudget.parse(material.config["budget"])
    limit = dict.fromkeys(range(len(material.segments)), budget.amount) if budget.unit == "bytes" else {}
    names = [*methods, name]
    yield Drawing(
        "memory",
        "memory-bytes",
        "Bytes of the packed table, or of what gives the lists without one.",
        f"Lines of bytes by segment. In the last one: {_told(lines, '{:,.0f}')}.",
        draw_segments([Panel("bytes of what gives the lists", lines, "bytes", limit)], names),
    )
    if not tables:
        return
    params = _most(material, "num_params")
    sizes = {
        number: params[number] / (segment["num_users"] + segment["num_items"])
        for number, segment in enumerate(material.segments)
        if number in params
    }
    yield Drawing(
        "memory",
        "memory-size",
        f"What the budget leaves for a user or an item while there are more and more of them.{CUT}",
        f"A line of parameters a user or item by segment. In the last one: {_told({name: sizes}, '{:.1f}')}.",
        draw_segments([Panel("parameters a user or item", {name: sizes})], names),
    )


def _most(material: StreamMaterial, name: str) -> dict[int, float]:
    """The largest of the tables' values in each segment."""
    lines = [material.by_segment(method, name) for method in material.tables]
    return {
        number: max(line[number] for line in lines if number in line)
        for number in range(len(material.segments))
        if any(number in line for line in lines)
    }


def _sizes(material: StreamMaterial) -> Iterator[Drawing]:
    methods = [method for method in material.methods if method in material.entities]
    if not methods:
        return
    means = {kind: _lines(material, methods, f"mean_{kind}_size") for kind in KINDS}
    by_age = ages(material)
    for name, caption, lines, label in (
        ("means", "Mean sizes of users and of items in each segment.", means, "segment"),
        (
            "ages",
            "Mean sizes in the last segment by the segment in which users and items arrived; what is new "
            "lies to the right.",
            by_age,
            "segment of arrival",
        ),
    ):
        panels = [
            Panel(f"{kind}s, mean embedding size", lines[kind], "size") for kind in KINDS if lines[kind]
        ]
        if panels:
            yield Drawing(
                "sizes",
                f"sizes-{name}",
                caption,
                f"Lines of mean embedding size by {label}. At the end, of {KINDS[0]}s: "
                f"{_told(panels[0].lines, '{:.1f}')}.",
                draw_segments(panels, material.methods, label),
            )
    yield Drawing(
        "sizes",
        "deciles",
        "Mean sizes in the last segment in each tenth of popularity. Level lines mean that sizes do not look "
        "at popularity.",
        "Lines of mean embedding size by tenth of popularity, for users and for items, of "
        f"{', '.join(methods)}.",
        draw_deciles({method: material.entities[method] for method in methods}),
    )


def _churn(material: StreamMaterial) -> Iterator[Drawing]:
    of_tables = {method: material.changes(method) for method in material.tables}
    panels = [
        Panel(title, {method: changes[name] for method, changes in of_tables.items()}, kind)
        for title, name, kind in _CHANGES
        if any(changes[name] for changes in of_tables.values())
    ]
    if panels:
        yield Drawing(
            "churn",
            "churn",
            "Rows that have another size than in the segment before, and the numbers that these gain or lose."
            + CUT,
            f"Lines by segment. Of rows in the last one: {_told(panels[0].lines, '{:,.0f}')}.",
            draw_segments(panels, material.methods),
        )
    kept = _lines(material, material.methods, OVERLAP)
    if kept:
        yield Drawing(
            "churn",
            "churn-lists",
            "Of the 20 items that a known user was shown in the segment before, without those that they have "
            "had since, the share that is still among the first 20: a mean over users.",
            f"Lines by segment. In the last one: {_told(kept, '{:.2f}')}.",
            draw_segments([Panel("lists, still there", kept, "share")], material.methods),
        )
