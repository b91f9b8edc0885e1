"""What was measured: a row a method, budget and seed, means over seeds, and what a table costs in words."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH, SWEEP_PREFIXES, YARDSTICKS, flatten
from ciess_ray.plain_text import percent
from ciess_ray.result import NOT_SETTINGS, dataset_name
from ciess_ray.statistics import Spread

#: What the headline is about, and what chooses.
HEADLINE_METRIC, QUALITY = "test/recall@20", "validation/quality"
FINISHED = "finished"
#: What a cell shares with the same of other seeds.
PLACE = ["dataset", "recommender", "budget", "method", "settings"]
#: What is told of several seeds: a mean with its deviation, the largest, or the mean.
_OVER_SEEDS: dict[str, Callable[[Iterable[float]], Any]] = {
    HEADLINE_METRIC: Spread.of,
    "test/ndcg@20": Spread.of,
    QUALITY: Spread.of,
    "kept_ratio": max,
    "packed_bytes": max,
    "served_bytes": max,
    "served_with_histories_bytes": max,
    "num_params": max,
    "mean_user_size": statistics.mean,
    "mean_item_size": statistics.mean,
}
_COLUMNS = [
    *("source", *PLACE, "seed", "status", "error", *_OVER_SEEDS),
    *("test/quality", "best_batch", "num_trainings", "cpu_s", "peak_bytes"),
]
#: Fields that have a column of their own, or whose names in a sweep do not tell trials apart.
_OWN_COLUMNS = ("budget", "seed", "dataset.path", "dataset.sample", "recommender.name")
#: Sections that change what a search finds, and not what other methods give.
_OF_SEARCH_ALONE = ("search.", "agent.")
_FIELD = "field/"
_ORDER = {SEARCH: 0, EQUAL_SIZES: 1, FULL_SIZE: 3}
_THIN = "\N{NO-BREAK SPACE}"
#: No measure of a search is larger, and figures can still be drawn.
LARGEST = 1e30

Row: TypeAlias = dict[str, Any]


def is_number(value: object) -> bool:
    """Whether it is a finite number that can be drawn; neither text, a section nor NULL."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def search_cells(summaries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Row]:
    """What searches have measured; one that has not got there is one cell that says so.

    Args:
        summaries: For each search its label and what its ``result.json`` says.
    """
    places: list[Row] = [
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
    keys = [(*place.values(), *settings) for place, settings in zip(places, all_settings, strict=True)]
    cells = []
    for (label, summary), place, settings, key in zip(summaries, places, all_settings, keys, strict=True):
        methods = [(method["name"], method) for method in summary.get("methods", ())]
        if summary["status"] != FINISHED:
            place |= {"status": f"{summary['status']} ({summary['phase']})", "error": summary.get("reason")}
            methods = [(SEARCH, {})]
        # Searches that differ in no field are told apart by their labels.
        told_apart = (*settings, label) if keys.count(key) > 1 else settings
        cells += [_cell(label, method, place, flatten(row, "/"), told_apart) for method, row in methods]
    return cells


def sweep_cells(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Of the rows of a sweep: three a trial that is finished, one of every other."""
    all_settings = _differing(
        {name: value for name, value in _below(row, _FIELD).items() if name not in _OWN_COLUMNS}
        for row in rows
    )
    return [
        _cell(row["trial"], method, row, _below(row, f"{SWEEP_PREFIXES[method]}/"), settings)
        for row, settings in zip(rows, all_settings, strict=True)
        for method in ((FULL_SIZE, EQUAL_SIZES, SEARCH) if row.get("status") == FINISHED else (SEARCH,))
    ]


def comparison_cells(source: str, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Of the rows of a comparison, which are cells; columns may be missing."""
    return [_cell(source, str(row.get("method") or "?"), row, row) for row in rows]


def _cell(
    source: str,
    method: str,
    row: Mapping[str, Any],
    figures: Mapping[str, Any],
    settings: tuple[str, ...] = (),
) -> Row:
    """A cell out of a row with its names and its figures, of which finite numbers count."""
    return {name: value for name, value in figures.items() if is_number(value)} | {
        "source": source,
        "dataset": str(row.get("dataset") or ""),
        "recommender": str(row.get("recommender") or ""),
        # Full size and yardsticks have no budget: they are the same beside each.
        "budget": "" if method in (FULL_SIZE, *YARDSTICKS) else str(row.get("budget") or ""),
        "method": method,
        "settings": tuple(
            setting for setting in settings if method == SEARCH or not setting.startswith(_OF_SEARCH_ALONE)
        ),
        "seed": row.get("seed"),
        "status": str(row.get("status") or FINISHED),
        "error": row.get("error"),
    }


def _differing(fields: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Of each the fields in which some differ."""
    configs = list(fields)
    names = dict.fromkeys(name for config in configs for name in config)
    differing = [name for name in names if len({str(config.get(name)) for config in configs}) > 1]
    return [tuple(f"{name}={config.get(name)}" for name in differing) for config in configs]


def _below(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def table_of_cells(cells: Sequence[Row]) -> pd.DataFrame:
    """A row a cell; full size and equal sizes that several searches share are told once.

    Columns are ``source``, the search, trial or comparison that it comes from; what it shares with other
    seeds, where a budget is as it was asked for, and settings tell it from others, e.g.
    ``("agent.gamma=0.5",)``; ``seed``; ``status``, which is ``finished`` or what became of it; ``error``; and
    figures, NaN where they are not known.
    """
    table = pd.DataFrame(cells, columns=_COLUMNS, dtype=object)
    is_shared = table["method"].isin([FULL_SIZE, EQUAL_SIZES]) & (table["status"] == FINISHED)
    tested = [name for name in _COLUMNS if name.startswith("test/")]
    same = table[[*PLACE, "seed", "status", *tested]]
    return table[~same.assign(source=table["source"].where(~is_shared, "")).duplicated()]


def seed_means(cells: pd.DataFrame) -> list[Row]:
    """Finished cells that differ in the seed alone, by data and recommender, the smallest budgets first.

    Returns:
        For each what they share, ``seeds``, ``series``, which is the method with whatever tells it from
        others, and every figure that was measured, a :class:`Spread` of each metric.
    """
    rows = []
    for place, group in cells[cells["status"] == FINISHED].groupby(PLACE, sort=False):
        row: Row = dict(zip(PLACE, place, strict=True))
        row["series"] = ", ".join((row["method"], *row["settings"]))
        row["seeds"] = sorted(group["seed"].dropna().unique())
        for name, summarize in _OVER_SEEDS.items():
            if group[name].notna().any():
                row[name] = summarize(group[name].dropna())
        rows.append(row)
    return sorted(
        rows,
        key=lambda row: (
            row["dataset"],
            # Yardsticks, which are beside every recommender, come after all of them.
            row["method"] in YARDSTICKS,
            row["recommender"],
            row["method"] == FULL_SIZE,
            row.get("packed_bytes", 0.0),
            _ORDER.get(row["method"], 2),
        ),
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


def verdicts(means: Iterable[Row]) -> Iterator[Verdict]:
    """One for each searched budget that has a full table to be measured against, in the order of the means.

    Of one that finds nothing of what is tested no share can be kept.

    Of several searches at one budget, and of several other methods, the best on validation is told of: to
    choose by test figures would flatter it.
    """
    measured = [row for row in means if HEADLINE_METRIC in row]
    searches = (row for row in measured if row["method"] == SEARCH)
    for place in dict.fromkeys(tuple(row[name] for name in PLACE[:3]) for row in searches):
        dataset, recommender, budget = place
        here = [row for row in measured if (row["dataset"], row["recommender"]) == (dataset, recommender)]
        at_budget = [row for row in here if row["budget"] == budget]
        searched = max((row for row in at_budget if row["method"] == SEARCH), key=_quality)
        full = _beside(searched, here, FULL_SIZE)
        if full is None or not full.get("packed_bytes") or not searched.get("packed_bytes"):
            continue
        whole = full[HEADLINE_METRIC].mean
        if not whole:
            continue
        others = [row for row in at_budget if row["method"] not in _ORDER]
        beside = (
            searched,
            _beside(searched, at_budget, EQUAL_SIZES),
            max(others, key=_quality, default=None),
        )
        yield Verdict(
            f"{recommender} on {dataset}",
            budget,
            100 * searched["packed_bytes"] / full["packed_bytes"],
            {row["method"]: 100 * row[HEADLINE_METRIC].mean / whole for row in beside if row is not None},
        )


def _quality(row: Row) -> float:
    return float(row[QUALITY].mean) if QUALITY in row else -1.0


def _beside(searched: Row, rows: Iterable[Row], method: str) -> Row | None:
    """That of a method which shares its settings with the searched table, where one does."""
    of_method = [row for row in rows if row["method"] == method]
    return max(of_method, key=lambda row: {*row["settings"]} <= {*searched["settings"]}, default=None)


def whole_percent(value: float) -> str:
    """Whole percents, tenths where they are few."""
    return percent(value, 0 if value >= 9.95 else 1).replace("%", f"{_THIN}%")
