"""``ciess-ray init``: a commented configuration for a file of data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ciess_ray.cli.arguments import as_yaml
from ciess_ray.plain_text import command, visible_line
from ciess_ray.terminal import console
from envs.errors import ConfigError, DataError

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
{columns}budget: {budget}  # of the full table's parameters; or '62000 params', or 64MB of packed file
output: {output}  # folder of the result
seed: 0  # of every draw
recommender:
  name: lightgcn  # or ngcf, ncf, mf, or package.module:ClassName of your own
  max_embedding_size: 128  # width of the full table: {full_mb} MB
search:
  num_episodes: 30  # of ten table steps each; a first look takes fewer
# MLflow's store; 'mlflow: false' does without.
tracking:
  mlflow: true
  uri: sqlite:///mlflow.db
"""


def init(
    file: Annotated[Path, typer.Argument(help="File of data.")],
    budget: Annotated[str, typer.Option(help="0.1, 10%, '62000 params', or 64MB of packed file.")] = "10%",
    user: Annotated[str | None, typer.Option(help="Name of the column of users.")] = None,
    item: Annotated[str | None, typer.Option(help="Name of the column of items.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The configuration; the data's name with .yaml, if not given.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented configuration for a file of data, which ``ciess-ray search`` takes.

    ciess-ray init purchases.csv

    ciess-ray init purchases.csv --user customer --item sku --budget 5% --output mine.yaml
    """
    name = file.name.partition(".")[0] or "search"
    written = output or Path(f"{name}.yaml")
    if written.exists() and not overwrite:
        raise ConfigError(
            f"{written}: is there already; name another by --output, or replace it by --overwrite."
        )
    # PyTorch takes seconds to import.
    from ciess_ray.config.yaml_file import parse_config
    from ciess_ray.config.yaml_values import read_yaml
    from ciess_ray.files.whole import write_whole
    from envs.data import Columns, read_column_names, read_interactions

    names = read_column_names(file)
    columns = _guessed(names, {"user": user, "item": item}, str(file))
    log = read_interactions(file, columns=Columns(**columns) if columns else None)
    counts = f"{log.num_users:,} users, {log.num_items:,} items, {log.num_rows:,} interactions"
    others = [visible_line(name) for name in names if name not in columns.values()]
    text = _TEXT.format(
        data=visible_line(str(file)),
        counts=counts,
        search=command("ciess-ray", "search", written),
        path=as_yaml(str(file)),
        columns=_section(columns, others),
        budget=as_yaml(budget),
        output=as_yaml(f"runs/{name}"),
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
