"""Every figure of searches, sweeps and reports, drawn from plain arrays without Ray and MLflow."""

from ciess_ray.figures.course import (
    Course,
    Retrained,
    draw_course,
    draw_memory_course,
    draw_retrained,
    draw_seconds,
)
from ciess_ray.figures.stream import Panel, draw_segments
from ciess_ray.figures.style import format_bytes, save_png, to_png, to_svg
from ciess_ray.figures.tables import Point, draw_deciles, draw_quality, draw_sizes

__all__ = [
    "Course",
    "Panel",
    "Point",
    "Retrained",
    "draw_course",
    "draw_deciles",
    "draw_memory_course",
    "draw_quality",
    "draw_retrained",
    "draw_seconds",
    "draw_segments",
    "draw_sizes",
    "format_bytes",
    "save_png",
    "to_png",
    "to_svg",
]
