"""Recommending from a result's folder, without Ray and without PyTorch.

served = ServedRecommender.open("runs/quickstart")
served.recommend([17], 20)            # a user of the data, by its own id
served.recommend_to_new([[50, 296]])  # somebody who names two items
"""

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.files import TableFolder
from ciess_ray.serving.scorers import Floats, Scorer, build_scorer
from envs.errors import ConfigError, DataError, ResultError, check_name, within
from envs.metrics import NO_SCORE

#: What is done with those who are not in the table.
Unknown = Literal["popular", "refuse"]
UNKNOWN: tuple[str, ...] = get_args(Unknown)
#: Characters of what somebody gave in place of ids.
_MAX_SHOWN = 40
#: Scores held at once.
_MAX_SCORES = 10_000_000


@dataclass(frozen=True, eq=False)
class Recommendations:
    """Lists of items, the best first; a list is shorter than ``k`` where no more items are left.

    Attributes:
        items: Item rows, shape (n, k), int64; -1 beyond the end of a list.
        scores: Shape (n, k), float32; -inf beyond the end of a list. Of what is popular, interactions in
            training.
        is_popular: Which lists are of what is popular, for nothing is known of whom they are for, shape (n,).
    """

    items: NDArray[np.int64]
    scores: Floats
    is_popular: NDArray[np.bool_]


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
        item_popularity: Training interactions of each item, shape (num_items,), int64.

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
    item_popularity: NDArray[np.int64]

    def __repr__(self) -> str:
        users, items = len(self.user_ids), len(self.item_ids)
        return (
            f"{type(self).__name__}({self.recommender}, {users:,} users, {items:,} items, "
            f"{self.table.num_params:,} parameters in {self.table.dtype})"
        )

    @classmethod
    def open(cls, folder: str | Path) -> "ServedRecommender":
        """Open the folder of a finished search, or one that ``ciess-ray export`` made.

        Raises:
            ResultError: A file is missing, damaged or of another search, or the recommender is one's own.
        """
        held = TableFolder.read(Path(folder))
        with within(folder):
            scorer = build_scorer(held)
        seen = held.train if held.test is None else csr_array(held.train + held.test)
        name = held.scorer.origin or held.scorer.recommender
        popularity = np.bincount(held.train.indices, minlength=len(held.item_ids)).astype(np.int64)
        return cls(held.table, seen, scorer, held.user_ids, held.item_ids, name, popularity)

    def recommend(
        self,
        user_ids: Sequence[Any] | NDArray[Any],
        k: int = 10,
        *,
        include_seen: bool = False,
        unknown: Unknown = "refuse",
    ) -> Recommendations:
        """The items that users are most likely to want.

        Args:
            user_ids: As the user's own data names them, shape (n,).
            k: Items each.
            include_seen: Whether items that a user already had may be recommended again.
            unknown: What users get who are not in the table: ``popular`` what has most interactions in
                training, ``refuse`` an error, and nobody anything.

        Raises:
            DataError: A user is not in the table and is refused, or it is no list of ids.
            ConfigError: k is no whole number above 0, or there is no such way with the unknown.
            ResultError: A row of the table, or a score, is no finite number.
        """
        _check_number_of_items(k)
        check_name("way with unknown ids", unknown, UNKNOWN)
        rows = self._rows_of(user_ids, "user", refuses=unknown == "refuse")
        known = rows[rows >= 0]
        seen = None if include_seen else self.seen[known]
        return self._with_popular(self._best(self.scorer.of_users, known, seen, k), rows >= 0)

    def recommend_to_new(
        self, item_ids: Sequence[Sequence[Any]], k: int = 10, *, unknown: Unknown = "refuse"
    ) -> Recommendations:
        """Items for users who are not in the table, each represented by the mean of the items they name.

        A neighbour table scores them as it would a user who had these items.

        Args:
            item_ids: For each user the items that they like, at least one, as the user's own data names them;
                these are not recommended.
            k: Items each.
            unknown: ``popular`` passes over items that are not in the table, and whoever names no other gets
                what has most interactions in training; ``refuse`` refuses both.

        Raises:
            DataError: An item is not in the table, or a user names none, and is refused; or it is no list of
                lists of ids.
            ConfigError: k is no whole number above 0, or there is no such way with the unknown.
            ResultError: As :meth:`recommend`.
        """
        _check_number_of_items(k)
        check_name("way with unknown ids", unknown, UNKNOWN)
        all_named, counts = _flat(item_ids, "item")
        if unknown == "refuse" and not counts.all():
            raise DataError(f"user {int(np.argmin(counts))} names no item: name at least one.")
        rows = self._rows_of(all_named, "item", refuses=unknown == "refuse")
        whose = np.repeat(np.arange(len(counts)), counts)[rows >= 0]
        counts = np.bincount(whose, minlength=len(counts))
        named = _means(rows[rows >= 0], counts[counts > 0], len(self.item_ids))
        return self._with_popular(self._best(self.scorer.of_items, named, named, k), counts > 0)

    def score_new_items(
        self, first_users: Sequence[Sequence[Any]], user_ids: Sequence[Any] | NDArray[Any]
    ) -> Floats:
        """Scores of items that are not in the table, each represented by the mean of its first users.

        They compare with the scores of :meth:`recommend` for the same user, but are of no training: what is
        taken is the mean of what users are scored by, of LightGCN and NGCF propagated, as
        :meth:`recommend_to_new` takes that of items. Closed forms have what they would make of an item that
        these users had and nobody else, beside known items that stay as they are.

        Args:
            first_users: For each item the users that it had, at least one, as the user's own data names them.
            user_ids: For whom, shape (n,).

        Returns:
            Shape (n, len(first_users)).

        Raises:
            DataError: A user is not in the table, an item had none, or it is no list of (lists of) ids.
            ResultError: As :meth:`recommend`.
        """
        had, counts = _flat(first_users, "user")
        if not counts.all():
            raise DataError(f"item {int(np.argmin(counts))} had no user: name at least one.")
        means = _means(self._rows_of(had, "user"), counts, len(self.user_ids))
        rows = self._rows_of(user_ids, "user")
        scores = np.empty((len(rows), len(counts)), np.float32)
        if scores.size == 0:
            return scores
        at_once = max(1, _MAX_SCORES // len(counts))
        # Weights that are finite may be too large.
        with np.errstate(over="ignore", invalid="ignore"):
            items = self.scorer.new_items(means)
            for first in range(0, len(rows), at_once):
                part = slice(first, first + at_once)
                scores[part] = self.scorer.score(self.scorer.of_users(rows[part]), items)
        _check_finite(scores)
        return scores

    def ids_of(self, items: NDArray[np.int64]) -> NDArray[Any]:
        """Ids of item rows, of any shape; what stands at a -1 means nothing."""
        return np.asarray(self.item_ids[items])

    def ranked(self, wanted: Sequence[Any] | NDArray[Any], lists: Recommendations) -> list[NDArray[Any]]:
        """Columns of a table with a row an item: for whom it is, its rank from 1, its id and its score.

        Args:
            wanted: Whom the recommendations are for, n of them.
            lists: Of items, one for each.
        """
        places, ranks = np.nonzero(lists.items >= 0)
        items, scores = lists.items[places, ranks], lists.scores[places, ranks]
        return [np.asarray(wanted)[places], ranks + 1, self.ids_of(items), scores]

    def _best(
        self, represent: Callable[[Any], Any], whom: Any, without: csr_array | None, k: int
    ) -> Recommendations:
        """The best items of each of some users, of those that are not in their rows of ``without``."""
        depth = min(k, len(self.item_ids))
        items = np.empty((whom.shape[0], depth), np.int64)
        scores = np.empty(items.shape, np.float32)
        at_once = max(1, _MAX_SCORES // len(self.item_ids))
        for first in range(0, len(items), at_once):
            part = slice(first, first + at_once)
            # Weights that are finite may be too large.
            with np.errstate(over="ignore", invalid="ignore"):
                of_all = self.scorer.score(represent(whom[part]))
            _check_finite(of_all)
            if without is not None:
                of_all[without[part].nonzero()] = -np.inf
            best = np.argpartition(-of_all, depth - 1, axis=1)[:, :depth]
            of_best = np.take_along_axis(of_all, best, axis=1)
            order = np.lexsort((best, -of_best))
            items[part] = np.take_along_axis(best, order, axis=1)
            scores[part] = np.take_along_axis(of_best, order, axis=1)
        if self.table.neighbours is not None:
            # It has ordered them, and says nothing else.
            scores[np.abs(scores) < NO_SCORE] = 0.0
        return Recommendations(np.where(scores == -np.inf, -1, items), scores, np.zeros(len(items), bool))

    def _with_popular(self, of_known: Recommendations, is_known: NDArray[np.bool_]) -> Recommendations:
        """Lists of those of whom something is known, in their places, and between them what is popular."""
        if is_known.all():
            return of_known
        popular = np.lexsort((np.arange(len(self.item_ids)), -self.item_popularity))[
            : of_known.items.shape[1]
        ]
        items = np.tile(popular, (len(is_known), 1))
        scores = self.item_popularity[items].astype(np.float32)
        items[is_known], scores[is_known] = of_known.items, of_known.scores
        return Recommendations(items, scores, ~is_known)

    def _rows_of(
        self, wanted: Sequence[Any] | NDArray[Any], kind: Literal["user", "item"], *, refuses: bool = True
    ) -> NDArray[np.int64]:
        """Rows of ids; -1 of those that are not known, unless these are refused.

        Raises:
            DataError: One is not known and is refused, or they are no list.
        """
        wanted, rows_of = _listed(wanted, kind), self._rows_by_text[kind]
        texts = [_text_of(value) for value in wanted]
        # Readers take the blanks around an id for no part of it, unless the folder's ids have kept theirs.
        rows = np.array([rows_of.get(text, rows_of.get(text.strip(), -1)) for text in texts], np.int64)
        unknown = [wanted[position] for position in np.flatnonzero(rows < 0).tolist()]
        if unknown and refuses:
            raise DataError(
                f"not in the table: {len(unknown):,} of {len(rows):,} {kind}s, e.g. "
                f"{', '.join(dict.fromkeys(map(_shown, unknown[:5])))}; its ids are like "
                f"{', '.join(list(rows_of)[:3])}."
                + (" For somebody new, give items that they like." if kind == "user" else "")
            )
        return rows

    @cached_property
    def _rows_by_text(self) -> dict[str, dict[str, int]]:
        """The command line has ids as text alone, which for numbers stands as well as they do."""
        ids = {"user": self.user_ids, "item": self.item_ids}
        return {kind: {str(value): row for row, value in enumerate(ids[kind].tolist())} for kind in ids}


def _check_finite(scores: Floats) -> None:
    """Refuse what a damaged table scores.

    Raises:
        ResultError: A score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise ResultError("a score is no finite number: the table or its scorer is damaged.")


def _flat(lists: Any, kind: str) -> tuple[list[Any], NDArray[np.int64]]:
    """Ids of several lists one after another, and how many each has.

    Raises:
        DataError: They are no list of lists.
    """
    listed = [_listed(ids, kind) for ids in _listed(lists, kind)]
    return [value for ids in listed for value in ids], np.array([len(ids) for ids in listed], np.int64)


def _means(rows: NDArray[np.int64], counts: NDArray[np.int64], num_rows: int) -> csr_array:
    """Weights of means of rows, shape (len(counts), num_rows): the first ``counts[0]`` rows, and so on."""
    weights = np.repeat((1.0 / counts).astype(np.float32), counts)
    means = csr_array(
        (weights, rows, np.concatenate([[0], np.cumsum(counts)])), shape=(len(counts), num_rows)
    )
    means.sum_duplicates()
    return means


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


def _text_of(value: Any) -> str:
    """An id as text; nobody's where it is none, as a truth value or a number with a fraction part is."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return _shown(value)
    return value if isinstance(value, str) else ""


def _shown(value: Any) -> str:
    """What somebody gave, as it is told; Python writes no number of thousands of digits."""
    is_long = isinstance(value, int) and value.bit_length() > 64
    return f"a number of {value.bit_length()} bits" if is_long else str(value)[:_MAX_SHOWN]


def _check_number_of_items(k: Any) -> None:
    """Refuse what is no whole number above 0.

    Raises:
        ConfigError: It is none.
    """
    if not isinstance(k, numbers.Integral) or isinstance(k, bool) or k < 1:
        raise ConfigError(f"{k!r} items: ask for at least one.")
