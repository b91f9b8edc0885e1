"""Interactions as a reader gives them, and as the frozen splits everything else works on.

Entities are numbered: a *code* is the position of a user's or an item's own id in the sorted id array.
"""

import hashlib
import os
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from envs.errors import DataError

#: The ids of the user's own data, sorted: int64, or Python strings in an object array.
Ids = NDArray[np.int64] | NDArray[np.object_]
#: Codes of entities and offsets of rows are int32.
_MAX_ROWS = 2**31 - 1
#: What a column of a log, or the ids that it is made of, takes of memory for each row.
_VALUE_BYTES = 8
#: Of rows with the same user and item, which stays.
Keep = Literal["first", "last"]
TimeUnit = Literal["s", "ms", "us", "ns"]
#: What a row is for, where the data say so themselves.
SPLITS = ("train", "validation", "test")


def check_rows(num_rows: int, num_columns: int, source: str) -> None:
    """Refuse more rows than can be numbered or held, before they are read.

    Raises:
        DataError: There are too many.
    """
    if num_rows > _MAX_ROWS:
        raise DataError(
            f"{source}: {num_rows:,} rows, and at most {_MAX_ROWS:,} can be numbered; bring a part of them"
        )
    check_memory(num_rows * num_columns * _VALUE_BYTES, source)


def check_memory(num_bytes: int, source: str) -> None:
    """Refuse what is larger than the machine's memory, before it is taken.

    Raises:
        DataError: It is.
    """
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if num_bytes > there:
        raise DataError(
            f"{source}: {num_bytes / 1e9:,.1f} GB would have to be held, and this machine has "
            f"{there / 1e9:,.1f} GB of memory; bring a part of it, or a larger machine"
        )


class _HasIds:
    """Something that names users and items by the ids of the user's own data."""

    user_ids: Ids
    item_ids: Ids

    @property
    def num_users(self) -> int:
        """Users, those without interactions included."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Items, those without interactions included."""
        return len(self.item_ids)


@dataclass(frozen=True, eq=False)
class InteractionLog(_HasIds):
    """What a reader gives: one row an interaction, each pair of user and item once.

    Attributes:
        user_ids: Ids of the users, unique and sorted, shape (num_users,).
        item_ids: Ids of the items, unique and sorted, shape (num_items,).
        user: Code of each row's user, shape (num_rows,), int32.
        item: Code of each row's item, shape (num_rows,), int32.
        rating: Shape (num_rows,), float32; None where the data has none.
        timestamp: Shape (num_rows,), int64 or float64, in the data's own unit; None where it has none.
        time_unit: What the times count since 1970, as NumPy names it, where they were dates; else None.
        num_duplicates: Rows left out because their pair was there again.
        source: Where the rows came from, for messages.
        split: What each row is for, as its place in :data:`SPLITS`, shape (num_rows,), int8; None where
            that is not decided.
    """

    user_ids: Ids
    item_ids: Ids
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float32] | None
    timestamp: NDArray[np.int64] | NDArray[np.float64] | None
    num_duplicates: int
    source: str
    split: NDArray[np.int8] | None = None
    time_unit: TimeUnit | None = None

    @property
    def num_rows(self) -> int:
        """Interactions left after duplicates were merged."""
        return len(self.user)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "InteractionLog":
        """The same log with only these rows, given as a mask or as positions; the ids stay as they are."""
        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            rating=None if self.rating is None else self.rating[rows],
            timestamp=None if self.timestamp is None else self.timestamp[rows],
            split=None if self.split is None else self.split[rows],
        )


def merge_duplicates(log: InteractionLog, keep: Keep = "last") -> InteractionLog:
    """Keep one row of each pair of user and item, and count the others.

    Which is first and which is last is told by timestamps where there are, by positions otherwise and among
    equals. The order of the rows that stay is not changed.
    """
    keys = log.user.astype(np.int64) * log.num_items + log.item
    ordered_keys = np.sort(keys)
    if not np.any(ordered_keys[1:] == ordered_keys[:-1]):
        return log
    # Both sorts are stable, so that the later of two equal rows comes last.
    order = np.argsort(keys, kind="stable") if log.timestamp is None else np.lexsort((log.timestamp, keys))
    is_other = ordered_keys[1:] != ordered_keys[:-1]
    kept = np.sort(order[np.append(is_other, True) if keep == "last" else np.append(True, is_other)])
    return replace(log.select(kept), num_duplicates=log.num_duplicates + log.num_rows - len(kept))


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.setflags(write=False)
    return view


def _frozen_csr(matrix: sparse.csr_array) -> sparse.csr_array:
    """The same pairs as float32 ones with sorted int32 indices, read-only; copies only what must change."""
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    indices, indptr = (array.astype(np.int32, copy=False) for array in (matrix.indices, matrix.indptr))
    arrays = np.ones(len(indices), np.float32), indices, indptr
    return sparse.csr_array(tuple(map(_frozen, arrays)), shape=matrix.shape)


@dataclass(frozen=True, eq=False)
class Interactions(_HasIds):
    """Training, validation and test interactions that nothing can change any more.

    Attributes:
        train: Ones where a user interacted with an item, shape (num_users, num_items), float32, indices
            sorted and int32; the arrays cannot be written.
        validation: The same for the validation interactions.
        test: The same for the test interactions.
        user_ids: Ids of the rows as the user's data names them, sorted, shape (num_users,).
        item_ids: Ids of the columns, sorted, shape (num_items,).
        num_unevaluated_users: Users all of whose interactions are in training: of a drawn split those with
            fewer than three.
        num_duplicates: Rows left out because their pair was there again.
        source: Where the interactions came from, for messages.
        num_cold_rows: Rows left out because training does not know their user or item.
        num_drawn_from: Users that these were drawn from; None where they are all there are.

    Raises:
        DataError: The splits and the ids differ in shape.
    """

    train: sparse.csr_array
    validation: sparse.csr_array
    test: sparse.csr_array
    user_ids: Ids
    item_ids: Ids
    num_unevaluated_users: int
    num_duplicates: int
    source: str
    num_cold_rows: int = 0
    num_drawn_from: int | None = None

    def __post_init__(self) -> None:
        shape = (len(self.user_ids), len(self.item_ids))
        for name in ("train", "validation", "test"):
            matrix = getattr(self, name)
            if matrix.shape != shape:
                raise DataError(
                    f"{self.source}: the {name} split has shape {matrix.shape}, but there are {shape[0]} "
                    f"user ids and {shape[1]} item ids; give every split the shape {shape}"
                )
            object.__setattr__(self, name, _frozen_csr(matrix))
        object.__setattr__(self, "user_ids", _frozen(self.user_ids))
        object.__setattr__(self, "item_ids", _frozen(self.item_ids))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Interactions":
        # Nothing can change: Gymnasium, which copies an environment's arguments, need not copy the data.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Made anew, since pickling forgets that the arrays are read-only, those of the cached properties too.
        # The fingerprint is no array, and dear; without the test split nobody could find it again.
        kept = {name: value for name, value in vars(self).items() if name == "fingerprint"}
        return Interactions, tuple(getattr(self, field.name) for field in fields(self)), kept

    @property
    def num_entities(self) -> int:
        """Users and items together: the rows of the embedding table."""
        return self.num_users + self.num_items

    @property
    def num_all_users(self) -> int:
        """Users, those that were not drawn included."""
        return self.num_users if self.num_drawn_from is None else self.num_drawn_from

    @property
    def num_interactions(self) -> int:
        """Interactions of all three splits together."""
        return int(self.train.nnz + self.validation.nnz + self.test.nnz)

    @cached_property
    def user_popularity(self) -> NDArray[np.int64]:
        """Training interactions of each user, shape (num_users,)."""
        return _frozen(np.diff(self.train.indptr).astype(np.int64))

    @cached_property
    def item_popularity(self) -> NDArray[np.int64]:
        """Training interactions of each item, shape (num_items,)."""
        return _frozen(np.bincount(self.train.indices, minlength=self.num_items).astype(np.int64))

    @property
    def num_untrained_items(self) -> int:
        """Items without a training interaction, of which nothing can be learnt."""
        return int(np.sum(self.item_popularity == 0))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the splits and the ids, in hex: the same on every machine for the same splits."""
        digest = hashlib.sha256()
        for matrix in (self.train, self.validation, self.test):
            digest.update(np.asarray(matrix.shape, "<i8").tobytes())
            digest.update(matrix.indptr.astype("<i4", copy=False).tobytes())
            digest.update(matrix.indices.astype("<i4", copy=False).tobytes())
        for ids in (self.user_ids, self.item_ids):
            if ids.dtype == np.int64:
                digest.update(b"int" + ids.astype("<i8", copy=False).tobytes())
            else:
                # Lengths keep ("ab", "c") apart from ("a", "bc").
                text = pa.array(ids, pa.large_binary())
                lengths = np.diff(np.frombuffer(text.buffers()[1], np.int64, len(text) + 1))
                digest.update(b"text" + lengths.astype("<i8", copy=False).tobytes())
                digest.update(b"".join(text.to_pylist()))
        return digest.hexdigest()

    def without_test(self) -> "Interactions":
        """The same without any test interaction, for what must not see them; the fingerprint stays."""
        return self.with_test(sparse.csr_array(self.test.shape, dtype=np.float32))

    def with_test(self, test: sparse.csr_array) -> "Interactions":
        """The same with the test interactions that :meth:`without_test` took away."""
        other = replace(self, test=test)
        other.__dict__["fingerprint"] = self.fingerprint
        return other

    def of_users(self, is_drawn: NDArray[np.bool_]) -> "Interactions":
        """Those of some users, with all items, which keep their codes.

        Args:
            is_drawn: Which users, shape (num_users,).
        """
        train, validation, test = (
            sparse.csr_array(split[is_drawn]) for split in (self.train, self.validation, self.test)
        )
        return replace(
            self,
            train=train,
            validation=validation,
            test=test,
            user_ids=self.user_ids[is_drawn],
            num_unevaluated_users=int(np.sum(np.diff(validation.indptr) + np.diff(test.indptr) == 0)),
            num_drawn_from=self.num_all_users,
        )

    def merge_validation_into_training(self) -> "Interactions":
        """Train on training and validation together; validation is then empty and test the same.

        The protocol of the published test figures, see CIESS (arXiv 2304.03501) section 3.
        """
        return replace(
            self,
            train=sparse.csr_array(self.train + self.validation),
            validation=sparse.csr_array(self.validation.shape, dtype=np.float32),
        )

    def merge_all_into_training(self) -> "Interactions":
        """Train on everything that is known; validation is then empty, and test the same, but no secret."""
        both = self.merge_validation_into_training()
        return replace(both, train=sparse.csr_array(both.train + self.test))
