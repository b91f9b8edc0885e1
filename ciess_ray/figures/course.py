"""How searches went: their steps, what was retrained, and where the time went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ciess_ray import metric_keys
from ciess_ray.figures.style import (
    HATCHES,
    INK,
    MUTED,
    PAPER,
    REFERENCE,
    finished,
    new_figure,
    plain,
    series_style,
    styled,
)

_RATIOS = {
    metric_keys.KEPT_RATIO: "executed",
    metric_keys.PROPOSED_RATIO: "asked for, exploring",
    metric_keys.GREEDY_RATIO: "actors alone",
}
_NUM_SMOOTHED = 10
_HEIGHT_INCHES = 4.6
#: How steps look that are joined by a line.
_LINE: dict[str, Any] = {"marker": "", "linewidth": 1.5}


@dataclass(frozen=True)
class Course:
    """The steps of one search.

    Attributes:
        label: Its name.
        steps: Lines of ``progress.jsonl`` of the phase ``search``.
        full_quality: Validation quality of the full table; None where it is not known.
        cap_ratio: The budget as a share of the full table; None where it is not known.
    """

    label: str
    steps: Sequence[Mapping[str, Any]]
    full_quality: float | None
    cap_ratio: float | None = None

    def values(self, key: str, note: str | None = None) -> "pd.Series[float]":
        """What its steps say under a key, by step; those of one note alone where that is given."""
        noted = [step for step in self.steps if note in (None, step.get("note", ""))]
        return pd.Series({step["step"]: step[key] for step in noted if key in step}, dtype=float)


@styled
def draw_course(courses: Sequence[Course]) -> Figure:
    """Validation quality, step by step.

    Of one search every step is a point; of several each is a line, the mean of ten steps.
    """
    figure, axes = new_figure(_HEIGHT_INCHES)
    is_share = all(course.full_quality for course in courses)
    for position, course in enumerate(courses):
        scale = 100 / course.full_quality if is_share and course.full_quality else 1.0
        _draw_steps(axes, course, scale, series_style(position), is_line=len(courses) > 1)
    if is_share:
        axes.axhline(100, label="full size, fully trained", **REFERENCE)
    _mark_warmup(courses, axes, with_name=True)
    title = "validation quality, % of full size" if is_share else "validation quality"
    axes.set(title=title, xlabel="step of the search")
    return finished(figure, axes, cut=[axes])


@styled
def draw_memory_course(courses: Sequence[Course]) -> Figure:
    """Kept ratio, λ and what the random walk gained, step by step.

    Of one search what was asked for is drawn beside what was executed.
    """
    is_single = len(courses) == 1
    figure, (kept, weight, gain) = new_figure(_HEIGHT_INCHES, 3, sharex=True, height_ratios=(1.6, 1, 1))
    for position, course in enumerate(courses):
        labels = _RATIOS if is_single else {metric_keys.KEPT_RATIO: plain(course.label)}
        for number, (key, label) in enumerate(labels.items()):
            kept.plot(100 * course.values(key), label=label, **series_style(position + number) | _LINE)
        for axes, key in ((weight, metric_keys.MEMORY_WEIGHT), (gain, metric_keys.WALK_GAIN)):
            axes.plot(course.values(key), **series_style(position) | _LINE)
    for number, cap in enumerate(sorted({course.cap_ratio for course in courses if course.cap_ratio})):
        kept.axhline(100 * cap, label=None if number else "budget", **REFERENCE)
    kept.set(yscale="log", ylim=(None, 100), title="kept, % of the full table")
    kept.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    kept.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    kept.minorticks_off()
    weight.set_title("λ")
    gain.set(title="gain of the random walk", xlabel="step of the search")
    for axes in figure.axes:
        _mark_warmup(courses, axes, with_name=axes is kept)
    return finished(figure, kept, num_columns=2, cut=[weight, gain])


def _draw_steps(axes: Any, course: Course, scale: float, style: dict[str, Any], *, is_line: bool) -> None:
    quality = scale * course.values(metric_keys.QUALITY)
    mean = quality.rolling(_NUM_SMOOTHED, min_periods=1).mean()
    if is_line:
        axes.plot(mean, label=plain(course.label), **style | _LINE)
        greedy = scale * course.values(metric_keys.QUALITY, "greedy")
        axes.plot(greedy, "^", color=style["color"], markersize=5)
        return
    for note, label, look in (
        ("warm-up", "warm-up", {"markerfacecolor": PAPER, "color": MUTED}),
        ("", "with exploration", {"color": style["color"]}),
        ("greedy", "greedy", {"marker": "^", "color": series_style(1)["color"], "markersize": 7}),
    ):
        noted = scale * course.values(metric_keys.QUALITY, note)
        if noted.size:
            axes.plot(noted, label=label, **{"marker": "o", "markersize": 4.5, "linestyle": ""} | look)
    axes.plot(mean, color=INK, linewidth=1.4, label=f"mean of {_NUM_SMOOTHED} steps")


def _mark_warmup(courses: Sequence[Course], axes: Any, with_name: bool) -> None:
    """A band behind the warm-up, where all had the same."""
    ends = {
        max((step["step"] for step in course.steps if step.get("note") == "warm-up"), default=0)
        for course in courses
    }
    if len(ends) == 1 and (end := ends.pop()):
        axes.axvspan(0.5, end + 0.5, color=MUTED, alpha=0.10, linewidth=0, zorder=0)
        if with_name:
            axes.annotate(
                "warm-up",
                (0.5, 1.0),
                (4, -4),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                color=MUTED,
                fontsize=8.5,
            )


@dataclass(frozen=True)
class Retrained:
    """What one search trained to convergence.

    Attributes:
        label: Its name.
        candidates: For each its name, its quality in the search, and that once trained.
        equal_quality: Of equal sizes, trained alike; None where it is not known.
    """

    label: str
    candidates: Sequence[tuple[str, float, float]]
    equal_quality: float | None


@styled
def draw_retrained(searches: Sequence[Retrained]) -> Figure:
    """Validation quality once trained against that in the search; the best of each search is ringed."""
    figure, axes = new_figure(3.6)
    is_single = len(searches) == 1
    for position, search in enumerate(searches):
        style = series_style(position) | {"linestyle": "", "markersize": 8}
        before, after = zip(*(values for _, *values in search.candidates), strict=True)
        axes.plot(before, after, label="candidates" if is_single else plain(search.label), **style)
        if search.equal_quality is not None:
            axes.axhline(search.equal_quality, **REFERENCE | ({} if is_single else {"color": style["color"]}))
        for name, seen, trained in search.candidates if is_single else ():
            axes.annotate(
                name, (seen, trained), (7, 5), textcoords="offset points", fontsize=8.5, color=MUTED
            )
        best = [(seen, trained) for seen, trained in zip(before, after, strict=True) if trained == max(after)]
        axes.plot(
            *zip(*best, strict=True),
            "o",
            markersize=15,
            markerfacecolor="none",
            color=INK,
            markeredgewidth=1.1,
            label=None if position else "best on validation",
        )
    if any(search.equal_quality is not None for search in searches):
        axes.plot([], [], label="equal sizes, trained", **REFERENCE)
    axes.margins(0.18)
    axes.locator_params(axis="x", nbins=5)
    axes.set(xlabel="quality in the search", ylabel="validation quality once trained")
    return finished(figure, axes, cut=[axes])


@styled
def draw_seconds(searches: Sequence[tuple[str, Mapping[str, float]]]) -> Figure:
    """Seconds by phase, a bar a search; the legend says how many they are in all."""
    figure, axes = new_figure(1.4 + 0.36 * len(searches))
    seconds = pd.DataFrame([of_phases for _, of_phases in searches]).fillna(0.0)
    ends = seconds.cumsum(axis=1)
    for position, (phase, widths) in enumerate(seconds.items()):
        axes.barh(
            seconds.index,
            widths,
            left=ends[phase] - widths,
            height=0.62,
            color=series_style(position)["color"],
            hatch=HATCHES[position % len(HATCHES)],
            edgecolor=PAPER,
            linewidth=0.8,
            label=f"{phase}, {widths.sum():,.{0 if widths.sum() >= 10 else 1}f} s",
        )
    axes.set(xlim=(0, None), xlabel="seconds")
    axes.set_yticks(seconds.index, [plain(label) for label, _ in searches])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    return finished(figure, axes)
