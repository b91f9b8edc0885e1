"""How the recommenders of a run are trained where it says nothing of that: found from its data.

What the numbers of data tell is set by rule: the length of a search, the size of a batch. What they do not
tell, the loss, the learning rate, the weight of L2, is found in two rounds of successive halving (Jamieson
& Talwalkar, AISTATS 2016): a few recipes train the full table, equal sizes at the tightest budget and, where
rows are propagated, the split there that leaves items the least; for a quarter of a training, and the best
two of each loss for a whole one, which is not always better. Tables of different shapes do not like the same recipe.
So the search has that of the split, or of equal sizes where there is none, and what comes of it is trained
with each table's own, too. Whole trainings are those that retraining finds again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from ciess_ray.config.data import caps_params_of, has_room_for_communities
from ciess_ray.config.keys import NOT_TRAINING, key_of_run
from ciess_ray.config.recommender import RecommenderConfig
from ciess_ray.config.run import OF_TRAINING, RunConfig
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, USERS_FIRST
from ciess_ray.resources import num_threads
from ciess_ray.serving.files import PROPAGATING
from ciess_ray.streams import Stream, key_of, rng_of
from ciess_ray.training.arms import Arm, arms_of, fields_of, options_of
from ciess_ray.training.convergence import Trained, equal_sizes, fit_to_convergence, full_sizes, users_first
from ciess_ray.training.effort import WHOLE, Effort
from ciess_ray.training.preparing import Training, digest_of, train_side_by_side, training_file
from envs.data import Interactions
from envs.errors import TrainingError
from envs.recommenders.training import TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

#: The phase of a search in which one is found.
RECIPE = "recipe"
#: Fields of the search that follow from it.
FOUND_FIELDS = frozenset({"supernet_batches", "tried_recipes"})
#: What a search that finds one has by rule, or finds, by section, beside its training and options.
_PINNED = {
    "search": {
        *FOUND_FIELDS,
        "num_episodes",
        "num_warmup_steps",
        "evaluation_interval",
        "num_candidates",
        "shows_quality",
        "tries_users_first",
        "tried_communities",
    },
    "agent": {"hiddens", "updates_per_step"},
}
#: Parts of a training that the rounds take.
ROUNDS = 1 / 4, 1.0
#: Trainings that a supernet takes as many batches as.
_SUPERNET = 2
#: Mean size below which users in communities are tried, and into how many they are parted.
_TIGHT_SIZE, _COMMUNITIES = 8, (16, 32)
#: Held-out interactions of a middling user from which on the state shows an entity's quality.
_TELLING = 10
#: Users at most whose held-out interactions recipes are compared on at first.
MOST_USERS = 3_000

#: Is told how many trainings of a round are done, and how many there are; quality and name of the last one.
Tell = Callable[[int, int, float, str], None]
#: Quality on validation by recipe and table.
Qualities = dict[tuple[Arm, str], float]


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
        told["search"]["supernet_batches"] = _SUPERNET * training["max_batches"]
        told["search"]["tries_users_first"] = config.recommender.name in PROPAGATING
        if config.recommender.name in PROPAGATING and mean_size < _TIGHT_SIZE:
            told["search"]["tried_communities"] = [
                number for number in _COMMUNITIES if has_room_for_communities(config, interactions, number)
            ]
    sections = {name: _filled(getattr(config, name), fields) for name, fields in told.items()}
    options = options_of(arms[0], config) if arms else {}
    filled = config.model_copy(update={**sections, "recommender": _with_options(config, options)})
    return effort.reduced(filled)


def _filled(section: Any, fields: Mapping[str, Any]) -> Any:
    """A section with these fields where its user says nothing."""
    return type(section).model_validate({**fields, **section.model_dump(exclude_unset=True)})


def _with_options(config: RunConfig, options: Mapping[str, Any]) -> RecommenderConfig:
    """A user's recommender with options that they do not name."""
    recommender = config.recommender
    return recommender.model_copy(update={"options": {**options, **recommender.options}})


@dataclass(frozen=True)
class Tried:
    """A recipe that was tried.

    Attributes:
        recipe: For people.
        table: Which it trained.
        share: Part of a training that it was tried for.
        quality: On validation, of some users; below 0 where it gave no numbers.
    """

    recipe: str
    table: str
    share: float
    quality: float


def find_recipe(
    config: RunConfig, interactions: Interactions, interactions_ref: Any, tell: Tell, effort: Effort = WHOLE
) -> tuple[RunConfig, list[Tried]]:
    """The run with all that is left alone: what its data tell by rule, and the recipe that validation likes.

    Each training is a Ray task, and kept: what is found is the same when it is broken off and gone on with.

    Args:
        config: What a user asked for; one that says how to train is left as it is.
        interactions: The splits; test is not looked at.
        interactions_ref: Reference to them.
        tell: Is told how far it is.
        effort: What of it is done; of a single recipe nothing is tried.

    Returns:
        The run, and what was tried.

    Raises:
        TrainingError: No recipe gives numbers, or the process of a training died again and again.
    """
    ruled, arms = with_rules(config, interactions, effort), arms_of(config)[: effort.num_arms]
    if not config.finds_recipe or not arms or effort.num_arms == 1:
        return ruled, []
    tables = _tables(ruled, interactions)
    tried: list[Tried] = []
    quality: Qualities = {}
    for share in ROUNDS:
        pairs = _promising(quality, arms, list(tables), share)
        trainings = [
            Training(
                f"{table}, {arm}",
                _file(each, interactions, tables[table], share),
                partial(_try, each, tables[table], share),
            )
            for arm, table in pairs
            for each in [_with_arm(config, ruled, interactions, arm, effort)]
        ]
        done: dict[int, float] = {}
        for position, news in train_side_by_side(ruled, trainings, interactions_ref, num_threads(ruled)):
            if isinstance(news, Trained):
                done[position] = news.quality
                tell(len(done), len(pairs), news.quality, trainings[position].name)
        if _num_judged(interactions.validation) > MOST_USERS:
            # Of other users a quality cannot be compared.
            quality.clear()
        quality |= {pair: done[position] for position, pair in enumerate(pairs)}
        tried += [
            Tried(str(arm), table, share, done[position]) for position, (arm, table) in enumerate(pairs)
        ]
    firsts = {table: _ranked(quality, table)[0] for table in tables}
    searched = USERS_FIRST if USERS_FIRST in tables else EQUAL_SIZES
    best = firsts[searched]
    if quality[best, searched] < 0:
        raise TrainingError(
            f"none of the recipes that are tried for {config.recommender.name} gives numbers on these "
            "interactions; set training.learning_rate, and the rest of training, by hand."
        )
    found = _with_arm(config, ruled, interactions, best, effort)
    if "tried_recipes" not in config.search.model_fields_set:
        others = [arm for arm in dict.fromkeys(firsts.values()) if arm != best]
        recipes = tuple(_recipe_of(arm, config, found.training, interactions, effort) for arm in others)
        found = found.model_copy(
            update={"search": found.search.model_copy(update={"tried_recipes": recipes})}
        )
    return effort.reduced(found), tried


def _promising(
    quality: Qualities, arms: Sequence[Arm], tables: Sequence[str], share: float
) -> list[tuple[Arm, str]]:
    """Recipes of one length and the tables that they train.

    All at first; then of each table the best two of each loss, since those that learn slowly are behind at
    first; of the full table, which takes the longest, the best one.
    """
    if not quality:
        return [(replace(arm, share=share), table) for arm in arms for table in tables]
    left = []
    for table in tables:
        ranked = _ranked(quality, table)
        for loss in dict.fromkeys(arm.loss for arm in ranked):
            of_loss = [arm for arm in ranked if arm.loss == loss]
            left += [(arm, table) for arm in of_loss[: 1 if table == FULL_SIZE else 2]]
    return [(replace(arm, share=share), table) for arm, table in left]


def _ranked(quality: Qualities, table: str) -> list[Arm]:
    """Recipes that a table was trained with, best first."""
    arms = [arm for arm, trained in quality if trained == table]
    return sorted(arms, key=lambda arm: -quality[arm, table])


def _tables(config: RunConfig, interactions: Interactions) -> dict[str, EmbeddingSizes]:
    """What recipes are tried on, at the tightest budget."""
    cap_params, recommender = min(caps_params_of(config, interactions)), config.recommender
    full, equal = full_sizes(config, interactions), equal_sizes(config, interactions, cap_params)
    tables = {EQUAL_SIZES: equal}
    if equal.num_params < full.num_params:
        tables[FULL_SIZE] = full
    if recommender.name in PROPAGATING and len(tables) > 1:
        tables[USERS_FIRST] = users_first(config, interactions, cap_params)
    return tables


def with_sections(config: RunConfig, found: RunConfig) -> RunConfig:
    """The run with what was found for another of the same data."""
    names = "training", "recommender", "search", "agent"
    return config.model_copy(update={name: getattr(found, name) for name in names})


def pinned(config: RunConfig) -> dict[str, Any]:
    """What was found of a run, as a configuration says it."""
    return {
        "training": config.training.model_dump(mode="json"),
        "recommender": {"options": config.recommender.options},
    } | {
        section: getattr(config, section).model_dump(mode="json", include=fields)
        for section, fields in _PINNED.items()
    }


def _with_arm(
    config: RunConfig, ruled: RunConfig, interactions: Interactions, arm: Arm, effort: Effort = WHOLE
) -> RunConfig:
    """The run with a recipe."""
    options = options_of(arm, config)
    training = TrainingSettings.model_validate(fields_of(arm, interactions, effort))
    # However soon a table of given sizes is at its best: this one has to learn all sizes.
    whole = fields_of(replace(arm, share=1.0), interactions, effort)
    supernet = {"supernet_batches": _SUPERNET * whole["max_batches"]}
    search = _filled(config.search, ruled.search.model_dump() | supernet)
    recommender = _with_options(config, options)
    return ruled.model_copy(update={"training": training, "search": search, "recommender": recommender})


def _recipe_of(
    arm: Arm, config: RunConfig, training: TrainingSettings, interactions: Interactions, effort: Effort
) -> dict[str, Any]:
    """A recipe as one of ``search.tried_recipes``: what differs from the training that was found."""
    fields = {
        OF_TRAINING + name: value
        for name, value in fields_of(arm, interactions, effort).items()
        if value != getattr(training, name)
    }
    return fields | options_of(arm, config)


def first_round(
    config: RunConfig, interactions: Interactions, effort: Effort = WHOLE
) -> dict[tuple[Arm, str], Path]:
    """What the first round tries, recipes and tables, and where each training is kept once it is over."""
    ruled = with_rules(config, interactions, effort)
    tables = _tables(ruled, interactions)
    return {
        (arm, table): _file(each, interactions, tables[table], ROUNDS[0])
        for arm, table in _promising({}, arms_of(config)[: effort.num_arms], list(tables), ROUNDS[0])
        for each in [_with_arm(config, ruled, interactions, arm, effort)]
    }


def _file(config: RunConfig, interactions: Interactions, sizes: EmbeddingSizes, share: float) -> Path:
    """Where a training is kept."""
    if share == 1:
        return config.kept_folder / training_file(interactions, config, sizes, _seed(config), None)
    key = key_of_run(config, interactions, RECIPE, digest_of(sizes), ignores=NOT_TRAINING)
    return config.kept_folder / f"recipe-{key}.npz"


def _seed(config: RunConfig) -> tuple[int, ...]:
    return key_of(config.seed, Stream.RETRAINING)


def _try(
    config: RunConfig,
    sizes: EmbeddingSizes,
    share: float,
    interactions: Interactions,
    tell: Callable[..., None] | None = None,
) -> Trained:
    """Train a table in this process; one that gives no numbers has a quality below 0."""
    if share < 1:
        rng = rng_of(config.seed, Stream.RECIPE)
        interactions = replace(interactions, validation=_of_some_users(interactions.validation, rng))
    try:
        _, report = fit_to_convergence(config, interactions, sizes, _seed(config), tell)
    except TrainingError:
        return Trained({}, -1.0, 0)
    return Trained.of(report)


def _num_judged(held_out: csr_array) -> int:
    return int(np.count_nonzero(np.diff(held_out.indptr)))


def _of_some_users(held_out: csr_array, rng: np.random.Generator) -> csr_array:
    """Held-out interactions of so many users that have any, drawn, and none of the others."""
    counts = np.diff(held_out.indptr)
    judged = np.flatnonzero(counts)
    is_judged = np.zeros(len(counts), bool)
    is_judged[rng.permutation(judged)[:MOST_USERS]] = True
    kept = np.repeat(is_judged, counts)
    ends = np.concatenate([[0], np.cumsum(np.where(is_judged, counts, 0))])
    return csr_array((held_out.data[kept], held_out.indices[kept], ends), shape=held_out.shape)
