"""What a comparison says of a method at one point of the grid, in numbers and as people read it."""

from dataclasses import dataclass, field
from typing import Any

from ciess_ray.config.grid import other_fields
from ciess_ray.metric_keys import TABLE_FIGURES
from ciess_ray.plain_text import mean_sizes
from ciess_ray.statistics import Difference, Spread

#: Metrics in which the search is compared with every other method.
COMPARED = ("ndcg@20", "recall@20")
#: What means are told of, beside every metric.
FIGURES = (
    "num_params",
    "packed_bytes",
    "served_bytes",
    "served_with_histories_bytes",
    "ids_bytes",
    "kept_ratio",
    "mean_user_size",
    "mean_item_size",
    "best_batch",
    "num_steps",
    "num_trainings",
    "cpu_s",
    "cpu_s/choosing",
    "peak_bytes",
    "share_of_full",
)
#: Where rows of a table are of no budget.
NO_BUDGET = "no budget"
#: What a DataFrame has beside the ranking on test.
_COLUMNS = ("share_of_full", *TABLE_FIGURES, "num_trainings", "cpu_s", "peak_bytes")
#: Of a row a method, between its budget and what it costs.
HEADINGS = (
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
#: What people read of a row from its number of seeds on: headings but the first, trainings, CPU seconds, most
#: memory and options.
NUM_CELLS = len(HEADINGS) + 3


@dataclass(frozen=True, eq=False)
class MethodFigures:
    """One method at one point of the grid, over its seeds.

    Attributes:
        dataset: What it was trained on.
        recommender: Its name; empty of a yardstick, which stands beside all of them.
        budget: As it was asked for; of a yardstick :data:`NO_BUDGET`.
        method: The method, or the yardstick.
        fields: What the point differs in, seed and budget aside.
        seeds: Those that are finished.
        split_seeds: The splits of the data that they are of, each once.
        num_missing: Seeds that failed, were refused or are pending.
        figures: Means and standard deviations, by the columns of ``comparison.parquet``; and by
            ``share_of_full`` NDCG@20 as a share of full size's of the same seed, where that is finished.
        is_still_rising: Whether a training ended while validation was still rising.
        differences: The search less this method, by metric; empty for the search itself, for what keeps to no
            budget and where one of the two is missing.
        options: What validation chose of several values of options, each once; nothing where that was always
            what is searched with.
        refused: Why this machine does not compute it; nothing where it does.
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
    options: list[str] = field(default_factory=list)
    refused: str = ""

    def row(self) -> dict[str, Any]:
        """What :meth:`ComparisonResults.table` says of it."""
        ranking = {
            name.removeprefix("test/"): spread
            for name, spread in self.figures.items()
            if name.startswith("test/")
        }
        difference = self.differences.get(COMPARED[0])
        against = () if difference is None else ("relative", "relative_low", "relative_high", "p")
        return {
            "method": self.method,
            "dataset": self.dataset,
            "recommender": self.recommender,
            "budget": self.budget,
            **other_fields(self.fields),
            "seeds": len(self.seeds),
            **{name: spread.mean for name, spread in ranking.items()},
            **{name: self.figures[name].mean for name in _COLUMNS if name in self.figures},
            **{f"search/{name}": getattr(difference, name) for name in against},
            "options": "; ".join(self.options),
            **{f"{name}/sd": spread.sd for name, spread in ranking.items()},
        }

    def cells(self) -> list[str]:
        """What people read of it, from its number of seeds on."""
        if not self.seeds:
            return ["0", "", "refused" if self.refused else "", *[""] * (NUM_CELLS - 3)]
        figures, against = self.figures, self.differences.get(COMPARED[0])
        return [
            str(len(self.seeds)) + ("^" if self.is_still_rising else ""),
            str(len(self.split_seeds)),
            str(figures["test/recall@20"]),
            str(figures["test/ndcg@20"]),
            f"{figures['share_of_full'].mean:.1%}" if "share_of_full" in figures else "",
            ""
            if against is None
            else f"{against.relative:+.1%} [{against.relative_low:+.1%}, {against.relative_high:+.1%}]",
            "" if against is None else f"{against.p:.2g}",
            *(
                f"{figures[name].mean:,.0f}" if name in figures else ""
                for name in ("packed_bytes", "served_bytes", "served_with_histories_bytes")
            ),
            mean_sizes(figures["mean_user_size"].mean, figures["mean_item_size"].mean)
            if "mean_user_size" in figures
            else "",
            f"{figures['num_trainings'].mean:.0f}" if "num_trainings" in figures else "",
            f"{figures['cpu_s'].mean:,.0f}",
            f"{figures['peak_bytes'].mean / 1e6:,.0f}",
            "; ".join(self.options),
        ]
