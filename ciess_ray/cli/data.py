"""The commands on interactions: ``data describe`` and ``data generate``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ciess_ray.terminal import TextTable, console
from envs.errors import ConfigError

data_app = typer.Typer(help="Look at interactions, or make some up.", no_args_is_help=True)


@data_app.command("describe")
def describe(
    file: Annotated[Path, typer.Argument(help="File of interactions.")],
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
    """Read a file of interactions and print what was found."""
    import numpy as np

    from envs.data import Columns, k_core, read_interactions, split_interactions, told_left_out

    given = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
    names = {kind: name for kind, name in given.items() if name is not None}
    log = read_interactions(file, format=format, columns=Columns(**names) if names else None)
    left_out = ""
    if core is not None:
        whole, log = log, k_core(log, core)
        left_out = told_left_out(whole, log)
    is_few = np.bincount(log.user, minlength=log.num_users) < 3
    untrained = "-"
    if not is_few.all():
        untrained = f"{split_interactions(log, seed=0).num_untrained_items:,} (of the split with seed 0)"
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
        ("timestamps", "no" if log.timestamp is None else f"{log.timestamp.min()} to {log.timestamp.max()}"),
        ("full table", f"{(log.num_users + log.num_items) * 128 * 4 / 1e6:,.1f} MB at 128 dimensions"),
    )
    console.show(TextTable("", "", rows=rows, show_header=False))
    if core is not None:
        console.say(f"{file}: the {core}-core leaves out {left_out}.")


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
