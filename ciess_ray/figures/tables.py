"""Figures of tables: what each gives for its bytes, and who got which size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import binned_statistic

from ciess_ray.figures.style import (
    BLUE,
    INK,
    MUTED,
    PAPER,
    REFERENCE,
    VERMILLION,
    finished,
    format_bytes,
    new_figure,
    plain,
    series_style,
    styled,
)
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH
from ciess_ray.statistics import Spread
from ciess_ray.td3.rollout import decile_means
from envs.mdp import KINDS

_MAX_TICKS = 6
_QUALITY_HEIGHT_INCHES = 3.5
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
def draw_quality(
    panels: Mapping[str, Sequence[Point]], label: str, yardsticks: Mapping[str, float] | None = None
) -> Figure:
    """A line a method, a point a budget, bars over seeds; full size is a line across.

    Args:
        panels: By title the points of one recommender or data set, in any order; they stand side by side.
        label: What is drawn, e.g. ``Recall@20 on test``.
        yardsticks: By name what lists within no budget come to, dotted lines across.
    """
    num_wide = max(len(panels), 1)
    figure, (all_axes,) = new_figure(_QUALITY_HEIGHT_INCHES, 1, num_wide, squeeze=False, sharey=True)
    for axes, (title, points) in zip(all_axes, panels.items(), strict=False):
        _draw_points(axes, points, title)
        for name, value in (yardsticks or {}).items():
            axes.axhline(value, color=MUTED, linewidth=1.0, linestyle=":", zorder=1)
            # Names at the lines: in a legend nobody would tell them apart.
            axes.annotate(
                plain(name),
                (0.0, value),
                xycoords=("axes fraction", "data"),
                xytext=(3, 2),
                textcoords="offset points",
                fontsize=8,
                color=MUTED,
            )
    all_axes[0].set_ylabel(label)
    return finished(figure, all_axes[0], num_columns=3 if num_wide == 1 else 4, cut=all_axes)


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
        axes.plot(
            *zip(*front, strict=True),
            "o",
            markersize=14,
            markerfacecolor="none",
            color=INK,
            zorder=5,
            label="none beats it on validation",
        )
    axes.set(xscale="log", xlabel="packed table", title=plain(title))
    axes.margins(x=0.12, y=0.12)
    shown = _ticks([point.packed_bytes for point in points])
    axes.set_xticks(shown, [format_bytes(tick) for tick in shown])
    axes.minorticks_off()


def _draw_series(axes: Any, points: Sequence[Point], label: str, style: dict[str, Any]) -> None:
    # Several tables of as many bytes are no line.
    is_line = len({point.packed_bytes for point in points}) == len(points)
    axes.errorbar(
        [point.packed_bytes for point in points],
        [point.value.mean for point in points],
        [point.value.sd or 0.0 for point in points] if any(point.value.sd for point in points) else None,
        capsize=3,
        elinewidth=1.2,
        label=label,
        **style | ({} if is_line else {"linestyle": ""}),
    )


def _draw_full(axes: Any, full: Point, label: str | None) -> None:
    mean, sd = full.value.mean, full.value.sd
    axes.axhline(mean, zorder=1, **REFERENCE)
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
    smallest, largest = min(values), max(values)
    apart = (largest / smallest) ** (1 / _MAX_TICKS)
    ticks = [largest]
    for value in sorted({*values} - {largest}):
        if all(max(value, tick) > apart * min(value, tick) for tick in ticks):
            ticks.append(value)
    return sorted(ticks)


#: How users and items look.
_LOOKS = {"user": {"color": BLUE, "marker": "o"}, "item": {"color": VERMILLION, "marker": "s"}}
_SIZES_HEIGHT_INCHES = 4.6
_NUM_BINS = 14
#: An entity of which nothing is known in training has a place on a log axis too.
_LEAST_POPULARITY = 0.7


@styled
def draw_sizes(entities: Mapping[str, pd.DataFrame], label: str = "") -> Figure:
    """Embedding size against training interactions, users above items.

    Args:
        entities: For ``user`` and ``item``, or those of them that have rows of the table, a row each:
            ``embedding_size``, at least 1, and ``popularity``, which are its training interactions.
        label: Whose they are.
    """
    kinds = [kind for kind in KINDS if kind in entities]
    figure, axes_of_kinds = new_figure(_SIZES_HEIGHT_INCHES, len(kinds))
    all_axes = np.ravel(axes_of_kinds)
    largest = max(of_kind["embedding_size"].max() for of_kind in entities.values())
    for axes, kind in zip(all_axes, kinds, strict=True):
        sizes = entities[kind]["embedding_size"]
        counts = entities[kind]["popularity"].clip(lower=_LEAST_POPULARITY)
        axes.scatter(counts, sizes, s=12, alpha=0.3, linewidths=0, rasterized=True, **_LOOKS[kind])
        # Bins that are equally wide on the log axis; of empty ones nothing is known.
        borders = np.geomspace(counts.min(), counts.max() * 1.0001, _NUM_BINS + 1)
        means = binned_statistic(counts, [counts, sizes], bins=borders).statistic
        line = means[:, np.isfinite(means[0])]
        axes.plot(*line, color=PAPER, linewidth=4.4, zorder=3)
        axes.plot(*line, color=INK, linewidth=1.8, zorder=4, label="mean")
        axes.set(xscale="log", title=f"{len(sizes):,} {kind}s, mean size {sizes.mean():.1f}")
        size_axis(axes, largest)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    all_axes[-1].set_xlabel("training interactions")
    if label:
        figure.suptitle(plain(label), fontsize=10, x=0.02, ha="left")
    return finished(figure, all_axes[0])


@styled
def draw_deciles(tables: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Mean embedding size in each tenth of popularity.

    Args:
        tables: By label the entities of each, as in :func:`draw_sizes`. Of one table users and items share
            the axes; of several, users stand above items.
    """
    is_single = len(tables) == 1
    kinds = [kind for kind in KINDS if any(kind in table for table in tables.values())]
    figure, all_axes = new_figure(_SIZES_HEIGHT_INCHES, 1 if is_single else len(kinds), sharex=True)
    largest = max(of_kind["embedding_size"].max() for table in tables.values() for of_kind in table.values())
    for axes, kind in zip(np.broadcast_to(all_axes, len(kinds)), kinds, strict=True):
        for position, (label, table) in enumerate(tables.items()):
            if kind not in table:
                continue
            columns = table[kind]
            means = decile_means(columns["popularity"].to_numpy(), columns["embedding_size"].to_numpy())
            style = series_style(KINDS.index(kind) if is_single else position)
            shown = f"{kind}s" if is_single else plain(label)
            axes.plot(range(1, len(means) + 1), means, markersize=6, label=shown, **style)
        if not is_single:
            axes.set_title(f"{kind}s")
        size_axis(axes, largest)
    axes.set(xticks=range(1, 11), xlabel="tenth of popularity, 10 the most popular")
    return finished(figure, axes)


def size_axis(axes: Any, largest: int) -> None:
    """Powers of two: most sizes are small, and small ones differ the most in what they cost in quality."""
    axes.set_yscale("log", base=2)
    ticks = 2 ** np.arange(np.ceil(np.log2(max(largest, 2))) + 1)
    axes.set(yticks=ticks, ylim=(0.85, ticks[-1] * 1.18), ylabel="embedding size")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
