"""The commands that follow a log as it goes on: ``stream``, and in between ``append``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ciess_ray.cli.options import changed_fields, columns_of, options_of
from ciess_ray.cli.results import say_store
from ciess_ray.config.credentials import without_secrets
from ciess_ray.metric_keys import RANKING_NOTE
from ciess_ray.names import REPORT_FILE
from ciess_ray.terminal import console

if TYPE_CHECKING:
    from envs.data.stream import Stream

_TERMS = """\
means over the segments after the first, of users and items that were known when the segment was trained; \
cold: of the rows of all others
bytes: of the last segment's packed table, or of what gives the lists; resized: rows of another size than \
before, moved: the numbers that they gained or lost, a segment; CPU s: of all segments, all that was tried"""


def stream(
    config: Annotated[
        str | None, typer.Argument(help="YAML file; see configs/stream-quickstart.yaml.", metavar="[CONFIG]")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Fields to change.", metavar="[SECTION.FIELD=VALUE]...")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Name of the column of users.")] = None,
    item: Annotated[str | None, typer.Option(help="Name of the column of items.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Name of the column of times.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the stream.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a stream in the folder.")] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Folder of a stream to go on with; takes the place of CONFIG.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the segments and what the budget leaves a row; train nothing."),
    ] = False,
) -> None:
    """Keep a table within its budget while users and items keep coming.

    [bold]Examples[/bold]

      ciess-ray stream configs/stream-quickstart.yaml

      ciess-ray stream purchases.parquet segments.period=month budget=64MB

      ciess-ray stream purchases.csv segments.rows=50000 --user customer --item sku --timestamp day

      ciess-ray stream purchases.parquet segments.period=week --dry-run

      ciess-ray stream configs/stream-quickstart.yaml "methods=[split, item cosine]"

      ciess-ray stream --resume runs/stream-quickstart

      ciess-ray recommend runs/stream-quickstart/current/split --user 42

    A log with times is cut into segments: of each the first 70 % of the rows train, 10 % choose, 20 % test.
    In every segment each method decides sizes anew, its last table is resized to them and trained on, and is
    tested on what came next; yardsticks without a table stand beside. [bold]ciess-ray fields --stream[/bold]
    lists every field.

    The folder gets report.html, a page with figures, stream.parquet (a row a segment and method),
    journal.jsonl, a folder for each segment and method with its table, and [bold]current[/bold], which leads
    to the latest segment; each segment is a run in MLflow, below that of the stream. A stream that was
    killed or interrupted, or whose log has gone on, goes on with [bold]--resume[/bold], with
    [bold]dataset.path=FILE[/bold] where its log has moved.
    """
    options = options_of(columns_of(user=user, item=item, timestamp=timestamp) | {"output": output})
    changes = changed_fields("stream", config, overrides, options, resume, is_refused=overwrite or dry_run)
    # Each command imports what it needs: PyTorch takes seconds.
    from ciess_ray.streaming.config import load_stream_config, recorded_config

    configured = load_stream_config(config or "", changes) if resume is None else None

    from ciess_ray.streaming.driver import read_stream, resume_stream, run_stream
    from ciess_ray.streaming.live import StreamView, log_line, stream_table
    from ciess_ray.streaming.preview import segments_table, warning_of

    def tell(stream: "Stream") -> None:
        console.say(log_line(stream))

    if configured is not None and dry_run:
        cut = read_stream(configured)
        tell(cut)
        console.show(segments_table(configured, cut))
        console.say(
            "new: since the segment before; cold: of the test rows, those of somebody or something new"
        )
        if warning := warning_of(cut):
            console.say(warning)
        return
    with StreamView(console) as view:
        if resume is not None:
            rows = resume_stream(resume, changes, on_progress=view, on_read=tell)
        elif configured is not None:
            rows = run_stream(configured, overwrite=overwrite, on_progress=view, on_read=tell)
    console.show(stream_table(rows))
    console.say(RANKING_NOTE)
    console.say(_TERMS)

    from ciess_ray.report import write_report
    from ciess_ray.streaming.folder import StreamFolder

    folder = configured.output if configured is not None else Path(resume or "")
    followed = configured or recorded_config(folder, StreamFolder(folder).read()["config"], changes)
    page = write_report([folder], folder / REPORT_FILE, overwrite=True).page
    console.say(f"results: {folder}, on a page: {page}")
    if followed.tracking.mlflow:
        say_store(without_secrets(followed.tracking.uri))


def append(
    folder: Annotated[Path, typer.Argument(help="Of a stream, whose log may have gone on.")],
    method: Annotated[str, typer.Argument(help="Whose table, e.g. split.")],
    destination: Annotated[Path, typer.Argument(help="A new folder, which recommends.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Where the log has moved, or other fields of it, e.g. dataset.columns.",
            metavar="[dataset.path=FILE]...",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier table there.")] = False,
) -> None:
    """Give those who came since a stream's table was trained a row, as far as its budget has room.

    It is the mean of the rows of those whom each has met, cut to the least size, until the next segment is
    trained. LightGCN, which this is for, fills it from its neighbours in the interactions that have come.
    [bold]reserve[/bold] of the stream keeps some of the budget free for them:

      ciess-ray stream configs/stream-quickstart.yaml reserve=0.02

      ciess-ray append runs/stream-quickstart split runs/served

      ciess-ray recommend runs/served --user 42
    """
    # PyTorch takes seconds to import.
    from ciess_ray.streaming.newcomers import append_newcomers

    done = append_newcomers(folder, method, destination, overrides or (), overwrite=overwrite)
    console.say(
        f"{destination}: {done.num_users:,} new users and {done.num_items:,} new items have a row; "
        f"{done.num_left:,} have none, for want of room or of anybody known whom they have met; "
        f"{done.num_params:,} parameters, {done.num_bytes:,} bytes"
    )
