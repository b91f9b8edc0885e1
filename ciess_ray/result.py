"""What a search leaves on disk, and how it is read back.

One folder, no pickle in it:

    manifest.json          a checksum of every file below but progress.jsonl
    result.json            config, seeds, versions, budget asked and met, metrics, seconds by phase, bytes
    sizes.parquet          kind, id, embedding size and popularity of every entity
    table.safetensors      the packed table: what the budget caps
    scorer.safetensors     the recommender's other weights
    interactions.npz       the training graph, of training and validation interactions
    test.npz               the interactions that the test figures are of; users have seen these too
    ids.parquet            the ids of the user's own data, by row
    candidates.parquet     every table that was tried: step, what it was, kept ratio, quality, sizes
    progress.jsonl         a line a step of every phase
    sizes.png, search.png  figures
    checkpoints/           what a search that was killed needs to go on; pickles, not to be shared
"""

import contextlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.candidate import Candidate, candidate_table, with_kinds
from ciess_ray.files.foreign import parse_json, read_json, read_parquet, read_text
from ciess_ray.files.manifest import MANIFEST_FILE, write_manifest
from ciess_ray.files.whole import check_writable, settle, whole_file, write_whole
from ciess_ray.packed.embedding import pack_recommender, unpack_recommender
from ciess_ray.packed.table import PackedTable
from ciess_ray.plain_text import command
from ciess_ray.serving.files import (
    IDS_FILE,
    INTERACTIONS_FILE,
    SCORER_FILE,
    TABLE_FILE,
    TEST_FILE,
    ScorerFile,
    entity_columns,
    read_ids,
    read_interactions_file,
    write_ids,
    write_interactions,
)
from ciess_ray.serving.scorers import SCORERS, check_parts
from envs.data import Interactions
from envs.errors import ResultError
from envs.recommenders import BaseRecommender, options_of

RESULT_FILE = "result.json"
SIZES_FILE = "sizes.parquet"
CANDIDATES_FILE = "candidates.parquet"
PROGRESS_FILE = "progress.jsonl"
#: Serves ``--resume`` and ``--more-episodes`` alone.
CHECKPOINT_FOLDER = "checkpoints"
FIGURE_FILES = ("sizes.png", "search.png")
RESULT_FORMAT = "ciess-ray result 1"
#: What of a configuration does not make two searches different.
NOT_SETTINGS = ("seed", "output", "cache", "tracking", "resources", "looser_budgets")

_OWN_FILES = (
    RESULT_FILE,
    SIZES_FILE,
    IDS_FILE,
    CANDIDATES_FILE,
    PROGRESS_FILE,
    TABLE_FILE,
    SCORER_FILE,
    INTERACTIONS_FILE,
    TEST_FILE,
    *FIGURE_FILES,
)


class ResultFolder:
    """Writes one search's folder.

    Args:
        path: The folder; made if it is not there.
        overwrite: Whether a result in it may be replaced; only files that a search writes are removed.
        resume: Whether to go on with what is in it, and remove nothing.

    Raises:
        ResultError: The folder holds a result and may neither be replaced nor gone on with, or it is a file.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path = path
        check_output(path, overwrite=overwrite or resume)
        path.mkdir(parents=True, exist_ok=True)
        if not resume:
            # What waits to take its place in the folder would come back.
            settle(path)
            for name in (MANIFEST_FILE, *_OWN_FILES):
                (path / name).unlink(missing_ok=True)

    def write_result(self, values: Mapping[str, Any]) -> None:
        """Replace ``result.json`` in one step; the format, versions and bytes of all files are added.

        Of a finished search the checksums of all files are written beside it.
        """
        bytes_by_file = {
            entry.name: entry.stat().st_size
            for entry in sorted(self.path.iterdir())
            if entry.name in _OWN_FILES
        }
        bytes_by_file.pop(RESULT_FILE, None)
        content = {"format": RESULT_FORMAT, "versions": versions(), **values, "bytes": bytes_by_file}
        write_whole(self.path / RESULT_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")
        if values.get("status") == "finished":
            # Of what does not change any more.
            write_manifest(self.path, {*_OWN_FILES} - {PROGRESS_FILE})

    @property
    def is_finished(self) -> bool:
        """Whether it holds the result of a search that has come to its end."""
        settle(self.path)
        return (self.path / RESULT_FILE).exists() and read_summary(self.path).get("status") == "finished"

    def log_progress(self, values: Mapping[str, Any]) -> None:
        """Append one line to ``progress.jsonl``."""
        with (self.path / PROGRESS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def rewind_progress(self, num_steps: int) -> int:
        """Drop from ``progress.jsonl`` what a search that goes on after so many steps will tell again.

        Returns:
            The last step of the search that was told.
        """
        lines = read_progress(self.path)
        is_search = [line.get("phase") == "search" for line in lines]
        # What came before a search that never began is told again from the start.
        first = is_search.index(True) if any(is_search) else 0
        kept = [
            line
            for position, line in enumerate(lines)
            if position < first or (is_search[position] and line["step"] <= num_steps)
        ]
        write_whole(self.path / PROGRESS_FILE, "".join(json.dumps(line) + "\n" for line in kept))
        return max((line["step"] for line, own in zip(lines, is_search, strict=True) if own), default=0)

    def write_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Every step of the search, and its evaluations between them."""
        with whole_file(self.path / CANDIDATES_FILE) as stream:
            pq.write_table(candidate_table(candidates), stream, compression="zstd")

    def write_table(self, recommender: BaseRecommender, interactions: Interactions, name: str) -> None:
        """The packed table and what scoring needs beside it.

        Args:
            recommender: Trained on ``interactions.train``.
            interactions: What it was trained on.
            name: What the configuration calls the recommender.
        """
        pack_recommender(recommender, name).save(self.path / TABLE_FILE)
        state = {key: value.numpy() for key, value in recommender.scorer_state().items()}
        ScorerFile(name, options_of(recommender), state).write(self.path)
        write_interactions(self.path / INTERACTIONS_FILE, interactions.train)
        write_interactions(self.path / TEST_FILE, interactions.test)
        ids = interactions.user_ids, interactions.item_ids
        write_ids(self.path / IDS_FILE, *ids)
        sizes = recommender.sizes
        popularity = np.concatenate([interactions.user_popularity, interactions.item_popularity])
        columns = {
            **entity_columns(*ids),
            "embedding_size": pa.array(np.concatenate([sizes.user, sizes.item])),
            "popularity": pa.array(popularity),
        }
        with whole_file(self.path / SIZES_FILE) as stream:
            pq.write_table(pa.table(columns), stream, compression="zstd")


def checkpoint_bytes(path: Path) -> int:
    """Bytes of all that a folder keeps for a search to go on or to be extended with."""
    files = (path / CHECKPOINT_FOLDER).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder that would be overwritten, before any work is done.

    Raises:
        ResultError: The path is a file or cannot be written, or holds a result and ``overwrite`` is False.
    """
    if path.exists() and not path.is_dir():
        raise ResultError(f"{path}: is a file; name a folder for the result.")
    check_writable(path)
    if (path / RESULT_FILE).exists() and not overwrite:
        raise ResultError(
            f"{path}: already holds a search; name another folder, go on with --resume, or replace it with "
            "--overwrite."
        )


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for name in ("ciess-ray", "ray", "torch", "numpy", "scipy", "gymnasium", "mlflow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


@dataclass(frozen=True, eq=False)
class SearchResult:
    """A finished search, read back from its folder.

    Attributes:
        path: The folder.
        summary: What ``result.json`` says.
        table: The packed table.
        train: The interactions that the table was trained on, shape (num_users, num_items).
    """

    path: Path
    summary: dict[str, Any]
    table: PackedTable
    train: csr_array

    @classmethod
    def load(cls, path: str | Path) -> "SearchResult":
        """Read a folder.

        Raises:
            ResultError: There is no finished search, or a file of it is missing or damaged.
        """
        path = Path(path)
        summary = read_summary(path)
        if summary.get("status") != "finished":
            raise ResultError(
                f"{path}: this search is {summary.get('status')!r}, not finished (phase "
                f"{summary.get('phase')!r}); wait for it where it still runs, or go on with: "
                f"{command('ciess-ray', 'search', '--resume', path)}"
            )
        table = PackedTable.open(path / TABLE_FILE)
        shape = table.num_users, table.num_rows - table.num_users
        return cls(
            path,
            summary,
            table,
            read_interactions_file(path / INTERACTIONS_FILE, shape),
        )

    def looser(self) -> list["SearchResult"]:
        """What the same search gave for looser budgets, tightest first.

        Raises:
            ResultError: One lies outside the folder, or as :meth:`load`.
        """
        return [SearchResult.load(path) for path in looser_folders(self.path, self.summary)]

    def recommender(self, own_class: type[BaseRecommender] | None = None) -> BaseRecommender:
        """The recommender, which scores as it did when it was packed; on the CPU, without Ray.

        Args:
            own_class: The class of a recommender that does not come with this package. Reading a folder never
                imports the module that it names, which may be code of somebody else's.

        Raises:
            ResultError: Its weights are missing or damaged, or another class is needed than was given.
        """
        scorer = ScorerFile.read(self.path)
        if scorer.recommender in SCORERS:
            try:
                check_parts(self.table, scorer)
            except ResultError as error:
                raise error.within(str(self.path)) from error
        described = self.summary["config"]["recommender"]
        name = described["name"]
        needed = name.rpartition(":")[2] if ":" in name else None
        given = None if own_class is None else own_class.__name__
        if given != needed:
            raise ResultError(
                f"{self.path}: its recommender is {name!r}, not {given or 'one of this package'}; call "
                f"recommender({needed or ''}) on the result"
                + (", with the class that you import." if needed else ".")
            )
        return unpack_recommender(
            self.table, self.train, own_class or name, described["options"], scorer.state
        )

    def ids(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The user's own ids of users and of items, by row.

        Raises:
            ResultError: Their file is missing or damaged.
        """
        return read_ids(self.path, *self.train.shape)


def looser_folders(path: Path, summary: Mapping[str, Any]) -> list[Path]:
    """The folders of a search's looser budgets, which lie in its own.

    Raises:
        ResultError: A name is that of no folder there.
    """
    names = list((summary.get("looser_budgets") or {}).values())
    for name in names:
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise ResultError(
                f"{path / RESULT_FILE}: looser_budgets names {str(name)[:80]!r}, which lies elsewhere."
            )
    return [path / name for name in names]


def read_summary(path: Path) -> dict[str, Any]:
    """What a folder's ``result.json`` says.

    Raises:
        ResultError: There is none, it is damaged, or of another format.
    """
    settle(path)
    file = path / RESULT_FILE
    try:
        return read_json(file, RESULT_FORMAT, "; run the search again with --overwrite")
    except FileNotFoundError:
        raise ResultError(f"{file}: no such file; is {path} the folder of a search?") from None


def read_progress(path: Path) -> list[dict[str, Any]]:
    """The lines of a folder's ``progress.jsonl``, in order; none where there is no such file."""
    file = path / PROGRESS_FILE
    lines: list[dict[str, Any]] = []
    for text in read_text(file).splitlines() if file.exists() else ():
        # The last line of a search that was killed may be torn.
        with contextlib.suppress(ValueError):
            lines.append(parse_json(text))
    return lines


def read_candidates(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """What a folder's ``candidates.parquet`` says, with ``step`` and ``kind`` as today whatever its age.

    Args:
        path: The folder.
        columns: Which; None for all.

    Raises:
        ResultError: It is missing or damaged.
    """
    file = path / CANDIDATES_FILE
    try:
        table = read_parquet(file, columns)
        if "kind" in table.column_names:
            return table
        searched = [line for line in read_progress(path) if line.get("phase") == "search"]
        return with_kinds(table, {line["step"]: line.get("note", "") for line in searched})
    except FileNotFoundError:
        raise ResultError(f"{file}: no such file.") from None
    except (pa.ArrowException, KeyError, IndexError, TypeError, ValueError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error


def read_retrained(path: Path, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a folder's summary says was trained, with ``step`` and ``kind`` as today whatever its age."""
    rows = [dict(row) for row in summary.get("retrained", ())]
    old = [row for row in rows if row["step"] is not None and "kind" not in row]
    if old:
        # They were numbered from 0, steps and evaluations alike.
        has_steps = (path / CANDIDATES_FILE).exists()
        columns = ["step", "kind", "is_greedy"]
        known = read_candidates(path, columns).select(columns[:2]).to_pylist() if has_steps else []
        for row in old:
            if has_steps and not 0 <= row["step"] < len(known):
                raise ResultError(
                    f"{path / CANDIDATES_FILE}: the step {row['step']} of the retrained is missing."
                )
            row |= known[row["step"]] if has_steps else {"step": row["step"] + 1}
    return rows


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The table steps in a folder's ``progress.jsonl``: ``step``, ``time_ms`` and ``metrics`` of each."""
    return [
        {
            "step": line["step"],
            "time_ms": line.get("time_ms"),
            "metrics": {key: value for key, value in line.items() if "/" in key},
        }
        for line in read_progress(path)
        if line.get("phase") == "search"
    ]


def dataset_name(config: Mapping[str, Any]) -> str:
    """What a reader calls the data of a configuration, of which these are the plain values."""
    dataset = config["dataset"]
    return str(dataset["sample"] or Path(dataset["path"]).name)
