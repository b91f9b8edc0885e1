"""Quality against memory: what every method gives for its bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from ciess_ray.figures.style import (
    BLUE,
    INK,
    MUTED,
    VERMILLION,
    format_bytes,
    legend_below,
    mark_cut_axes,
    new_figure,
    plain,
    series_style,
    styled,
)
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH
from ciess_ray.statistics import Spread

_MAX_TICKS = 6
_HEIGHT_INCHES = 3.5
#: What is compared looks alike in every figure.
_STYLES: dict[str, dict[str, Any]] = {
    SEARCH: {"color": BLUE, "linewidth": 2.4, "markersize": 8, "zorder": 4},
    EQUAL_SIZES: {"color": VERMILLION},
}


@dataclass(frozen=True)
class Point:
    """One method at one budget.

    Attributes:
        series: The method, with whatever tells it from others; one line of the figure.
        packed_bytes: Of its table.
        value: Mean and spread over seeds of what is drawn.
        is_on_front: Whether it is ringed as one that none beats.
    """

    series: str
    packed_bytes: float
    value: Spread
    is_on_front: bool = False


@styled
def draw_quality(panels: Mapping[str, Sequence[Point]], label: str) -> Figure:
    """A line a method, a point a budget, bars over seeds; full size is a line across.

    Args:
        panels: By title the points of one recommender or data set, in any order; they stand side by side.
        label: What is drawn, e.g. ``Recall@20 on test``.
    """
    num_wide = max(len(panels), 1)
    figure = new_figure(_HEIGHT_INCHES, num_wide)
    all_axes = figure.subplots(1, num_wide, squeeze=False, sharey=True)[0]
    for axes, (title, points) in zip(all_axes, panels.items(), strict=False):
        _draw_points(axes, points, title)
    all_axes[0].set_ylabel(label)
    mark_cut_axes(all_axes)
    legend_below(figure, all_axes[0], 3 if num_wide == 1 else 4)
    return figure


def _draw_points(axes: Any, points: Sequence[Point], title: str) -> None:
    by_series: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.packed_bytes):
        by_series.setdefault(point.series, []).append(point)
    full = by_series.pop(FULL_SIZE, [])
    others = [name for name in by_series if name not in (SEARCH, EQUAL_SIZES)]
    for position, name in enumerate((SEARCH, EQUAL_SIZES, *others)):
        if name in by_series:
            style = {"markersize": 6.5} | series_style(position) | _STYLES.get(name, {})
            _draw_series(axes, by_series[name], plain(name), style)
    for point in full:
        _draw_full(axes, point, FULL_SIZE if point is full[0] else None)
    front = sorted((point.packed_bytes, point.value.mean) for point in points if point.is_on_front)
    if front:
        ring = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "linestyle": "", "color": INK}
        axes.plot(*zip(*front, strict=True), zorder=5, label="none beats it on validation", **ring)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    shown = _ticks([point.packed_bytes for point in points])
    axes.set_xticks(shown, [format_bytes(tick) for tick in shown])
    axes.minorticks_off()
    axes.set_xlabel("packed table")
    axes.set_title(plain(title))


def _draw_series(axes: Any, own: Sequence[Point], label: str, style: dict[str, Any]) -> None:
    if len({point.packed_bytes for point in own}) < len(own):
        # Several tables of as many bytes are no line.
        style = style | {"linestyle": ""}
    axes.errorbar(
        [point.packed_bytes for point in own],
        [point.value.mean for point in own],
        [point.value.sd or 0.0 for point in own] if any(point.value.sd for point in own) else None,
        capsize=3,
        elinewidth=1.2,
        label=label,
        **style,
    )


def _draw_full(axes: Any, full: Point, label: str | None) -> None:
    mean, sd = full.value.mean, full.value.sd
    axes.axhline(mean, color=MUTED, linewidth=1.1, linestyle=(0, (2, 2)), zorder=1)
    if sd:
        axes.axhspan(mean - sd, mean + sd, color=MUTED, alpha=0.12, linewidth=0, zorder=0)
    axes.plot(
        [full.packed_bytes],
        [mean],
        marker="*",
        color=MUTED,
        markersize=11,
        linestyle=(0, (2, 2)),
        label=label,
    )


def _ticks(values: Sequence[float]) -> list[float]:
    """Some of the values, so far apart on a log axis that their labels do not touch."""
    there = sorted(set(values))
    if len(there) < 3:
        return there
    first, *middle, last = there
    chosen, apart = [first], (last / first) ** (1 / _MAX_TICKS)
    for tick in middle:
        if tick > apart * chosen[-1] and last > apart * tick:
            chosen.append(tick)
    return [*chosen, last]
