"""``ciess-ray sweep``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ciess_ray.cli.arguments import as_yaml, check_folder, find_own_modules, resumed_fields
from ciess_ray.metric_keys import RANKING_NOTE
from ciess_ray.plain_text import command
from ciess_ray.terminal import TextTable, console
from envs.errors import ConfigError

if TYPE_CHECKING:
    from ciess_ray.config.grid import Trial
    from ciess_ray.sweeps.results import SweepResults

SWEEP_HELP = """
Run many searches that differ in some fields, side by side, and compare them.

[bold]Examples[/bold]

  ciess-ray sweep configs/quickstart-sweep.yaml

  ciess-ray sweep configs/quickstart-sweep.yaml --dry-run

  ciess-ray sweep configs/quickstart-sweep.yaml --output s3://bucket/sweep max_failures=5

  ciess-ray sweep --resume runs/quickstart-sweep

The YAML file names the configuration that all searches share ([bold]base[/bold]) and the fields that differ
([bold]space[/bold]); [bold]ciess-ray fields --sweep[/bold] lists what else it may say.

The folder gets results.parquet (a row a trial), results.json (means over seeds), pareto.png, and a folder for
each trial with its result. A sweep that was killed or interrupted goes on with [bold]--resume[/bold]:
finished trials are kept, those under way go on from their last checkpoint, failed ones are tried again; with
[bold]dataset.path=FILE[/bold] where its data have moved. Its state and checkpoints are pickles: resume no
sweep of somebody whom you would not let run code on your machine.
"""


def sweep(
    config: Annotated[
        str | None, typer.Argument(help="YAML file; see configs/quickstart-sweep.yaml.", metavar="[CONFIG]")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Fields of the sweep to change.", metavar="[SECTION.FIELD=VALUE]..."),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder or URI of the sweep.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the trials, what each claims, and how many run at once.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a sweep in the folder.")] = False,
    resume: Annotated[
        str | None, typer.Option(help="Folder or URI of a sweep to go on with; takes the place of CONFIG.")
    ] = None,
) -> None:
    """See :data:`SWEEP_HELP`."""
    options = [] if output is None else [f"output={as_yaml(output)}"]
    changes = [] if resume is None else resumed_fields("a sweep", config, overrides)
    if resume is not None and (options or overwrite or dry_run):
        raise ConfigError("--resume goes on with a sweep as it was configured; give nothing beside it.")
    check_folder(None if resume is None or "://" in resume else Path(resume))
    if resume is None and config is None:
        raise ConfigError("CONFIG, a YAML file, is missing; 'ciess-ray sweep --help' has examples.")
    find_own_modules()
    from ciess_ray.sweeps.config import load_sweep

    plan = None
    if resume is None and config is not None:
        plan = load_sweep(Path(config), [*(overrides or []), *options])

    # RLlib takes seconds to import, which a mistake in the configuration should not have to wait for.
    from ciess_ray.sweeps import driver as sweeps
    from ciess_ray.sweeps.live import SweepView

    if plan is not None and dry_run:
        console.show(_trials(sweeps.check(plan)))
        return
    with SweepView(console) as view:
        if plan is not None:
            results = sweeps.sweep(plan, overwrite=overwrite, on_change=view)
        else:
            assert resume is not None
            results = sweeps.resume_sweep(resume, overrides=changes, on_change=view)
    console.show(results.to_rich())
    _print_sweep(results)
    if not results.is_complete:
        raise typer.Exit(1)


def _trials(checked: "Sequence[tuple[Trial, str, int]]") -> TextTable:
    table = TextTable("trial", "claims", "at once")
    for trial, claims, num_at_once in checked:
        table.add_row(trial.name, claims, str(num_at_once))
    return table


def _print_sweep(results: "SweepResults") -> None:
    console.say(RANKING_NOTE)
    console.say("means over n seeds; *: none of its recommender is as small and as good on validation")
    statuses = [outcome.status for outcome in results.outcomes]
    told = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    console.say(f"trials: {told}; {results.seconds:.0f} s")
    for outcome in results.outcomes:
        if outcome.status == "failed":
            console.say(f"{outcome.name}: {outcome.error}", "failed:", "red")
    for problem in results.problems:
        console.say(problem, "not recorded:", "yellow")
    console.say(f"results: {results.location}")
    if "://" not in results.location:
        console.say(f"look at them: {command('ciess-ray', 'report', results.location)}")
    if not results.is_complete:
        console.say(f"try again: {command('ciess-ray', 'sweep', '--resume', results.location)}")
