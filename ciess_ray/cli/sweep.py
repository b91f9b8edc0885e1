"""``ciess-ray sweep``."""

from pathlib import Path
from typing import Annotated

import typer

from ciess_ray.cli.arguments import as_yaml, changed_fields, say_end
from ciess_ray.metric_keys import RANKING_NOTE
from ciess_ray.terminal import TextTable, console

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
    changes = changed_fields("sweep", config, overrides, options, resume, is_refused=overwrite or dry_run)
    from ciess_ray.sweeps.config import load_sweep

    plan = load_sweep(Path(config or ""), changes) if resume is None else None

    # RLlib takes seconds to import, which a mistake in the configuration should not have to wait for.
    from ciess_ray.sweeps import driver as sweeps
    from ciess_ray.sweeps.live import SweepView

    if plan is not None and dry_run:
        rows = [(trial.name, claims, str(num_at_once)) for trial, claims, num_at_once in sweeps.check(plan)]
        console.show(TextTable("trial", "claims", "at once", rows=rows))
        return
    with SweepView(console) as view:
        if resume is not None:
            results = sweeps.resume_sweep(resume, overrides=changes, on_change=view)
        elif plan is not None:
            results = sweeps.sweep(plan, overwrite=overwrite, on_change=view)
    console.show(results.to_rich())
    console.say(RANKING_NOTE)
    console.say("means over n seeds; *: none of its recommender is as small and as good on validation")
    say_end(
        "sweep",
        [(outcome.name, outcome.status, outcome.error) for outcome in results.outcomes],
        results.seconds,
        results.location,
        problems=results.problems,
        is_complete=results.is_complete,
    )
