"""What ``ciess-ray compare`` shows: a line a cell while it runs, and the table at its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ciess_ray.metric_keys import RANKING_NOTE
from ciess_ray.plain_text import command
from ciess_ray.terminal import Terminal, TextTable
from envs.errors import ConfigError

if TYPE_CHECKING:
    from ciess_ray.comparisons.figures import MethodFigures
    from ciess_ray.comparisons.results import ComparisonResults

COMPARE_HELP = """
Compare the search with what one would do by hand, and with other methods, at the same budgets.

[bold]Examples[/bold]

  ciess-ray compare configs/quickstart-comparison.yaml

  ciess-ray compare configs/quickstart-comparison.yaml --dry-run

  ciess-ray compare configs/ml-1m-comparison.yaml --output runs/mine num_resamples=1000

  ciess-ray compare --resume runs/quickstart-comparison

  ciess-ray compare --resume runs/quickstart-comparison --dry-run

  ciess-ray compare --resume runs/quickstart-comparison dataset.path=moved/ratings.dat

The YAML file names the configuration that all cells share ([bold]base[/bold]), the fields that differ
([bold]space[/bold]) and the [bold]methods[/bold]; [bold]ciess-ray fields --comparison[/bold] lists the rest.

The folder gets comparison.parquet (a row a cell), comparison.json (means over seeds, the search against each
method) and a file for each cell as soon as it is done, with the test metrics of every user. The same command
goes on where it was killed, tries failed cells again, and adds what the file has gained since; remove the
file of a cell to compute it anew. Validation chooses; test is read once a cell, at its end.
"""


def run_comparison(
    console: Terminal,
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
    from ciess_ray.comparisons.config import load_comparison

    plan = None if config is None else load_comparison(config, overrides)

    # RLlib takes seconds to import, which a mistake in the configuration should not have to wait for.
    from ciess_ray.comparisons import driver as comparisons
    from ciess_ray.comparisons.live import ComparisonLines
    from ciess_ray.config.data import check_places

    if plan is None:
        assert resume is not None
        plan = comparisons.read_plan(resume, overrides)
        check_places(plan.grid.trials, "compare", str(resume))
    if dry_run:
        table = TextTable("cell", "state")
        for cell, state in comparisons.check(plan):
            table.add_row(cell.name, state)
        console.show(table)
        return True
    console.say(f"{len(plan.cells)} cells into {plan.config.output}")
    results, figures = comparisons.compare(plan, overwrite=overwrite, on_change=ComparisonLines(console))
    _print_results(console, results, figures)
    return results.is_complete


def _print_results(
    console: Terminal, results: "ComparisonResults", figures: "Sequence[MethodFigures]"
) -> None:
    from ciess_ray.comparisons.figures import to_rich

    console.show(to_rich(figures))
    console.say(RANKING_NOTE)
    console.say(
        "means over n seeds, on so many splits of the data; of full: NDCG@20 as a share of full size's on "
        "the same; search, p: NDCG@20 of the search against the method's, paired over users and splits, with "
        "95 % interval, too narrow where splits are few; ^: a training ended before validation had stopped "
        "rising\n"
        "packed: bytes of the table's file; served: of all that answers a request that brings its own "
        "history; with histories: everybody's interactions added\n"
        "trainings, CPU s and peak MB include the full-size fit and the supernet wherever a method needs "
        "them, though they are trained once for all"
    )
    cells = results.plan.cells
    statuses = [results.status(cell) for cell in cells]
    told = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    console.say(f"cells: {told}; {results.seconds:.0f} s")
    for cell in cells:
        if results.status(cell) == "failed":
            console.say(f"{cell.name}: {results.error(cell)}", "failed:", "red")
    for hint in results.hints():
        console.say(hint, "hint:", "yellow")
    for problem in results.problems:
        console.say(problem, "not recorded:", "yellow")
    folder = results.plan.config.output
    console.say(f"results: {folder}")
    if not results.is_complete:
        console.say(f"try again: {command('ciess-ray', 'compare', '--resume', folder)}")
