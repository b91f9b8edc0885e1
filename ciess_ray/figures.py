"""Figures of one search."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ciess_ray.result import Candidate
from envs.budget import EmbeddingSizes
from envs.data import Interactions


def draw_sizes(path: Path, interactions: Interactions, sizes: EmbeddingSizes) -> None:
    """Embedding size against training interactions, users and items side by side."""
    figure = _figure(9, 3.6)
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("user", "item"), strict=True):
        own = getattr(sizes, kind)
        counts = getattr(interactions, f"{kind}_popularity")
        axes.scatter(np.maximum(counts, 0.7), own, s=6, alpha=0.35, linewidths=0)
        axes.set_xscale("log")
        axes.set_title(f"{len(own)} {kind}s, mean size {own.mean():.1f}")
        axes.set_xlabel("training interactions")
    figure.axes[0].set_ylabel("embedding size")
    figure.savefig(path, dpi=120)


def draw_search(path: Path, candidates: Sequence[Candidate], full_quality: float, cap_params: int) -> None:
    """Validation quality of every step, in order, with the full table's as a line."""
    figure = _figure(6.5, 3.6)
    axes = figure.subplots()
    for is_within, label in ((True, "within the budget"), (False, "above it")):
        chosen = [c for c in candidates if (c.sizes.num_params <= cap_params) == is_within]
        if chosen:
            axes.scatter([c.step for c in chosen], [c.quality for c in chosen], s=14, label=label)
    axes.axhline(full_quality, color="grey", linewidth=1, label="full size, fully trained")
    axes.set_xlabel("candidate of the search")
    axes.set_ylabel("validation quality")
    axes.legend()
    figure.savefig(path, dpi=120)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
