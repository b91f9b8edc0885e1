"""Recommending from a result's folder, without Ray and without PyTorch.

served = ServedRecommender.open("runs/quickstart")
served.recommend([17], 20)            # a user of the data, by its own id
served.recommend_to_new([[50, 296]])  # somebody who names two items
"""

import numbers
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.files.manifest import Manifest
from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.files import (
    INTERACTIONS_FILE,
    TABLE_FILE,
    TEST_FILE,
    ScorerFile,
    read_ids,
    read_interactions_file,
)
from ciess_ray.serving.scorers import Floats, Scorer, build_scorer
from envs.errors import ConfigError, DataError, ResultError

#: From so many on ids are looked up in their order, which has to be found first.
_MANY_IDS = 8
#: Characters of what somebody gave in place of ids.
_MAX_SHOWN = 40
#: Scores held at once.
_MAX_SCORES = 10_000_000


@dataclass(frozen=True, eq=False)
class Recommendations:
    """Lists of items, the best first; a list is shorter than ``k`` where no more items are left.

    Attributes:
        items: Item rows, shape (n, k), int64; -1 beyond the end of a list.
        scores: Shape (n, k), float32; -inf beyond the end of a list.
    """

    items: NDArray[np.int64]
    scores: Floats


@dataclass(frozen=True, eq=False)
class ServedRecommender:
    """A packed table that recommends.

    Attributes:
        table: The packed table, mapped into memory.
        seen: All interactions that the data has, those held out for test too, shape (num_users, num_items).
        scorer: How it scores.
        user_ids: The ids of the user's own data, by row.
        item_ids: The same of items.
        recommender: Name of the recommender.

    Example:
        >>> import ciess_ray
        >>> served = ciess_ray.ServedRecommender.open("runs/quickstart")
        >>> served.recommend([17], 20).items.shape
        (1, 20)
        >>> served.recommend_to_new([[50, 296]], 20).items.shape
        (1, 20)
    """

    table: PackedTable
    seen: csr_array
    scorer: Scorer
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    recommender: str

    @classmethod
    def open(cls, folder: str | Path) -> "ServedRecommender":
        """Open the folder of a finished search, or one that ``ciess-ray export`` made.

        Raises:
            ResultError: A file is missing, damaged or of another search, or the recommender is one's own.
        """
        folder = Path(folder)
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "no such folder"
            raise ResultError(f"{folder}: {what}; name that of a finished search, or of a packed export.")
        manifest = Manifest.read(folder)
        described = ScorerFile.read(folder)
        table = PackedTable.open(folder / TABLE_FILE)
        shape = table.num_users, table.num_rows - table.num_users
        graph = read_interactions_file(folder / INTERACTIONS_FILE, shape)
        try:
            scorer = build_scorer(table, graph, described)
        except ResultError as error:
            raise error.within(str(folder)) from error
        seen = graph
        if manifest.has(TEST_FILE):
            seen = csr_array(graph + read_interactions_file(folder / TEST_FILE, shape))
        user_ids, item_ids = read_ids(folder, *shape)
        return cls(table, seen, scorer, user_ids, item_ids, described.origin or described.recommender)

    def recommend(
        self, user_ids: Sequence[Any] | NDArray[Any], k: int = 10, *, include_seen: bool = False
    ) -> Recommendations:
        """The items that known users are most likely to want.

        Args:
            user_ids: As the user's own data names them, shape (n,).
            k: Items each.
            include_seen: Whether items that a user already had may be recommended again.

        Raises:
            DataError: A user is not in the table, or it is no list of ids.
            ConfigError: k is no whole number above 0.
            ResultError: A row of the table, or a score, is no finite number.
        """
        k = _number_of_items(k)
        rows = self._rows_of(user_ids, "user")
        return self._collect(self._ranked(rows, k, include_seen), len(rows), k)

    def recommend_to_new(self, item_ids: Sequence[Sequence[Any]], k: int = 10) -> Recommendations:
        """Items for users who are not in the table, each represented by the mean of the items they name.

        Args:
            item_ids: For each user the items that they like, at least one, as the user's own data names them;
                these are not recommended.
            k: Items each.

        Raises:
            DataError: An item is not in the table, a user names none, or it is no list of lists of ids.
            ConfigError: k is no whole number above 0.
            ResultError: As :meth:`recommend`.
        """
        k = _number_of_items(k)
        of_users = [_listed(named, "item") for named in _listed(item_ids, "item")]
        counts = np.array([len(named) for named in of_users], np.int64)
        if not counts.all():
            raise DataError(f"user {int(np.argmin(counts))} names no item: name at least one.")
        flat = [item for named in of_users for item in named]
        rows = self._rows_of(flat, "item")
        indptr = np.concatenate([[0], np.cumsum(counts)])
        weights = np.repeat((1.0 / np.maximum(counts, 1)).astype(np.float32), counts)
        named = csr_array((weights, rows, indptr), shape=(len(counts), len(self.item_ids)))
        named.sum_duplicates()

        def ranked() -> Iterator[Recommendations]:
            for part in self._parts(len(counts)):
                own = named[part]
                scores = self._scored(self.scorer.of_items, own)
                yield _best(scores, own, self._depth(k))

        return self._collect(ranked(), len(counts), k)

    def ids_of(self, items: NDArray[np.int64]) -> NDArray[Any]:
        """Ids of item rows, of any shape; what stands at a -1 means nothing."""
        ids: NDArray[Any] = self.item_ids[items]
        return ids

    def _ranked(self, rows: NDArray[np.int64], k: int, include_seen: bool) -> Iterator[Recommendations]:
        for part in self._parts(len(rows)):
            users = rows[part]
            scores = self._scored(self.scorer.of_users, users)
            yield _best(scores, None if include_seen else self.seen[users], self._depth(k))

    def _scored(self, represent: Callable[[Any], Floats], whom: Any) -> Floats:
        # Weights that are finite may be too large.
        with np.errstate(over="ignore", invalid="ignore"):
            scores = self.scorer.score(represent(whom))
        if not np.isfinite(scores).all():
            raise ResultError("a score is no finite number: the table or its scorer is damaged.")
        return scores

    def _parts(self, num_users: int) -> Iterator[slice]:
        at_once = max(1, _MAX_SCORES // len(self.item_ids))
        return (slice(first, first + at_once) for first in range(0, num_users, at_once))

    def _depth(self, k: int) -> int:
        return min(k, len(self.item_ids))

    def _collect(self, parts: Iterator[Recommendations], num_users: int, k: int) -> Recommendations:
        items = np.full((num_users, self._depth(k)), -1, np.int64)
        scores = np.full(items.shape, -np.inf, np.float32)
        first = 0
        for part in parts:
            last = first + len(part.items)
            items[first:last], scores[first:last] = part.items, part.scores
            first = last
        return Recommendations(items, scores)

    def _rows_of(
        self, wanted: Sequence[Any] | NDArray[Any], kind: Literal["user", "item"]
    ) -> NDArray[np.int64]:
        """Rows of ids.

        Raises:
            DataError: One is not known, or they are no list.
        """
        known = self.user_ids if kind == "user" else self.item_ids
        wanted = _listed(wanted, kind)
        given = [_as_id(_without_blanks(value, known), known) for value in wanted]
        rows = np.full(len(given), -1, np.int64)
        if len(given) < _MANY_IDS:
            for position, value in enumerate(given):
                found = np.flatnonzero(known == value)
                rows[position] = found[0] if found.size else -1
        else:
            order = self._orders[kind]
            values = np.empty(len(given), known.dtype)
            values[:] = [known[0] if value is None else value for value in given]
            places = order[np.searchsorted(known, values, sorter=order).clip(max=len(known) - 1)]
            is_known = (known[places] == values) & np.array([value is not None for value in given])
            rows = np.where(is_known, places, -1)
        if (rows < 0).any():
            unknown = [wanted[position] for position in np.flatnonzero(rows < 0).tolist()]
            told = ", ".join(dict.fromkeys(map(_shown, unknown[:5])))
            raise DataError(
                f"not in the table: {len(unknown):,} of {len(given):,} {kind}s, e.g. {told}; "
                f"its ids are like {', '.join(map(str, known[:3]))}."
                + (" For somebody new, give items that they like." if kind == "user" else "")
            )
        return rows

    @cached_property
    def _orders(self) -> dict[str, NDArray[np.int64]]:
        return {"user": np.argsort(self.user_ids), "item": np.argsort(self.item_ids)}


def _listed(ids: Any, kind: str) -> Sequence[Any]:
    """Several ids, which a text is not.

    Raises:
        DataError: They are one, or none.
    """
    is_list = isinstance(ids, Iterable) and not isinstance(ids, str | bytes | Mapping)
    if not is_list or getattr(ids, "ndim", 1) != 1:
        shown = _shown(ids) if isinstance(ids, int) else repr(ids)[:_MAX_SHOWN]
        raise DataError(f"{shown} is no list of {kind} ids: write [{shown}] for one.")
    return list(ids)


def _as_id(value: Any, known: NDArray[Any]) -> Any:
    """An id of the type that the data has, which the text of a command line may stand for; else None.

    A truth value, a number with a fraction part and a text that only resembles a number are ids of nobody.
    """
    is_number = isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)
    if known.dtype == object:
        return _shown(value) if is_number else value if isinstance(value, str) else None
    if isinstance(value, str):
        is_number = re.fullmatch("-?[0-9]{1,19}", value) is not None and str(int(value)) == value
    if not is_number:
        return None
    bounds = np.iinfo(known.dtype)
    return int(value) if bounds.min <= int(value) <= bounds.max else None


def _shown(value: Any) -> str:
    """What somebody gave, as it is told; Python writes no number of thousands of digits."""
    is_long = isinstance(value, int) and value.bit_length() > 64
    return f"a number of {value.bit_length()} bits" if is_long else str(value)[:_MAX_SHOWN]


def _number_of_items(k: Any) -> int:
    """How many items each.

    Raises:
        ConfigError: It is no whole number above 0.
    """
    if not isinstance(k, numbers.Integral) or isinstance(k, bool) or k < 1:
        raise ConfigError(f"{k!r} items: ask for at least one.")
    return int(k)


def _best(scores: Floats, without: csr_array | None, depth: int) -> Recommendations:
    """The best items of each row of scores, of those that are not in ``without``."""
    if without is not None:
        rows = np.repeat(np.arange(len(scores)), np.diff(without.indptr))
        scores[rows, without.indices] = -np.inf
    items = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    of_items = np.take_along_axis(scores, items, axis=1)
    order = np.lexsort((items, -of_items))
    items, of_items = np.take_along_axis(items, order, axis=1), np.take_along_axis(of_items, order, axis=1)
    return Recommendations(np.where(of_items == -np.inf, -1, items), of_items)


def _without_blanks(value: Any, known: NDArray[Any]) -> Any:
    """An id as readers take it, unless the folder is of ids that kept the blanks around them."""
    if not isinstance(value, str) or value == value.strip():
        return value
    is_kept = known.dtype == object and bool((known == value).any())
    return value if is_kept else value.strip()
