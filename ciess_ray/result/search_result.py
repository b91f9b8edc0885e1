"""A finished search, read back from its folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.metric_keys import TABLE_FIGURES
from ciess_ray.packed.embedding import unpack_recommender
from ciess_ray.packed.table import PackedTable
from ciess_ray.plain_text import command
from ciess_ray.result.folder import looser_folders, read_summary
from ciess_ray.serving.files import (
    INTERACTIONS_FILE,
    TABLE_FILE,
    TableFolder,
    read_ids,
    read_interactions_file,
)
from ciess_ray.serving.recommender import ServedRecommender
from envs.errors import ResultError
from envs.recommenders import BaseRecommender


@dataclass(frozen=True, eq=False)
class SearchResult:
    """A finished search, read back from its folder.

    Attributes:
        path: The folder.
        summary: What ``result.json`` says.
        table: The packed table.
        packed_table: What the budget caps.
        train: The interactions that the table was trained on, shape (num_users, num_items).
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
        if summary.get("status") != "finished":
            raise ResultError(
                f"{path}: this search is {summary.get('status')!r}, not finished (phase "
                f"{summary.get('phase')!r}); wait for it where it still runs, or go on with: "
                f"{command('ciess-ray', 'search', '--resume', path)}"
            )
        table = PackedTable.open(path / TABLE_FILE)
        shape = table.num_users, table.num_rows - table.num_users
        return cls(path, summary, table, read_interactions_file(path / INTERACTIONS_FILE, shape))

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

    def recommender(self, own_class: type[BaseRecommender] | None = None) -> BaseRecommender:
        """The recommender, which scores as it did when it was packed; on the CPU, without Ray.

        Args:
            own_class: The class of a recommender that does not come with this package. Reading a folder never
                imports the module that it names, which may be code of somebody else's.

        Raises:
            ResultError: Its weights are missing or damaged, or another class is needed than was given.
        """
        folder = TableFolder.read(self.path)
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
            folder.table, folder.train, own_class or name, described["options"], folder.scorer.state
        )

    def ids(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The user's own ids of users and of items, by row.

        Raises:
            ResultError: Their file is missing or damaged.
        """
        return read_ids(self.path, *self.train.shape)
