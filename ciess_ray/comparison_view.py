"""What ``ciess-ray compare`` shows: a line a cell while it runs, and the table at its end."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from envs.errors import ConfigError

if TYPE_CHECKING:
    from ciess_ray.compare import News
    from ciess_ray.comparison_results import ComparisonResults, MethodFigures

_TABLE_WIDTH = 160

COMPARE_HELP = """
Compare the search with what one would do by hand, and with other methods, at the same budgets.

[bold]Examples[/bold]

  ciess-ray compare configs/quickstart-comparison.yaml

  ciess-ray compare configs/quickstart-comparison.yaml --dry-run

  ciess-ray compare configs/ml-1m-comparison.yaml --output runs/mine num_resamples=1000

  ciess-ray compare --resume runs/quickstart-comparison

  ciess-ray compare --resume runs/quickstart-comparison --dry-run

The YAML file names the configuration that all cells share ([bold]base[/bold]), the fields that differ
([bold]space[/bold]) and the [bold]methods[/bold]; [bold]ciess-ray fields --comparison[/bold] lists the rest.

The folder gets comparison.parquet (a row a cell), comparison.json (means over seeds, the search against each
method) and a file for each cell as soon as it is done, with the test metrics of every user. The same command
goes on where it was killed, tries failed cells again, and adds what the file has gained since; remove the
file of a cell to compute it anew. Validation chooses; test is read once a cell, at its end.
"""


def run_comparison(
    console: Console,
    config: Path | None,
    overrides: Sequence[str],
    *,
    dry_run: bool = False,
    overwrite: bool = False,
    resume: Path | None = None,
) -> bool:
    """Run or resume a comparison, or show its cells.

    Args:
        console: Where to.
        config: YAML file; None for one that is resumed.
        overrides: Fields to change.
        dry_run: Whether to show the cells and start nothing.
        overwrite: Whether cells of other settings may be replaced.
        resume: Folder of the comparison to go on with.

    Returns:
        Whether all that was asked for is there.

    Raises:
        ConfigError: There is neither a file nor a folder, or the file is wrong.
    """
    if resume is None and config is None:
        raise ConfigError("CONFIG, a YAML file, is missing; 'ciess-ray compare --help' has examples.")
    # Each command imports what it needs: PyTorch takes seconds, RLlib more.
    from ciess_ray.comparison_config import load_comparison

    plan = None if config is None else load_comparison(config, overrides)

    # RLlib takes seconds to import, which a mistake in the configuration should not have to wait for.
    from ciess_ray import compare as comparisons

    if plan is None:
        assert resume is not None
        plan = comparisons.read_plan(resume)
    if dry_run:
        table = Table("cell", "state", box=None, pad_edge=False)
        for cell, state in comparisons.check(plan):
            table.add_row(cell.name, state)
        console.print(table)
        return True
    console.print(f"{len(plan.cells)} cells into {plan.config.output}", highlight=False, soft_wrap=True)
    results, figures = comparisons.compare(plan, overwrite=overwrite, on_change=_Lines(console))
    _print_results(console, results, figures)
    return results.is_complete


class _Lines:
    """Plain lines of what begins and ends."""

    def __init__(self, console: Console) -> None:
        self._console, self._started = console, time.monotonic()

    def __call__(self, news: "News") -> None:
        parts = [f"{news.num_done}/{news.num_cells}", news.status, news.name]
        if news.row is not None:
            parts.append(
                f"validation {news.row['validation/quality']:.4f}, N@20 {news.row['test/ndcg@20']:.4f}, "
                f"{news.row['allocation']}"
            )
        parts += [news.error] if news.error else []
        parts.append(f"after {time.monotonic() - self._started:.0f} s")
        self._console.print("  ".join(parts), highlight=False, soft_wrap=True, markup=False)


def _print_results(
    console: Console, results: "ComparisonResults", figures: "Sequence[MethodFigures]"
) -> None:
    from ciess_ray.comparison_results import to_rich

    # As wide as it is: a log has no width, and half a figure tells nothing.
    Console(file=console.file, width=max(console.width, _TABLE_WIDTH)).print(to_rich(figures))
    console.print(
        "means over n seeds; search, p: NDCG@20 of the search against the method's, paired over users, with "
        "95 % interval; ^: a training ended before validation had stopped rising\n"
        "trainings, CPU s and peak MB include the full-size fit and the supernet wherever a method needs "
        "them, though they are trained once for all",
        highlight=False,
        soft_wrap=True,
    )
    cells = results.plan.cells
    statuses = [results.status(cell) for cell in cells]
    told = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    console.print(f"cells: {told}; {results.seconds:.0f} s", highlight=False)
    for cell in cells:
        if results.status(cell) == "failed":
            error = escape(str(results.error(cell)))
            console.print(f"[red]failed:[/red] {cell.name}: {error}", highlight=False, soft_wrap=True)
    for problem in results.problems:
        console.print(f"[yellow]not recorded:[/yellow] {escape(problem)}", highlight=False, soft_wrap=True)
    folder = results.plan.config.output
    console.print(f"results: {folder}", highlight=False, soft_wrap=True)
    if not results.is_complete:
        console.print(f"'ciess-ray compare --resume {folder}' tries again.", highlight=False, soft_wrap=True)
