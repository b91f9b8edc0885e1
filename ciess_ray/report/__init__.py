"""One page on searches, sweeps and comparisons, out of their folders alone; without Ray and MLflow."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ciess_ray.figures import to_png, to_svg
from ciess_ray.files.whole import write_whole
from ciess_ray.report.drawings import draw_all
from ciess_ray.report.material import read_material
from ciess_ray.report.measurements import group_cells, verdicts
from ciess_ray.report.page import Picture, render
from envs.errors import ResultError

__all__ = ["Report", "write_report"]


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: The HTML file.
        figures: The PNG files beside it.
        figures_folder: Where these lie.
        headline: What the first table costs, in plain words; empty where nothing is finished.
    """

    page: Path
    figures: tuple[Path, ...]
    figures_folder: Path
    headline: str


def write_report(folders: Sequence[Path], output: Path, *, overwrite: bool = False) -> Report:
    """Tell of folders in one HTML page, with its figures as PNG files in a folder beside it.

    The page needs nothing else and no network. The same folders give the same bytes. A process that is killed
    leaves the old page with its figures or the new one with its own.

    Args:
        folders: Of searches, sweeps and comparisons, in any mixture.
        output: The page; its figures go to ``<stem>_figures/``.
        overwrite: Whether a page that is there may be replaced.

    Raises:
        ResultError: A folder is none of these or damaged, or the page is there already.
    """
    folder = output.with_name(f"{output.stem}_figures")
    if output.is_dir() or folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ResultError(f"{output}: cannot be written; name an HTML file.")
    material = read_material(folders)
    if output.exists() and not overwrite:
        raise ResultError(f"{output}: is there already; name another file with --output, or add --overwrite.")
    groups = group_cells(material.cells)
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[Path, Picture] = {}
    for number, drawing in enumerate(draw_all(groups, material.searches), 1):
        svg = to_svg(drawing.figure, drawing.name, drawing.alt)
        png = to_png(drawing.figure)
        # Another figure has another name: a page that is there keeps its own until it is replaced.
        file = folder / f"{number:02}-{drawing.name}-{hashlib.sha256(png).hexdigest()[:8]}.png"
        write_whole(file, png)
        pictures[file] = Picture(drawing, svg, quote(f"{folder.name}/{file.name}"))
    write_whole(output, render(material, groups, list(pictures.values())))
    # What a former page showed, and what one that was killed had begun.
    for file in sorted([*folder.glob("[0-9][0-9]-*.png"), *folder.glob(".[0-9][0-9]-*.partial")]):
        if file not in pictures:
            file.unlink()
    headline = next((verdict.sentence for verdict in verdicts(groups)), "")
    return Report(output, tuple(pictures), folder, headline)
