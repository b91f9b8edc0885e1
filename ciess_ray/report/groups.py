"""Means over seeds, and what a table costs in plain words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH
from ciess_ray.plain_text import percent
from ciess_ray.report.cells import Measurement
from ciess_ray.statistics import Spread

#: What the headline is about.
HEADLINE_METRIC = "recall@20"
_QUALITY = "quality"
_ORDER = {SEARCH: 0, EQUAL_SIZES: 1, FULL_SIZE: 3}
_THIN = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class SeedMeans:
    """Means of measurements that differ in the seed alone.

    Attributes:
        cell: The first of them.
        seeds: Theirs, where they are known.
        figures: Means; bytes, parameters and kept ratio are the largest.
        validation: By metric.
        test: By metric.
    """

    cell: Measurement
    seeds: Sequence[int]
    figures: Mapping[str, float]
    validation: Mapping[str, Spread]
    test: Mapping[str, Spread]

    @property
    def method(self) -> str:
        """Of all its cells."""
        return self.cell.method

    @property
    def packed_bytes(self) -> float | None:
        """Of the largest table."""
        return self.figures.get("packed_bytes")

    @property
    def series(self) -> str:
        """The method, with whatever tells it from others."""
        return ", ".join((self.method, *self.cell.settings))


def group_cells(cells: Iterable[Measurement]) -> list[SeedMeans]:
    """Finished cells by what they share; by data and recommender, the smallest budgets first."""
    by_key: dict[tuple[object, ...], list[Measurement]] = {}
    for cell in cells:
        if cell.is_finished:
            key = (cell.dataset, cell.recommender, cell.budget, cell.method, cell.settings)
            by_key.setdefault(key, []).append(cell)
    groups = [_group(own) for own in by_key.values()]
    return sorted(
        groups,
        key=lambda group: (
            group.cell.dataset,
            group.cell.recommender,
            group.method == FULL_SIZE,
            group.packed_bytes or 0,
            _ORDER.get(group.method, 2),
        ),
    )


def _group(cells: Sequence[Measurement]) -> SeedMeans:
    largest = ("packed_bytes", "served_bytes", "served_with_histories_bytes", "num_params", "kept_ratio")
    return SeedMeans(
        cells[0],
        sorted({cell.seed for cell in cells if cell.seed is not None}),
        {
            name: max(values) if name in largest else sum(values) / len(values)
            for name, values in _columns([cell.figures for cell in cells]).items()
        },
        {name: Spread.of(v) for name, v in _columns([cell.validation for cell in cells]).items()},
        {name: Spread.of(v) for name, v in _columns([cell.test for cell in cells]).items()},
    )


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row[name] for row in rows if name in row] for name in names}


@dataclass(frozen=True)
class Verdict:
    """What the searched table of one budget costs.

    Attributes:
        where: Recommender and data.
        budget: As it was asked for.
        share_of_bytes: Of the full table's bytes.
        share: Of full size's metric that is kept, in percent.
        equal_share: The same of equal sizes; None where they were not measured.
        rival: The best other method on validation, and its share; None where there is none.
        num_seeds: Over which the means are; 0 where seeds are not known.
    """

    where: str
    budget: str
    share_of_bytes: float
    share: float
    equal_share: float | None
    rival: tuple[str, float] | None
    num_seeds: int

    @property
    def sentence(self) -> str:
        """In plain words."""
        text = (
            f"At {whole_percent(self.share_of_bytes)} of the bytes the search keeps "
            f"{whole_percent(self.share)} of full size's R@20"
        )
        if self.equal_share is not None:
            text += f"; equal sizes keep {whole_percent(self.equal_share)}"
        if self.rival is not None:
            name, share = self.rival
            text += f", and {name}, on validation the best of the other methods, {whole_percent(share)}"
        return f"{text}."

    @property
    def is_behind(self) -> bool:
        """Whether equal sizes are better on test."""
        return self.equal_share is not None and self.share < self.equal_share


def verdicts(groups: Sequence[SeedMeans]) -> list[Verdict]:
    """One for each searched budget that has a full table to be measured against, in the groups' order.

    Of several searches at one budget, and of several other methods, the best on validation is told of: to
    choose by test figures would flatter it.
    """
    found = []
    by_place: dict[tuple[str, str], list[SeedMeans]] = {}
    for group in groups:
        by_place.setdefault((group.cell.dataset, group.cell.recommender), []).append(group)
    for (dataset, recommender), own in by_place.items():
        for budget in dict.fromkeys(group.cell.budget for group in own if group.method == SEARCH):
            at_budget = [group for group in own if group.cell.budget == budget]
            searched = _best(group for group in at_budget if group.method == SEARCH)
            full = _beside(searched, own, FULL_SIZE)
            if searched is None or full is None or not full.packed_bytes or not searched.packed_bytes:
                continue
            equal = _beside(searched, at_budget, EQUAL_SIZES)
            rival = _best(
                group for group in at_budget if group.method not in (SEARCH, EQUAL_SIZES, FULL_SIZE)
            )
            found.append(
                Verdict(
                    f"{recommender} on {dataset}",
                    budget,
                    100 * searched.packed_bytes / full.packed_bytes,
                    _share(searched, full),
                    None if equal is None else _share(equal, full),
                    None if rival is None else (rival.method, _share(rival, full)),
                    len(searched.seeds),
                )
            )
    return found


def _best(groups: Iterable[SeedMeans]) -> SeedMeans | None:
    measured = [group for group in groups if HEADLINE_METRIC in group.test]

    def quality(group: SeedMeans) -> float:
        spread = group.validation.get(_QUALITY)
        return -1.0 if spread is None else spread.mean

    return max(measured, key=quality, default=None)


def _beside(searched: SeedMeans | None, groups: Iterable[SeedMeans], method: str) -> SeedMeans | None:
    """Those of a method that share their settings with the searched table, where any do."""
    measured = [group for group in groups if group.method == method and HEADLINE_METRIC in group.test]
    own = set(searched.cell.settings if searched else ())
    return next(
        (group for group in measured if own.issuperset(group.cell.settings)), next(iter(measured), None)
    )


def _share(group: SeedMeans, full: SeedMeans) -> float:
    whole = full.test[HEADLINE_METRIC].mean if HEADLINE_METRIC in full.test else 0.0
    return 100 * group.test[HEADLINE_METRIC].mean / whole if whole else 0.0


def whole_percent(value: float) -> str:
    """Whole percents, tenths where they are few."""
    return percent(value, 0 if value >= 9.95 else 1).replace("%", f"{_THIN}%")
