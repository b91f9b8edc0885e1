"""Splitting a log into training, validation and test, and thinning it to its k-core."""

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from envs.data.interactions import SPLITS, InteractionLog, Interactions
from envs.data.stream import TEST_BEGINS, VALIDATION_BEGINS
from envs.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

#: Share of each user's interactions that published figures are measured on: CIESS (arXiv 2304.03501).
TEST_SHARE = 0.25
#: A user needs one interaction in each split to be trained on, validated and tested.
MIN_EVALUATED_INTERACTIONS = 3


def _held_out(num_interactions: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    # The small term undoes products such as 100 · 0.29 = 28.999999999999996.
    return np.asarray(np.maximum(1, np.floor(num_interactions * share + 1e-9)), np.int64)


def split_interactions(
    log: InteractionLog, *, seed: int, validation_share: float = 0.25, test_share: float = TEST_SHARE
) -> Interactions:
    """Split each user's interactions at random, or as the log says itself.

    Of a user's n >= 3 interactions, max(1, floor(n · share)) go to validation and to test each and the
    others, at least one, to training. A user with fewer than three keeps all of them in training, is
    counted, and is never evaluated. The result depends on the set of pairs and on the seed alone, not on
    the order of the rows; up to a half, the validation share changes nothing about which interactions are for
    test.

    Args:
        log: The interactions; ratings and timestamps are ignored. Where it has a split of its own, seed and
            shares are.
        seed: Seed of the only random draw.
        validation_share: Share of each user's interactions, in (0, 1).
        test_share: The same for test; the two sum to less than 1.

    Raises:
        ConfigError: A share lies outside (0, 1), or the shares leave nothing to train on.
        DataError: No user has three interactions, or there is none for training, validation or test.
    """
    if not (validation_share > 0.0 and test_share > 0.0 and validation_share + test_share < 1.0):
        raise ConfigError(
            f"validation_share {validation_share} and test_share {test_share} make no split; choose shares "
            "above 0 that sum to less than 1"
        )
    if log.split is not None:
        for code, name in enumerate(SPLITS):
            if not np.any(log.split == code):
                raise DataError(f"{log.source}: it has no interaction for {name}; each split needs some")
        return _interactions_of(log, log.split)
    # One sort of one number a pair: a third of the time of two, and next to none where rows are in order.
    order = np.argsort(log.user.astype(np.int64) * log.num_items + log.item, kind="stable")
    split = np.empty(log.num_rows, np.int8)
    split[order] = _drawn_split(log, log.user[order], seed, validation_share, test_share)
    return _interactions_of(log, split)


def split_by_time(log: InteractionLog) -> Interactions:
    """Train on the first 70 % of all rows in order of time, validate on the next 10 %, test on the last 20 %.

    Rows of validation and test whose user or item is in no training row are *cold*: a table that was trained
    before has no row for them. They are left out, with the users and items that have no other rows, counted,
    and logged. Rows of the same time keep the order of the file.

    Args:
        log: The interactions, with times.

    Raises:
        DataError: There are no times, or but one; the data bring a split of their own; there are too few rows
            for three parts, or all of validation or of test are cold.
    """
    if log.split is not None:
        raise DataError(f"{log.source}: it brings a split of its own; no other can be made by time")
    if log.timestamp is None:
        raise DataError(f"{log.source}: it has no times to be split by; name their column")
    if log.num_rows == 0 or log.timestamp.min() == log.timestamp.max():
        raise DataError(f"{log.source}: all of its rows have one time, which puts them into no order")
    # The small term undoes products such as 10 · 0.7 = 6.999999999999999.
    begins = [int(log.num_rows * share + 1e-9) for share in (VALIDATION_BEGINS, TEST_BEGINS)]
    place = np.empty(log.num_rows, np.int64)
    place[np.argsort(log.timestamp, kind="stable")] = np.arange(log.num_rows)
    split = np.searchsorted(begins, place, side="right").astype(np.int8)
    is_train = split == 0
    has_user = np.bincount(log.user[is_train], minlength=log.num_users) > 0
    has_item = np.bincount(log.item[is_train], minlength=log.num_items) > 0
    is_known = has_user[log.user] & has_item[log.item]
    num_rows, num_cold = (np.bincount(split[rows], minlength=3) for rows in (slice(None), ~is_known))
    for code, name in enumerate(SPLITS):
        if num_rows[code] == num_cold[code]:
            raise DataError(
                f"{log.source}: of {log.num_rows:,} rows in order of time {num_rows[code]:,} are for {name}, "
                "and training knows user and item of none; bring more rows, or split at random"
            )
    if num_cold.any():
        logger.warning(
            "%s: %s of %s validation rows (%s) and %s of %s test rows (%s) are cold, of a user or an item "
            "that training does not know, and are left out, with %s users and %s items.",
            log.source,
            *(
                text
                for code in (1, 2)
                for text in (
                    f"{num_cold[code]:,}",
                    f"{num_rows[code]:,}",
                    f"{num_cold[code] / num_rows[code]:.1%}",
                )
            ),
            f"{log.num_users - np.sum(has_user):,}",
            f"{log.num_items - np.sum(has_item):,}",
        )
    known = _with_entities(log.select(is_known), has_user, has_item)
    return replace(_interactions_of(known, split[is_known]), num_cold_rows=int(num_cold.sum()))


def _interactions_of(log: InteractionLog, split: NDArray[np.int8]) -> Interactions:
    """The splits, of what each row is for as its place in :data:`SPLITS`."""
    parts = {}
    for code, name in enumerate(SPLITS):
        pairs = log.user[split == code], log.item[split == code]
        ones = np.ones(len(pairs[0]), np.float32)
        parts[name] = csr_array((ones, pairs), shape=(log.num_users, log.num_items))
    return Interactions(
        **parts,
        user_ids=log.user_ids,
        item_ids=log.item_ids,
        # Not np.unique, which takes longer than all of the splits.
        num_unevaluated_users=int(np.sum(np.bincount(log.user[split > 0], minlength=log.num_users) == 0)),
        num_duplicates=log.num_duplicates,
        source=log.source,
    )


def _drawn_split(
    log: InteractionLog, user: NDArray[np.int32], seed: int, validation_share: float, test_share: float
) -> NDArray[np.int8]:
    """What each interaction is for, as its place in :data:`SPLITS`, of users in ascending order."""
    counts = np.bincount(user, minlength=log.num_users).astype(np.int64)
    is_evaluated = counts >= MIN_EVALUATED_INTERACTIONS
    if not np.any(is_evaluated):
        raise DataError(
            f"{log.source}: none of the {log.num_users} users has the {MIN_EVALUATED_INTERACTIONS} "
            "interactions that a split into training, validation and test needs; bring data with more "
            f"interactions a user (this has {log.num_rows} in all)"
        )
    num_validation = np.minimum(_held_out(counts, validation_share), np.maximum(counts - 2, 0))
    num_test = np.where(is_evaluated, _held_out(counts, test_share), 0)
    num_test = np.minimum(num_test, np.maximum(counts - num_validation - 1, 0))
    # Ordering by (user, place in one random permutation) shuffles each user's rows; these keys are unique,
    # so that every sorting algorithm gives the same order.
    num_rows = len(user)
    shuffled = np.random.default_rng(seed).permutation(num_rows)
    by_user = np.sort(user[shuffled].astype(np.int64) * num_rows + np.arange(num_rows))
    rows = shuffled[by_user % num_rows]
    place = np.arange(num_rows) - np.repeat(np.cumsum(counts) - counts, counts)
    split = np.empty(num_rows, np.int8)
    split[rows] = np.select([place < num_test[user], place < (num_test + num_validation)[user]], [2, 1], 0)
    return split


def k_core(log: InteractionLog, k: int) -> InteractionLog:
    """The largest part of a log in which every user and every item has at least k interactions.

    What it leaves out is logged.

    Args:
        log: The interactions.
        k: Interactions an entity must have, at least 1.

    Returns:
        The rows that stay, in their order, with codes and ids of the entities that stay.

    Raises:
        ConfigError: k is below 1.
        DataError: Nothing is left.
    """
    if k < 1:
        raise ConfigError(f"the k of a k-core is {k}; choose 1 or more")
    core = log
    while True:
        user_counts = np.bincount(core.user, minlength=log.num_users)
        item_counts = np.bincount(core.item, minlength=log.num_items)
        is_kept = (user_counts[core.user] >= k) & (item_counts[core.item] >= k)
        if np.all(is_kept):
            break
        core = core.select(is_kept)
    if core.num_rows == 0:
        raise DataError(
            f"{log.source}: the {k}-core is empty, no part of the data has {k} interactions for each of its "
            "users and items; choose a smaller k"
        )
    has_user, has_item = user_counts > 0, item_counts > 0
    left_out = [
        f"{before - after:,} of {before:,} {name} ({(before - after) / before:.1%})"
        for name, before, after in (
            ("users", log.num_users, np.sum(has_user)),
            ("items", log.num_items, np.sum(has_item)),
            ("interactions", log.num_rows, core.num_rows),
        )
    ]
    if core.num_rows < log.num_rows:
        logger.warning("%s: the %d-core leaves out %s, %s and %s.", log.source, k, *left_out)
    return _with_entities(core, has_user, has_item)


def _with_entities(
    log: InteractionLog, has_user: NDArray[np.bool_], has_item: NDArray[np.bool_]
) -> InteractionLog:
    """The same rows with codes and ids of these users and items alone, which all rows are of."""
    return replace(
        log,
        user_ids=log.user_ids[has_user],
        item_ids=log.item_ids[has_item],
        user=(np.cumsum(has_user, dtype=np.int32) - 1)[log.user].astype(np.int32),
        item=(np.cumsum(has_item, dtype=np.int32) - 1)[log.item].astype(np.int32),
    )
