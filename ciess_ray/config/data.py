"""The interactions that a configuration names, and whether budgets and memory allow for its tables."""

import copy
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from ciess_ray.config.grid import Trial
from ciess_ray.config.keys import without_former
from ciess_ray.config.run import LogConfig, RunConfig
from ciess_ray.config.yaml_file import put_overrides
from ciess_ray.files.formats import parse_json
from ciess_ray.plain_text import command
from envs.budget import MemoryBudget
from envs.communities import most_communities
from envs.data import (
    TEST_SHARE,
    Columns,
    InteractionLog,
    Interactions,
    Keep,
    k_core,
    read_interactions,
    read_sample,
    split_by_time,
    split_interactions,
)
from envs.errors import BudgetError, ConfigError, ResultError, within
from envs.metrics import CUTOFFS
from envs.recommenders import resolve_device
from envs.sizes.embedding_sizes import column_params

logger = logging.getLogger(__name__)

_FLOAT_BYTES, _ID_BYTES = 4, 8
#: Interactions that validation has where data are many enough, and its least and its most share, CIESS's.
_HELD_OUT, _LEAST_SHARE, _MOST_SHARE = 50_000, 0.1, 0.25
#: Of every parameter: its value, its gradient, Adam's two moments, and the copy that a NaN is undone with.
_NUM_COPIES = 5


def read_log(dataset: LogConfig, *, keep: Keep = "last") -> InteractionLog:
    """Read the interactions that a configuration names.

    Args:
        dataset: The configuration.
        keep: As of :func:`envs.data.read_interactions`.

    Raises:
        DataError: The file cannot be read.
    """
    if dataset.sample is not None:
        return read_sample(dataset.sample, keep=keep)
    assert dataset.path is not None
    columns = None if dataset.columns is None else Columns(**dataset.columns)
    return read_interactions(dataset.path, format=dataset.format, columns=columns, keep=keep)


def load_interactions(config: RunConfig) -> Interactions:
    """Read and split what the configuration names, and log what a user may not expect of it.

    Raises:
        DataError: The file cannot be read, or holds too little to split.
    """
    dataset = config.dataset
    log = read_log(dataset)
    if dataset.k_core is not None:
        log = k_core(log, dataset.k_core)
    if dataset.split == "time":
        interactions = split_by_time(log)
    else:
        interactions = split_interactions(
            log,
            seed=config.split_seed,
            validation_share=_validation_share(config, log.num_rows),
            test_share=TEST_SHARE,
        )
    if interactions.num_untrained_items:
        logger.warning(
            "%s: %s of %s items have no interaction in training, so that nothing is learnt of them%s.",
            log.source,
            f"{interactions.num_untrained_items:,}",
            f"{interactions.num_items:,}",
            " before the refit" if config.search.refit else "",
        )
    is_judged = np.diff(interactions.validation.indptr) > 0
    left, length = interactions.num_items - interactions.user_popularity[is_judged], max(CUTOFFS)
    if len(left) and np.median(left) <= length:
        logger.warning(
            "%s: most users lack so few of the %s items that a list of %s holds all of them: their Recall@%s "
            "is 1 in any order, and says nothing of a table. Bring data with more items.",
            log.source,
            f"{interactions.num_items:,}",
            length,
            length,
        )
    _tell_of_zeros(config, interactions)
    return interactions


def _validation_share(config: RunConfig, num_interactions: int) -> float:
    """What share of each user's interactions validates, of so many in all.

    Where nothing is said of it as little as tells tables apart: they are then chosen for nearly as much
    training data as the last one has.
    """
    if config.dataset.validation_share is not None:
        return config.dataset.validation_share
    if config.search.mode != "projected":
        return _MOST_SHARE
    return min(max(_HELD_OUT / num_interactions, _LEAST_SHARE), _MOST_SHARE)


def _tell_of_zeros(config: RunConfig, interactions: Interactions) -> None:
    """Say where rows of the full table can only hold zeros, which a budget in shares of it counts."""
    recommender = config.recommender
    most = recommender.most_numbers(interactions)
    if most is not None and most < recommender.max_embedding_size:
        logger.warning(
            "recommender.max_embedding_size=%s: a row of %s, with as many users (%s) and items (%s) as here, "
            "has at most %s numbers that say something, and zeros beyond, which are packed and count in a "
            "budget: lower it to %s.",
            f"{recommender.max_embedding_size:,}",
            recommender.name,
            f"{interactions.num_users:,}",
            f"{interactions.num_items:,}",
            f"{most:,}",
            most,
        )


def caps_params_of(config: RunConfig, interactions: Interactions) -> list[int]:
    """Parameters that each budget of a run allows; of some users, what leaves a row as much as of all.

    Raises:
        BudgetError: One cannot be met.
    """
    recommender = config.recommender
    num_user_rows, num_item_rows = recommender.row_counts(interactions)
    num_rows = num_user_rows + num_item_rows
    num_all_rows = num_item_rows + (interactions.num_all_users if num_user_rows else 0)
    return [
        asked.cap_params(
            num_all_rows,
            recommender.min_embedding_size,
            recommender.max_embedding_size,
            recommender.num_tables,
            id_bytes=recommender.id_bytes(interactions),
        )
        * num_rows
        // num_all_rows
        for asked in config.memory_budgets
    ]


def check_budgets(config: RunConfig, interactions: Interactions, *, trains_full: bool = True) -> list[int]:
    """See that budgets, communities and memory allow for the tables of a run, before Ray starts.

    Memory is that of this machine, unless the run will be on a cluster, whose nodes may have more: there each
    process that trains a full table looks itself.

    Args:
        config: The run.
        interactions: The splits.
        trains_full: Whether full tables are trained, for which there must be memory.

    Returns:
        Parameters that each budget allows.

    Raises:
        BudgetError: A budget cannot be met, or in bytes has no room for the columns at which rows begin.
        ConfigError: There are more communities than users and items allow, or no memory.
    """
    caps_params = caps_params_of(config, interactions)
    if config.search.tried_communities:
        _check_communities(config, interactions, caps_params)
    if trains_full and os.environ.get("RAY_ADDRESS", "local") == "local" and not ray.is_initialized():
        check_training_memory(config, interactions)
    return caps_params


def _check_communities(config: RunConfig, interactions: Interactions, caps_params: Sequence[int]) -> None:
    most = most_communities(interactions.num_users, interactions.num_items)
    too_many = [number for number in config.search.tried_communities if number > most]
    if too_many:
        raise ConfigError(
            f"search.tried_communities: {', '.join(map(str, too_many))} communities of "
            f"{interactions.num_users:,} users and {interactions.num_items:,} items; ask for 2 to {most}."
        )
    num_rows = interactions.num_entities
    for asked, cap_params in zip(config.memory_budgets, caps_params, strict=True):
        if not _has_room_for_columns(config, asked, cap_params, num_rows):
            raise BudgetError(
                f"the memory budget {asked} has no room for a byte a row, which search.tried_communities "
                f"takes of a budget in bytes: leave it out, or ask for {num_rows:,} bytes more."
            )


def _has_room_for_columns(config: RunConfig, asked: MemoryBudget, cap_params: int, num_rows: int) -> bool:
    recommender = config.recommender
    least = num_rows * recommender.min_embedding_size * recommender.num_tables
    return asked.unit != "bytes" or cap_params - column_params(num_rows) >= least


def has_room_for_communities(config: RunConfig, interactions: Interactions, num_communities: int) -> bool:
    """Whether users can be parted into so many, and every budget has room for where their rows begin."""
    caps_params = caps_params_of(config, interactions)
    return num_communities <= most_communities(interactions.num_users, interactions.num_items) and all(
        _has_room_for_columns(config, asked, cap_params, interactions.num_entities)
        for asked, cap_params in zip(config.memory_budgets, caps_params, strict=True)
    )


def check_training_memory(config: RunConfig, interactions: Interactions) -> None:
    """Refuse a full table, or a batch of it, that this machine has no memory for, before any is taken.

    What is counted is the least that a training takes; one that is not refused may still be too large.

    Args:
        config: The run.
        interactions: The splits.

    Raises:
        ConfigError: With the field, the bytes and what there is.
    """
    recommender, training = config.recommender, config.training
    is_trained = not recommender.is_closed_form
    width = recommender.max_embedding_size * recommender.num_tables
    num_rows = sum(recommender.row_counts(interactions))
    table_bytes = num_rows * width * _FLOAT_BYTES * (_NUM_COPIES if is_trained else 1)
    # The rows of users and of items of each positive, with bpr of its negative too, and their numbers. Other
    # losses take no interaction twice.
    is_bpr = training.loss == "bpr"
    num_positives = training.batch_size if is_bpr else min(training.batch_size, interactions.train.nnz)
    batch_bytes = num_positives * (3 if is_bpr else 2) * (width * _FLOAT_BYTES + _ID_BYTES)
    device = resolve_device(recommender.device)
    if device.type == "cuda":
        there, place = torch.cuda.get_device_properties(device).total_memory, "the GPU"
    else:
        there, place = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine"
    if table_bytes + (batch_bytes if is_trained else 0) <= there:
        return
    if not is_trained:
        raise ConfigError(
            f"the full table of {num_rows:,} rows takes {table_bytes:,} bytes with "
            f"recommender.max_embedding_size={recommender.max_embedding_size}, and {place} has {there:,} "
            "bytes of memory: lower it."
        )
    raise ConfigError(
        f"to train the full table of {num_rows:,} rows takes at least {table_bytes:,} bytes "
        f"with recommender.max_embedding_size={recommender.max_embedding_size}, and a batch of it "
        f"{batch_bytes:,} with training.batch_size={training.batch_size}, and {place} has {there:,} bytes of "
        "memory: lower what takes more."
    )


def dataset_key(config: RunConfig) -> str:
    """What two runs on the same data, split alike, have in common."""
    dataset = config.dataset
    is_by_rule = dataset.validation_share is None and config.search.mode == "projected"
    told = {"split_seed": config.split_seed, "is_by_rule": is_by_rule}
    return json.dumps(dataset.model_dump(mode="json") | told, sort_keys=True)


def read_recorded(
    content: bytes | None, folder: str, file: str, form: str, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the folder of many runs says of them.

    Args:
        content: Of the file that says it; None where there is none.
        folder: What messages call the folder.
        file: The file's name in it.
        form: The format that it has to name, of which the second word is what the runs are: a sweep, a
            comparison.
        overrides: What is told anew: where data lie, and where runs are recorded.

    Returns:
        All that it says, and the plain values of the runs as they are read now.

    Raises:
        ResultError: There is no such file, or it is damaged.
        ConfigError: The space names the data.
    """
    kind = form.split()[1]
    if content is None:
        raise ResultError(f"{folder}: no {kind}: there is no {file} in it.")
    state = parse_json(content, f"{folder}/{file}", form)
    values = copy.deepcopy(state[kind])
    for override in overrides:
        name = override.partition("=")[0]
        if name.startswith("dataset."):
            if {name, "dataset"} & dict(values["space"]).keys():
                raise ConfigError(f"{override!r}: here the space names the data; bring them back to go on.")
            override = f"base.{override}"
        put_overrides(values, [override])
    return state, without_former(values)


def check_places(configs: Iterable[RunConfig], what: str, location: object) -> None:
    """See that the data of runs that are gone on with are where they were.

    Args:
        configs: Of the runs.
        what: Their command.
        location: Their folder.

    Raises:
        ResultError: A file is not there.
    """
    for path in dict.fromkeys(config.dataset.path for config in configs):
        if isinstance(path, Path) and not path.exists():
            raise ResultError(
                f"{location}: its data, {path}, are not there; say where they lie now: "
                f"{command('ciess-ray', what, '--resume', location, 'dataset.path=FILE')}"
            )


def read_data(trials: Iterable[Trial], source: str, *, trains_full: bool = True) -> dict[str, Interactions]:
    """Read every data set of some trials and see that every budget can be met.

    Args:
        trials: Those.
        source: What messages call their plan.
        trains_full: Whether full tables are trained, for which there must be memory.

    Returns:
        Interactions by :func:`dataset_key`. Budgets are not seen to where a recommender is yet to be chosen.

    Raises:
        CiessError: Data cannot be read, or a budget not be met.
    """
    read: dict[str, Interactions] = {}
    told: set[tuple[str, str, int]] = set()
    for trial in trials:
        key, recommender = dataset_key(trial.config), trial.config.recommender
        table = key, recommender.name, recommender.max_embedding_size
        if key not in read:
            read[key] = load_interactions(trial.config)
        elif table not in told:
            _tell_of_zeros(trial.config, read[key])
        told.add(table)
        if not recommender.is_auto:
            with within(f"{source}: the trial {trial.name}"):
                check_budgets(trial.config, read[key], trains_full=trains_full)
    return read
