"""What is cached or kept is known by the hash of all that it depends on, fields that are gone included.

A key takes all that a run was told, but for the fields that are named here: a new field is part of every key
until somebody finds that it does not matter there.

A field that configurations once had stays part of the keys it was part of, so that what was kept under them
is found. What a user writes of it is refused with the reason; what a folder recorded of it is read as long as
it is what it always is now.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ciess_ray.config.recommender import default_l2
from ciess_ray.config.run import RunConfig
from envs.data import Interactions
from envs.recommenders import own_source

#: Where and how a run works, and what is done once all has been measured. Of data the interactions'
#: fingerprint is what counts.
_NEVER = {
    "dataset",
    "output",
    "cache",
    "resources",
    "tracking",
    "time",
    "search.refit",
    "search.checkpoint_interval_s",
    "search.num_checkpoints",
    # Whose interactions they are their fingerprint tells.
    "search.user_share",
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
CHOOSING = {
    "search.num_candidates",
    "search.tried_communities",
    "search.tried_recipes",
    "search.tries_users_first",
    "training.tried_l2",
    "recommender.tried_options",
}

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
    values = _with_tried_apart(with_former(config.model_dump(mode="json")))
    training = values["training"]
    if training["temperature"] is None:
        # It came later, and says nothing then; as what recipes are tried does.
        del training["temperature"]
    for name in ("tried_recipes", "tries_users_first"):
        if not values["search"][name]:
            del values["search"][name]
    if training["loss"] == "softmax":
        # That of then, of 128 negatives, was another.
        del training["num_negatives"]
    for name in {*_NEVER, *ignores}:
        section, _, field = name.partition(".")
        if not field:
            del values[section]
        elif section not in ignores:
            # Where no option has several values none is tried.
            values[section].pop(field, None)
    return values


def _with_tried_apart(values: dict[str, Any]) -> dict[str, Any]:
    """Plain values in which an option is what is searched with, and what is tried beside it stands apart."""
    recommender = values["recommender"]
    lists = {name: value for name, value in recommender["options"].items() if isinstance(value, list)}
    recommender["options"] |= {name: first for name, (first, *_) in lists.items()}
    tried = {name: others for name, (_, *others) in lists.items() if others}
    if tried:
        recommender["tried_options"] = tried
    return values


def digest(value: Any) -> str:
    """SHA-256 of plain values, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Former:
    """A field that a configuration had.

    Attributes:
        value: What it always is now, as JSON has it; what its default was.
        why: What is so without it, as the end of a sentence.
        beside_projected: What it is in the modes that project nothing onto the budget, where that is another.
    """

    value: Any
    why: str
    beside_projected: Any = None

    def value_in(self, mode: str) -> Any:
        """What it is in a mode of the search."""
        return self.value if mode == "projected" or self.beside_projected is None else self.beside_projected


FORMER = {
    "looser_budgets": Former([], "budget takes a list, the tightest first"),
    "recommender.min_embedding_size": Former(1, "a row keeps at least one number, as in CIESS"),
    "training.learning_rate_decay": Former(
        0.9, "a decay is by 0.9, as in CIESS's code, and training.decay_every says how often"
    ),
    "training.min_improvement": Former(
        0.0, "every rise of the validation counts, and training.patience says how long one is waited for"
    ),
    "training.num_negatives": Former(128, "a batch of training.loss=softmax shares 1,024 negatives"),
    "training.tried_l2": Former(
        [], "recommender.options.l2 takes a list: what is searched with, and then what is tried beside it"
    ),
    "search.epochs_per_step": Former(
        5.0, "a step trains 5 epochs, as in CIESS, or as many batches as search.batches_per_step says"
    ),
    "search.size_levels": Former(
        None, "a search over six sizes came within 0.3 % of one over all (docs/comparison.md)"
    ),
    "search.initial_memory_weight": Former(
        0.0, "λ begins at 0 with search.memory_weight=auto, and stays what it is with a number"
    ),
    "search.memory_weight_lr": Former(
        0.1, "λ moves by a tenth of what the sizes miss the budget by; search.memory_weight=NUMBER keeps it"
    ),
    "search.quality_ceiling": Former(1.0, "a share of full-size quality counts up to 1, as in CIESS"),
    "search.num_evaluation_env_runners": Former(
        0, "the driver takes the greedy steps, which nothing else is done beside"
    ),
    "search.num_greedy_steps": Former(
        2, "two steps at the end are the actors' alone, in modes paper and reference none", beside_projected=0
    ),
    "search.num_checkpoints": Former(2, "the newest two checkpoints are kept, of a trial one"),
    "agent.actor_lr": Former(0.001, "actors learn at a rate of 1e-3, as in CIESS"),
    "agent.critic_lr": Former(0.003, "critics learn at a rate of 3e-3, as in CIESS"),
    "agent.tau": Former(0.005, "targets move by 0.005 an update, as in CIESS"),
    "agent.batch_size": Former(4096, "an update has 4096 transitions of users, and of items, as in CIESS"),
    "agent.replay_buffer_capacity": Former(1_000_000, "the last million transitions of each kind are kept"),
}


def without_former(values: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded values without the fields that are now as they were there; of others a reader tells.

    Args:
        values: As :func:`ciess_ray.config.yaml_file.parse_config` takes them, nested or by dotted names, or
            those of many runs with theirs under ``base``.
    """
    if isinstance(values.get("base"), Mapping):
        # It says nothing any more: a random search had seconds or steps of its own.
        of_many = {name: value for name, value in values.items() if name != "random_search"}
        return of_many | {"base": without_former(values["base"])}
    left = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    if left.get("looser_budgets") and "budget" in left:
        left["budget"] = [left["budget"], *left.pop("looser_budgets")]
    training, recommender = left.get("training"), left.get("recommender", {})
    if isinstance(training, dict) and isinstance(recommender, dict) and training.get("tried_l2"):
        options = recommender.get("options", {})
        first = options.get("l2", default_l2(recommender.get("name", "lightgcn")))
        weights = [first, *training.pop("tried_l2")]
        left["recommender"] = {**recommender, "options": {**options, "l2": weights}}
    search = left.get("search")
    mode = search.get("mode", "projected") if isinstance(search, dict) else "projected"
    for name, former in FORMER.items():
        section, _, field = name.partition(".")
        for fields, key in ((left, name), (left.get(section), field)):
            if isinstance(fields, dict) and key in fields and fields[key] == former.value_in(mode):
                del fields[key]
    return left


def with_former(values: dict[str, Any]) -> dict[str, Any]:
    """Plain values of a run with what they once said of former fields, too."""
    for name, former in FORMER.items():
        section, _, field = name.rpartition(".")
        value = former.value_in(values["search"]["mode"])
        (values[section] if section else values)[field] = value
    if isinstance(values["budget"], list):
        values["budget"], *values["looser_budgets"] = values["budget"]
    options = values["recommender"]["options"]
    if isinstance(options.get("l2"), list):
        first, *values["training"]["tried_l2"] = options.pop("l2")
        # Nobody named the first alone where it is what counts anyway.
        if first != default_l2(values["recommender"]["name"]):
            options["l2"] = first
    return values
