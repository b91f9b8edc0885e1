"""What was measured: a cell a method, budget and seed, means over seeds, and what a table costs in words."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH, SWEEP_PREFIXES, flatten
from ciess_ray.plain_text import percent
from ciess_ray.report.checks import is_number
from ciess_ray.result import NOT_SETTINGS, dataset_name
from ciess_ray.statistics import Spread

#: What the headline is about, and what chooses.
HEADLINE_METRIC, QUALITY = "test/recall@20", "validation/quality"
#: Fields that have a column of their own, or whose names in a sweep do not tell trials apart.
_OWN_COLUMNS = ("budget", "seed", "dataset.path", "dataset.sample", "recommender.name")
#: Sections that change what a search finds, and not what other methods give.
_OF_SEARCH_ALONE = ("search.", "agent.")
_FIELD = "field/"
_FINISHED = "finished"
#: Of several seeds the largest is told, not the mean.
_LARGEST = ("packed_bytes", "served_bytes", "served_with_histories_bytes", "num_params", "kept_ratio")
_ORDER = {SEARCH: 0, EQUAL_SIZES: 1, FULL_SIZE: 3}
_THIN = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Measurement:
    """One method, trained and measured at one budget with one seed; what is not known is None.

    Attributes:
        source: The search, trial or comparison that it comes from.
        dataset: Name of the data.
        recommender: Name of the base recommender.
        budget: As it was asked for; none of full size.
        method: ``full size``, ``equal sizes``, ``search``, or another baseline.
        seed: Of every draw.
        settings: What else tells it from others, e.g. ``agent.gamma=0.5``.
        status: ``finished``, or what became of it.
        error: Why it failed.
        figures: ``num_params``, ``packed_bytes``, ``validation/quality``, ``test/recall@20`` and the like.
    """

    source: str
    dataset: str
    recommender: str
    budget: str
    method: str
    seed: int | None
    settings: tuple[str, ...]
    status: str
    error: str | None
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether it was measured."""
        return self.status == _FINISHED

    @property
    def place(self) -> tuple[Any, ...]:
        """What it shares with the same of other seeds."""
        return (self.dataset, self.recommender, self.budget, self.method, self.settings)


def search_cells(summaries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Measurement]:
    """What searches have measured; one that has not got there is one cell that says so.

    Args:
        summaries: For each search its label and what its ``result.json`` says.
    """
    rows = [
        {
            "dataset": dataset_name(summary["config"]),
            "recommender": summary["config"]["recommender"]["name"],
            "budget": summary["budget"]["asked"],
            "seed": summary["config"]["seed"],
        }
        for _, summary in summaries
    ]
    all_settings = _differing(
        {
            name: value
            for name, value in flatten(summary["config"]).items()
            if name.partition(".")[0] not in NOT_SETTINGS and name not in _OWN_COLUMNS
        }
        for _, summary in summaries
    )
    keys = [(*row.values(), *settings) for row, settings in zip(rows, all_settings, strict=True)]
    counts = Counter(keys)
    cells = []
    for (label, summary), row, settings, key in zip(summaries, rows, all_settings, keys, strict=True):
        methods = [(method["name"], method) for method in summary.get("methods", ())]
        if summary["status"] != _FINISHED:
            row |= {"status": f"{summary['status']} ({summary['phase']})", "error": summary.get("reason")}
            methods = [(SEARCH, {})]
        # Searches that differ in no field are told apart by their labels.
        told_apart = (*settings, label) if counts[key] > 1 else settings
        cells += [_cell(label, method, row, flatten(figures, "/"), told_apart) for method, figures in methods]
    return cells


def sweep_cells(rows: Sequence[Mapping[str, Any]]) -> list[Measurement]:
    """Of the rows of a sweep: three a trial that is finished, one of every other."""
    all_settings = _differing(
        {name: value for name, value in _below(row, _FIELD).items() if name not in _OWN_COLUMNS}
        for row in rows
    )
    return [
        _cell(row["trial"], method, row, _below(row, f"{SWEEP_PREFIXES[method]}/"), settings)
        for row, settings in zip(rows, all_settings, strict=True)
        for method in ((FULL_SIZE, EQUAL_SIZES, SEARCH) if row.get("status") == _FINISHED else (SEARCH,))
    ]


def comparison_cells(source: str, rows: Sequence[Mapping[str, Any]]) -> list[Measurement]:
    """Of the rows of a comparison, which are cells; columns may be missing."""
    return [_cell(source, str(row.get("method") or "?"), row, row) for row in rows]


def _cell(
    source: str,
    method: str,
    row: Mapping[str, Any],
    figures: Mapping[str, Any],
    settings: tuple[str, ...] = (),
) -> Measurement:
    """A cell out of a row with its names and its figures, of which finite numbers count."""
    return Measurement(
        source=source,
        dataset=str(row.get("dataset") or ""),
        recommender=str(row.get("recommender") or ""),
        # Full size has no budget: it is the same beside each.
        budget="" if method == FULL_SIZE else str(row.get("budget") or ""),
        method=method,
        seed=row.get("seed"),
        settings=tuple(
            setting for setting in settings if method == SEARCH or not setting.startswith(_OF_SEARCH_ALONE)
        ),
        status=str(row.get("status") or _FINISHED),
        error=row.get("error"),
        figures={name: value for name, value in figures.items() if is_number(value)},
    )


def _differing(fields: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Of each the fields in which some differ."""
    configs = list(fields)
    names = dict.fromkeys(name for config in configs for name in config)
    differing = [name for name in names if len({str(config.get(name)) for config in configs}) > 1]
    return [tuple(f"{name}={config.get(name)}" for name in differing) for config in configs]


def _below(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def without_repeats(cells: Iterable[Measurement]) -> list[Measurement]:
    """Full size and equal sizes that several searches share are told once."""
    kept: dict[tuple[Any, ...], Measurement] = {}
    for cell in cells:
        is_shared = cell.method in (FULL_SIZE, EQUAL_SIZES) and cell.is_finished
        tested = frozenset(_below(cell.figures, "test/").items())
        kept.setdefault((cell.place, cell.seed, cell.status, tested, is_shared or cell.source), cell)
    return list(kept.values())


@dataclass(frozen=True)
class SeedMeans:
    """Means of measurements that differ in the seed alone.

    Attributes:
        cell: The first of them.
        seeds: Theirs, where they are known.
        figures: By name; of bytes, parameters and kept ratio the largest.
    """

    cell: Measurement
    seeds: Sequence[int]
    figures: dict[str, Spread]

    @property
    def method(self) -> str:
        """Of all its cells."""
        return self.cell.method

    @property
    def packed_bytes(self) -> float:
        """Of the largest table; 0 where it is not known."""
        return self.mean("packed_bytes", 0.0)

    @property
    def series(self) -> str:
        """The method, with whatever tells it from others."""
        return ", ".join((self.method, *self.cell.settings))

    def mean(self, name: str, default: float) -> float:
        """Of a figure; the default where it was not measured."""
        return self.figures[name].mean if name in self.figures else default


def group_cells(cells: Iterable[Measurement]) -> list[SeedMeans]:
    """Finished cells by what they share; by data and recommender, the smallest budgets first."""
    by_place: dict[tuple[Any, ...], list[Measurement]] = {}
    for cell in cells:
        if cell.is_finished:
            by_place.setdefault(cell.place, []).append(cell)
    return sorted(
        map(_means, by_place.values()),
        key=lambda group: (
            group.cell.dataset,
            group.cell.recommender,
            group.method == FULL_SIZE,
            group.packed_bytes,
            _ORDER.get(group.method, 2),
        ),
    )


def _means(cells: Sequence[Measurement]) -> SeedMeans:
    values: dict[str, list[float]] = {}
    for cell in cells:
        for name, value in cell.figures.items():
            values.setdefault(name, []).append(value)
    return SeedMeans(
        cells[0],
        sorted({cell.seed for cell in cells if cell.seed is not None}),
        {
            name: Spread(max(of_seeds), None) if name in _LARGEST else Spread.of(of_seeds)
            for name, of_seeds in values.items()
        },
    )


@dataclass(frozen=True)
class Verdict:
    """What the searched table of one budget costs.

    Attributes:
        where: Recommender and data.
        budget: As it was asked for.
        share_of_bytes: Of the full table's bytes.
        shares: By method, what is kept of full size's metric, in percent: of the search, and where they were
            measured of equal sizes and of the best other method on validation.
    """

    where: str
    budget: str
    share_of_bytes: float
    shares: Mapping[str, float]

    @property
    def sentence(self) -> str:
        """In plain words."""
        shares = {method: whole_percent(share) for method, share in self.shares.items()}
        text = (
            f"At {whole_percent(self.share_of_bytes)} of the bytes the search keeps {shares.pop(SEARCH)} of "
            "full size's R@20"
        )
        if EQUAL_SIZES in shares:
            text += f"; equal sizes keep {shares.pop(EQUAL_SIZES)}"
        for rival, share in shares.items():
            text += f", and {rival}, on validation the best of the other methods, {share}"
        return f"{text}."

    @property
    def is_behind(self) -> bool:
        """Whether equal sizes are better on test."""
        return self.shares[SEARCH] < self.shares.get(EQUAL_SIZES, 0.0)


def verdicts(groups: Iterable[SeedMeans]) -> list[Verdict]:
    """One for each searched budget that has a full table to be measured against, in the groups' order.

    Of several searches at one budget, and of several other methods, the best on validation is told of: to
    choose by test figures would flatter it.
    """
    every = []
    measured = [group for group in groups if HEADLINE_METRIC in group.figures]
    places = dict.fromkeys(group.cell.place[:3] for group in measured if group.method == SEARCH)
    for dataset, recommender, budget in places:
        here = [group for group in measured if group.cell.place[:2] == (dataset, recommender)]
        at_budget = [group for group in here if group.cell.budget == budget]
        searched = max((group for group in at_budget if group.method == SEARCH), key=_quality)
        full = _beside(searched, here, FULL_SIZE)
        if full is None or not full.packed_bytes or not searched.packed_bytes:
            continue
        others = [group for group in at_budget if group.method not in _ORDER]
        beside = (
            searched,
            _beside(searched, at_budget, EQUAL_SIZES),
            max(others, key=_quality, default=None),
        )
        whole = full.mean(HEADLINE_METRIC, 0.0)
        every.append(
            Verdict(
                f"{recommender} on {dataset}",
                budget,
                100 * searched.packed_bytes / full.packed_bytes,
                {
                    group.method: 100 * group.mean(HEADLINE_METRIC, 0.0) / whole if whole else 0.0
                    for group in beside
                    if group is not None
                },
            )
        )
    return every


def _quality(group: SeedMeans) -> float:
    return group.mean(QUALITY, -1.0)


def _beside(searched: SeedMeans, groups: Iterable[SeedMeans], method: str) -> SeedMeans | None:
    """That of a method which shares its settings with the searched table, where one does."""
    of_method = [group for group in groups if group.method == method]
    return max(of_method, key=lambda group: {*group.cell.settings} <= {*searched.cell.settings}, default=None)


def whole_percent(value: float) -> str:
    """Whole percents, tenths where they are few."""
    return percent(value, 0 if value >= 9.95 else 1).replace("%", f"{_THIN}%")
