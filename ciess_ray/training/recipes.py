"""How the recommenders of a run are trained where it says nothing of that: found from its data.

What the numbers of data tell is set by rule: the length of a search, the size of a batch. What they do not
tell, the loss, the learning rate, the weight of L2, is found in two rounds of successive halving (Jamieson
& Talwalkar, AISTATS 2016): a few recipes train the full table, equal sizes at the tightest budget and, where
rows are propagated, the split there that leaves items the least; for a quarter of a training, and the best
two of each loss for a whole one, which is not always better. Tables of different shapes do not like the same
recipe. So the search has that of the split, or of equal sizes where there is none, and what comes of it is
trained with each table's own, too. Whole trainings are those that retraining finds again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from ciess_ray.config.data import caps_params_of
from ciess_ray.config.keys import NOT_TRAINING, key_of_run
from ciess_ray.config.run import OF_TRAINING, RunConfig
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, USERS_FIRST
from ciess_ray.resources import num_threads
from ciess_ray.serving.files import PROPAGATING
from ciess_ray.streams import Stream, key_of, rng_of
from ciess_ray.training.arms import Arm, arms_of, fields_of, options_of
from ciess_ray.training.convergence import Trained, equal_sizes, fit_to_convergence, full_sizes, users_first
from ciess_ray.training.effort import WHOLE, Effort
from ciess_ray.training.preparing import Training, digest_of, train_side_by_side, training_file
from ciess_ray.training.rules import SUPERNET, filled, with_options, with_rules
from envs.data import Interactions
from envs.errors import TrainingError
from envs.recommenders.training import TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

#: The phase of a search in which one is found.
RECIPE = "recipe"
#: Parts of a training that the rounds take.
ROUNDS = 1 / 4, 1.0
#: Users at most whose held-out interactions recipes are compared on at first.
MOST_USERS = 3_000

#: Is told how many trainings of a round are done, and how many there are; quality and name of one, which is
#: the last that is done, or has come to a batch; and at first, without a name, that a round begins.
Tell = Callable[[int, int, float, str, int | None], None]
#: Quality on validation by recipe and table.
Qualities = dict[tuple[Arm, str], float]


@dataclass(frozen=True)
class Tried:
    """A recipe that was tried.

    Attributes:
        recipe: For people.
        table: Which it trained.
        share: Part of a training that it was tried for.
        quality: On validation, of some users; below 0 where it gave no numbers.
        recommender: Whose it is, where several were tried; otherwise empty.
    """

    recipe: str
    table: str
    share: float
    quality: float
    recommender: str = ""


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
    if not config.finds_recipe or not arms_of(config) or effort.num_arms == 1:
        return with_rules(config, interactions, effort), []
    recipes = Recipes(config, interactions, interactions_ref, tell, effort)
    for share in ROUNDS:
        recipes.try_for(share)
    return recipes.found(), recipes.tried


def full_size_quality(tried: Sequence[Mapping[str, Any]], recommender: str) -> float:
    """The best that a full table had on validation in a whole training; 0 where none was tried.

    Args:
        tried: What ``result.json`` says was tried.
        recommender: Whose.
    """
    whole = [
        row["quality"]
        for row in tried
        if row["table"] == FULL_SIZE and row["share"] == 1 and row["recommender"] in ("", recommender)
    ]
    return max(whole, default=0.0)


class Recipes:
    """The recipes of one recommender, tried round after round.

    Args:
        config: What a user asked for, which says nothing of training.
        interactions: The splits; test is not looked at.
        interactions_ref: Reference to them.
        tell: Is told how far each round is.
        effort: What of it is done.

    Attributes:
        tried: All that was tried.
        cpu_s: CPU seconds of it.
    """

    def __init__(
        self,
        config: RunConfig,
        interactions: Interactions,
        interactions_ref: Any,
        tell: Tell,
        effort: Effort = WHOLE,
    ) -> None:
        self._config, self._ruled, self._effort = config, with_rules(config, interactions, effort), effort
        self._interactions, self._interactions_ref, self._tell = interactions, interactions_ref, tell
        self._tables, self._quality = _tables(self._ruled, interactions), Qualities()
        self.tried: list[Tried] = []
        self.cpu_s = 0.0

    def try_for(self, share: float) -> None:
        """Try what the last round left for a part of a training; in the first round all there is."""
        arms = arms_of(self._config)[: self._effort.num_arms]
        pairs = _promising(self._quality, arms, list(self._tables), share)
        asked = [(f"{table}, {arm}", self._with(arm), self._tables[table]) for arm, table in pairs]
        trained = try_all(asked, share, self._interactions, self._interactions_ref, self._tell)
        if _num_judged(self._interactions.validation) > MOST_USERS:
            # Of other users a quality cannot be compared.
            self._quality.clear()
        self._quality |= {pair: each.quality for pair, each in zip(pairs, trained, strict=True)}
        self.tried += [
            Tried(str(arm), table, share, each.quality)
            for (arm, table), each in zip(pairs, trained, strict=True)
        ]
        self.cpu_s += sum(each.cost.cpu_s for each in trained if each.cost)

    @property
    def best(self) -> tuple[Tried, EmbeddingSizes]:
        """What is best by now within the budget."""
        within = [pair for pair in self._quality if pair[1] != FULL_SIZE]
        arm, table = max(within, key=lambda pair: self._quality[pair])
        return Tried(str(arm), table, arm.share, self._quality[arm, table]), self._tables[table]

    def found(self) -> RunConfig:
        """The run with the recipe that is searched with, and those that are best of other tables.

        Raises:
            TrainingError: No recipe gives numbers.
        """
        config, interactions, effort = self._config, self._interactions, self._effort
        firsts = {table: _ranked(self._quality, table)[0] for table in self._tables}
        searched = USERS_FIRST if USERS_FIRST in self._tables else EQUAL_SIZES
        best = firsts[searched]
        if self._quality[best, searched] < 0:
            raise TrainingError(
                f"none of the recipes that are tried for {config.recommender.name} gives numbers on these "
                "interactions; set training.learning_rate, and the rest of training, by hand."
            )
        found = self._with(best)
        if "tried_recipes" not in config.search.model_fields_set:
            others = [arm for arm in dict.fromkeys(firsts.values()) if arm != best]
            recipes = tuple(_recipe_of(arm, config, found.training, interactions, effort) for arm in others)
            found = found.model_copy(
                update={"search": found.search.model_copy(update={"tried_recipes": recipes})}
            )
        return effort.reduced(found)

    def _with(self, arm: Arm) -> RunConfig:
        return _with_arm(self._config, self._ruled, self._interactions, arm, self._effort)


def try_all(
    asked: Sequence[tuple[str, RunConfig, EmbeddingSizes]],
    share: float,
    interactions: Interactions,
    interactions_ref: Any,
    tell: Tell,
) -> list[Trained]:
    """Train tables, each as a Ray task that is kept, and measure them on validation.

    Args:
        asked: Of each its name, the run that it is trained as, and sizes; at least one.
        share: Part of a whole training that it is; what is less is measured on some users.
        interactions: The splits.
        interactions_ref: Reference to them.
        tell: Is told how far it is.
    """
    trainings = [
        Training(name, _file(each, interactions, sizes, share), partial(_try, each, sizes, share))
        for name, each, sizes in asked
    ]
    config, done = asked[0][1], dict[int, Trained]()
    tell(0, len(asked), float("nan"), "", None)
    for position, news in train_side_by_side(config, trainings, interactions_ref, num_threads(config)):
        name, batch = trainings[position].name, None
        if isinstance(news, Trained):
            done[position], quality = news, news.quality
        else:
            batch, quality = news
        tell(len(done), len(asked), quality, name, batch)
    return [done[position] for position in range(len(asked))]


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


def _with_arm(
    config: RunConfig, ruled: RunConfig, interactions: Interactions, arm: Arm, effort: Effort = WHOLE
) -> RunConfig:
    """The run with a recipe."""
    options = options_of(arm, config)
    training = TrainingSettings.model_validate(fields_of(arm, interactions, effort))
    # However soon a table of given sizes is at its best: this one has to learn all sizes.
    whole = fields_of(replace(arm, share=1.0), interactions, effort)
    supernet = {"supernet_batches": SUPERNET * whole["max_batches"]}
    search = filled(config.search, ruled.search.model_dump() | supernet)
    recommender = with_options(config, options)
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
