"""The figures of methods over their seeds, and how they are told: to a terminal, and as a DataFrame."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ciess_ray.metric_keys import TABLE_FIGURES
from ciess_ray.statistics import Difference, Spread
from ciess_ray.terminal import TextTable

if TYPE_CHECKING:
    import pandas as pd

_TEST = "test/"
#: What a DataFrame has beside the ranking on test.
_TOLD = ("share_of_full", *TABLE_FIGURES, "num_trainings", "cpu_s", "peak_bytes")
_COMPARED = "ndcg@20"


@dataclass(frozen=True, eq=False)
class MethodFigures:
    """One method at one point of the grid, over its seeds.

    Attributes:
        dataset: What it was trained on.
        recommender: Its name.
        budget: As it was asked for.
        method: The method.
        fields: What the point differs in, seed and budget aside.
        seeds: Those that are finished.
        split_seeds: The splits of the data that they are of, each once.
        num_missing: Seeds that failed or are pending.
        figures: Means and standard deviations, by the columns of ``comparison.parquet``; and by
            ``share_of_full`` NDCG@20 as a share of full size's of the same seed, where that is finished.
        is_still_rising: Whether a training ended while validation was still rising.
        differences: The search less this method, by metric; empty for the search itself and where one of
            the two is missing.
    """

    dataset: str
    recommender: str
    budget: str
    method: str
    fields: dict[str, Any]
    seeds: list[int]
    split_seeds: list[int]
    num_missing: int
    figures: dict[str, Spread]
    is_still_rising: bool
    differences: dict[str, Difference]

    def to_values(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {
            "figures": {name: vars(spread) for name, spread in self.figures.items()},
            "differences": {name: asdict(difference) for name, difference in self.differences.items()},
        }


def to_frame(figures: Sequence[MethodFigures]) -> "pd.DataFrame":
    """A row a method at a point, by its name; see :meth:`ComparisonResults.table`."""
    # It takes a while to import.
    import pandas as pd

    return pd.DataFrame([_row(one) for one in figures]).set_index("method")


def _row(one: MethodFigures) -> dict[str, Any]:
    fields = {
        name: value if isinstance(value, str | int | float) else json.dumps(value)
        for name, value in one.fields.items()
        if name not in ("dataset", "dataset.path", "recommender.name")
    }
    ranking = {name.removeprefix(_TEST): told for name, told in one.figures.items() if name.startswith(_TEST)}
    difference = one.differences.get(_COMPARED)
    against = () if difference is None else ("relative", "relative_low", "relative_high", "p")
    return {
        "method": one.method,
        "dataset": one.dataset,
        "recommender": one.recommender,
        "budget": one.budget,
        **fields,
        "seeds": len(one.seeds),
        **{name: told.mean for name, told in ranking.items()},
        **{name: one.figures[name].mean for name in _TOLD if name in one.figures},
        **{f"search/{name}": getattr(difference, name) for name in against},
        **{f"{name}/sd": told.sd for name, told in ranking.items()},
    }


def to_rich(figures: Sequence[MethodFigures]) -> TextTable:
    """What people read: a row a method, budget after budget."""
    headings = (
        "budget",
        "method",
        "n",
        "splits",
        "R@20",
        "N@20",
        "of full",
        "search",
        "p",
        "packed",
        "served",
        "with histories",
        "user : item",
    )
    table = TextTable(*headings, "trainings", "CPU s", "peak MB", first_number=2)
    last, has_datasets = "", len({one.dataset for one in figures}) > 1
    for one in figures:
        others = [
            f"{name.rpartition('.')[2]}={value}"
            for name, value in one.fields.items()
            if name.split(".")[0] not in ("dataset", "recommender")
        ]
        dataset = [one.dataset] if has_datasets else []
        point = " ".join([*dataset, one.recommender, *others, one.budget])
        table.add_row("" if point == last else point, one.method, *_cells_of(one))
        last = point
    return table


def _cells_of(one: MethodFigures) -> list[str]:
    if not one.seeds:
        return ["0", *[""] * 13]
    figures, difference = one.figures, one.differences.get("ndcg@20")
    return [
        str(len(one.seeds)) + ("^" if one.is_still_rising else ""),
        str(len(one.split_seeds)),
        str(figures["test/recall@20"]),
        str(figures["test/ndcg@20"]),
        f"{figures['share_of_full'].mean:.1%}" if "share_of_full" in figures else "",
        "" if difference is None else _told(difference),
        "" if difference is None else f"{difference.p:.2g}",
        *(
            f"{figures[name].mean:,.0f}" if name in figures else ""
            for name in ("packed_bytes", "served_bytes", "served_with_histories_bytes")
        ),
        f"{figures['mean_user_size'].mean:.1f} : {figures['mean_item_size'].mean:.1f}",
        f"{figures['num_trainings'].mean:.0f}",
        f"{figures['cpu_s'].mean:,.0f}",
        f"{figures['peak_bytes'].mean / 1e6:,.0f}",
    ]


def _told(difference: Difference) -> str:
    return f"{difference.relative:+.1%} [{difference.relative_low:+.1%}, {difference.relative_high:+.1%}]"
