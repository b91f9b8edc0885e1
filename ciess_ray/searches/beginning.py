"""What a search begins with: its budgets, its checkpoints, and what its folder says of it."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from ciess_ray.config.data import caps_params_of, check_budgets, load_interactions
from ciess_ray.config.keys import NOT_CHECKPOINT, digest, values_of_key
from ciess_ray.config.run import RunConfig
from ciess_ray.files.whole import check_writable, sole_writer
from ciess_ray.plain_text import command
from ciess_ray.resources import check_resources, ray_session
from ciess_ray.result import check_output
from ciess_ray.searches.checkpoints import Checkpoints
from ciess_ray.searches.clock import Outlook, foretell
from ciess_ray.searches.run import Budget
from ciess_ray.searches.sample import budgets_in_search, draw_users
from ciess_ray.tracking.mlflow_connection import connect
from ciess_ray.training.auto import served_budgets, stand_ins
from ciess_ray.training.convergence import full_sizes
from ciess_ray.training.rules import FOUND_FIELDS, OF_RECOMMENDER, with_rules
from ciess_ray.training.usage import Usage
from envs.data import Interactions
from envs.errors import ConfigError, ResultError, within
from envs.recommenders import own_source, resolve_device


def budgets_of(config: RunConfig, interactions: Interactions, *, overwrite: bool) -> list[Budget]:
    """The budgets of a run, in parameters.

    Raises:
        BudgetError: One cannot be met.
        ConfigError: One that should be looser is not, there are too few users or items for communities, or
            the full table is too large for this machine.
        ResultError: A result would be overwritten.
    """
    caps_params = check_budgets(config, interactions)
    full_params = full_sizes(config, interactions).num_params
    budgets: list[Budget] = []
    for asked, cap_params in zip(config.memory_budgets, caps_params, strict=True):
        name = f"at-{asked}".replace("%", "-percent").replace(" ", "-") if budgets else ""
        # Of a recommender that was chosen the tightest may have room for all.
        if budgets and cap_params <= caps_params[0] < full_params:
            raise ConfigError(
                f"budget: {asked} ({cap_params:,} parameters) is not looser than {budgets[0].asked} "
                f"({caps_params[0]:,}): name the tightest one first."
            )
        check_output(config.output / name, overwrite=overwrite)
        budgets.append(Budget(str(asked), cap_params, name))
    return budgets


@dataclass(frozen=True, eq=False)
class DryRun:
    """What a search would be.

    Attributes:
        interactions: The splits.
        sample: Those of the users that it would be of.
        budgets: What it would serve.
        full_params: Parameters of the full table.
        outlook: What it would do and take.
        rooms: Where validation is to choose a recommender, parameters that each has in each of its budgets.
        served: And bytes to serve of these budgets, as they were asked for.
    """

    interactions: Interactions
    sample: Interactions
    budgets: list[Budget]
    full_params: int
    outlook: Outlook
    rooms: dict[str, list[int]]
    served: dict[str, int]


def look_ahead(config: RunConfig, *, overwrite: bool = False) -> DryRun:
    """See what a search would be, and take; nothing is written, and nothing recorded.

    Args:
        config: The run.
        overwrite: Whether a result in the output folder might be replaced.

    Raises:
        CiessError: What the search would be refused for, but for MLflow's store, which is not asked.
    """
    # Reading counts, as it does in a search.
    usage = Usage()
    resolve_device(config.recommender.device)
    interactions = load_interactions(config)
    sample = draw_users(config, interactions)
    *others, named = stand_ins(config, interactions)
    ruled = with_rules(named, sample)
    budgets = budgets_of(ruled, interactions, overwrite=overwrite)
    budgets_in_search(ruled, sample, budgets)
    with within("cache"):
        check_writable(ruled.kept_folder)
    with ray_session():
        check_resources(ruled)
        with usage:
            outlook = foretell(named, sample, ray.put(sample), usage, everybody=interactions, rivals=others)
    rooms, served = {}, {}
    if config.recommender.is_auto:
        rooms = {run.recommender.name: caps_params_of(run, interactions) for run in (*others, named)}
        asked = map(str, config.memory_budgets)
        served = dict(zip(asked, served_budgets(config, interactions), strict=True))
    full_params = full_sizes(ruled, interactions).num_params
    return DryRun(interactions, sample, budgets, full_params, outlook, rooms, served)


@contextlib.contextmanager
def prepared(config: RunConfig) -> Iterator[None]:
    """Everything that can be known to be wrong is, Ray is there, and a full disk is called by its name."""
    with within("cache"):
        check_writable(config.kept_folder)
    if config.tracking.mlflow:
        connect(config.tracking)
    try:
        # Ray takes seconds.
        with sole_writer(config.checkpoint_folder), ray_session():
            check_resources(config)
            yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(config.output).free
        raise ResultError(
            f"{config.output}: no space is left ({error}; {free / 1e6:,.0f} MB free on its disk). What was "
            "kept before is whole: make room, then "
            f"{command('ciess-ray', 'search', '--resume', config.output)}"
        ) from error


def told_budgets(budgets: list[Budget]) -> dict[str, Any]:
    """What a folder says of its budgets."""
    return {
        "budget": {"asked": budgets[0].asked, "cap_params": budgets[0].cap_params},
        "looser_budgets": {budget.asked: budget.name for budget in budgets[1:]},
    }


def checkpoints_of(config: RunConfig, interactions: Interactions, *, is_trial: bool = False) -> Checkpoints:
    """Those of a run, with what each must belong to."""
    settings = values_of_key(config, NOT_CHECKPOINT)
    recommender = [settings.pop("recommender"), own_source(config.recommender.name)]
    identity = {
        "dataset": f"{digest(interactions.fingerprint)[:12]} ({interactions.num_users:,} users, "
        f"{interactions.num_items:,} items, {interactions.num_interactions:,} interactions)",
        "recommender": f"{config.recommender.name} ({digest(recommender)[:12]})",
        "version": f"ciess-ray {version('ciess-ray')} with ray {version('ray')}",
        "settings": digest(settings)[:12],
    }
    return Checkpoints(
        config.checkpoint_folder,
        identity,
        interval_s=config.search.checkpoint_interval_s,
        # The last one may be damaged. Tune takes the folder of a trial wherever the sweep is kept, at each.
        num_kept=1 if is_trial else 2,
    )


def describe(config: RunConfig, interactions: Interactions) -> dict[str, Any]:
    """What a folder says of its data."""
    path = config.dataset.path
    if isinstance(path, Path):
        path = path.absolute()
    return {
        "source": interactions.source,
        # A search that goes on may be started in another folder.
        "path": path and str(path),
        "path_from_folder": os.path.relpath(path, config.output) if isinstance(path, Path) else None,
        "fingerprint": interactions.fingerprint,
        "num_users": interactions.num_users,
        "num_items": interactions.num_items,
        "num_interactions": interactions.num_interactions,
        "num_duplicates": interactions.num_duplicates,
        "num_unevaluated_users": interactions.num_unevaluated_users,
        "num_untrained_items": interactions.num_untrained_items,
        "num_cold_rows": interactions.num_cold_rows,
    }


def recorded(asked: RunConfig, config: RunConfig) -> dict[str, Any]:
    """What a folder says of a search that begins: nothing of what is yet to be found."""
    values = config.model_dump(mode="json")
    if asked.finds_recipe:
        del values["training"]
        values |= asked.model_dump(mode="json", include={"recommender", "budget"})
        found = FOUND_FIELDS | (OF_RECOMMENDER if asked.recommender.is_auto else set())
        for name in found - asked.search.model_fields_set:
            del values["search"][name]
    return values
