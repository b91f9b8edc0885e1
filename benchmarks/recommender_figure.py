"""The picture of results/bench.json."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

_COLOURS = ("#0b4f6c", "#3d9cc4", "#a9d6e5")
_TITLES = {"ml-1m": "MovieLens-1M", "gowalla": "Gowalla"}
_INK, _ACCENT = "#0b4f6c", "#d1603d"


def _short(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _plain(axis: Axis) -> None:
    """Powers of ten named, what is between marked."""
    axis.set_major_locator(LogLocator(10, (1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _groups(axes: Axes, names: list[str], widths: list[int], value: Any) -> None:
    """Bars, a group a recommender and a bar a width, with their values above."""
    share = 0.8 / len(widths)
    for n, width in enumerate(widths):
        places = [x + (n - (len(widths) - 1) / 2) * share for x in range(len(names))]
        heights = [value(name, width) for name in names]
        bars = axes.bar(places, heights, share * 0.94, color=_COLOURS[n % 3], label=f"{width} dimensions")
        axes.bar_label(bars, [_short(height) for height in heights], fontsize=7, padding=1)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _growth(axes: Axes, growth: dict[str, Any]) -> None:
    rows = growth["rows"]
    sizes = [row["num_interactions"] for row in rows]
    seconds = [row["propagation"]["median_s"] for row in rows]
    exponent = growth["exponent"]["propagation_s"]["all_sizes"]
    axes.loglog(sizes, seconds, "o-", color=_INK, label=f"seconds, exponent {exponent:.2f}")
    gathers = [6 * row["gather"]["median_s"] for row in rows]
    exponent = growth["exponent"]["gather_s"]["all_sizes"]
    axes.loglog(
        sizes, gathers, "^:", color=_COLOURS[1], label=f"reading the rows alone, exponent {exponent:.2f}"
    )
    linear = [seconds[-1] * size / sizes[-1] for size in sizes]
    axes.loglog(sizes, linear, ":", color="grey", label="exactly linear")
    axes.set_ylabel("seconds a propagation and its gradient")
    axes.set_xlabel("interactions")
    right = axes.twinx()
    gib = [row["memory_bytes"]["growth"] / 2**30 for row in rows]
    exponent = growth["exponent"]["memory"]["all_sizes"]
    right.loglog(sizes, gib, "s--", color=_ACCENT, label=f"memory, exponent {exponent:.2f}")
    right.set_ylabel("GiB beyond a tiny graph")
    # Both axes span the same factor, so that equal slopes look equal.
    span = max(max(seconds) / min(seconds), max(gib) / min(gib)) * 12
    for own, values in ((axes, seconds), (right, gib)):
        middle = (max(values) * min(values)) ** 0.5
        own.set_ylim(middle / span**0.5, middle * span**0.5)
        own.spines["top"].set_visible(False)
        _plain(own.yaxis)
    handles = [*axes.get_lines(), *right.get_lines()]
    axes.legend(
        handles, [str(line.get_label()) for line in handles], fontsize=8, loc="upper left", frameon=False
    )


def _peers(axes: Axes, peers: dict[str, Any]) -> None:
    entries = [("COO LightGCN\n128 dim., batch", peers["coo_lightgcn"])]
    if isinstance(peers["implicit_bpr"], list):
        entries += [
            (f"implicit BPR, MF\n{row['width']} dim., {row['batch_size']:,} a batch", row)
            for row in peers["implicit_bpr"]
        ]
    for place, (_, row) in enumerate(entries):
        ratio = row["ratio"]
        colour = _INK if ratio["median"] >= 1 else _ACCENT
        axes.barh(place, ratio["median"], color=colour, height=0.6)
        axes.plot([ratio["min"], ratio["max"]], [place, place], color="black", linewidth=1)
        axes.text(ratio["max"] * 1.06, place, f"{ratio['median']:.2f}", va="center", fontsize=9)
    axes.axvline(1, color="black", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    _plain(axes.xaxis)
    highest = max(row["ratio"]["max"] for _, row in entries)
    lowest = min(row["ratio"]["min"] for _, row in entries)
    axes.set_xlim(min(0.5, lowest / 1.5), max(2.0, highest * 1.6))
    axes.set_yticks(range(len(entries)), [label for label, _ in entries], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds of the peer / ours")
    axes.spines[["top", "right"]].set_visible(False)


def draw(result: dict[str, Any], path: Path) -> None:
    """Seconds a batch, an evaluation, growth, shares of the machine's limits, and peers."""
    rows = {(row["dataset"], row["recommender"], row["width"]): row for row in result["rows"]}
    names = list(dict.fromkeys(row["recommender"] for row in result["rows"]))
    widths = list(dict.fromkeys(row["width"] for row in result["rows"]))
    figure = Figure(figsize=(13, 11), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, height_ratios=(2, 1), hspace=0.02)
    pairs = upper.subplots(2, 2)
    share, growth, peers = lower.subplots(1, 3)
    for n, dataset in enumerate(_TITLES):
        batch, evaluation = pairs[:, n]
        _groups(batch, names, widths, lambda a, w, d=dataset: rows[d, a, w]["batch"]["median_s"])
        _groups(evaluation, names, widths, lambda a, w, d=dataset: rows[d, a, w]["evaluation"]["median_s"])
        for axes, what in ((batch, "a batch of 10,000 triples"), (evaluation, "an evaluation")):
            axes.set_yscale("log")
            _plain(axes.yaxis)
            axes.set_title(f"{_TITLES[dataset]}: {what}")
            axes.set_ylabel("seconds")
            low, high = axes.get_ylim()
            axes.set_ylim(low, high * 1.6)
    pairs[0, 0].legend(fontsize=8, frameon=False, ncols=len(widths), loc="upper left")
    known = [name for name in names if rows["ml-1m", name, widths[0]]["share_of_limit"]]
    _groups(share, known, widths, lambda a, w: 100 * rows["gowalla", a, w]["share_of_limit"]["compulsory"])
    share.set_title("Gowalla: share of the machine's limit")
    share.set_ylabel("% of bandwidth or arithmetic, a batch")
    growth.set_title("LightGCN: growth at 32 dimensions")
    _growth(growth, result["growth"])
    peers.set_title("Beside other code, MovieLens-1M")
    _peers(peers, result["peers"])
    figure.suptitle(
        f"{result['threads']} threads of {result['machine']}, torch {result['torch']}; "
        f"{result['limits']['bandwidth_bytes_per_s'] / 1e9:.0f} GB/s, "
        f"{result['limits']['flops_per_s'] / 1e9:.0f} GFLOP/s",
        fontsize=10,
    )
    figure.savefig(path, dpi=120)
