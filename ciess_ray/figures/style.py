"""How all figures look, and how they are saved.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), which colour-blind readers tell apart; every
series has a marker and a line style of its own beside. Figures are narrow, with parts below one another, so
that a phone shows their text at a size that can be read.
"""

import html
import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from ciess_ray.files.whole import write_whole

WIDTH_INCHES = 4.8
INK, MUTED, GRID, PAPER = "#1d2733", "#5d6975", "#e3e7ec", "#ffffff"
BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
)
_SERIES_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE, INK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
#: How a line looks that others are measured against, and what such lines are called.
REFERENCE: dict[str, Any] = {"color": MUTED, "linewidth": 1.1, "linestyle": (0, (2, 2))}
REFERENCES = (
    "full size",
    "none beats it on validation",
    "full size, fully trained",
    "budget",
    "equal sizes, trained",
    "best on validation",
)
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "++")

#: What an inline SVG takes from the page's style sheet, which knows light and dark.
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    BLUE: "--blue",
    VERMILLION: "--vermillion",
    GREEN: "--green",
    PURPLE: "--purple",
    SKY: "--sky",
    ORANGE: "--orange",
}
_STYLE: Any = {
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    # A name from a file is no formula.
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "none",
    "savefig.dpi": 130,
    "svg.fonttype": "none",
    "svg.hashsalt": "ciess-ray",
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_MAX_LABEL = 44

#: Draws in the style of all figures.
styled = matplotlib.rc_context(_STYLE)


def new_figure(
    height_inches: float, num_rows: int = 1, num_columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure that no window shows, of the usual width a column; axes as ``Figure.subplots`` has them."""
    figure = Figure(figsize=(WIDTH_INCHES * num_columns, height_inches), layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, **options)


def series_style(position: int) -> dict[str, Any]:
    """Colour, marker and line of a series; the three differ in their periods."""
    return {
        "color": _SERIES_COLOURS[position % len(_SERIES_COLOURS)],
        "marker": _MARKERS[position % len(_MARKERS)],
        "linestyle": _LINES[position % len(_LINES)],
    }


def plain(text: str) -> str:
    """A label that says what it says: a name from a file is no markup, and shown at any rate."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    if len(shown) > _MAX_LABEL:
        shown = f"{shown[: _MAX_LABEL - 1]}…"
    # What begins with an underscore is left out of a legend.
    return f" {shown}" if shown.startswith("_") else shown


def finished(figure: Figure, axes: Any, *, num_columns: int = 3, cut: Iterable[Any] = ()) -> Figure:
    """A figure in which everything is drawn, with its legend below, where that hides nothing.

    Args:
        figure: The figure.
        axes: Those whose names the legend has.
        num_columns: At most, of the legend.
        cut: Axes that get two strokes across each axis of plain numbers that does not begin at 0.
    """
    stroke = {"linestyle": "", "color": MUTED, "markeredgewidth": 1.1, "markersize": 7, "clip_on": False}
    for cut_axes in cut:
        for places, scale, (low, high), slant in (
            (((0, 0.03), (0, 0.055)), cut_axes.get_yscale(), cut_axes.get_ylim(), ((-1, -0.5), (1, 0.5))),
            (((0.025, 0), (0.043, 0)), cut_axes.get_xscale(), cut_axes.get_xlim(), ((-0.5, -1), (0.5, 1))),
        ):
            if scale == "linear" and (low > 0 or high < 0):
                cut_axes.plot(
                    *zip(*places, strict=True),
                    marker=slant,
                    transform=cut_axes.transAxes,
                    zorder=6,
                    **stroke,
                )
    # Names of lines first, what they are measured against last.
    entries = sorted(
        zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] in REFERENCES
    )
    if entries:
        handles, labels = zip(*entries, strict=True)
        longest = max(map(len, labels))
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(num_columns if longest < 20 else 2 if longest < 30 else 1, len(labels)),
            handlelength=2.6,
            columnspacing=1.4,
        )
    return figure


def format_bytes(num_bytes: float) -> str:
    """At most three digits and a unit: ``259 kB``."""
    return EngFormatter("B")(float(f"{num_bytes:.3g}"))


def to_png(figure: Figure) -> bytes:
    """On white, for slides and README files."""
    return _saved(figure, format="png", dpi=180, facecolor=PAPER, metadata={"Software": None})


def save_png(figure: Figure, path: Path) -> None:
    """Write :func:`to_png` into a file."""
    write_whole(path, to_png(figure))


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """An SVG element to stand in a page.

    Args:
        figure: What is drawn.
        name: Begins every id in it, so that no two figures of a page share one.
        alt: What it shows, for those who do not see it.
    """
    text = _saved(figure, format="svg", transparent=True, metadata=_NO_METADATA).decode()
    # Where its parts lie holds for whatever else it is saved as.
    figure.set_layout_engine("none")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    label = html.escape(alt, quote=True)
    # Text between tags comes from files and is left as it is.
    return re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], name, label), text)


def _tag(tag: str, name: str, label: str) -> str:
    if tag.startswith("<svg"):
        tag = re.sub(r' (?:width|height|version|xmlns(?::xlink)?)="[^"]*"', "", tag)
        return f'{tag[:-1]} role="img" aria-label="{label}">'
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(url\(|href=")#', rf"\1#{name}-", tag).replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return tag


def _saved(figure: Figure, **options: Any) -> bytes:
    stream = io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        figure.savefig(stream, **options)
    return stream.getvalue()
