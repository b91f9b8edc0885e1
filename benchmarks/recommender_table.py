r"""Recommenders side by side at equal sizes: quality, CPU seconds and served bytes, a row a cell.

    OMP_NUM_THREADS=1 python benchmarks/recommender_table.py DATA_FOLDER
    OMP_NUM_THREADS=1 python benchmarks/recommender_table.py DATA_FOLDER --data ml-1m \
        --recommenders lightgcn --budgets 10% --splits 0
    python benchmarks/recommender_table.py DATA_FOLDER --finished

A cell is a recommender on one split of one data set, with equal sizes at a budget that is a share of its own
full table. Options are chosen on validation, what was chosen is trained on training and validation
interactions, and test is looked at once. What is soon done comes first, and a row is appended to the
``.jsonl`` when its cell is through, so that the command may be broken off, and run in several processes that
select different cells: what has a row under the settings of now is not done again. The last row of a cell
counts. EASE and item cosine uncut, and what is popular, are cells too. ``.md`` and ``.png`` say and show what
is there so far.

In the folder lie the files that ``benchmarks/recommender_table_plan.py`` names, where the recipes stand too.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from equal_table import best_equal_table
from measurements import Measurements
from provenance import provenance, without_places
from recommender_table_page import write_summary
from recommender_table_plan import (
    BUDGETS,
    BUILDING,
    DATA_SETS,
    HELD_OUT,
    NAMES,
    Cell,
    Selection,
    check_files,
    planned,
)

from ciess_ray.comparisons.yardsticks import run_yardstick
from ciess_ray.config.data import check_budgets, load_interactions
from ciess_ray.config.run import RunConfig
from ciess_ray.serving.served_bytes import served_bytes
from ciess_ray.training.convergence import Meter
from envs.data import Interactions
from envs.errors import CiessError

#: Rises with what code does to all figures, so that all are measured again.
VERSION = 1
#: Trainings of cells that are not through, by commit.
KEPT = Path("runs/recommender-table")
_SECONDS_BETWEEN_NEWS = 60.0
_DIGITS = 6
_SERVED = "served_bytes", "served_as", "served_with_histories_bytes", "ids_bytes"


def settings_of(cell: Cell, config: RunConfig) -> dict[str, Any]:
    """All that a row depends on beside cell and code, as plain values."""
    values = config.model_dump(mode="json")
    settings = {"version": VERSION, "validation_share": values["dataset"]["validation_share"]}
    if cell.is_yardstick:
        return settings
    settings |= {
        "recommender": {name: values["recommender"][name] for name in ("name", "max_embedding_size")},
        # In a closed form's own order, what is tried is part of its code.
        "options": values["recommender"]["options"],
        "tried": {name: list(tried) for name, tried in config.recommender.other_options.items()},
    }
    if not config.recommender.is_closed_form:
        settings["training"] = values["training"]
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def row_of(rows: Sequence[dict[str, Any]], cell: Cell) -> dict[str, Any] | None:
    """The last row of a cell; None where it has none."""
    key = cell.key
    of_cell = (row for row in reversed(rows) if all(row.get(name) == key[name] for name in key))
    return next(of_cell, None)


def is_due(row: dict[str, Any] | None, settings: dict[str, Any], commit: str | None) -> bool:
    """Whether a cell has to be measured.

    Args:
        row: Its row.
        settings: Those of now.
        commit: Which must have made it; None for any.
    """
    return row is None or row["settings"] != settings or (commit is not None and row["commit"] != commit)


def rows_of_now(
    cells: Sequence[Cell], rows: Sequence[dict[str, Any]], folder: Path
) -> list[tuple[Cell, dict[str, Any] | None]]:
    """Cells and their rows; None where it has other settings than now, of which no mean is taken with others.

    Args:
        cells: Those, in order.
        rows: Of the file.
        folder: Of the data.
    """
    found = ((cell, row_of(rows, cell)) for cell in cells)
    return [
        (cell, None if is_due(row, settings_of(cell, cell.config(folder)), None) else row)
        for cell, row in found
    ]


def measure(config: RunConfig, kept: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """The figures of a cell.

    Args:
        config: Its run.
        kept: Where trainings are left for a command that is broken off in the middle of it.
        tell: Is told how far it has come.

    Raises:
        CiessError: There is no such table: no memory, or a loss that is no number.
    """
    meter = Meter()
    with meter.phase("reading"):
        interactions = load_interactions(config)
        (cap_params,) = check_budgets(config, interactions)
    # Of a closed form it would take longer to keep one than to compute it.
    kept_here = None if config.recommender.is_closed_form else kept
    equal = best_equal_table(config, interactions, cap_params, meter, tell, kept_here)
    chosen = equal.chosen
    trained_on = interactions.merge_validation_into_training()
    num_bytes = served_bytes(equal.recommender, trained_on, config.recommender.name)
    return {
        **_counts(interactions),
        "cap_params": cap_params,
        "num_params": chosen.sizes.num_params,
        "chosen": dict(chosen.options),
        "best_batch": chosen.outcome.num_batches,
        "test_batches": equal.test.best_batch,
        "validation": _rounded({"quality": chosen.quality, **chosen.outcome.metrics}),
        "test": _rounded(equal.test.best.summary()),
        **vars(num_bytes),
        **_taken(meter.cpu_s),
        "num_trainings": equal.num_trainings,
    }


def measure_yardstick(name: str, config: RunConfig) -> dict[str, Any]:
    """The figures of what has no table of sized rows."""
    meter = Meter()
    with meter.phase("reading"):
        interactions = load_interactions(config)
    row = run_yardstick(name, interactions.without_test(), lambda: interactions.test).row
    if "error" in row:
        return {"refused": row["error"]}
    cpu_s = {"reading": meter.cpu_s["reading"], **_within("cpu_s", row)}
    return {
        **_counts(interactions),
        "chosen": {} if row["l2"] is None else {"l2": row["l2"]},
        **{split: _rounded(_within(split, row)) for split in ("validation", "test")},
        **{name: row[name] for name in _SERVED},
        **_taken(cpu_s),
    }


def _within(prefix: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}/"): row[name] for name in row if name.startswith(f"{prefix}/")}


def _counts(interactions: Interactions) -> dict[str, int]:
    return {
        "users": interactions.num_users,
        "items": interactions.num_items,
        "interactions": interactions.num_interactions,
    }


def _taken(cpu_s: Mapping[str, float]) -> dict[str, Any]:
    by_phase = {phase: round(seconds, 2) for phase, seconds in cpu_s.items()}
    return {"cpu_s": by_phase, "cpu_s_in_all": round(sum(cpu_s.values()), 2)}


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in figures.items()}


def row_to_be(cell: Cell, folder: Path, made: dict[str, str]) -> dict[str, Any]:
    """The row of a cell; one that refuses says why in place of figures."""
    config, begun = cell.config(folder), time.monotonic()
    last = begun

    def tell(news: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > _SECONDS_BETWEEN_NEWS:
            last = now
            print(f"  {cell}, {now - begun:.0f} s: {news}", flush=True)

    try:
        if cell.is_yardstick:
            figures = measure_yardstick(cell.recommender, config)
        else:
            figures = measure(config, KEPT / made["commit"], tell)
    except CiessError as error:
        figures = {"refused": without_places(str(error))}
    return {**cell.key, **figures, "settings": settings_of(cell, config), **made}


def run(
    cells: Sequence[Cell], folder: Path, file: Path, made: dict[str, str], *, is_again: bool = False
) -> None:
    """Append the rows of the cells that are due.

    Args:
        cells: Those, in order.
        folder: Of the data.
        file: Of the rows.
        made: Command, commit and machine.
        is_again: Whether rows that other commits made do not count.
    """
    for number, cell in enumerate(cells):
        # Another process may have added some.
        rows = Measurements(file)
        settings = settings_of(cell, cell.config(folder))
        if is_due(row_of(rows.rows, cell), settings, made["commit"] if is_again else None):
            print(f"{number + 1} of {len(cells)}: {cell}", flush=True)
            rows.add(row_to_be(cell, folder, made))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the files of data lie")
    parser.add_argument("--data", nargs="+", choices=list(DATA_SETS), default=[], help="these data sets")
    parser.add_argument("--recommenders", nargs="+", choices=NAMES, default=[])
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=[])
    parser.add_argument("--splits", nargs="+", type=int, default=[], help="seeds of these splits")
    parser.add_argument(
        "--held-out", action="store_true", help=f"splits {HELD_OUT} in place of {BUILDING}: once, at the end"
    )
    parser.add_argument("--again", action="store_true", help="also what other commits have measured")
    parser.add_argument("--finished", action="store_true", help="only write what is finished so far")
    parser.add_argument(
        "--output",
        type=Path,
        help="of .jsonl, .md and .png; by default results/recommender-table, or -held-out",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    splits = HELD_OUT if arguments.held_out else BUILDING
    output = arguments.output or Path(f"results/recommender-table{'-held-out' if arguments.held_out else ''}")
    # A name may have a dot.
    file = output.with_name(f"{output.name}.jsonl")
    every = planned(splits)
    if not arguments.finished:
        selection = Selection(arguments.data, arguments.recommenders, arguments.budgets, arguments.splits)
        if not (cells := [cell for cell in every if cell in selection]):
            raise SystemExit("no cell is selected; each of the options names some that there are.")
        try:
            check_files(cells, arguments.folder)
            run(cells, arguments.folder, file, provenance(), is_again=arguments.again)
        except CiessError as error:
            raise SystemExit(f"recommender_table: {error}") from error
    write_summary(output, rows_of_now(every, Measurements(file).rows, arguments.folder))


if __name__ == "__main__":
    main()
