"""The commands that begin searches, or go on with them: ``search``, ``sweep`` and ``compare``."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ciess_ray.cli.options import changed_fields, columns_of, options_of
from ciess_ray.cli.results import say_result
from ciess_ray.config.yaml_values import as_yaml
from ciess_ray.metric_keys import RANKING_NOTE
from ciess_ray.plain_text import command
from ciess_ray.terminal import TextTable, console
from envs.errors import ConfigError

if TYPE_CHECKING:
    from ciess_ray.searches.beginning import DryRun


def search(
    config: Annotated[
        str | None, typer.Argument(help="YAML file, see configs/; or a file of data.", metavar="[CONFIG]")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Fields to change.", metavar="[SECTION.FIELD=VALUE]...")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="0.1, 10%, '62000 params', or 64MB of packed file; may be given again, for looser ones.",
            metavar="BUDGET",
        ),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Name of the column of users.")] = None,
    item: Annotated[str | None, typer.Option(help="Name of the column of items.")] = None,
    rating: Annotated[str | None, typer.Option(help="Name of the column of ratings.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Name of the column of times.")] = None,
    recommender: Annotated[
        str | None,
        typer.Option(help="lightgcn, mf, ...; auto: validation chooses.", metavar="NAME"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the result.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every draw.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto.")] = None,
    time: Annotated[
        str | None, typer.Option(help="What the search is given: 90s, 10m, 1h.", metavar="TIME")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the search would be, and take; nothing is written.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result in the folder.")] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Folder of a search to go on with; takes the place of CONFIG.")
    ] = None,
    more_episodes: Annotated[int, typer.Option(min=0, help="Episodes to take beyond those configured.")] = 0,
) -> None:
    """Search embedding sizes for one configuration and budget.

    [bold]Examples[/bold]

      ciess-ray search purchases.csv --budget 10% --user customer --item sku

      ciess-ray search configs/quickstart.yaml

      ciess-ray search configs/quickstart.yaml --budget 200kB --output runs/small

      ciess-ray search configs/ml-1m-lightgcn.yaml dataset.path=ratings.parquet search.num_episodes=3

      ciess-ray search configs/quickstart.yaml --budget 5% --budget 10% --budget 20%

      ciess-ray search configs/quickstart.yaml --dry-run

      ciess-ray search purchases.csv --user customer --item sku --time 10m

      ciess-ray search --resume runs/small

      ciess-ray search --resume runs/small --more-episodes 10

    A file of data is enough; [bold]ciess-ray init[/bold] writes a YAML file for it. Whatever a YAML file says
    can be said here too, as [bold]section.field=value[/bold]; [bold]ciess-ray fields[/bold] lists every
    field.

    The result is a folder: result.json, sizes.parquet, table.safetensors (the packed table, which is what the
    budget caps, trained on all interactions once it has been measured) and what scoring needs beside it. Of
    several budgets the first must be the tightest: it is searched, and each further one gets a folder of its
    own in the output folder.

    A search that was killed, interrupted or out of disk goes on from its last checkpoint with
    [bold]--resume[/bold], with [bold]dataset.path=FILE[/bold] where its data have moved; one that is finished
    is extended with [bold]--more-episodes[/bold]. Checkpoints are pickles: resume no folder of somebody whom
    you would not let run code on your machine.
    """
    options = options_of(
        {"budget": budget or None}
        | columns_of(user=user, item=item, rating=rating, timestamp=timestamp)
        | {"recommender.name": recommender, "output": output, "seed": seed}
        | {"recommender.device": device, "time": time}
    )
    changes = changed_fields(
        "search",
        config,
        overrides,
        options,
        resume,
        is_refused=overwrite or dry_run,
        beside="--more-episodes, ",
    )
    if more_episodes and resume is None:
        raise ConfigError(
            "--resume FOLDER, the search to extend, is missing; 'ciess-ray search --help' has examples."
        )
    # Each command imports what it needs: PyTorch takes seconds, RLlib more.
    from ciess_ray.config.yaml_file import load_config

    run = load_config(config or "", changes) if resume is None else None

    # RLlib takes seconds to import, which a mistake in the configuration should not have to wait for.
    from ciess_ray.searches import driver as searches
    from ciess_ray.searches.beginning import look_ahead
    from ciess_ray.searches.live import SearchView

    if run is not None and dry_run:
        _say_dry_run(look_ahead(run, overwrite=overwrite))
        return

    with SearchView(console) as view:
        if resume is not None:
            result = searches.resume(resume, more_episodes=more_episodes, overrides=changes, on_progress=view)
        elif run is not None:
            result = searches.search(run, overwrite=overwrite, on_progress=view)
    say_result(result)


def _say_dry_run(dry_run: "DryRun") -> None:
    """What a search would be, and take, phase by phase."""
    data, forecast = dry_run.interactions, dry_run.outlook.forecast
    console.say(
        f"{data.source}: {data.num_users:,} users, {data.num_items:,} items, "
        f"{data.num_interactions:,} interactions"
    )
    if dry_run.sample is not data:
        its = dry_run.sample
        console.say(f"searched with {its.num_users:,} users, {its.num_interactions:,} interactions")
    for number, (asked, num_bytes) in enumerate(dry_run.served.items()):
        rooms = ", ".join(f"{name} {caps[number]:,}" for name, caps in dry_run.rooms.items())
        console.say(
            f"budget {asked}: {num_bytes:,} bytes to serve, of which validation chooses who makes the most; "
            f"room for parameters: {rooms}"
        )
    for budget in () if dry_run.served else dry_run.budgets:
        console.say(
            f"budget {budget.asked}: at most {budget.cap_params:,} of {dry_run.full_params:,} parameters, "
            f"{4 * budget.cap_params:,} bytes"
        )
    console.say(dry_run.outlook.line)
    rows = [
        (phase.name, f"{phase.num_trainings:.0f}", f"{phase.cpu_s:,.0f}", f"{forecast.wall_s_of(phase):,.0f}")
        for phase in forecast.phases
    ]
    console.show(TextTable("phase", "trainings", "CPU s", "s", rows=rows, first_number=1))


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
    """Run many searches, or streams, that differ in some fields, side by side, and compare them.

    [bold]Examples[/bold]

      ciess-ray sweep configs/quickstart-sweep.yaml

      ciess-ray sweep configs/quickstart-sweep.yaml --dry-run

      ciess-ray sweep configs/quickstart-sweep.yaml --output s3://bucket/sweep max_failures=5

      ciess-ray sweep --resume runs/quickstart-sweep

    The YAML file names the configuration that all searches share ([bold]base[/bold]) and the fields that
    differ ([bold]space[/bold]); [bold]ciess-ray fields --sweep[/bold] lists what else it may say.

    The folder gets results.parquet (a row a trial), results.json (means over seeds), pareto.png, and a folder
    for each trial with its result; of streams, which a base with [bold]segments[/bold] means, streams.parquet
    (a row a stream, segment and method) in place of the latter two. A sweep that was killed or interrupted
    goes on with [bold]--resume[/bold]: finished trials are kept, those under way go on from their last
    checkpoint, or what is done of a stream, failed ones are tried again; with [bold]dataset.path=FILE[/bold]
    where its data have moved. Its state and checkpoints are pickles: resume no sweep of somebody whom you
    would not let run code on your machine.
    """
    options = [] if output is None else [f"output={as_yaml(output)}"]
    changes = changed_fields("sweep", config, overrides, options, resume, is_refused=overwrite or dry_run)
    from ciess_ray.sweeps.config import SweepPlan

    plan = SweepPlan.load(Path(config or ""), changes) if resume is None else None

    # RLlib takes seconds to import, which a mistake in the configuration should not have to wait for.
    from ciess_ray.searches.live import RunsView
    from ciess_ray.sweeps import driver as sweeps

    if plan is not None and dry_run:
        rows = [(trial.name, claims, str(num_at_once)) for trial, claims, num_at_once in sweeps.check(plan)]
        console.show(TextTable("trial", "claims", "at once", rows=rows))
        return
    with RunsView(console) as view:
        if resume is not None:
            results = sweeps.resume_sweep(resume, overrides=changes, on_change=view)
        elif plan is not None:
            results = sweeps.sweep(plan, overwrite=overwrite, on_change=view)
    console.show(results.to_rich())
    console.say(RANKING_NOTE)
    console.say(results.note)
    say_end(
        "sweep",
        [(outcome.name, outcome.status, outcome.error) for outcome in results.outcomes],
        results.seconds,
        results.location,
        problems=results.problems,
        is_complete=results.is_complete,
        has_report=results.has_report,
    )


_TERMS = """\
means over n seeds, on so many splits of the data; of full: NDCG@20 as a share of full size's on the same; \
search, p: NDCG@20 of the search against the method's, paired over users and splits, with 95 % interval, too \
narrow where splits are few; ^: a training ended before validation had stopped rising
packed: bytes of the table's file; served: of all that answers a request that brings its own history; with \
histories: everybody's interactions added
no budget: uncut lists of items beside the methods, of no table and within no budget
trainings, CPU s and peak MB include the full-size fit and the supernet wherever a method needs them, though \
they are trained once for all"""


def compare(
    config: Annotated[
        str | None,
        typer.Argument(help="YAML file; see configs/quickstart-comparison.yaml.", metavar="[CONFIG]"),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Fields of the comparison to change.", metavar="[SECTION.FIELD=VALUE]..."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the comparison.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the cells and what is done.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Compute cells of other settings in the folder anew.")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Folder of a comparison to go on with; takes the place of CONFIG.")
    ] = None,
) -> None:
    """Compare the search with what one would do by hand, and with other methods, at the same budgets.

    [bold]Examples[/bold]

      ciess-ray compare configs/quickstart-comparison.yaml

      ciess-ray compare configs/quickstart-comparison.yaml --dry-run

      ciess-ray compare configs/ml-1m-comparison.yaml --output runs/mine num_resamples=1000

      ciess-ray compare --resume runs/quickstart-comparison

      ciess-ray compare --resume runs/quickstart-comparison --dry-run

      ciess-ray compare --resume runs/quickstart-comparison dataset.path=moved/ratings.dat

    The YAML file names the configuration that all cells share ([bold]base[/bold]), the fields that differ
    ([bold]space[/bold]) and the [bold]methods[/bold]; [bold]ciess-ray fields --comparison[/bold] lists the
    rest.

    The folder gets comparison.parquet (a row a cell), comparison.json (means over seeds, the search against
    each method) and a file for each cell as soon as it is done, with the test metrics of every user. The same
    command goes on where it was killed, tries failed cells again, and adds what the file has gained since;
    remove the file of a cell to compute it anew. Validation chooses; test is read once a cell, at its end.
    """
    options = [] if output is None else [f"output={as_yaml(output)}"]
    changes = changed_fields(
        "compare", config, overrides, options, resume, is_refused=overwrite, beside="--dry-run, "
    )
    # Each command imports what it needs: PyTorch takes seconds, RLlib more.
    from ciess_ray.comparisons.config import ComparisonPlan

    plan = ComparisonPlan.load(Path(config or ""), changes) if resume is None else None

    # RLlib takes seconds to import, which a mistake in the configuration should not have to wait for.
    from ciess_ray.comparisons import driver as comparisons
    from ciess_ray.config.data import check_places
    from ciess_ray.searches.live import RunsView

    if plan is None:
        plan = comparisons.read_plan(Path(resume or ""), changes)
        check_places((trial.config for trial in plan.trials), "compare", resume)
    if dry_run:
        rows = [(cell.name, state) for cell, state in comparisons.check(plan)]
        console.show(TextTable("cell", "state", rows=rows))
        return
    console.say(f"{len(plan.cells)} cells into {plan.config.output}")
    with RunsView(console) as view:
        results = comparisons.compare(plan, overwrite=overwrite, on_change=view)
    console.show(results.to_rich())
    console.say(RANKING_NOTE)
    console.say(_TERMS)
    say_end(
        "compare",
        [(row["cell"], row["status"], row["error"]) for row in results.rows],
        results.seconds,
        str(results.plan.config.output),
        problems=results.problems,
        hints=results.hints(),
        is_complete=results.is_complete,
    )


def say_end(
    what: str,
    parts: Iterable[tuple[str, str, str | None]],
    seconds: float,
    location: str,
    *,
    problems: Iterable[str],
    hints: Iterable[str] = (),
    is_complete: bool,
    has_report: bool = True,
) -> None:
    """What became of a sweep or a comparison; where a part of it is missing the command fails.

    Args:
        what: The command.
        parts: Name, status and error of each trial or cell.
        seconds: How long it took.
        location: Its folder or URI.
        problems: What MLflow did not take.
        hints: What is to be read with it.
        is_complete: Whether every part is there.
        has_report: Whether 'ciess-ray report' reads such a folder.
    """
    listed = list(parts)
    statuses = [status for _, status, _ in listed]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    console.say(f"{'trials' if what == 'sweep' else 'cells'}: {counts}; {seconds:.0f} s")
    for name, status, error in listed:
        if status in ("failed", "refused"):
            console.say(f"{name}: {error}", f"{status}:", "red" if status == "failed" else "yellow")
    for hint in hints:
        console.say(hint, "hint:", "yellow")
    for problem in problems:
        console.say(problem, "not recorded:", "yellow")
    console.say(f"results: {location}")
    if has_report and "://" not in location:
        console.say(f"look at them: {command('ciess-ray', 'report', location)}")
    if not is_complete:
        console.say(f"try again: {command('ciess-ray', what, '--resume', location)}")
        raise typer.Exit(1)
