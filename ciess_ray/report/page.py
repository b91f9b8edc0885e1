"""The page: sections of figures and tables, filled into a template that escapes every name from a file.

Its figures stand in it, and lie beside it as files.
"""

import base64
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ciess_ray.figures import to_png, to_svg
from ciess_ray.files.whole import write_whole
from ciess_ray.metric_keys import RANKING_TERMS
from ciess_ray.report.drawings import Drawing, chosen_searches, draw_all
from ciess_ray.report.material import Material, Search, read_material
from ciess_ray.report.measurements import SeedMeans, group_cells, verdicts, whole_percent
from ciess_ray.report.tables import (
    Table,
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
    write_whole(output, _render(material, groups, list(pictures.values())))
    # What a former page showed, and what one that was killed had begun.
    for file in sorted([*folder.glob("[0-9][0-9]-*.png"), *folder.glob(".[0-9][0-9]-*.partial")]):
        if file not in pictures:
            file.unlink()
    headline = next((verdict.sentence for verdict in verdicts(groups)), "")
    return Report(output, tuple(pictures), folder, headline)


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawing, as the page holds it.

    Attributes:
        drawing: What it is.
        svg: An element of the page.
        png: Where the same lies as a file, seen from the page.
    """

    drawing: Drawing
    svg: str
    png: str


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page.

    Attributes:
        name: Its anchor, which its figures name.
        title: Its heading.
        intro: A sentence or two under it.
        tables: Its tables.
        folded: Tables that are long and seldom read.
    """

    name: str
    title: str
    intro: str
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()


def _render(material: Material, groups: Sequence[SeedMeans], pictures: Sequence[Picture]) -> str:
    """The whole page, which needs nothing beside it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Our own drawing, whose labels are escaped already.
    environment.filters |= {"ink": Markup, "percent": whole_percent, "hash": _hash}
    every_verdict = verdicts(groups)
    has_seeds = any(len(group.seeds) > 1 for group in groups)
    drawn = {picture.drawing.section for picture in pictures}
    return environment.get_template("page.html").render(
        material=material,
        places=list(dict.fromkeys(f"{cell.recommender} on {cell.dataset}" for cell in material.cells)),
        has_figures=bool(groups),
        has_seeds=has_seeds,
        verdicts=every_verdict,
        full_scale=max([100.0, *(share for verdict in every_verdict for share in verdict.shares.values())]),
        terms=RANKING_TERMS,
        hints=_hints(material.searches),
        sections=[
            section
            for section in _sections(material, groups, has_seeds)
            if section.name in drawn or any(table.rows for table in (*section.tables, *section.folded))
        ],
        pictures=pictures,
    )


def _hash(text: str) -> str:
    """By which a policy of content allows a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _hints(searches: Sequence[Search]) -> dict[str, list[str]]:
    """Each hint once, with the searches that give it."""
    hints = {search.label: search.summary.get("hints", []) for search in searches}
    return {
        hint: [label for label, given in hints.items() if hint in given]
        for hint in itertools.chain.from_iterable(hints.values())
    }


def _sections(material: Material, groups: Sequence[SeedMeans], has_seeds: bool) -> list[Section]:
    searches = material.searches
    chosen = chosen_searches(searches)
    differ, same = fields_tables(material.configs)
    some = (
        ""
        if len(chosen) == len(searches)
        else f" Shown are {len(chosen)} of {len(searches)} searches: of each data set, recommender and "
        "budget the best on validation."
    )
    return [
        Section(
            "quality",
            "Quality against memory",
            "What a table of so many bytes is worth on test, beside what you would have done by hand.",
        ),
        Section(
            "tables",
            "All figures",
            "Click a heading to sort by it.",
            [*([means_table(groups)] if has_seeds else []), cells_table(material.cells)],
        ),
        Section(
            "sizes",
            "Who got how much",
            f"Sizes of the packed tables against how often an entity was seen in training.{some}",
            [largest_table([search for search in chosen if search.entities])],
        ),
        Section(
            "course",
            "How the search went",
            f"From random tables to those that the actors choose.{some}",
        ),
        Section(
            "retrained",
            "What was retrained",
            "The best tables of the search are trained to convergence; validation decides which is packed.",
            [retrained_table(chosen)],
        ),
        Section(
            "took",
            "What it took",
            "Time, and bytes on disk: what the budget caps and what lies beside it.",
            [files_table(searches)],
        ),
        Section(
            "about",
            "How it came about",
            "",
            [budget_table(searches), data_table(searches), versions_table(material.versions), differ],
            [same],
        ),
    ]
