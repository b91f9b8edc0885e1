"""What a sweep leaves: a row a trial, means over seeds, and which tables no other beats."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ciess_ray.metric_keys import TABLE_FIGURES
from ciess_ray.names import (
    EQUAL_SIZES,
    FULL_SIZE,
    SEARCH,
    SERVED_COLUMNS,
    SWEEP_FIGURE_FILE,
    SWEEP_PREFIXES,
    SWEEP_RESULTS_FORMAT,
    SWEEP_ROWS_FILE,
    SWEEP_SUMMARY_FILE,
    TRIAL_RESULT_FOLDER,
)
from ciess_ray.result import NOT_SETTINGS, dataset_name, versions
from ciess_ray.statistics import Spread, column_of
from ciess_ray.sweeps.storage import Storage
from ciess_ray.terminal import TextTable

if TYPE_CHECKING:
    import pandas as pd

RESULT_FILES = (SWEEP_ROWS_FILE, SWEEP_SUMMARY_FILE, SWEEP_FIGURE_FILE)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a trial.

    Attributes:
        name: Its own, and its folder's within the sweep's.
        status: ``stopped`` by the scheduler, before its end; ``pending`` where the sweep was broken off.
        fields: What it has that others have not, by dotted name.
        config: Plain values of its whole configuration.
        summary: Its ``result.json``, once it is finished.
        quality_in_search: Best mean ranking metric on validation that it told of.
        num_steps: Table steps taken.
        num_failures: How often it broke off.
        error: Why, the last time.
    """

    name: str
    status: Literal["finished", "stopped", "failed", "pending"]
    fields: dict[str, Any]
    config: dict[str, Any]
    summary: dict[str, Any] | None = None
    quality_in_search: float | None = None
    num_steps: int = 0
    num_failures: int = 0
    error: str | None = None

    def row(self, method: str) -> dict[str, Any]:
        """What ``result.json`` says of full size, equal sizes or the search; of a trial that is finished."""
        assert self.summary is not None
        return next(row for row in self.summary["methods"] if row["name"] == method)


@dataclass(frozen=True, eq=False)
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
        metrics: By method (``search``, ``equal``, ``full``) and metric: validation ``quality``, and Recall
            and NDCG on test.
        is_on_front: Whether no other group of the same data and recommender is better on validation and
            no larger.
    """

    fields: dict[str, Any]
    dataset: str
    recommender: str
    budget: str
    seeds: list[int]
    packed_bytes: int
    served_bytes: int | None
    kept_ratio: float
    metrics: dict[str, dict[str, Spread]]
    is_on_front: bool

    def to_values(self) -> dict[str, Any]:
        """Plain values."""
        values = {name: value for name, value in vars(self).items() if name != "metrics"}
        return values | {
            "metrics": {
                method: {name: vars(spread) for name, spread in own.items()}
                for method, own in self.metrics.items()
            }
        }


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
    outcomes: Sequence[Outcome] = field(repr=False)
    seconds: float
    problems: list[str] = field(default_factory=list)
    keeper: object | None = field(default=None, repr=False)

    @property
    def is_complete(self) -> bool:
        """Whether every trial came to its end."""
        return all(outcome.status in ("finished", "stopped") for outcome in self.outcomes)

    def to_table(self) -> pa.Table:
        """One row a trial, with NULL for what it has not got to."""
        names = dict.fromkeys(name for outcome in self.outcomes for name in outcome.fields)
        rows = [self._row(outcome, names) for outcome in self.outcomes]
        columns = dict.fromkeys(name for row in rows for name in row)
        return pa.table({name: column_of([row.get(name) for row in rows]) for name in columns})

    def _row(self, outcome: Outcome, names: Iterable[str]) -> dict[str, Any]:
        config = outcome.config
        row: dict[str, Any] = {
            "trial": outcome.name,
            "status": outcome.status,
            "dataset": dataset_name(config),
            "recommender": config["recommender"]["name"],
            "budget": str(config["budget"]),
            "seed": config["seed"],
            **{f"field/{name}": outcome.fields.get(name) for name in names},
            "num_steps": outcome.num_steps,
            "num_failures": outcome.num_failures,
            "quality_in_search": outcome.quality_in_search,
            "error": outcome.error,
            "folder": f"{self.location}/{outcome.name}/{TRIAL_RESULT_FOLDER}",
        }
        if outcome.summary is None:
            return row
        row |= {f"{key}": value for key, value in outcome.summary["budget"].items() if key != "asked"}
        for method, short in SWEEP_PREFIXES.items():
            own = outcome.row(method)
            row |= {f"{short}/{key}": own[key] for key in ("num_params", "packed_bytes", "kept_ratio")}
            # Trials of before have none.
            row |= {f"{short}/{key}": own[key] for key in SERVED_COLUMNS if key in own}
            row |= {f"{short}/validation/{key}": value for key, value in own["validation"].items()}
            row |= {f"{short}/test/{key}": value for key, value in own["test"].items()}
            row |= {f"{short}/{key}": own[key] for key in ("mean_user_size", "mean_item_size", "best_batch")}
        return row | {f"seconds/{phase}": value for phase, value in outcome.summary["seconds"].items()}

    def table(self) -> "pd.DataFrame":
        """Full size, equal sizes and the search of every point: means over its finished seeds, by name.

        Recall and NDCG are on test; their standard deviations over seeds are in columns that end in ``/sd``.
        """
        # It takes a while to import.
        import pandas as pd

        rows = [
            (outcome, row)
            for outcome in self.outcomes
            if outcome.summary is not None
            for row in outcome.summary["methods"]
        ]
        points = pd.DataFrame([{"table": row["name"], **_point(outcome)} for outcome, row in rows])
        metrics = pd.DataFrame([row["test"] for _, row in rows])
        figures = pd.DataFrame([{name: row.get(name) for name in TABLE_FIGURES} for _, row in rows])
        keys = [points[name] for name in points]
        of_seeds = metrics.join(figures).groupby(keys, sort=False)
        deviations = metrics.groupby(keys, sort=False).std().add_suffix("/sd")
        means = of_seeds.mean().join(deviations)
        means.insert(0, "seeds", of_seeds.size())
        return means.reset_index(list(points)[1:])

    def groups(self) -> list[Group]:
        """Means over seeds, by data and recommender, the smallest tables first."""
        by_settings: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            if outcome.summary is not None:
                settings = {key: value for key, value in outcome.config.items() if key not in NOT_SETTINGS}
                by_settings.setdefault(json.dumps(settings, sort_keys=True), []).append(outcome)
        groups = [_group(own) for own in by_settings.values()]
        for group in groups:
            object.__setattr__(group, "is_on_front", not any(_beats(other, group) for other in groups))
        return sorted(groups, key=lambda group: (group.dataset, group.recommender, group.packed_bytes))

    def pareto(self) -> dict[str, list[Group]]:
        """For each recommender, on each data set, the groups that none beats, the smallest table first.

        Validation quality decides, because choosing among tables by their test figures would flatter them.
        """
        fronts: dict[str, list[Group]] = {}
        for group in self.groups():
            if group.is_on_front:
                fronts.setdefault(f"{group.recommender} on {group.dataset}", []).append(group)
        return fronts

    def write(self, storage: Storage) -> None:
        """Leave ``results.parquet``, ``results.json`` and ``pareto.png`` in the sweep's folder."""
        statuses = [outcome.status for outcome in self.outcomes]
        summary = {
            "format": SWEEP_RESULTS_FORMAT,
            "versions": versions(),
            "seconds": self.seconds,
            "num_trials": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
            "groups": [group.to_values() for group in self.groups()],
        }
        with TemporaryDirectory(prefix="ciess-ray-") as folder:
            pq.write_table(self.to_table(), Path(folder) / SWEEP_ROWS_FILE, compression="zstd")
            text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
            (Path(folder) / SWEEP_SUMMARY_FILE).write_text(text, encoding="utf-8")
            self.draw(Path(folder) / SWEEP_FIGURE_FILE)
            storage.upload(Path(folder), ".")

    def draw(self, path: Path) -> None:
        """NDCG on test against bytes, for each recommender and data set: search, equal sizes, full size."""
        # Matplotlib is imported where something is drawn.
        from ciess_ray.figures import Point, draw_quality, save_png

        panels: dict[str, list[Point]] = {}
        for group in self.groups():
            own = panels.setdefault(f"{group.recommender} on {group.dataset}", [])
            own += [
                Point(
                    method, group.packed_bytes, group.metrics[SWEEP_PREFIXES[method]]["ndcg@20"], is_on_front
                )
                for method, is_on_front in ((SEARCH, group.is_on_front), (EQUAL_SIZES, False))
            ]
        for outcome in self.outcomes:
            if outcome.summary is not None:
                own = panels[f"{outcome.config['recommender']['name']} on {dataset_name(outcome.config)}"]
                full = outcome.row(FULL_SIZE)
                own.append(Point(FULL_SIZE, full["packed_bytes"], Spread(full["test"]["ndcg@20"], None)))
        save_png(draw_quality(panels, "NDCG@20 on test"), path)

    def to_rich(self) -> TextTable:
        """What people read: a row a group."""
        groups = self.groups()
        others = dict.fromkeys(
            name for group in groups for name in group.fields if name not in ("budget", "recommender.name")
        )
        headings = (
            "",
            "recommender",
            "budget",
            *others,
            "n",
            "bytes",
            "served",
            "R@20 search",
            "equal sizes",
            "full",
        )
        table = TextTable(*headings)
        for group in groups:
            table.add_row(
                "*" if group.is_on_front else "",
                group.recommender,
                group.budget,
                *(_short(group.fields.get(name, "")) for name in others),
                str(len(group.seeds)),
                f"{group.packed_bytes:,}",
                "" if group.served_bytes is None else f"{group.served_bytes:,}",
                *(str(group.metrics[method]["recall@20"]) for method in ("search", "equal")),
                f"{group.metrics['full']['recall@20'].mean:.4f}",
            )
        return table


def _point(outcome: Outcome) -> dict[str, Any]:
    """What a trial has that others have not, its seed aside, by plain values."""
    config = outcome.config
    own = {
        "dataset": dataset_name(config),
        "recommender": config["recommender"]["name"],
        "budget": str(config["budget"]),
    }
    told = {"dataset", "dataset.path", "recommender.name", "budget", "seed"}
    others = {name: value for name, value in outcome.fields.items() if name not in told}
    return own | {
        name: value if isinstance(value, str | int | float) else json.dumps(value)
        for name, value in others.items()
    }


def _group(outcomes: Sequence[Outcome]) -> Group:
    first = outcomes[0]
    metrics = {}
    for method, short in SWEEP_PREFIXES.items():
        rows = [outcome.row(method) for outcome in outcomes]
        metrics[short] = {"quality": Spread.of(row["validation"]["quality"] for row in rows)} | {
            name: Spread.of(row["test"][name] for row in rows) for name in rows[0]["test"]
        }
    searched = [outcome.row(SEARCH) for outcome in outcomes]
    served = [row["served_bytes"] for row in searched if "served_bytes" in row]
    return Group(
        fields={name: value for name, value in first.fields.items() if name != "seed"},
        dataset=dataset_name(first.config),
        recommender=first.config["recommender"]["name"],
        budget=str(first.config["budget"]),
        seeds=[outcome.config["seed"] for outcome in outcomes],
        packed_bytes=max(row["packed_bytes"] for row in searched),
        served_bytes=max(served) if len(served) == len(searched) else None,
        kept_ratio=max(row["kept_ratio"] for row in searched),
        metrics=metrics,
        is_on_front=False,
    )


def _beats(other: Group, group: Group) -> bool:
    """Whether the other is at least as good in both and better in one."""
    if (other.dataset, other.recommender) != (group.dataset, group.recommender):
        return False
    mine, its = group.metrics["search"]["quality"].mean, other.metrics["search"]["quality"].mean
    is_as_good = its >= mine and other.packed_bytes <= group.packed_bytes
    return is_as_good and (its > mine or other.packed_bytes < group.packed_bytes)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
