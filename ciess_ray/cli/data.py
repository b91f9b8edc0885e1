"""The commands on files of data: ``data describe``, ``data generate``, and ``init`` for a configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ciess_ray.config.yaml_values import as_yaml, read_yaml
from ciess_ray.plain_text import command, visible_line
from ciess_ray.terminal import TextTable, console
from envs.errors import ConfigError, DataError

data_app = typer.Typer(help="Look at interactions, or make some up.", no_args_is_help=True)


@data_app.command("describe")
def describe(
    file: Annotated[
        str, typer.Argument(help="File or folder of interactions, or a URI such as s3://bucket/folder.")
    ],
    format: Annotated[
        str,
        typer.Option(
            help="auto, parquet, splits, csv, tsv, movielens-dat, movielens-csv, recbole or adjacency"
        ),
    ] = "auto",
    user: Annotated[str | None, typer.Option(help="Name of the user column.")] = None,
    item: Annotated[str | None, typer.Option(help="Name of the item column.")] = None,
    rating: Annotated[str | None, typer.Option(help="Name of the rating column.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Name of the timestamp column.")] = None,
    core: Annotated[
        int | None,
        typer.Option("--k-core", min=2, help="Keep users and items with so many interactions each."),
    ] = None,
) -> None:
    """Read a file of interactions, print what was found, and what stands out of it, where anything does."""
    import numpy as np

    from ciess_ray.cli.oddities import counts_since_1970, oddities, shown_times
    from envs.data import Columns, k_core, read_interactions, split_interactions

    given = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
    names = {kind: name for kind, name in given.items() if name is not None}
    log = read_interactions(file, format=format, columns=Columns(**names) if names else None)
    if core is not None:
        log = k_core(log, core)
    is_few = np.bincount(log.user, minlength=log.num_users) < 3
    untrained = "-"
    if not is_few.all():
        untrained = f"{split_interactions(log, seed=0).num_untrained_items:,} (of the split with seed 0)"
    times = "no"
    if log.timestamp is not None:
        low, high = log.timestamp.min(), log.timestamp.max()
        times = f"{low} to {high}"
        if counts_since_1970(log):
            shown = shown_times(log)
            times += f" ({shown(low)} to {shown(high)})"
    rows = (
        ("users", f"{log.num_users:,}"),
        ("items", f"{log.num_items:,}"),
        ("interactions", f"{log.num_rows:,}"),
        ("duplicates merged", f"{log.num_duplicates:,}"),
        ("density", f"{log.num_rows / (log.num_users * log.num_items):.4%}"),
        ("per user", _spread(np.bincount(log.user, minlength=log.num_users))),
        ("per item", _spread(np.bincount(log.item, minlength=log.num_items))),
        ("users with < 3", f"{int(is_few.sum()):,} (kept in training, not evaluated)"),
        ("items untrained", untrained),
        ("ratings", "no" if log.rating is None else f"{log.rating.min():g} to {log.rating.max():g}"),
        ("timestamps", times),
        ("full table", f"{(log.num_users + log.num_items) * 128 * 4 / 1e6:,.1f} MB at 128 dimensions"),
    )
    console.show(TextTable("", "", rows=rows, show_header=False))
    for line in oddities(log, np.datetime64("now")):
        console.say(line)


@data_app.command("generate")
def generate(
    file: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    num_users: Annotated[int, typer.Option("--users", min=1)] = 10_000,
    num_items: Annotated[int, typer.Option("--items", min=1)] = 5_000,
    num_interactions: Annotated[int, typer.Option("--interactions", min=1)] = 500_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write synthetic interactions with power-law popularity and a planted low-rank structure."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from envs.data import generate_interactions

    if file.suffix != ".parquet":
        raise ConfigError(
            f"{file}: what is made up is written as Parquet; name a file that ends in .parquet."
        )
    if file.exists():
        raise ConfigError(f"{file}: exists; name another file.")
    log = generate_interactions(num_users, num_items, num_interactions, seed=seed)
    pq.write_table(pa.table({"user_id": log.user_ids[log.user], "item_id": log.item_ids[log.item]}), file)
    console.say(
        f"{log.num_rows:,} interactions of {log.num_users:,} users and {log.num_items:,} items: {file}"
    )


def _spread(counts: Any) -> str:
    import numpy as np

    low, middle, high = np.percentile(counts, [0, 50, 100])
    return f"{low:g} / {middle:g} / {high:g} (min / median / max), mean {counts.mean():.1f}"


#: What columns of users and of items are often called, by a word in their names; the first that fits counts.
_WORDS = {
    "user": ("user", "customer", "client", "member", "visitor", "account", "buyer", "session"),
    "item": ("item", "product", "sku", "article", "movie", "song", "track", "book", "title", "asin"),
}

_TEXT = """\
# A search of {data}: {counts}.
#
#   {search}
#
# What stands here can also be said there, as section.field=value; 'ciess-ray fields' lists every other field.
dataset:
  path: {path}  # relative to where the command is started
{columns}budget: {budget}  # of the full table; or '62000 params', or 64MB{of_bytes}
output: {output}  # folder of the result
seed: 0  # of every draw
recommender:
  name: {recommender}  # or {others}, or package.module:ClassName of your own
  max_embedding_size: 128  # width of the full table: {full_mb} MB
# How to train is found from the data; what was found is printed, and pins it here as 'training'.
# MLflow's store; 'mlflow: false' does without.
tracking:
  mlflow: true
  uri: sqlite:///mlflow.db
"""


def init(
    file: Annotated[str, typer.Argument(help="File or folder of data, or a URI.")],
    budget: Annotated[str, typer.Option(help="0.1, 10%, '62000 params', or 64MB of packed file.")] = "10%",
    user: Annotated[str | None, typer.Option(help="Name of the column of users.")] = None,
    item: Annotated[str | None, typer.Option(help="Name of the column of items.")] = None,
    recommender: Annotated[
        str,
        typer.Option(
            help="lightgcn, mf, spectral, neighbours, ...; or auto: whichever validation likes best.",
            metavar="NAME",
        ),
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option(help="The configuration; the data's name with .yaml, if not given.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented configuration for a file of data, which ``ciess-ray search`` takes.

    ciess-ray init purchases.csv

    ciess-ray init purchases.csv --user customer --item sku --budget 5% --output mine.yaml
    """
    from envs.data.places import name_of

    name = name_of(file).partition(".")[0] or "search"
    written = output or Path(f"{name}.yaml")
    if written.exists() and not overwrite:
        raise ConfigError(
            f"{written}: is there already; name another by --output, or replace it by --overwrite."
        )
    # PyTorch takes seconds to import.
    from ciess_ray.config.recommender import AUTO
    from ciess_ray.config.yaml_file import parse_config
    from ciess_ray.files.whole import write_whole
    from envs.data import Columns, read_column_names, read_interactions
    from envs.recommenders import RECOMMENDERS

    names = read_column_names(file)
    columns = _guessed(names, {"user": user, "item": item}, file)
    log = read_interactions(file, columns=Columns(**columns) if columns else None)
    counts = f"{log.num_users:,} users, {log.num_items:,} items, {log.num_rows:,} interactions"
    others = [visible_line(name) for name in names if name not in columns.values()]
    text = _TEXT.format(
        data=visible_line(file),
        counts=counts,
        search=command("ciess-ray", "search", written),
        path=as_yaml(file),
        columns=_section(columns, others),
        budget=as_yaml(budget),
        of_bytes=" of all that answers requests" if recommender == AUTO else " of packed file",
        output=as_yaml(f"runs/{name}"),
        recommender=as_yaml(recommender) if ":" in recommender else recommender,
        others=", ".join(name for name in (*RECOMMENDERS, AUTO) if name != recommender),
        full_mb=f"{(log.num_users + log.num_items) * 128 * 4 / 1e6:,.1f}",
    )
    parse_config(read_yaml(text), str(written))
    write_whole(written, text)
    chosen = ", ".join(f"{role} {as_yaml(column)}" for role, column in columns.items())
    console.say(f"{file}: {counts}")
    console.say(f"columns: {chosen or 'those of the format'}")
    console.say(f"configuration: {written}")
    console.say(f"search: {command('ciess-ray', 'search', written)}")


def _guessed(names: Sequence[str], given: dict[str, str | None], source: str) -> dict[str, str]:
    """Names of the columns of users and of items; none where the format has its own.

    Raises:
        DataError: One was not given and cannot be guessed.
    """
    from envs.data import Columns

    if not names and not any(given.values()):
        return {}
    columns: dict[str, str] = {}
    for role, name in given.items():
        usual = getattr(Columns(), role)
        likely = [usual] if usual in names else []
        likely += [column for word in _WORDS[role] for column in names if word in column.lower()]
        chosen = name or next((column for column in likely if column not in columns.values()), None)
        if chosen is None:
            raise DataError(
                f"{source}: which of its columns, {', '.join(map(repr, names))}, is the {role}? Say so: "
                f"--{role} NAME"
            )
        columns[role] = chosen
    return columns


def _section(columns: dict[str, str], others: Sequence[str]) -> str:
    if not columns:
        return ""
    lines = ["  columns:", *(f"    {role}: {as_yaml(name)}" for role, name in columns.items())]
    if others:
        lines.append(
            f"    # timestamp: NAME  # of two equal rows, which is later; other columns: {', '.join(others)}"
        )
    return "\n".join(lines) + "\n"
