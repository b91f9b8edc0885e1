"""The command line: ``ciess-ray``."""

import inspect
import itertools
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from ciess_ray.cli.data import data_app, init
from ciess_ray.cli.results import export, recommend, track, verify
from ciess_ray.cli.searching import compare, search, sweep
from ciess_ray.cli.streaming import append, stream
from ciess_ray.config.credentials import without_secrets
from ciess_ray.metric_keys import RANKING_TERMS
from ciess_ray.names import REPORT_FILE
from ciess_ray.plain_text import paragraphs
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


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Of searches, sweeps or comparisons, or a stream's.", metavar="FOLDER..."),
    ],
    output: Annotated[Path, typer.Option(help="The page.")] = Path(REPORT_FILE),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is no report on the same folders.")
    ] = False,
) -> None:
    """Tell of searches, sweeps and comparisons, or of a stream, in one HTML page.

    [bold]Examples[/bold]

      ciess-ray report runs/quickstart

      ciess-ray report runs/quickstart-sweep --output sweep.html

      ciess-ray report runs/small runs/quickstart --output both.html --overwrite

      ciess-ray report runs/stream-quickstart

    A folder is that of a search, a sweep or a comparison; of several the page sets all side by side. It says
    what the tables cost against full size and against every other method, who got which size, how the search
    went, and where time and bytes went; of a stream how good its lists were, segment by segment, and what
    changed. It needs no network and can be sent as it is; its figures also lie as
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
    of_stream: Annotated[bool, typer.Option("--stream", help="Those of a stream's file instead.")] = False,
) -> None:
    """List every field of a configuration with its default and meaning."""
    from ciess_ray.comparisons.config import ComparisonConfig
    from ciess_ray.config.run import RunConfig
    from ciess_ray.config.section import Section
    from ciess_ray.config.yaml_file import field_table
    from ciess_ray.streaming.config import StreamConfig
    from ciess_ray.sweeps.config import SweepConfig

    model: type[Section] = RunConfig
    for other, is_asked in (
        (SweepConfig, of_sweep),
        (ComparisonConfig, of_comparison),
        (StreamConfig, of_stream),
    ):
        model = other if is_asked else model
    table = TextTable("field", "default", "meaning", rows=field_table(model))
    table.columns[0].no_wrap = True
    # A pipe has no width.
    console.show(table, console.width if console.is_terminal else _FIELDS_WIDTH)
    if model is RunConfig:
        console.say(
            "A configuration that names no field of training has all of them found from its data, and with "
            "them l2 and init_std of the recommender, and the length of the search where search and agent "
            "leave it open: docs/search.md. Defaults of training are for one that names any of its fields."
        )


def _help_of(command: Callable[..., None]) -> str:
    """What a command says of itself, broken anew into lines; but for bold, brackets are what they are."""
    return re.sub(r"\[(?!/?bold\])", r"\\[", paragraphs(inspect.getdoc(command) or ""))


for _command in (
    init,
    search,
    sweep,
    compare,
    stream,
    append,
    report,
    recommend,
    export,
    verify,
    track,
    fields,
):
    app.command(help=_help_of(_command))(_command)


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
