"""The page: sections of figures and tables, filled into a template that escapes every name from a file.

Its figures stand in it, and lie beside it as files.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ciess_ray.figures import to_png, to_svg
from ciess_ray.files.whole import write_whole
from ciess_ray.metric_keys import RANKING_TERMS
from ciess_ray.names import EQUAL_SIZES, YARDSTICKS
from ciess_ray.report.clock import clock_table
from ciess_ray.report.drawings import Drawing, chosen_searches, draw_all
from ciess_ray.report.material import Search, kind_of, read_material
from ciess_ray.report.measurements import seed_means, verdicts, whole_percent
from ciess_ray.report.recipes import recipes_table, recommenders_table
from ciess_ray.report.stream import places, read_stream, verdict
from ciess_ray.report.stream_drawings import draw_stream
from ciess_ray.report.stream_tables import stream_tables
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
from ciess_ray.searches.hints import refit_note
from envs.errors import ResultError

#: Of a page, in which its mark stands.
_HEAD_BYTES = 2_000


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
        folders: Of searches, sweeps and comparisons, in any mixture, or of one stream.
        output: The page; its figures go to ``<stem>_figures/``.
        overwrite: Whether what is there may be replaced that is no report on the same folders; such a one is.

    Raises:
        ResultError: A folder is none of these or damaged, or another file is there already.
    """
    folder = output.with_name(f"{output.stem}_figures")
    if output.is_dir() or folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ResultError(f"{output}: cannot be written; name an HTML file.")
    content, mark = _content(folders), _mark(folders)
    if output.exists() and not (overwrite or _bears(output, mark)):
        raise ResultError(
            f"{output}: is there already, and is no report on the same folders; name another file with "
            "--output, or add --overwrite."
        )
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for number, drawing in enumerate(content.drawings, 1):
        svg = Markup(to_svg(drawing.figure, drawing.name, drawing.alt))
        png = to_png(drawing.figure)
        # Another figure has another name: a page that is there keeps its own until it is replaced.
        file = folder / f"{number:02}-{drawing.name}-{hashlib.sha256(png).hexdigest()[:8]}.png"
        write_whole(file, png)
        pictures[file] = (drawing, svg, quote(f"{folder.name}/{file.name}"))
    page = _render(
        content.template,
        tables={part: [table for table in of_part if table.rows] for part, of_part in content.tables.items()},
        pictures=list(pictures.values()),
        mark=mark,
        **content.values,
    )
    write_whole(output, page)
    # What a former page showed, and what one that was killed had begun.
    for file in sorted([*folder.glob("[0-9][0-9]-*.png"), *folder.glob(".[0-9][0-9]-*.partial")]):
        if file not in pictures:
            file.unlink()
    return Report(output, tuple(pictures), folder, content.headline)


def _mark(folders: Sequence[Path]) -> str:
    """By which a page is known to be a report on these folders, wherever they are named from."""
    places = "\n".join(str(folder.resolve()) for folder in folders)
    return hashlib.sha256(places.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _bears(page: Path, mark: str) -> bool:
    """Whether a file is a page with a mark, which stands in its head."""
    if not page.is_file():
        return False
    with page.open("rb") as file:
        return f'<meta name="ciess-ray-report" content="{mark}">'.encode() in file.read(_HEAD_BYTES)


@dataclass(frozen=True, eq=False)
class _Content:
    """What a page is filled with.

    Attributes:
        template: Its name.
        headline: See :class:`Report`.
        drawings: Its figures, one after the other.
        tables: By the part of the page in which they stand, as drawings know theirs.
        values: What else the template takes.
    """

    template: str
    headline: str
    drawings: Iterable[Drawing]
    tables: Mapping[str, Sequence[Table]]
    values: Mapping[str, Any]


def _content(folders: Sequence[Path]) -> _Content:
    """Of a stream alone, or of searches, sweeps and comparisons."""
    streams = [folder for folder in folders if kind_of(folder) == "stream"]
    if streams and len(folders) > 1:
        raise ResultError(f"{streams[0]}: a stream has a page of its own; name it alone.")
    return _of_stream(streams[0]) if streams else _of_searches(folders)


def _of_stream(folder: Path) -> _Content:
    material = read_stream(folder)
    told = verdict(material)
    budget = material.config["budget"]
    looks = {method: "rival" if method in material.tables else "full" for method in material.methods}
    looks |= {EQUAL_SIZES: "equal", material.best: "search"}
    return _Content(
        "stream.html",
        told.sentence if told else "",
        draw_stream(material),
        stream_tables(material),
        {
            "material": material,
            "verdict": told,
            "places": places(material),
            "budget": f"budget {budget}",
            "over": "segment 000" if len(material.segments) == 1 else "mean of segments after the first",
            "looks": looks,
            "full_scale": max([100.0, *(told.bars.values() if told else ())]),
            "terms": RANKING_TERMS,
        },
    )


def _of_searches(folders: Sequence[Path]) -> _Content:
    material = read_material(folders)
    means = seed_means(material.cells)
    of_tables = material.cells[~material.cells["method"].isin(YARDSTICKS)]
    every_verdict = list(verdicts(means))
    has_seeds = any(len(row["seeds"]) > 1 for row in means)
    searches = material.searches
    chosen = chosen_searches(searches)
    tables = {
        "tables": [*([means_table(means)] if has_seeds else []), cells_table(material.cells)],
        "sizes": [largest_table([search for search in chosen if search.entities])],
        "retrained": [retrained_table(chosen), recommenders_table(chosen), recipes_table(chosen)],
        "took": [clock_table(chosen), files_table(searches)],
        "about": [
            budget_table(searches),
            data_table(searches),
            versions_table(material.versions),
            *fields_tables(material.configs),
        ],
    }
    values = {
        "material": material,
        "places": list(dict.fromkeys(of_tables["recommender"] + " on " + of_tables["dataset"])),
        "has_figures": bool(means),
        "has_seeds": has_seeds,
        "verdicts": every_verdict,
        "full_scale": max([100.0, *(share for one in every_verdict for share in one.shares.values())]),
        "terms": RANKING_TERMS,
        "hints": _hints(searches),
        "num_chosen": len(chosen),
    }
    headline = every_verdict[0].sentence if every_verdict else ""
    return _Content("page.html", headline, draw_all(means, searches), tables, values)


def _render(template: str, **values: Any) -> str:
    """The whole page, which needs nothing beside it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": whole_percent, "hash": _hash}
    return environment.get_template(template).render(values)


def _hash(text: str) -> str:
    """By which a policy of content allows a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _hints(searches: Sequence[Search]) -> Mapping[str, Sequence[str]]:
    """Each hint once, with the searches that give it, and what their tables know that figures do not."""
    hints: dict[str, list[str]] = {}
    for search in searches:
        note = refit_note(search.summary.get("refit"))
        for hint in dict.fromkeys([*search.summary.get("hints", []), *([note] if note else [])]):
            hints.setdefault(hint, []).append(search.label)
    return hints
