"""Commands on finished results: ``recommend``, ``export``, ``verify``, ``track``; and what a search came to.

All but ``track`` do without Ray; ``recommend`` and ``verify`` do without PyTorch too.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ciess_ray.config.yaml_values import as_yaml
from ciess_ray.metric_keys import RANKING_NOTE
from ciess_ray.names import SEARCH, STREAM_FILE, SWEEP_FILE
from ciess_ray.plain_text import command, mean_sizes, percent
from ciess_ray.terminal import TextTable, console, errors, write_data
from envs.errors import ConfigError, ResultError, check_name

if TYPE_CHECKING:
    from ciess_ray.result import SearchResult
    from ciess_ray.serving.export import Exported
    from ciess_ray.serving.recommender import Unknown


def recommend(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished search, a packed export or a stream.")],
    user: Annotated[
        list[str] | None, typer.Option(help="Id of a user, as the data has it; may be given again.")
    ] = None,
    item: Annotated[
        list[str] | None,
        typer.Option(help="Id of an item that somebody new likes, instead of --user; may be given again."),
    ] = None,
    num_items: Annotated[int, typer.Option("--num-items", "-k", min=1, help="Items each.")] = 10,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Recommend what a user already had, too.")
    ] = False,
    format: Annotated[str, typer.Option(help="table, csv or json, with all digits.")] = "table",
    unknown: Annotated[
        str,
        typer.Option(
            help="Users and items that are not in the table: refuse them, or popular, what is most popular "
            "for whoever nothing is known of."
        ),
    ] = "refuse",
) -> None:
    """Recommend items from a packed table.

    To users of the data by their ids, or to somebody new by the items that they like:

      ciess-ray recommend runs/quickstart --user 17 -k 20

      ciess-ray recommend runs/quickstart --item 50 --item 296

    From a stream's latest segment, by the table that validation likes best, or by another:

      ciess-ray recommend runs/stream-quickstart --user 17

      ciess-ray recommend runs/stream-quickstart/current/split --user 17

    To users of whom some may have come since:

      ciess-ray recommend runs/quickstart --user 17 --user 9999 --unknown popular
    """
    if bool(user) == bool(item):
        raise ConfigError("give either --user, of a user in the data, or --item, liked by somebody new.")
    if item and include_seen:
        raise ConfigError("--include-seen is for --user: the items that somebody new likes are left out.")
    check_name("--format", format, ("table", "csv", "json"))
    from ciess_ray.serving.recommender import UNKNOWN, ServedRecommender

    given = cast("Unknown", check_name("--unknown", unknown, UNKNOWN))
    served = ServedRecommender.open(_table_folder(folder))
    if user:
        best = served.recommend(user, num_items, include_seen=include_seen, unknown=given)
    else:
        best = served.recommend_to_new([item or []], num_items, unknown=given)
    if best.is_popular.any():
        shown = f"{best.is_popular.sum():,} of {len(best.is_popular):,}"
        errors.say(
            f"{shown} lists are of what is popular, whose score counts interactions: nothing is known."
        )
    is_there = best.items >= 0
    if num_empty := int((~is_there.any(axis=1)).sum()):
        again = "; --include-seen recommends them again" if user else ""
        errors.say(
            f"{num_empty:,} of {len(is_there):,} lists are empty: whoever they are for had every item{again}."
        )
    if served.table.neighbours is not None and (best.scores[is_there] == 0).any():
        errors.say(
            "a score of 0 says that nothing is known of an item for this user: those stand by popularity."
        )
    columns = ("user_id", "rank", "item_id", "score")
    ranked = (column.tolist() for column in served.ranked(user or [None], best))
    rows = list(zip(*ranked, strict=True))
    if format == "json":
        write_data(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2) + "\n")
    elif format == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        write_data(text.getvalue())
    else:
        # For one there is no need of a name.
        first = 0 if user and len(user) > 1 else 1
        texts = [(str(name), str(rank), str(item), f"{score:.4f}") for name, rank, item, score in rows]
        console.show(TextTable(*columns[first:], rows=[row[first:] for row in texts]))


def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished search, a packed export or a stream.")],
    destination: Annotated[Path, typer.Argument(help="Folder or file to write.")],
    format: Annotated[str, typer.Option(help="packed, parquet, torchrec or onnx.")] = "packed",
    dtype: Annotated[
        str,
        typer.Option(
            help="float32, float16, bfloat16, int8, ... int2, or int8/int4 for users and items; of torchrec "
            "float32, int8, int4, int2."
        ),
    ] = "float32",
    propagated: Annotated[
        bool,
        typer.Option("--propagated", help="Store rows as the graph propagates them: larger, but no graph."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a packed table in another form, and say what that costs.

    A smaller type of value, with N@20 on test before and after:

      ciess-ray export runs/quickstart served --dtype int4

    Rows as LightGCN or NGCF propagate them, so that scoring is an inner product:

      ciess-ray export runs/quickstart served --propagated

    What others read:

      ciess-ray export runs/quickstart table.parquet --format parquet

      ciess-ray export runs/quickstart tables --format torchrec

      ciess-ray export runs/quickstart scorer.onnx --format onnx
    """
    # PyTorch takes seconds to import.
    from ciess_ray.serving.export import export as write

    written = write(
        _table_folder(folder),
        destination,
        format=format,
        dtype=dtype,
        propagated=propagated,
        overwrite=overwrite,
    )
    console.show(_forms(written))
    for note in written.notes:
        console.say(note)
    console.say(f"exported: {written.path}")


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished search, a packed export or a stream.")],
) -> None:
    """Read a packed table to its end, and see that it and what belongs to it are whole."""
    from ciess_ray.files.manifest import Manifest
    from ciess_ray.serving.recommender import ServedRecommender

    folder = _table_folder(folder)
    served = ServedRecommender.open(folder)
    table = served.table
    table.verify()
    Manifest.read(folder).verify()
    num_shared = 0 if table.sizes.is_shared is None else int(table.sizes.is_shared.sum())
    shared = f", {num_shared:,} of which share a row of their kind" if num_shared else ""
    beside = "sizes, scales, header" if table.neighbours is None else "neighbours, sizes, scales, header"
    console.say(
        f"{folder}: {table.num_rows:,} rows{shared}, {table.num_params:,} parameters in {table.dtype}, "
        f"{table.num_bytes:,} bytes, of which {table.num_bytes - table.values.nbytes:,} beside the values "
        f"({beside}): all is well"
    )


def track(
    folder: Annotated[str, typer.Argument(help="Of a search, a sweep, a comparison or a stream.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Where to, if elsewhere.", metavar="[tracking.FIELD=VALUE]...")
    ] = None,
) -> None:
    """Send what a folder holds to MLflow, where it was not recorded, or not all of it.

    Runs that the store knows are gone on with, so that a folder may be sent as often as one likes:

      ciess-ray track runs/quickstart

      ciess-ray track runs/quickstart tracking.uri=http://127.0.0.1:5000 tracking.experiment=mine
    """
    given = overrides or []
    others = [change for change in given if not change.startswith("tracking.")]
    if others:
        raise ConfigError(f"track {others[0]}: only where to is said beside the folder: tracking.uri=...")
    uri, problems = send(folder, given)
    for problem in problems:
        console.say(problem, "not recorded:", "yellow")
    if problems:
        raise typer.Exit(1)
    console.say(f"recorded: {folder} in {uri}")


def send(location: str, overrides: Sequence[str] = ()) -> tuple[str, list[str]]:
    """Record the folder of a search, a sweep or a comparison that is over, or what is done of a stream.

    Args:
        location: The folder; for a sweep it may be a URI.
        overrides: Where to, if elsewhere than it says: ``tracking.uri=...``, ``tracking.experiment=...``.

    Returns:
        The store, without its secret, and a sentence on each thing that it did not take.

    Raises:
        CiessError: The folder holds nothing that is over, or MLflow cannot record there.
    """
    # PyTorch and Ray take seconds to import.
    from ciess_ray.comparisons.driver import PLAN_FILE, send_comparison
    from ciess_ray.result import RESULT_FILE
    from ciess_ray.streaming.driver import send_stream
    from ciess_ray.sweeps.driver import send_sweep
    from ciess_ray.sweeps.storage import Storage
    from ciess_ray.tracking.runs import send_search

    storage, folder = Storage(location), Path(location)
    if storage.has(SWEEP_FILE):
        return send_sweep(storage, overrides)
    if storage.has(PLAN_FILE):
        return send_comparison(folder, overrides)
    if storage.has(STREAM_FILE):
        return send_stream(folder, overrides)
    if storage.has(RESULT_FILE):
        return send_search(folder, overrides)
    raise ResultError(
        f"{storage.shown}: there is none of {RESULT_FILE}, {SWEEP_FILE}, {PLAN_FILE} and {STREAM_FILE} in "
        "it; name the folder of a search, a sweep, a comparison or a stream."
    )


def _table_folder(folder: Path) -> Path:
    """Where the table lies: of a stream the best on validation of its latest segment serves."""
    from ciess_ray.serving.stream_tables import tables_of

    tables = tables_of(folder)
    if tables is None:
        return folder
    best, *others = tables
    there = f"; there are {', '.join(other.name for other in others)} beside it" if others else ""
    errors.say(f"{best}: the best table of segment {best.parent.name} on validation{there}.")
    return best


def _forms(written: "Exported") -> TextTable:
    """What each form has in files and bytes; N@20, of the form as a whole, in its first row."""
    rows = []
    for form in (written.before, written.after):
        first, *others = [*form.files.items(), ("in all", form.num_bytes)]
        rows.append((form.name, *first, "" if form.ndcg is None else f"{form.ndcg:.4f}"))
        rows += [("", *other, "") for other in others]
    num_columns = 3 if written.before.ndcg is None else 4
    headings = ("", "file", "bytes", "N@20")[:num_columns]
    texts = [(name, file, f"{num_bytes:,}", ndcg)[:num_columns] for name, file, num_bytes, ndcg in rows]
    return TextTable(*headings, rows=texts, first_number=2)


def say_result(result: "SearchResult") -> None:
    """What a search came to, for each of its budgets."""
    for shown in (result, *result.looser()):
        console.show(_comparison(shown.summary))
        if shown is result:
            console.say(RANKING_NOTE)
        if any(row.get("options") for row in shown.summary["methods"]):
            chosen = "; ".join(
                f"{row['name']} {row.get('options') or 'what is searched with'}"
                for row in shown.summary["methods"]
            )
            console.say(f"options that validation chose: {chosen}")
        _say_files(shown.path, shown.summary)
    summary = result.summary
    if (recipe := summary.get("recipe")) and recipe.get("recommenders"):
        console.show(_recommenders(recipe["recommenders"]))
        asked = ", ".join(f"{budget}: {served:,}" for budget, served in recipe["served_bytes"].items())
        console.say(f"recommenders: by quality on validation; bytes are those at most, to serve {asked}")
    # What is computed has none.
    if (recipe := summary.get("recipe")) and recipe["tried"]:
        console.say(
            f"recipe: found on validation, of {len(recipe['tried'])} tables; as YAML, to pin it: "
            f"{as_yaml(recipe['pinned'])}"
        )
    seconds = ", ".join(f"{phase} {value:.0f} s" for phase, value in summary["seconds"].items())
    console.say(f"time: {seconds}")
    # One from before had none.
    if clock := summary.get("clock"):
        taken = clock["taken"]
        console.say(f"took: {taken['cpu_s']:,.0f} CPU s, and {taken['peak_bytes'] / 1e9:.1f} GB of memory")
    console.say(f"look at it: {command('ciess-ray', 'report', result.path)}")
    tracking = summary["config"]["tracking"]
    if tracking["mlflow"]:
        say_store(tracking["uri"])


def _recommenders(rated: Sequence[dict[str, Any]]) -> TextTable:
    """What each recommender came to that was chosen among."""
    figures = (
        ("quality", ".4f"),
        ("num_params", ","),
        ("file_bytes", ","),
        ("served_bytes", ","),
        ("cpu_s", ".1f"),
    )
    rows = [
        (
            *(row[name] or "" for name in ("recommender", "why", "table")),
            *("" if row[name] is None else format(row[name], style) for name, style in figures),
        )
        for row in rated
    ]
    headings = ("", "", "table", "quality", "parameters", "packed bytes", "served bytes", "CPU s")
    return TextTable(*headings, rows=rows, first_number=3)


def say_store(uri: str) -> None:
    """Where runs are that MLflow has recorded, in a store without its secret."""
    # A server has the page itself.
    at = uri if uri.startswith("http") else command("mlflow", "ui", "--backend-store-uri", uri)
    console.say(f"compare runs: {at}")


def _comparison(summary: dict[str, Any]) -> TextTable:
    whose = "user : item" if any(row["mean_user_size"] for row in summary["methods"]) else "items"
    headings = ("", "kept", "R@20", "N@20", "parameters", "packed bytes", "served bytes", whose)
    rows = [
        (
            row["name"],
            percent(100 * row["kept_ratio"], 2),
            f"{row['test']['recall@20']:.4f}",
            f"{row['test']['ndcg@20']:.4f}",
            f"{row['num_params']:,}",
            f"{row['packed_bytes']:,}",
            f"{row['served_bytes']:,}" if "served_bytes" in row else "",
            mean_sizes(row["mean_user_size"], row["mean_item_size"]),
        )
        for row in summary["methods"]
    ]
    return TextTable(*headings, rows=rows, first_number=1)


def _say_files(path: Path, summary: dict[str, Any]) -> None:
    from ciess_ray.result import CHECKPOINT_FOLDER, checkpoint_bytes
    from ciess_ray.searches.hints import refit_note

    budget, sizes = summary["budget"], summary["bytes"]
    console.say(
        f"budget {budget['asked']}: at most {budget['cap_params']:,} parameters, "
        f"{budget['num_params']:,} kept"
    )
    beside = ", ".join(
        f"{name} {sizes[name]:,}" for name in ("scorer.safetensors", "interactions.npz", "ids.parquet")
    )
    console.say(f"bytes: table.safetensors {sizes['table.safetensors']:,}; beside it {beside}")
    searched = next(row for row in summary["methods"] if row["name"] == SEARCH)
    served = summary.get("refit") or searched
    if "served_bytes" in served:
        after = ", after the refit" if summary.get("refit") else ""
        console.say(
            f"served{after}: {served['served_bytes']:,} bytes ({served['served_as']}, and the scorer) answer "
            f"whoever brings a history, {served['served_with_histories_bytes']:,} where everybody's is kept"
        )
    note = refit_note(summary.get("refit"))
    if note is not None:
        console.say(note, "refit:")
    kept = checkpoint_bytes(path)
    if kept:
        folder = path / CHECKPOINT_FOLDER
        console.say(f"checkpoints: {kept:,} bytes in {folder}, for --more-episodes alone; it may be removed")
    for hint in summary["hints"]:
        console.say(hint, "hint:", "yellow")
    console.say(f"result: {path}")
