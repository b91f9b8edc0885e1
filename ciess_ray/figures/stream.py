"""Figures of a stream: what changes from segment to segment, a line a method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ciess_ray.figures.style import (
    REFERENCE,
    finished,
    format_bytes,
    new_figure,
    plain,
    series_style,
    styled,
)
from ciess_ray.figures.tables import size_axis

_PANEL_INCHES, _LEGEND_INCHES = 1.9, 0.9
#: Of more segments every one has no marker of its own.
_MAX_MARKERS = 24


@dataclass(frozen=True)
class Panel:
    """Some lines on axes of their own.

    Attributes:
        title: What is drawn.
        lines: By name a value a segment; where there is none the line goes on behind it.
        kind: How values are shown.
        limit: What they have to keep to, which is called the budget.
    """

    title: str
    lines: Mapping[str, Mapping[int, float]]
    kind: Literal["number", "share", "bytes", "size"] = "number"
    limit: Mapping[int, float] = field(default_factory=dict)


@styled
def draw_segments(panels: Sequence[Panel], names: Sequence[str], label: str = "segment") -> Figure:
    """Panels below one another, with the segments along the axis that they share.

    Args:
        panels: At least one.
        names: Of all lines of a report, by whose order each looks alike in every figure.
        label: Of the axis.
    """
    height = _PANEL_INCHES * len(panels) + _LEGEND_INCHES
    figure, all_axes = new_figure(height, len(panels), sharex=True, squeeze=False)
    drawn = [name for name in names if any(panel.lines.get(name) for panel in panels)]
    for axes, panel in zip(all_axes[:, 0], panels, strict=True):
        for name in drawn:
            values = panel.lines.get(name, {})
            look = series_style(names.index(name)) | {"markersize": 5, "linewidth": 1.5}
            if len(values) > _MAX_MARKERS:
                look["marker"] = ""
            axes.plot(list(values), list(values.values()), label=plain(name), **look)
        if panel.limit:
            axes.plot(list(panel.limit), list(panel.limit.values()), label="budget", **REFERENCE)
        axes.set_title(panel.title)
        if panel.kind == "size":
            size_axis(axes, math.ceil(max(max(line.values(), default=1) for line in panel.lines.values())))
        elif panel.kind == "bytes":
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(lambda value, _: format_bytes(value))
        elif panel.kind == "share":
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # As their folders are called.
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:03.0f}")
    axes.set_xlabel(label)
    # A line that only one of the panels has is named too.
    fullest = max(all_axes[:, 0], key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    cut = [axes for axes, panel in zip(all_axes[:, 0], panels, strict=True) if panel.kind == "number"]
    return finished(figure, fullest, cut=cut)
