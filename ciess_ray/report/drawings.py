"""Which figures a report has, with what they say in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from ciess_ray.candidate import step_name
from ciess_ray.figures import (
    Course,
    Point,
    Retrained,
    draw_course,
    draw_deciles,
    draw_memory_course,
    draw_quality,
    draw_retrained,
    draw_seconds,
    draw_sizes,
    format_bytes,
)
from ciess_ray.names import FULL_SIZE, SEARCH, YARDSTICKS
from ciess_ray.report.material import Search
from ciess_ray.report.measurements import Row

#: Of more searches than these the figures of single searches would be too many, and lines alike.
MAX_SEARCHES = 6
_MAX_BARS = 40
_MAX_SERIES = 12
#: Below figures of which an axis may not begin at 0.
CUT = " Two strokes mark an axis that does not begin at 0."
_METRICS = {"recall@20": "Recall@20 on test", "ndcg@20": "NDCG@20 on test"}


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure of the page.

    Attributes:
        section: Where it stands.
        name: Of its file, and of its ids in the page.
        caption: Below it.
        alt: What it shows, for those who do not see it.
        figure: What is drawn.
    """

    section: str
    name: str
    caption: str
    alt: str
    figure: Figure


def chosen_searches(searches: Sequence[Search]) -> list[Search]:
    """Those whose figures are shown: of many, the best on validation of each data, recommender, budget."""
    if len(searches) <= MAX_SEARCHES:
        return list(searches)
    # Of two as good the first.
    worst_first = sorted(reversed(searches), key=lambda search: search.quality(SEARCH) or -1.0)
    best = {
        (
            str(search.summary["config"]["dataset"]),
            search.summary["config"]["recommender"]["name"],
            search.summary["budget"]["asked"],
        ): search
        for search in worst_first
    }
    return [search for search in searches if search in best.values()][:MAX_SEARCHES]


def draw_all(means: Sequence[Row], searches: Sequence[Search]) -> Iterator[Drawing]:
    """Every figure that there is material for, one after the other.

    Args:
        means: Over seeds.
        searches: All; of many, some are chosen where each would get figures of its own.
    """
    yield from _qualities(means)
    chosen = chosen_searches(searches)
    yield from _sizes([search for search in chosen if search.entities])
    yield from _courses(chosen)
    yield from _retrained(chosen)
    timed = [
        (search.label, search.summary["seconds"]) for search in searches if search.summary.get("seconds")
    ]
    if timed:
        listed = "; ".join(
            f"{label}: {', '.join(f'{phase} {value:.0f} s' for phase, value in seconds.items())}"
            for label, seconds in timed[:_MAX_BARS]
        )
        yield Drawing(
            "took",
            "seconds",
            "Seconds of each phase, as the search's own process saw them pass.",
            f"Bars of seconds by phase. {listed}.",
            draw_seconds(timed[:_MAX_BARS]),
        )


def _qualities(means: Sequence[Row]) -> Iterator[Drawing]:
    tables = [row for row in means if row["method"] not in YARDSTICKS]
    places = dict.fromkeys((row["dataset"], row["recommender"]) for row in tables)
    for number, (dataset, recommender) in enumerate(places, 1):
        here = [
            row
            for row in tables
            if (row["dataset"], row["recommender"]) == (dataset, recommender) and row.get("packed_bytes")
        ]
        beside = [row for row in means if row["method"] in YARDSTICKS and row["dataset"] == dataset]
        # Beyond so many lines a reader tells none from another.
        name = "series" if len({row["series"] for row in here}) <= _MAX_SERIES else "method"
        for metric, label in _METRICS.items():
            points = [
                Point(
                    FULL_SIZE if row["method"] == FULL_SIZE else row[name],
                    row["packed_bytes"],
                    row[f"test/{metric}"],
                )
                for row in here
                if f"test/{metric}" in row
            ]
            if not points:
                continue
            yardsticks = {
                row["method"]: row[f"test/{metric}"].mean for row in beside if f"test/{metric}" in row
            }
            where = f"{recommender} on {dataset}"
            listed = "; ".join(
                f"{point.series} {point.value} at {format_bytes(point.packed_bytes)}" for point in points
            )
            listed += "".join(f"; {name} {value:.4f}, uncut" for name, value in yardsticks.items())
            has_bars = any(point.value.sd is not None for point in points)
            yield Drawing(
                "quality",
                f"quality-{metric.replace('@', '-')}-{number}",
                f"{label} against the bytes of the packed table, on a log axis; up and to the left is better."
                + CUT
                + (" Bars are standard deviations over seeds." if has_bars else "")
                + (" Dotted lines are of lists within no budget." if yardsticks else ""),
                f"{label} against packed bytes for {where}: {listed}.",
                draw_quality({where: points}, label, yardsticks),
            )


def _sizes(searches: Sequence[Search]) -> Iterator[Drawing]:
    for number, search in enumerate(searches, 1):
        sizes = ", ".join(
            f"{kind}s {of_kind['embedding_size'].mean():.1f}" for kind, of_kind in search.entities.items()
        )
        yield Drawing(
            "sizes",
            f"sizes-{number}",
            f"{search.label}: every user and every item of the packed table, and the mean by popularity. "
            "Both axes are logarithmic.",
            f"Embedding size against training interactions of {search.label}; mean sizes: {sizes}.",
            draw_sizes(search.entities, search.label if len(searches) > 1 else ""),
        )
    if searches:
        yield Drawing(
            "sizes",
            "deciles",
            "Mean embedding size in each tenth of popularity. Level lines mean that the policy does not look "
            "at popularity.",
            "Lines of mean embedding size by tenth of popularity, for users and for items, of "
            f"{', '.join(search.label for search in searches)}.",
            draw_deciles({search.label: search.entities for search in searches}),
        )


def _courses(searches: Sequence[Search]) -> Iterator[Drawing]:
    steps = [[line for line in search.progress if line["phase"] == "search"] for search in searches]
    courses = [
        Course(search.label, lines, search.quality(FULL_SIZE), search.cap_ratio)
        for search, lines in zip(searches, steps, strict=True)
        if lines
    ]
    if not courses:
        return
    listed = "; ".join(f"{course.label}: {len(course.steps)} steps" for course in courses)
    quality = "Validation quality, the mean of ten steps. Triangles are greedy steps, of the actors alone."
    memory = "What was kept, λ, and how much better the critic thinks the best size of a walk than its start."
    if len(courses) == 1:
        quality = (
            "Validation quality of every step. Hollow points are the warm-up, whose tables are drawn at "
            "random, then near the best; triangles are greedy steps, which the actors take alone."
        )
        memory += " Executed sizes keep to the budget; λ brings to it what the actors ask for."
    yield Drawing(
        "course",
        "course",
        quality + CUT,
        f"Validation quality by step of the search. {listed}.",
        draw_course(courses),
    )
    yield Drawing(
        "course",
        "course-memory",
        memory,
        f"Kept ratio, λ and walk gain by step of the search. {listed}.",
        draw_memory_course(courses),
    )


def _retrained(searches: Sequence[Search]) -> Iterator[Drawing]:
    retrained = []
    for search in searches:
        candidates = [
            (step_name(row["step"], row.get("kind")), row["quality_in_search"], row["quality"])
            for row in search.retrained
            if row["name"] == SEARCH and row["quality_in_search"] is not None
        ]
        if candidates:
            equal = next((row["quality"] for row in search.retrained if row["name"] != SEARCH), None)
            retrained.append(Retrained(search.label, candidates, equal))
    if retrained:
        listed = "; ".join(
            f"{search.label}, {name}: {seen:.4f} in the search, {trained:.4f} once trained"
            for search in retrained
            for name, seen, trained in search.candidates
        )
        yield Drawing(
            "retrained",
            "retrained",
            "What the search thought of its best tables, and what they came to once trained to convergence."
            + CUT,
            f"Points of validation quality. {listed}.",
            draw_retrained(retrained),
        )
