"""What was measured, one cell a method, budget and seed: out of searches, a sweep's rows, a comparison's."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH, SWEEP_PREFIXES, flatten
from ciess_ray.report.checks import is_number
from ciess_ray.result import NOT_SETTINGS, dataset_name

#: Fields that have a column of their own, or whose names in a sweep do not tell trials apart.
_OWN_COLUMNS = ("budget", "seed", "dataset.path", "dataset.sample", "recommender.name")
#: Sections that change what a search finds, and not what other methods give.
_OF_SEARCH_ALONE = ("search.", "agent.")
_FIELD = "field/"


@dataclass(frozen=True)
class Measurement:
    """One method, trained and measured at one budget with one seed; what is not known is None.

    Attributes:
        source: The search, trial or comparison that it comes from.
        dataset: Name of the data.
        recommender: Name of the base recommender.
        budget: As it was asked for.
        method: ``full size``, ``equal sizes``, ``search``, or another baseline.
        seed: Of every draw.
        settings: What else tells it from others, e.g. ``agent.gamma=0.5``.
        status: ``finished``, or what became of it.
        error: Why it failed.
        figures: ``num_params``, ``packed_bytes``, ``kept_ratio``, ``mean_user_size`` and the like.
        validation: Metrics by name, e.g. ``quality``.
        test: Metrics by name, e.g. ``recall@20``.
    """

    source: str
    dataset: str
    recommender: str
    budget: str
    method: str
    seed: int | None
    settings: tuple[str, ...] = ()
    status: str = "finished"
    error: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether it was measured."""
        return self.status == "finished"


def search_cells(summaries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Measurement]:
    """What searches have measured; one that has not got there is one cell that says so.

    Args:
        summaries: For each search its label and what its ``result.json`` says.
    """
    cells = []
    for (label, summary), settings in zip(summaries, _search_settings(summaries), strict=True):
        common: dict[str, Any] = {"source": label, **_columns(summary)}
        if summary.get("status") != "finished":
            status = f"{summary.get('status')} ({summary.get('phase')})"
            cells.append(
                Measurement(
                    **common, method=SEARCH, settings=settings, status=status, error=summary.get("reason")
                )
            )
            continue
        cells += [
            Measurement(
                **common,
                method=row["name"],
                settings=_settings_for(row["name"], settings),
                figures=_numbers(row),
                validation=_numbers(row["validation"]),
                test=_numbers(row["test"]),
            )
            for row in summary["methods"]
        ]
    return cells


def sweep_cells(rows: Sequence[Mapping[str, Any]]) -> list[Measurement]:
    """Of the rows of a sweep: three a trial that is finished, one of every other."""
    cells = []
    for row, settings in zip(rows, _row_settings(rows), strict=True):
        common: dict[str, Any] = {
            "source": str(row["trial"]),
            "dataset": str(row["dataset"]),
            "recommender": str(row["recommender"]),
            "budget": str(row["budget"]),
            "seed": row.get("seed"),
        }
        if row.get("status") != "finished":
            status, error = str(row.get("status")), row.get("error")
            cells.append(Measurement(**common, method=SEARCH, settings=settings, status=status, error=error))
            continue
        for method in (FULL_SIZE, EQUAL_SIZES, SEARCH):
            own = _below(row, f"{SWEEP_PREFIXES[method]}/")
            cells.append(
                Measurement(
                    **common,
                    method=method,
                    settings=_settings_for(method, settings),
                    figures=_numbers(own),
                    validation=_numbers(_below(own, "validation/")),
                    test=_numbers(_below(own, "test/")),
                )
            )
    return cells


def comparison_cells(source: str, rows: Sequence[Mapping[str, Any]]) -> list[Measurement]:
    """Of the rows of a comparison, which are cells; columns may be missing."""
    return [
        Measurement(
            source=source,
            dataset=str(row.get("dataset") or ""),
            recommender=str(row.get("recommender") or ""),
            budget=str(row.get("budget") or ""),
            method=str(row.get("method") or "?"),
            seed=row.get("seed"),
            status=str(row.get("status") or "finished"),
            error=row.get("error"),
            figures=_numbers(row),
            validation=_numbers(_below(row, "validation/")),
            test=_numbers(_below(row, "test/")),
        )
        for row in rows
    ]


def _columns(summary: Mapping[str, Any]) -> dict[str, Any]:
    config = summary["config"]
    return {
        "dataset": dataset_name(config),
        "recommender": str(config["recommender"]["name"]),
        "budget": str(summary["budget"]["asked"]),
        "seed": config["seed"],
    }


def _search_settings(summaries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, ...]]:
    """The fields in which configurations differ; where two differ in nothing, their labels."""
    configs = [
        {
            name: value
            for name, value in flatten(summary["config"]).items()
            if name.partition(".")[0] not in NOT_SETTINGS and name not in _OWN_COLUMNS
        }
        for _, summary in summaries
    ]
    settings = _differing(configs)
    keys = [
        (*_columns(summary).values(), *own) for (_, summary), own in zip(summaries, settings, strict=True)
    ]
    counts = Counter(keys)
    return [
        (*own, label) if counts[key] > 1 else own
        for (label, _), own, key in zip(summaries, settings, keys, strict=True)
    ]


def _row_settings(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The fields in which trials differ, beside those that have columns."""
    fields = [_below(row, _FIELD) for row in rows]
    return _differing(
        [{name: value for name, value in own.items() if name not in _OWN_COLUMNS} for own in fields]
    )


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    names = dict.fromkeys(name for config in configs for name in config)
    differing = [name for name in names if len({str(config.get(name)) for config in configs}) > 1]
    return [tuple(f"{name}={config.get(name)}" for name in differing) for config in configs]


def _settings_for(method: str, settings: tuple[str, ...]) -> tuple[str, ...]:
    if method == SEARCH:
        return settings
    return tuple(own for own in settings if not own.startswith(_OF_SEARCH_ALONE))


def _below(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What is a finite number, not text, a section or NULL."""
    return {name: value for name, value in values.items() if is_number(value)}


def without_repeats(cells: Sequence[Measurement]) -> list[Measurement]:
    """Full size and equal sizes that several searches share are told once.

    Full size has no budget: it is the same beside each.
    """
    kept: dict[tuple[Any, ...], Measurement] = {}
    for cell in cells:
        own = replace(cell, budget="") if cell.method == FULL_SIZE else cell
        measured = tuple(sorted(own.test.items()))
        source = () if own.method in (FULL_SIZE, EQUAL_SIZES) and own.is_finished else (own.source,)
        identity = (own.dataset, own.recommender, own.budget, own.method, own.seed, own.settings)
        kept.setdefault((*identity, own.status, measured, source), own)
    return list(kept.values())
