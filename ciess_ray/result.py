"""What a search leaves on disk, and how it is read back.

One folder, no pickle in it:

    manifest.json          a checksum of every file below but progress.jsonl
    result.json            config, seeds, versions, budget asked and met, metrics, seconds by phase, bytes
    sizes.parquet          kind, id, embedding size and popularity of every entity
    table.safetensors      the packed table: what the budget caps
    scorer.safetensors     the recommender's other weights
    interactions.npz       the training graph: all interactions, or without a refit those for training and
                           validation
    test.npz               the interactions that the test figures are of; users have seen these too
    measured.safetensors   after a refit the table that was measured on test, trained without it
    measured-scorer.safetensors   its recommender's other weights
    ids.parquet            the ids of the user's own data, by row
    candidates.parquet     every table that was tried: step, what it was, kept ratio, quality, sizes
    progress.jsonl         a line a step of every phase
    sizes.png, search.png  figures
    checkpoints/           what a search that was killed needs to go on; pickles, not to be shared
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray import names
from ciess_ray.candidate import Candidate, candidate_table
from ciess_ray.files.formats import read_json, read_json_lines, write_parquet
from ciess_ray.files.manifest import MANIFEST_FILE, write_manifest
from ciess_ray.files.whole import check_writable, settle, write_whole
from ciess_ray.metric_keys import TABLE_FIGURES
from ciess_ray.packed.embedding import pack_recommender, unpack_recommender
from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.files import (
    IDS_FILE,
    INTERACTIONS_FILE,
    MEASURED_SCORER_FILE,
    MEASURED_TABLE_FILE,
    SCORER_FILE,
    TABLE_FILE,
    TEST_FILE,
    TableFolder,
    check_finished,
    entity_columns,
    read_ids,
    shape_of,
)
from ciess_ray.serving.interactions_file import read_interactions_file, write_interactions
from ciess_ray.serving.recommender import ServedRecommender
from ciess_ray.serving.served_bytes import scorer_file, write_companions
from envs.data import Interactions
from envs.data.places import name_of
from envs.errors import ResultError
from envs.recommenders import BaseRecommender

RESULT_FILE = names.RESULT_FILE
CANDIDATES_FILE = "candidates.parquet"
PROGRESS_FILE = "progress.jsonl"
RESULT_FORMAT = names.RESULT_FORMAT
#: What of a configuration does not make two searches different.
NOT_SETTINGS = ("seed", "output", "cache", "tracking", "resources")
SIZES_FILE = "sizes.parquet"
#: Serves ``--resume`` and ``--more-episodes`` alone.
CHECKPOINT_FOLDER = "checkpoints"

_FILES = (
    RESULT_FILE,
    SIZES_FILE,
    IDS_FILE,
    CANDIDATES_FILE,
    PROGRESS_FILE,
    TABLE_FILE,
    SCORER_FILE,
    INTERACTIONS_FILE,
    TEST_FILE,
    MEASURED_TABLE_FILE,
    MEASURED_SCORER_FILE,
    "sizes.png",
    "search.png",
)


class ResultFolder:
    """Writes one search's folder.

    Args:
        path: The folder; made if it is not there.
        resume: Whether to go on with what is in it; otherwise the files that a search writes are removed.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        if not resume:
            # What waits to take its place in the folder would come back.
            settle(path)
            for name in (MANIFEST_FILE, *_FILES):
                (path / name).unlink(missing_ok=True)

    def write_result(self, values: Mapping[str, Any]) -> None:
        """Replace ``result.json`` in one step; the format, versions and bytes of all files are added.

        Of a finished search the checksums of all files are written beside it.
        """
        bytes_by_file = {
            name: (self.path / name).stat().st_size
            for name in sorted({*_FILES} - {RESULT_FILE})
            if (self.path / name).exists()
        }
        content = {"format": RESULT_FORMAT, "versions": versions(), **values, "bytes": bytes_by_file}
        write_whole(self.path / RESULT_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")
        if values.get("status") == "finished":
            # Of what does not change any more.
            write_manifest(self.path, {*_FILES} - {PROGRESS_FILE})

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
        # What came before a search that never began is told again from the start.
        first = next((place for place, line in enumerate(lines) if line.get("phase") == "search"), 0)
        steps = [line for line in lines[first:] if line.get("phase") == "search"]
        kept = lines[:first] + [line for line in steps if line["step"] <= num_steps]
        write_whole(self.path / PROGRESS_FILE, "".join(json.dumps(line) + "\n" for line in kept))
        return max((line["step"] for line in steps), default=0)

    def write_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Every step of the search, and its evaluations between them."""
        write_parquet(self.path / CANDIDATES_FILE, candidate_table(candidates))

    def write_table(self, recommender: BaseRecommender, interactions: Interactions, name: str) -> None:
        """The packed table and what scoring needs beside it.

        Args:
            recommender: Trained on ``interactions.train``.
            interactions: What it was trained on.
            name: What the configuration calls the recommender.
        """
        pack_recommender(recommender, name).save(self.path / TABLE_FILE)
        write_companions(self.path, recommender, interactions, name)
        write_interactions(self.path / TEST_FILE, interactions.test)
        sizes = recommender.sizes
        # Of those who have a row.
        num_users = len(sizes.user)
        popularity = np.concatenate([interactions.user_popularity[:num_users], interactions.item_popularity])
        columns = {
            **entity_columns(interactions.user_ids[:num_users], interactions.item_ids),
            "embedding_size": pa.array(np.concatenate([sizes.user, sizes.item])),
            "popularity": pa.array(popularity),
        }
        write_parquet(self.path / SIZES_FILE, pa.table(columns))

    def write_measured(self, recommender: BaseRecommender, name: str) -> None:
        """The table that was measured on test, beside the one that was trained on test too.

        Args:
            recommender: It was trained without test.
            name: What the configuration calls it.
        """
        pack_recommender(recommender, name).save(self.path / MEASURED_TABLE_FILE)
        scorer_file(recommender, name).write(self.path, MEASURED_SCORER_FILE)


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
    names = ("ciess-ray", "ray", "torch", "numpy", "scipy", "gymnasium", "mlflow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


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
    return read_json(path / RESULT_FILE, RESULT_FORMAT)


def read_progress(path: Path) -> list[dict[str, Any]]:
    """The lines of a folder's ``progress.jsonl``, in order; none where there is no such file."""
    file = path / PROGRESS_FILE
    return read_json_lines(file) if file.exists() else []


def search_lines(path: Path) -> list[dict[str, Any]]:
    """Those of the lines that are steps of the search."""
    return [line for line in read_progress(path) if line.get("phase") == "search"]


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The table steps in a folder's ``progress.jsonl``: ``step``, ``time_ms`` and ``metrics`` of each."""
    return [
        {
            "step": line["step"],
            "time_ms": line.get("time_ms"),
            "metrics": {key: value for key, value in line.items() if "/" in key},
        }
        for line in search_lines(path)
    ]


def dataset_name(config: Mapping[str, Any]) -> str:
    """What a reader calls the data of a configuration, of which these are the plain values."""
    dataset = config["dataset"]
    return str(dataset["sample"] or name_of(dataset["path"]))


@dataclass(frozen=True, eq=False)
class SearchResult:
    """A finished search, read back from its folder.

    Attributes:
        path: The folder.
        summary: What ``result.json`` says.
        table: The packed table.
        packed_table: What the budget caps.
        train: The interactions that the table was trained on, shape (num_users, num_items); after a refit
            all there are.
        keeper: Where the folder is a temporary one, what it lives as long as.
    """

    path: Path
    summary: dict[str, Any] = field(repr=False)
    packed_table: PackedTable = field(repr=False)
    train: csr_array = field(repr=False)
    keeper: object | None = field(default=None, repr=False)

    @classmethod
    def load(cls, path: str | Path) -> "SearchResult":
        """Read a folder.

        Raises:
            ResultError: There is no finished search, or a file of it is missing or damaged.
        """
        path = Path(path)
        summary = read_summary(path)
        check_finished(path, summary)
        table = PackedTable.open(path / TABLE_FILE)
        train = read_interactions_file(path / INTERACTIONS_FILE, shape_of(table))
        return cls(path, summary, table, train)

    def looser(self) -> list["SearchResult"]:
        """What the same search gave for looser budgets, tightest first.

        Raises:
            ResultError: One lies outside the folder, or as :meth:`load`.
        """
        folders = looser_folders(self.path, self.summary)
        return [replace(SearchResult.load(path), keeper=self.keeper) for path in folders]

    def table(self) -> pd.DataFrame:
        """What the search came to, beside full size and equal sizes: a row each, by name.

        Recall and NDCG are means over users, on their test interactions; packed bytes are those of the table,
        served bytes those of all that answers a request.
        """
        rows = self.summary["methods"]
        return pd.DataFrame(
            [row["test"] | {name: row.get(name) for name in TABLE_FIGURES} for row in rows],
            index=pd.Index([row["name"] for row in rows], name="table"),
        )

    def recommend(
        self, users: Sequence[Any] | NDArray[Any], k: int = 10, *, include_seen: bool = False
    ) -> pd.DataFrame:
        """The items that users of the data are most likely to want, without Ray and PyTorch.

        Args:
            users: Their ids, as the data has them.
            k: Items each.
            include_seen: Whether items that a user already had may be recommended again.

        Returns:
            A row an item, the best first, user after user: user, rank, item, score. Somebody for whom fewer
            items are left gets fewer.

        Raises:
            CiessError: As :meth:`ciess_ray.ServedRecommender.recommend`, which also serves somebody new.
        """
        recommended = self._served.recommend(users, k, include_seen=include_seen)
        columns = ("user", "rank", "item", "score")
        return pd.DataFrame(dict(zip(columns, self._served.ranked(users, recommended), strict=True)))

    @cached_property
    def _served(self) -> ServedRecommender:
        return ServedRecommender.open(self.path)

    def recommender(
        self, own_class: type[BaseRecommender] | None = None, *, measured: bool = False
    ) -> BaseRecommender:
        """The recommender, which scores as it did when it was packed; on the CPU, without Ray.

        Args:
            own_class: The class of a recommender that does not come with this package. Reading a folder never
                imports the module that it names, which may be code of somebody else's.
            measured: Whether it is to be the one that the test figures are of. After a refit that is another:
                what is packed was trained on test too.

        Raises:
            ResultError: Its weights are missing or damaged, or another class is needed than was given.
        """
        served = TableFolder.read(self.path)
        folder = served.measured() if measured else served
        if folder is None:
            raise ResultError(
                f"{self.path}: the table that was measured is not in it; the folder of the search has it."
            )
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
        # Of options that were tried in several values, such as L2, the scorer has the one that was chosen.
        options = described["options"] | folder.scorer.options
        return unpack_recommender(folder.table, folder.train, own_class or name, options, folder.scorer.state)

    def ids(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The user's own ids of users and of items, by row.

        Raises:
            ResultError: Their file is missing or damaged.
        """
        return read_ids(self.path, *self.train.shape)
