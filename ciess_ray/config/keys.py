"""What is cached or kept is known by the hash of all that it depends on.

A key takes all that a run was told, but for the fields that are named here: a new field is part of every key
until somebody finds that it does not matter there. A field that went stays part of those it was part of.
"""

import hashlib
import json
from collections.abc import Collection
from importlib.metadata import version
from typing import Any

from ciess_ray.config.former import with_former
from ciess_ray.config.run import RunConfig
from envs.data import Interactions
from envs.recommenders import own_source

#: Where and how a run works, not what comes of it. Of data the interactions' fingerprint is what counts.
_NEVER = {
    "dataset",
    "output",
    "cache",
    "resources",
    "tracking",
    "search.checkpoint_interval_s",
    "search.num_checkpoints",
}
#: What the steps of a search try, and how many there are.
SEARCHING = {"agent"} | {
    f"search.{name}"
    for name in (
        "mode",
        "num_episodes",
        "episode_length",
        "size_levels",
        "num_warmup_steps",
        "memory_weight",
        "initial_memory_weight",
        "memory_weight_lr",
        "quality_ceiling",
        "shows_quality",
        "num_greedy_steps",
        "num_env_runners",
        "evaluation_interval",
        "num_evaluation_env_runners",
    )
}
#: Where the recommender of a step comes from.
JUDGING = {
    f"search.{name}" for name in ("step_mode", "epochs_per_step", "batches_per_step", "step_learning_rate")
}
SUPERNET = {"search.supernet_batches", "search.supernet_kept_ratios"}
BUDGETS = {"budget", "looser_budgets"}
#: What is trained to convergence.
CHOOSING = {"search.num_candidates", "search.tried_communities", "training.tried_l2"}

#: What one training of given sizes does not depend on.
NOT_TRAINING = SEARCHING | JUDGING | SUPERNET | BUDGETS | CHOOSING | {"recommender.min_embedding_size"}
#: What a supernet does not depend on; its kept ratios stand for the budgets.
NOT_SUPERNET = SEARCHING | JUDGING | BUDGETS | CHOOSING | {"search.supernet_kept_ratios"}
#: What a search that goes on may be told anew.
NOT_CHECKPOINT = {"search.num_episodes", "search.num_greedy_steps", "search.num_candidates"}


def key_of_run(
    config: RunConfig,
    interactions: Interactions,
    *what: object,
    ignores: Collection[str],
    with_torch: bool = True,
) -> str:
    """A name for what a run computes, by the hash of all that it depends on.

    Args:
        config: The run.
        interactions: The splits.
        *what: What is computed, as plain values.
        ignores: Dotted fields, or whole sections, that it does not depend on.
        with_torch: Whether PyTorch's version counts, whose draws and sums may differ in the last digit.
    """
    depends_on = [
        interactions.fingerprint,
        values_of_key(config, ignores),
        own_source(config.recommender.name),
        [version(package) for package in ("ciess-ray", "torch")[: 1 + with_torch]],
        what,
    ]
    return digest(depends_on)[:24]


def values_of_key(config: RunConfig, ignores: Collection[str]) -> dict[str, Any]:
    """Plain values of a run, without those that are ignored and without those that never matter."""
    values = with_former(config.model_dump(mode="json"))
    for name in {*_NEVER, *ignores}:
        section, _, field = name.partition(".")
        if not field:
            del values[section]
        elif section not in ignores:
            del values[section][field]
    return values


def digest(value: Any) -> str:
    """SHA-256 of plain values, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
