"""The page: sections of figures and tables, filled into a template that escapes every name from a file."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ciess_ray.metric_keys import RANKING_TERMS
from ciess_ray.report.drawings import Drawing, chosen_searches
from ciess_ray.report.groups import SeedMeans, Verdict, verdicts, whole_percent
from ciess_ray.report.material import Material, Search
from ciess_ray.report.table import Table
from ciess_ray.report.tables import (
    budget_table,
    cells_table,
    data_table,
    fields_table,
    files_table,
    largest_tables,
    means_table,
    retrained_table,
    versions_table,
)

_MAX_CARDS = 12


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
        name: Its anchor.
        title: Its heading.
        intro: A sentence or two under it.
        pictures: Its figures.
        tables: Its tables.
        folded: Tables that are long and seldom read.
    """

    name: str
    title: str
    intro: str
    pictures: Sequence[Picture]
    tables: Sequence[Table]
    folded: Sequence[Table] = ()

    @property
    def paired(self) -> list[Table]:
        """Tables that stand beside figures: those that have room there."""
        return [table for table in self.tables if table.rows and table.is_narrow]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.pictures or any(table.rows for table in (*self.tables, *self.folded)))


def render(material: Material, groups: Sequence[SeedMeans], pictures: Sequence[Picture]) -> str:
    """The whole page, which needs nothing beside it."""
    found = verdicts(groups)
    style, script = (_asset(name) for name in ("page.css", "sort.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Our own drawing, whose labels are escaped already.
    environment.filters |= {"ink": Markup, "percent": whole_percent}
    return environment.from_string(_asset("page.html")).render(
        title=_title(material),
        eyebrow=_eyebrow(material),
        lead=_lead(found, groups),
        terms=RANKING_TERMS if groups else {},
        caution=_caution(found),
        verdicts=found[:_MAX_CARDS],
        num_more=max(0, len(found) - _MAX_CARDS),
        full_scale=max([100.0, *(share for own in found for share in _shares(own))]),
        hints=_hints(material.searches),
        sections=[section for section in _sections(material, groups, pictures) if not section.is_empty],
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def _asset(name: str) -> str:
    return (files("ciess_ray.report") / name).read_text(encoding="utf-8")


def _title(material: Material) -> str:
    names = [source.name for source in material.sources]
    if len(names) <= 3:
        return " · ".join(names)
    return f"{len(names)} folders compared"


def _eyebrow(material: Material) -> str:
    kinds = [source.kind for source in material.sources]
    many = {"search": "searches", "sweep": "sweeps", "comparison": "comparisons"}
    told = [
        kind.capitalize() if kinds.count(kind) == 1 else f"{kinds.count(kind)} {many[kind]}"
        for kind in dict.fromkeys(kinds)
    ]
    places = list(dict.fromkeys(f"{cell.recommender} on {cell.dataset}" for cell in material.cells))
    return " · ".join(
        [*told, *(places if len(places) <= 3 else [f"{len(places)} recommenders and data sets"])]
    )


def _lead(found: Sequence[Verdict], groups: Sequence[SeedMeans]) -> str:
    if found:
        own = found[0]
        is_one_place = len({verdict.where for verdict in found}) == 1
        return own.sentence if is_one_place else f"{own.where}: {own.sentence}"
    if groups:
        return "There is no searched table beside a full one yet, against which it could be measured."
    return "Nothing is finished yet."


def _caution(found: Sequence[Verdict]) -> list[str]:
    notes = []
    behind = [verdict for verdict in found if verdict.is_behind]
    if behind and len(found) == 1:
        notes.append("On test, equal sizes are ahead of the search here.")
    elif behind:
        budgets = ", ".join(f"{own.where} at {own.budget}" for own in behind)
        notes.append(f"On test, equal sizes are ahead of the search for {budgets}.")
    if found and max(own.num_seeds for own in found) <= 1:
        notes.append("One seed: differences of a few percent may be chance.")
    return notes


def _shares(verdict: Verdict) -> list[float]:
    rival = [] if verdict.rival is None else [verdict.rival[1]]
    equal = [] if verdict.equal_share is None else [verdict.equal_share]
    return [verdict.share, *equal, *rival]


def _hints(searches: Sequence[Search]) -> list[tuple[str, list[str]]]:
    """Each hint once, with the searches that give it; no names where there is one search alone."""
    by_hint: dict[str, list[str]] = {}
    for search in searches:
        for hint in search.summary.get("hints", ()):
            by_hint.setdefault(str(hint), []).append(search.label)
    return [(hint, labels if len(searches) > 1 else []) for hint, labels in by_hint.items()]


def _sections(material: Material, groups: Sequence[SeedMeans], pictures: Sequence[Picture]) -> list[Section]:
    searches = material.searches
    chosen = chosen_searches(searches)
    differ, same = fields_table(
        "config", "Fields of the configuration", [own.config for own in material.about]
    )

    def of(name: str) -> list[Picture]:
        return [picture for picture in pictures if picture.drawing.section == name]

    some = (
        ""
        if len(chosen) == len(searches)
        else f" Shown are {len(chosen)} of {len(searches)} searches: of each data set, recommender and "
        "budget the best on validation."
    )
    has_seeds = any(len(group.seeds) > 1 for group in groups)
    tables = [*([means_table(groups)] if has_seeds else []), cells_table(material.cells)]
    return [
        Section(
            "quality",
            "Quality against memory",
            "What a table of so many bytes is worth on test, beside what you would have done by hand.",
            of("quality"),
            [],
        ),
        Section("tables", "All figures", "Click a heading to sort by it.", [], tables),
        Section(
            "sizes",
            "Who got how much",
            f"Sizes of the packed tables against how often an entity was seen in training.{some}",
            of("sizes"),
            largest_tables([search for search in chosen if search.entities]),
        ),
        Section(
            "course",
            "How the search went",
            f"From random tables to those that the actors choose.{some}",
            of("course"),
            [],
        ),
        Section(
            "retrained",
            "What was retrained",
            "The best tables of the search are trained to convergence; validation decides which is packed.",
            of("retrained"),
            [retrained_table(chosen)],
        ),
        Section(
            "took",
            "What it took",
            "Time, and bytes on disk: what the budget caps and what lies beside it.",
            of("took"),
            [files_table(searches)],
        ),
        Section(
            "about",
            "How it came about",
            "",
            [],
            [budget_table(searches), data_table(searches), versions_table(material.about), differ],
            [same],
        ),
    ]
