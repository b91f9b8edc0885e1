"""What a sweep leaves: a row a trial, means over seeds, and which tables no other beats."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ciess_ray.config.grid import other_fields
from ciess_ray.metric_keys import TABLE_FIGURES
from ciess_ray.names import (
    EQUAL_SIZES,
    FULL_SIZE,
    SEARCH,
    SWEEP_FIGURE_FILE,
    SWEEP_PREFIXES,
    SWEEP_RESULTS_FORMAT,
    SWEEP_ROWS_FILE,
    SWEEP_SUMMARY_FILE,
    TRIAL_RESULT_FOLDER,
    flatten,
)
from ciess_ray.result import NOT_SETTINGS, versions
from ciess_ray.statistics import Spread, table_of
from ciess_ray.sweeps.storage import Storage
from ciess_ray.terminal import TextTable
from ciess_ray.tracking.runs import RunState

if TYPE_CHECKING:
    import pandas as pd

RESULT_FILES = (SWEEP_ROWS_FILE, SWEEP_SUMMARY_FILE, SWEEP_FIGURE_FILE)


def trial_columns(outcome: RunState) -> dict[str, Any]:
    """What a row of ``results.parquet`` begins with: which trial it is of, and what was told it."""
    return {
        "trial": outcome.name,
        "status": outcome.status,
        "dataset": outcome.dataset,
        "recommender": outcome.config.recommender.name,
        "budget": outcome.budget,
        "seed": outcome.config.seed,
        **{f"field/{name}": value for name, value in outcome.fields.items()},
    }


@dataclass(eq=False)
class Group:
    """Finished trials that differ in the seed alone.

    Attributes:
        fields: What they share and other groups have not.
        dataset: What they are trained on.
        recommender: Theirs.
        budget: As it was asked for.
        seeds: Theirs.
        packed_bytes: Of the packed table, the largest.
        served_bytes: Of all that serves it, the largest; None where a trial does not say.
        kept_ratio: Parameters as a share of the full table's, the largest.
        is_on_front: Whether no other group of the same data and recommender is better on validation and
            no larger.
        metrics: By method (``search``, ``equal``, ``full``) and metric: validation ``quality``, and Recall
            and NDCG on test.
    """

    fields: dict[str, Any]
    dataset: str
    recommender: str
    budget: str
    seeds: list[int]
    packed_bytes: int
    served_bytes: int | None
    kept_ratio: float
    is_on_front: bool
    metrics: dict[str, dict[str, Spread]]


@dataclass(eq=False)
class SweepResults:
    """All trials of a sweep, side by side.

    Args:
        location: Folder or URI of the sweep.
        outcomes: Of its trials.
        seconds: How long it took, since it was started or resumed.
        problems: Sentences on what was not recorded.
        keeper: Where the folder is a temporary one, what it lives as long as.
    """

    location: str
    outcomes: Sequence[RunState] = field(repr=False)
    seconds: float
    problems: list[str] = field(default_factory=list)
    keeper: object | None = field(default=None, repr=False)

    #: What is to be read with the table.
    note = "means over n seeds; *: none of its recommender is as small and as good on validation"
    has_report = True

    @property
    def is_complete(self) -> bool:
        """Whether every trial came to its end."""
        return all(outcome.status in ("finished", "stopped") for outcome in self.outcomes)

    def to_table(self) -> pa.Table:
        """One row a trial, with NULL for what it has not got to."""
        return table_of([self._row(outcome) for outcome in self.outcomes])

    def _row(self, outcome: RunState) -> dict[str, Any]:
        row: dict[str, Any] = {
            **trial_columns(outcome),
            "num_steps": outcome.step,
            "num_failures": outcome.num_failures,
            "quality_in_search": outcome.quality,
            "error": outcome.error,
            "folder": f"{self.location}/{outcome.name}/{TRIAL_RESULT_FOLDER}",
        }
        if outcome.summary is None:
            return row
        row |= {key: value for key, value in outcome.summary["budget"].items() if key != "asked"}
        for method, prefix in SWEEP_PREFIXES.items():
            figures = flatten(outcome.row(method), "/")
            row |= {f"{prefix}/{name}": value for name, value in figures.items() if name != "name"}
        return row | {f"seconds/{phase}": value for phase, value in outcome.summary["seconds"].items()}

    def table(self) -> "pd.DataFrame":
        """Full size, equal sizes and the search of every point: means over its finished seeds, by name.

        Recall and NDCG are on test; their standard deviations over seeds are in columns that end in ``/sd``.
        """
        # It takes a while to import.
        import pandas as pd

        rows = [
            {
                "table": row["name"],
                "dataset": outcome.dataset,
                "recommender": outcome.config.recommender.name,
                "budget": outcome.budget,
                **other_fields(outcome.fields),
                **row["test"],
                **{name: row.get(name) for name in TABLE_FIGURES},
            }
            for outcome in self.outcomes
            if outcome.summary is not None
            for row in outcome.summary["methods"]
        ]
        frame = pd.DataFrame(rows)
        metrics = [name for name in frame.columns if "@" in name]
        keys = [name for name in frame.columns if name not in (*metrics, *TABLE_FIGURES)]
        of_seeds = frame.groupby(keys, sort=False)
        means = of_seeds.mean().join(of_seeds[metrics].std().add_suffix("/sd"))
        means.insert(0, "seeds", of_seeds.size())
        return means.reset_index(keys[1:])

    def groups(self) -> list[Group]:
        """Means over seeds, by data and recommender, the smallest tables first."""
        by_settings: dict[str, list[RunState]] = {}
        for outcome in self.outcomes:
            if outcome.summary is not None:
                settings = outcome.config.model_dump_json(exclude=set(NOT_SETTINGS))
                by_settings.setdefault(settings, []).append(outcome)
        groups = [_group(outcomes) for outcomes in by_settings.values()]
        for group in groups:
            group.is_on_front = not any(_beats(other, group) for other in groups)
        return sorted(groups, key=lambda group: (group.dataset, group.recommender, group.packed_bytes))

    def write(self, storage: Storage) -> None:
        """Leave ``results.parquet``, ``results.json`` and ``pareto.png`` in the sweep's folder."""
        groups = self.groups()
        summary = {
            "format": SWEEP_RESULTS_FORMAT,
            "versions": versions(),
            "seconds": self.seconds,
            "num_trials": Counter(outcome.status for outcome in self.outcomes),
            "groups": [asdict(group) for group in groups],
        }
        rows = io.BytesIO()
        pq.write_table(self.to_table(), rows, compression="zstd")
        storage.write(SWEEP_ROWS_FILE, rows.getvalue())
        storage.write(SWEEP_SUMMARY_FILE, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
        storage.write(SWEEP_FIGURE_FILE, self._draw(groups))

    def _draw(self, groups: Iterable[Group]) -> bytes:
        """NDCG@20 on test against bytes, a panel for each recommender and data set."""
        # Matplotlib is imported where something is drawn.
        from ciess_ray.figures import Point, draw_quality, to_png

        panels: dict[str, list[Point]] = {}
        for group in groups:
            panels.setdefault(f"{group.recommender} on {group.dataset}", []).extend(
                Point(
                    method, group.packed_bytes, group.metrics[SWEEP_PREFIXES[method]]["ndcg@20"], is_on_front
                )
                for method, is_on_front in ((SEARCH, group.is_on_front), (EQUAL_SIZES, False))
            )
        for outcome in self.outcomes:
            if outcome.summary is not None:
                full = outcome.row(FULL_SIZE)
                point = Point(FULL_SIZE, full["packed_bytes"], Spread(full["test"]["ndcg@20"], None))
                panels[f"{outcome.config.recommender.name} on {outcome.dataset}"].append(point)
        return to_png(draw_quality(panels, "NDCG@20 on test"))

    def to_rich(self) -> TextTable:
        """What people read: a row a group."""
        groups = self.groups()
        others = dict.fromkeys(
            name for group in groups for name in group.fields if name not in ("budget", "recommender.name")
        )
        rows = [
            (
                "*" if group.is_on_front else "",
                group.recommender,
                group.budget,
                *(
                    f"{value:.4g}" if isinstance(value, float) else str(value)
                    for value in (group.fields.get(name, "") for name in others)
                ),
                str(len(group.seeds)),
                f"{group.packed_bytes:,}",
                "" if group.served_bytes is None else f"{group.served_bytes:,}",
                *(str(group.metrics[method]["recall@20"]) for method in ("search", "equal")),
                f"{group.metrics['full']['recall@20'].mean:.4f}",
            )
            for group in groups
        ]
        ends = ("n", "bytes", "served", "R@20 search", "equal sizes", "full")
        return TextTable("", "recommender", "budget", *others, *ends, rows=rows)


def _group(outcomes: Sequence[RunState]) -> Group:
    first, rows = outcomes[0], {method: [each.row(method) for each in outcomes] for method in SWEEP_PREFIXES}
    searched = rows[SEARCH]
    served = [row["served_bytes"] for row in searched if "served_bytes" in row]
    return Group(
        fields={name: value for name, value in first.fields.items() if name != "seed"},
        dataset=first.dataset,
        recommender=first.config.recommender.name,
        budget=first.budget,
        seeds=[outcome.config.seed for outcome in outcomes],
        packed_bytes=max(row["packed_bytes"] for row in searched),
        served_bytes=max(served) if len(served) == len(searched) else None,
        kept_ratio=max(row["kept_ratio"] for row in searched),
        is_on_front=False,
        metrics={
            prefix: {"quality": Spread.of(row["validation"]["quality"] for row in rows[method])}
            | {name: Spread.of(row["test"][name] for row in rows[method]) for name in rows[method][0]["test"]}
            for method, prefix in SWEEP_PREFIXES.items()
        },
    )


def _beats(other: Group, group: Group) -> bool:
    """Whether the other is at least as good in both and better in one."""
    is_rival = (other.dataset, other.recommender) == (group.dataset, group.recommender)
    (quality, size), (its_quality, its_size) = (
        (each.metrics["search"]["quality"].mean, each.packed_bytes) for each in (group, other)
    )
    is_other = (its_quality, its_size) != (quality, size)
    return is_rival and is_other and its_quality >= quality and its_size <= size
