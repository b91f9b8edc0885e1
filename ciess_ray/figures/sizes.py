"""Embedding sizes against popularity: every entity, and means by tenths."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binned_statistic

from ciess_ray.figures.style import (
    BLUE,
    INK,
    PAPER,
    VERMILLION,
    legend_below,
    new_figure,
    plain,
    series_style,
    styled,
)
from ciess_ray.td3.rollout import PopularityDeciles
from envs.mdp import KINDS

_COLOURS, _MARKERS = dict(zip(KINDS, (BLUE, VERMILLION), strict=True)), dict(zip(KINDS, "os", strict=True))
HEIGHT_INCHES = 4.6
_NUM_BINS = 14
#: An entity of which nothing is known in training has a place on a log axis too.
_LEAST_POPULARITY = 0.7


@styled
def draw_sizes(
    sizes: Mapping[str, NDArray[Any]], popularity: Mapping[str, NDArray[Any]], label: str = ""
) -> Figure:
    """Embedding size against training interactions, users above items.

    Args:
        sizes: For ``user`` and ``item``, shape (n,), at least 1.
        popularity: Training interactions, same shapes.
        label: Whose they are.
    """
    figure = new_figure(HEIGHT_INCHES)
    largest = max(int(own.max()) for own in sizes.values())
    for axes, kind in zip(figure.subplots(2, 1), KINDS, strict=True):
        own, counts = sizes[kind], np.maximum(popularity[kind], _LEAST_POPULARITY)
        axes.scatter(
            counts,
            own,
            s=12,
            alpha=0.3,
            linewidths=0,
            color=_COLOURS[kind],
            marker=_MARKERS[kind],
            rasterized=True,
        )
        middles, means = _binned_means(counts, own)
        axes.plot(middles, means, color=PAPER, linewidth=4.4, zorder=3)
        axes.plot(middles, means, color=INK, linewidth=1.8, zorder=4, label="mean")
        axes.set_xscale("log")
        _size_axis(axes, largest)
        axes.set_title(f"{len(own):,} {kind}s, mean size {own.mean():.1f}")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    figure.axes[1].set_xlabel("training interactions")
    if label:
        figure.suptitle(plain(label), fontsize=10, x=0.02, ha="left")
    legend_below(figure, figure.axes[0])
    return figure


@styled
def draw_deciles(
    tables: Sequence[tuple[str, Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]],
) -> Figure:
    """Mean embedding size in each tenth of popularity.

    Args:
        tables: For each its label, its sizes and its popularity, as in :func:`draw_sizes`. Of one table users
            and items share the axes; of several, users stand above items.
    """
    is_single = len(tables) == 1
    figure = new_figure(HEIGHT_INCHES)
    all_axes = [figure.subplots()] * 2 if is_single else list(figure.subplots(2, 1, sharex=True))
    largest = max(int(sizes[kind].max()) for _, sizes, _ in tables for kind in KINDS)
    for axes, kind in zip(all_axes, KINDS, strict=True):
        for position, (label, sizes, popularity) in enumerate(tables):
            means = PopularityDeciles(popularity[kind]).means(sizes[kind])
            style = series_style(KINDS.index(kind) if is_single else position)
            shown = f"{kind}s" if is_single else plain(label)
            axes.plot(range(1, len(means) + 1), means, markersize=6, label=shown, **style)
        if not is_single:
            axes.set_title(f"{kind}s")
        _size_axis(axes, largest)
    all_axes[1].set_xticks(range(1, 11))
    all_axes[1].set_xlabel("tenth of popularity, 10 the most popular")
    legend_below(figure, all_axes[1])
    return figure


def _size_axis(axes: Any, largest: int) -> None:
    """Powers of two: most sizes are small, and small ones differ the most in what they cost in quality."""
    axes.set_yscale("log", base=2)
    top = 2 ** int(np.ceil(np.log2(max(largest, 2))))
    axes.set_yticks([2**power for power in range(int(np.log2(top)) + 1)])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(0.85, top * 1.18)
    axes.set_ylabel("embedding size")
    axes.minorticks_off()


def _binned_means(
    popularity: NDArray[Any], sizes: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean popularity and size in bins that are equally wide on a log axis; empty ones are left out."""
    borders = np.geomspace(popularity.min(), popularity.max() * 1.0001, _NUM_BINS + 1)
    means = binned_statistic(popularity, [popularity, sizes], bins=borders).statistic
    middles, of_sizes = means[:, np.isfinite(means[0])]
    return middles, of_sizes
