"""What the numbers of data tell of a run by rule, and what of a run is found."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ciess_ray.config.data import caps_params_of, has_room_for_communities
from ciess_ray.config.recommender import RecommenderConfig
from ciess_ray.config.run import RunConfig
from ciess_ray.serving.files import PROPAGATING
from ciess_ray.training.arms import arms_of, fields_of, options_of
from ciess_ray.training.effort import WHOLE, Effort
from envs.data import Interactions

#: Fields of the search that follow from its recipe.
FOUND_FIELDS = frozenset({"supernet_batches", "tried_recipes"})
#: Those that follow by rule from which recommender it has.
OF_RECOMMENDER = frozenset({"tries_users_first", "tried_communities"})
#: What a search that finds one has by rule, or finds, by section, beside its training and options.
_PINNED = {
    "search": {
        *FOUND_FIELDS,
        "num_episodes",
        "num_warmup_steps",
        "evaluation_interval",
        "num_candidates",
        "shows_quality",
        *OF_RECOMMENDER,
    },
    "agent": {"hiddens", "updates_per_step"},
}
#: Trainings that a supernet takes as many batches as.
SUPERNET = 2
#: Mean size below which users in communities are tried, and into how many they are parted.
_TIGHT_SIZE, _COMMUNITIES = 8, (16, 32)
#: Held-out interactions of a middling user from which on the state shows an entity's quality.
_TELLING = 10


def with_rules(config: RunConfig, interactions: Interactions, effort: Effort = WHOLE) -> RunConfig:
    """The run with what its data tell by rule in fields that are left alone; of its recipes the likeliest.

    Args:
        config: What a user asked for; one that says how to train is left as it is.
        interactions: The splits.
        effort: What of it is done.
    """
    if not config.finds_recipe:
        return effort.reduced(effort.scaled(config))
    arms = arms_of(config)
    num_rows = sum(config.recommender.row_counts(interactions))
    mean_size = min(caps_params_of(config, interactions)) / num_rows / config.recommender.num_tables
    held_out = np.diff(interactions.validation.indptr)
    held_out = held_out[held_out > 0]
    told: dict[str, dict[str, Any]] = {
        "search": {
            "num_episodes": effort.num_of(20),
            "num_warmup_steps": round(effort.part * 120),
            "evaluation_interval": 5,
            "num_candidates": 3,
            "shows_quality": bool(len(held_out) and np.median(held_out) >= _TELLING),
        },
        "agent": {"hiddens": (64, 64), "updates_per_step": 5},
    }
    if arms:
        training = fields_of(arms[0], interactions, effort)
        told["training"] = training
        told["search"]["supernet_batches"] = SUPERNET * training["max_batches"]
        told["search"]["tries_users_first"] = config.recommender.name in PROPAGATING
        if config.recommender.name in PROPAGATING and mean_size < _TIGHT_SIZE:
            told["search"]["tried_communities"] = [
                number for number in _COMMUNITIES if has_room_for_communities(config, interactions, number)
            ]
    sections = {name: filled(getattr(config, name), fields) for name, fields in told.items()}
    options = options_of(arms[0], config) if arms else {}
    run = config.model_copy(update={**sections, "recommender": with_options(config, options)})
    return effort.reduced(run)


def filled(section: Any, fields: Mapping[str, Any]) -> Any:
    """A section with these fields where its user says nothing."""
    return type(section).model_validate({**fields, **section.model_dump(exclude_unset=True)})


def with_options(config: RunConfig, options: Mapping[str, Any]) -> RecommenderConfig:
    """A user's recommender with options that they do not name."""
    recommender = config.recommender
    return recommender.model_copy(update={"options": {**options, **recommender.options}})


def with_sections(config: RunConfig, found: RunConfig) -> RunConfig:
    """The run with what was found for another of the same data."""
    # Of a recommender that was chosen its budget is that of its table.
    names = "training", "recommender", "search", "agent", *(["budget"] if config.recommender.is_auto else [])
    return config.model_copy(update={name: getattr(found, name) for name in names})


def pinned(config: RunConfig, asked: RunConfig) -> dict[str, Any]:
    """What was found of a run, as a configuration says it; of a recommender that was chosen which it is, too.

    Args:
        config: The run.
        asked: What its user asked for.
    """
    recommender: dict[str, Any] = {"options": config.recommender.options}
    budget: dict[str, Any] = {}
    if asked.recommender.is_auto:
        recommender |= config.recommender.model_dump(mode="json", include={"name", "max_embedding_size"})
        budget = config.model_dump(mode="json", include={"budget"})
    training = (
        {} if config.recommender.is_closed_form else {"training": config.training.model_dump(mode="json")}
    )
    return (
        budget
        | training
        | {"recommender": recommender}
        | {
            section: getattr(config, section).model_dump(mode="json", include=fields)
            for section, fields in _PINNED.items()
        }
    )
