"""The command line: ``ciess-ray``."""

import inspect
import itertools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from ciess_ray.cli.arguments import as_yaml, changed_fields
from ciess_ray.cli.data import data_app, init
from ciess_ray.cli.many import compare, sweep
from ciess_ray.cli.results import export, recommend, track, verify
from ciess_ray.config.credentials import without_secrets
from ciess_ray.metric_keys import RANKING_NOTE, RANKING_TERMS
from ciess_ray.names import SEARCH
from ciess_ray.plain_text import command, paragraphs, percent
from ciess_ray.signals import EXIT_STATUS, is_terminated, terminable
from ciess_ray.terminal import TextTable, console, errors, spell_out
from envs.errors import CiessError, ConfigError

app = typer.Typer(
    name="ciess-ray",
    help="Find the embedding size that each user and item deserves under a memory budget.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")

_FIELDS_WIDTH = 160


def _show_version(is_asked: bool) -> None:
    if is_asked:
        console.say(f"ciess-ray {version('ciess-ray')}")
        raise typer.Exit


@app.callback()
def _options(
    is_asked: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


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
    output: Annotated[Path | None, typer.Option(help="Folder of the result.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every draw.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto.")] = None,
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

      ciess-ray search --resume runs/small

      ciess-ray search --resume runs/small --more-episodes 10

    A file of data is enough; [bold]ciess-ray init[/bold] writes a YAML file for it. Whatever a YAML file says
    can be said here too, as [bold]section.field=value[/bold]; [bold]ciess-ray fields[/bold] lists every
    field.

    The result is a folder: result.json, sizes.parquet, table.safetensors (the packed table, which is what the
    budget caps) and what scoring needs beside it. Of several budgets the first must be the tightest: it is
    searched, and each further one gets a folder of its own in the output folder.

    A search that was killed, interrupted or out of disk goes on from its last checkpoint with
    [bold]--resume[/bold], with [bold]dataset.path=FILE[/bold] where its data have moved; one that is finished
    is extended with [bold]--more-episodes[/bold]. Checkpoints are pickles: resume no folder of somebody whom
    you would not let run code on your machine.
    """
    names = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
    given = {
        "budget": budget or None,
        "dataset.columns": {role: name for role, name in names.items() if name is not None} or None,
        "output": output,
        "seed": seed,
        "recommender.device": device,
    }
    options = [f"{name}={as_yaml(value)}" for name, value in given.items() if value is not None]
    changes = changed_fields(
        "search", config, overrides, options, resume, is_refused=overwrite, beside="--more-episodes, "
    )
    if more_episodes and resume is None:
        raise ConfigError(
            "--resume FOLDER, the search to extend, is missing; 'ciess-ray search --help' has examples."
        )
    # Each command imports what it needs: PyTorch takes seconds, RLlib more.
    from ciess_ray.config.yaml_file import load_config

    run = load_config(Path(config or ""), changes) if resume is None else None

    # RLlib takes seconds to import, which a mistake in the configuration should not have to wait for.
    from ciess_ray.searches import driver as searches
    from ciess_ray.searches.live import SearchView

    with SearchView(console) as view:
        if resume is not None:
            result = searches.resume(resume, more_episodes=more_episodes, overrides=changes, on_progress=view)
        elif run is not None:
            result = searches.search(run, overwrite=overwrite, on_progress=view)
    for shown in (result, *result.looser()):
        console.show(_comparison(shown.summary))
        if shown is result:
            console.say(RANKING_NOTE)
        _print_files(shown.path, shown.summary)
    _print_run(result.path, result.summary)


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Of searches, sweeps or comparisons.", metavar="FOLDER...")
    ],
    output: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that is there.")] = False,
) -> None:
    """Tell of searches, sweeps and comparisons in one HTML page.

    [bold]Examples[/bold]

      ciess-ray report runs/quickstart

      ciess-ray report runs/quickstart-sweep --output sweep.html

      ciess-ray report runs/small runs/quickstart --output both.html --overwrite

    A folder is that of a search, a sweep or a comparison; of several the page sets all side by side. It says
    what the tables cost against full size and against every other method, who got which size, how the search
    went, and where time and bytes went. It needs no network and can be sent as it is; its figures also lie as
    PNG files in a folder beside it.
    """
    from ciess_ray.report import write_report

    written = write_report(folders, output, overwrite=overwrite)
    where = f"report: {written.page}, {len(written.figures)} figures in {written.figures_folder}"
    if written.headline:
        console.say(written.headline)
        console.say(f"R@20 is {RANKING_TERMS['R@20']}, a mean over users.")
    console.say(where)


def fields(
    of_sweep: Annotated[bool, typer.Option("--sweep", help="Those of a sweep's file instead.")] = False,
    of_comparison: Annotated[
        bool, typer.Option("--comparison", help="Those of a comparison's file instead.")
    ] = False,
) -> None:
    """List every field of a configuration with its default and meaning."""
    from ciess_ray.comparisons.config import ComparisonConfig
    from ciess_ray.config.run import RunConfig
    from ciess_ray.config.yaml_file import field_table
    from ciess_ray.sweeps.config import SweepConfig

    model = SweepConfig if of_sweep else ComparisonConfig if of_comparison else RunConfig
    table = TextTable("field", "default", "meaning", rows=field_table(model))
    table.columns[0].no_wrap = True
    # A pipe has no width.
    console.show(table, console.width if console.is_terminal else _FIELDS_WIDTH)


# What a command says of itself is its help, broken anew into lines.
for _command in (init, search, sweep, compare, report, recommend, export, verify, track, fields):
    app.command(help=paragraphs(inspect.getdoc(_command) or ""))(_command)


class _Notes(logging.Handler):
    """Shows what the library logs as the commands show everything."""

    def emit(self, record: logging.LogRecord) -> None:
        errors.say(without_secrets(record.getMessage()), "note:", "yellow")


_NOTES = _Notes(logging.WARNING)


def main() -> None:
    """Entry point: a user's mistake ends in one message and exit status 2, Ctrl-C in 130, SIGTERM in 143."""
    spell_out()
    for package in ("ciess_ray", "envs"):
        logging.getLogger(package).addHandler(_NOTES)
    try:
        _refuse_empty(sys.argv)
        with terminable():
            app(prog_name="ciess-ray")
    except CiessError as error:
        errors.say(without_secrets(error), "error:", "bold red")
        sys.exit(2)
    except OSError as error:
        # A name that is too long, a folder that may not be read, a full disk: nothing of ours.
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        errors.say(f"{where}{error.strerror or error}.", "error:", "bold red")
        sys.exit(2)
    except SystemExit as exit:
        # Typer turns Ctrl-C into this status without a word, and Ray SIGTERM as it starts into its number.
        is_ended = is_terminated() or exit.code == signal.SIGTERM
        if is_ended or exit.code == 130:
            how = "ended by SIGTERM" if is_ended else "interrupted"
            errors.say(f"{how}; it goes on with --resume and the output folder in place of the file.")
        sys.exit(EXIT_STATUS if is_ended else exit.code)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """What a variable of the shell that is not set leaves would name the folder that one stands in."""
    for before, argument in itertools.pairwise(arguments):
        option, separator, value = argument.partition("=")
        if not argument or (option.startswith("--") and separator and not value):
            place = option if argument else f"after {Path(before).name!r}"
            raise ConfigError(f"{place}: an empty name or value; give one, or leave it out.")


def _comparison(summary: dict[str, Any]) -> TextTable:
    headings = ("", "kept", "R@20", "N@20", "parameters", "packed bytes", "served bytes", "user : item")
    rows = [
        (
            row["name"],
            percent(100 * row["kept_ratio"], 2),
            f"{row['test']['recall@20']:.4f}",
            f"{row['test']['ndcg@20']:.4f}",
            f"{row['num_params']:,}",
            f"{row['packed_bytes']:,}",
            f"{row['served_bytes']:,}" if "served_bytes" in row else "",
            f"{row['mean_user_size']:.1f} : {row['mean_item_size']:.1f}",
        )
        for row in summary["methods"]
    ]
    return TextTable(*headings, rows=rows, first_number=1)


def _print_files(path: Path, summary: dict[str, Any]) -> None:
    from ciess_ray.result import CHECKPOINT_FOLDER, checkpoint_bytes

    budget, sizes = summary["budget"], summary["bytes"]
    console.say(
        f"budget {budget['asked']}: at most {budget['cap_params']:,} parameters, "
        f"{budget['num_params']:,} kept"
    )
    beside = ", ".join(
        f"{name} {sizes[name]:,}" for name in ("scorer.safetensors", "interactions.npz", "ids.parquet")
    )
    console.say(f"bytes: table.safetensors {sizes['table.safetensors']:,}; beside it {beside}")
    served = next(row for row in summary["methods"] if row["name"] == SEARCH)
    if "served_bytes" in served:
        console.say(
            f"served: {served['served_bytes']:,} bytes ({served['served_as']}, and the scorer) answer "
            f"whoever brings a history, {served['served_with_histories_bytes']:,} where everybody's is kept"
        )
    kept = checkpoint_bytes(path)
    if kept:
        folder = path / CHECKPOINT_FOLDER
        console.say(f"checkpoints: {kept:,} bytes in {folder}, for --more-episodes alone; it may be removed")
    for hint in summary["hints"]:
        console.say(hint, "hint:", "yellow")
    console.say(f"result: {path}")


def _print_run(path: Path, summary: dict[str, Any]) -> None:
    seconds = ", ".join(f"{phase} {value:.0f} s" for phase, value in summary["seconds"].items())
    console.say(f"time: {seconds}")
    console.say(f"look at it: {command('ciess-ray', 'report', path)}")
    tracking = summary["config"]["tracking"]
    if tracking["mlflow"]:
        # A server has the page itself.
        uri = tracking["uri"]
        at = uri if uri.startswith("http") else command("mlflow", "ui", "--backend-store-uri", uri)
        console.say(f"compare runs: {at}")
