"""Quality against memory: what every method gives for its bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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
def draw_quality(points: Sequence[Point], label: str, title: str = "") -> Figure:
    """A line a method, a point a budget, bars over seeds; full size is a line across.

    Args:
        points: At least one, in any order.
        label: What is drawn, e.g. ``Recall@20 on test``.
        title: Above the axes.
    """
    figure = new_figure(_HEIGHT_INCHES)
    axes = figure.subplots()
    _draw_points(axes, points, title)
    axes.set_ylabel(label)
    mark_cut_axes([axes])
    legend_below(figure, axes)
    return figure


@styled
def draw_qualities(panels: Mapping[str, Sequence[Point]], label: str) -> Figure:
    """As :func:`draw_quality`, of several recommenders or data sets beside each other, by their titles."""
    figure = new_figure(_HEIGHT_INCHES, max(len(panels), 1))
    all_axes = figure.subplots(1, max(len(panels), 1), squeeze=False, sharey=True)[0]
    for axes, (title, points) in zip(all_axes, panels.items(), strict=False):
        _draw_points(axes, points, title)
    all_axes[0].set_ylabel(label)
    mark_cut_axes(all_axes)
    legend_below(figure, all_axes[0], 4)
    return figure


def _draw_points(axes: Any, points: Sequence[Point], title: str) -> None:
    by_series: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.packed_bytes):
        by_series.setdefault(point.series, []).append(point)
    full = by_series.pop(FULL_SIZE, [])
    others = [name for name in by_series if name not in (SEARCH, EQUAL_SIZES)]
    for position, name in enumerate((SEARCH, EQUAL_SIZES, *others)):
        if name in by_series:
            _draw_series(axes, by_series[name], plain(name), _style(position, name))
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


def _style(position: int, name: str) -> dict[str, Any]:
    style = series_style(position)
    if name == SEARCH:
        return style | {"color": BLUE, "linewidth": 2.4, "markersize": 8, "zorder": 4}
    if name == EQUAL_SIZES:
        return style | {"color": VERMILLION}
    return style


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
        **({"markersize": 6.5} | style),
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
    there = np.unique(np.asarray(values, np.float64))
    if not there.size:
        return []
    width = max(float(np.log(there[-1] / there[0])), 1e-9)
    chosen = [float(there[0])]
    for tick in there[1:-1]:
        is_apart = np.log(tick / chosen[-1]) > width / _MAX_TICKS
        if is_apart and np.log(there[-1] / tick) > width / _MAX_TICKS:
            chosen.append(float(tick))
    return chosen if len(there) == 1 else [*chosen, float(there[-1])]
