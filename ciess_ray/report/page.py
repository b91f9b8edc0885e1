"""The page: sections of figures and tables, filled into a template that escapes every name from a file.

Its figures stand in it, and lie beside it as files.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ciess_ray.figures import to_png, to_svg
from ciess_ray.files.whole import write_whole
from ciess_ray.metric_keys import RANKING_TERMS
from ciess_ray.report.drawings import chosen_searches, draw_all
from ciess_ray.report.material import Search, read_material
from ciess_ray.report.measurements import seed_means, verdicts, whole_percent
from ciess_ray.report.tables import (
    budget_table,
    cells_table,
    data_table,
    fields_tables,
    files_table,
    largest_table,
    means_table,
    retrained_table,
    versions_table,
)
from envs.errors import ResultError


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
    means = seed_means(material.cells)
    every_verdict = list(verdicts(means))
    has_seeds = any(len(row["seeds"]) > 1 for row in means)
    searches = material.searches
    chosen = chosen_searches(searches)
    # By the part of the page in which they stand, as drawings know theirs.
    tables = {
        "tables": [*([means_table(means)] if has_seeds else []), cells_table(material.cells)],
        "sizes": [largest_table([search for search in chosen if search.entities])],
        "retrained": [retrained_table(chosen)],
        "took": [files_table(searches)],
        "about": [
            budget_table(searches),
            data_table(searches),
            versions_table(material.versions),
            *fields_tables(material.configs),
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for number, drawing in enumerate(draw_all(means, searches), 1):
        svg = Markup(to_svg(drawing.figure, drawing.name, drawing.alt))
        png = to_png(drawing.figure)
        # Another figure has another name: a page that is there keeps its own until it is replaced.
        file = folder / f"{number:02}-{drawing.name}-{hashlib.sha256(png).hexdigest()[:8]}.png"
        write_whole(file, png)
        pictures[file] = (drawing, svg, quote(f"{folder.name}/{file.name}"))
    page = _render(
        material=material,
        places=list(dict.fromkeys(material.cells["recommender"] + " on " + material.cells["dataset"])),
        has_figures=bool(means),
        has_seeds=has_seeds,
        verdicts=every_verdict,
        full_scale=max([100.0, *(share for verdict in every_verdict for share in verdict.shares.values())]),
        terms=RANKING_TERMS,
        hints=_hints(searches),
        num_chosen=len(chosen),
        tables={part: [table for table in of_part if table.rows] for part, of_part in tables.items()},
        pictures=list(pictures.values()),
    )
    write_whole(output, page)
    # What a former page showed, and what one that was killed had begun.
    for file in sorted([*folder.glob("[0-9][0-9]-*.png"), *folder.glob(".[0-9][0-9]-*.partial")]):
        if file not in pictures:
            file.unlink()
    headline = every_verdict[0].sentence if every_verdict else ""
    return Report(output, tuple(pictures), folder, headline)


def _render(**values: Any) -> str:
    """The whole page, which needs nothing beside it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": whole_percent, "hash": _hash}
    return environment.get_template("page.html").render(values)


def _hash(text: str) -> str:
    """By which a policy of content allows a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _hints(searches: Sequence[Search]) -> Mapping[str, Sequence[str]]:
    """Each hint once, with the searches that give it."""
    hints: dict[str, list[str]] = {}
    for search in searches:
        for hint in dict.fromkeys(search.summary.get("hints", [])):
            hints.setdefault(hint, []).append(search.label)
    return hints
