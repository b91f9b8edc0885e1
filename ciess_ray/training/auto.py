"""Which recommender a run has that leaves it to validation: several within one budget of served bytes.

Recommenders differ in what their numbers cost: neighbours have ids beside them, a table of items has no rows
of users, and a graph answers requests beside its table. So a budget is turned into bytes once, those of all
that answers a request, and each recommender has for its table what these leave it. Each is trained at equal
sizes, and as its recipes are found; the best on validation is what is searched from there on.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ciess_ray.config.data import caps_params_of, dataset_key
from ciess_ray.config.grid import Trial
from ciess_ray.config.recommender import RecommenderConfig
from ciess_ray.config.run import RunConfig
from ciess_ray.names import BY_POPULARITY, EQUAL_SIZES
from ciess_ray.serving.served_bytes import Beside, beside_the_table
from ciess_ray.training.contest import Allocation, Contest, choose, options_text
from ciess_ray.training.convergence import Trained, by_popularity, equal_sizes
from ciess_ray.training.effort import WHOLE, Effort
from ciess_ray.training.recipes import ROUNDS, Recipes, Tell, Tried, find_recipe, try_all
from ciess_ray.training.rules import pinned, with_rules
from envs.budget import packed_bytes
from envs.data import Interactions
from envs.errors import BudgetError, TrainingError, within
from envs.recommenders import find_recommender
from envs.sizes.embedding_sizes import EmbeddingSizes

#: What is chosen among, what is soon done first.
RIVALS = ("neighbours", "spectral", "mf", "lightgcn")
#: Neighbours of an item's full row, at most: on no data were more of use.
_MOST_NEIGHBOURS = 128
#: What a quarter of a training falls short of the best by, as a factor, where the whole of it is spared.
#: A whole one brought 1.11 times the quality of a quarter at most, MF on MovieLens latest-small at 5 %;
#: on MovieLens-100K, and with LightGCN, 1.01 to 1.03.
_FAR_BEHIND = 1.25


@dataclass(frozen=True, eq=False)
class Rival:
    """A recommender that is chosen among.

    Attributes:
        beside: What it is served with beside its table.
        config: The run with it, whose budgets are those of its table's file; None where there is no room.
        why: Why there is none.
    """

    name: str
    beside: Beside
    config: RunConfig | None
    why: str = ""


@dataclass(frozen=True)
class Rated:
    """What a recommender came to.

    Attributes:
        recommender: Its name.
        why: That it is chosen, or why it is not.
        table: Whose quality it is; None where nothing was trained.
        recipe: How that was trained, or what of its options differs from the default.
        share: Part of a training.
        quality: On validation, of some users.
        num_params: Of the table.
        file_bytes: Of its packed file, at most.
        served_bytes: Of all that answers a request that brings its own history, at most.
        cpu_s: CPU seconds that finding out took.
    """

    recommender: str
    why: str
    table: str | None = None
    recipe: str | None = None
    share: float | None = None
    quality: float | None = None
    num_params: int | None = None
    file_bytes: int | None = None
    served_bytes: int | None = None
    cpu_s: float | None = None

    def __str__(self) -> str:
        quality = "" if self.quality is None else f"quality {self.quality:.4f}, "
        return f"{self.recommender}: {quality}{self.why}"


@dataclass(frozen=True)
class Found:
    """What was found of a run.

    Attributes:
        config: The run with all that it left alone.
        tried: How it was found.
        rated: The recommenders that it was chosen among, best first; none where it was named.
        budgets: What was asked for, and served bytes of it; none where the recommender was named.
    """

    config: RunConfig
    tried: list[Tried]
    rated: list[Rated]
    budgets: dict[str, int]

    def told(self, asked: RunConfig) -> dict[str, Any]:
        """What ``result.json`` says of it.

        Args:
            asked: The run as its user asked for it.
        """
        told = {"pinned": pinned(self.config, asked), "tried": [vars(tried) for tried in self.tried]}
        if not self.rated:
            return told
        return told | {"recommenders": [vars(row) for row in self.rated], "served_bytes": self.budgets}


def served_budgets(config: RunConfig, interactions: Interactions) -> list[int]:
    """Bytes of each budget of a run: parameters, or a share, are those of an ordinary table's packed file.

    Args:
        config: The run.
        interactions: The splits.
    """
    num_rows, width = interactions.num_entities, config.recommender.max_embedding_size
    num_params = {"ratio": num_rows * width, "mean size": num_rows, "params": 1}
    return [
        math.floor(asked.amount)
        if asked.unit == "bytes"
        else packed_bytes(
            min(math.floor(asked.amount * num_params[asked.unit] + 1e-6), num_rows * width), num_rows, width
        )
        for asked in config.memory_budgets
    ]


def rivals_of(config: RunConfig, interactions: Interactions) -> list[Rival]:
    """The recommenders that are chosen among, in one budget of served bytes.

    Args:
        config: A run that leaves its recommender to validation.
        interactions: The splits.

    Raises:
        BudgetError: There is room for none.
    """
    budgets = served_budgets(config, interactions)
    served = (
        interactions.merge_all_into_training()
        if config.search.refit
        else interactions.merge_validation_into_training()
    )
    rivals, least = [], []
    for name in RIVALS:
        recommender = _named(config.recommender, name, interactions)
        width = recommender.max_embedding_size
        beside = beside_the_table(name, width, served)
        num_rows = sum(recommender.row_counts(interactions))
        smallest = packed_bytes(num_rows, num_rows, width, recommender.id_bytes(interactions))
        least.append(smallest + beside.num_bytes)
        if least[-1] > min(budgets):
            rivals.append(Rival(name, beside, None, _no_room(beside, smallest, min(budgets))))
            continue
        left = tuple(f"{num_bytes - beside.num_bytes}B" for num_bytes in budgets)
        update = {"recommender": recommender, "budget": left if len(left) > 1 else left[0]}
        rivals.append(Rival(name, beside, config.model_copy(update=update)))
    if not any(rival.config for rival in rivals):
        whys = "; ".join(f"{rival.name}: {rival.why}" for rival in rivals)
        raise BudgetError(
            f"the memory budget {config.memory_budgets[0]} is {min(budgets):,} bytes to serve, and no "
            f"recommender has room in them ({whys}); the least that works is {min(least)}B."
        )
    return rivals


def check_rivals(trials: Iterable[Trial], data: Mapping[str, Interactions], source: str) -> None:
    """See that some recommender has room in each budget of trials that leave it to validation.

    Args:
        trials: Those.
        data: Interactions by :func:`ciess_ray.config.data.dataset_key`.
        source: What messages call their plan.

    Raises:
        BudgetError: There is room for none.
    """
    for trial in trials:
        if trial.config.recommender.is_auto:
            with within(f"{source}: the trial {trial.name}"):
                rivals_of(trial.config, data[dataset_key(trial.config)])


def _named(asked: RecommenderConfig, name: str, interactions: Interactions) -> RecommenderConfig:
    """A recommender as wide as is asked for, but for numbers of a row that would say nothing."""
    recommender = RecommenderConfig(
        name=name, max_embedding_size=asked.max_embedding_size, device=asked.device
    )
    most = [recommender.most_numbers(interactions) or math.inf]
    if find_recommender(name).has_ids:
        most.append(_MOST_NEIGHBOURS)
    width = int(min(asked.max_embedding_size, *most))
    return recommender.model_copy(update={"max_embedding_size": width})


def _no_room(beside: Beside, smallest: int, num_bytes: int) -> str:
    table = f"a table of one number a row takes {smallest:,} bytes"
    if not beside.graph_bytes:
        return f"no room: {table} of {num_bytes:,}"
    graph = f"no room: its graph takes {beside.graph_bytes:,} bytes of {num_bytes:,}"
    return graph if beside.num_bytes > num_bytes else f"{graph}, and {table}"


def stand_ins(config: RunConfig, interactions: Interactions) -> list[RunConfig]:
    """Runs of recommenders that are named: of one that is yet to be chosen all that have room.

    Args:
        config: What a user asked for.
        interactions: The splits.

    Returns:
        At least one; the last one, which is the largest, may stand for a search whose recommender is not
        known yet.

    Raises:
        BudgetError: There is room for none.
    """
    if not config.recommender.is_auto:
        return [config]
    return [rival.config for rival in rivals_of(config, interactions) if rival.config]


def find_run(
    config: RunConfig, interactions: Interactions, interactions_ref: Any, tell: Tell, effort: Effort = WHOLE
) -> Found:
    """The run with all that is left alone, its recommender included.

    Each training is a Ray task, and kept: what is found is the same when it is broken off and gone on with.

    Args:
        config: What a user asked for.
        interactions: The splits; test is not looked at.
        interactions_ref: Reference to them.
        tell: Is told how far it is.
        effort: What of it is done.

    Raises:
        BudgetError: No recommender has room in the budget.
        TrainingError: No recipe gives numbers, or the process of a training died again and again.
    """
    if not config.recommender.is_auto:
        return Found(*find_recipe(config, interactions, interactions_ref, tell, effort), [], {})
    asked = [str(budget) for budget in config.memory_budgets]
    budgets = dict(zip(asked, served_budgets(config, interactions), strict=True))
    rated: list[Rated] = []
    tried: list[Tried] = []
    chosen, best = None, 0.0
    for rival in rivals_of(config, interactions):
        if rival.config is None:
            rated.append(Rated(rival.name, rival.why))
            continue

        def its(
            num_done: int,
            num_trainings: int,
            quality: float,
            name: str,
            batch: int | None,
            rival: str = rival.name,
        ) -> None:
            tell(num_done, num_trainings, quality, name and f"{rival}, {name}", batch)

        what = rival, rival.config, interactions, interactions_ref, its
        run, row, its_tried = (
            _compute(*what, effort)
            if rival.config.recommender.is_closed_form
            else _train(*what, best, effort)
        )
        rated.append(row)
        tried += [replace(each, recommender=rival.name) for each in its_tried]
        if run is not None and row.quality is not None and row.quality > best:
            chosen, best = run, row.quality
    if chosen is None:
        raise TrainingError(
            "no recommender finds anything of what is held out for validation: bring data with more "
            "interactions an item, or name one in recommender.name."
        )
    name = chosen.recommender.name
    rated = [replace(row, why="chosen") if row.recommender == name else row for row in rated]
    rated.sort(key=lambda row: (row.recommender != name, -(row.quality or 0.0)))
    return Found(chosen, tried, rated, budgets)


def _compute(
    rival: Rival,
    config: RunConfig,
    interactions: Interactions,
    interactions_ref: Any,
    tell: Tell,
    effort: Effort,
) -> tuple[RunConfig, Rated, list[Tried]]:
    """A recommender in closed form: two tables at the budget, of each its options tried one after another."""
    # Its options are cheap beside what others are trained for, and worth more than the episodes.
    ruled = with_rules(config, interactions, replace(effort, has_values=True))
    what = ruled, interactions, min(caps_params_of(ruled, interactions))
    tables = {EQUAL_SIZES: equal_sizes(*what), BY_POPULARITY: by_popularity(*what)}
    tried: list[Tried] = []
    cpu_s = 0.0

    def train(asked: Sequence[tuple[int, Allocation]]) -> list[Trained]:
        nonlocal cpu_s
        tables = [table for _, table in asked]
        recipes = [options_text(table.options) or "defaults" for table in tables]
        named = [
            (f"{table.name}, {recipe}", ruled.with_options(table.options), table.sizes)
            for table, recipe in zip(tables, recipes, strict=True)
        ]
        trained = try_all(named, 1.0, interactions, interactions_ref, tell)
        cpu_s += sum(each.cost.cpu_s for each in trained if each.cost)
        tried.extend(
            Tried(recipe, table.name, 1.0, each.quality)
            for table, recipe, each in zip(tables, recipes, trained, strict=True)
        )
        return trained

    contests = [Contest([Allocation(name, sizes)]) for name, sizes in tables.items()]
    chosen = [table for table, _ in choose(contests, train, (), ruled.ways)]
    table = max(chosen, key=lambda table: table.quality)
    recommender = ruled.recommender.model_copy(update={"options": _best_first(ruled, table)})
    found = ruled.model_copy(update={"recommender": recommender})
    recipe = options_text(table.options) or "defaults"
    told = Tried(recipe, table.name, 1.0, table.quality)
    return found, _rated(rival, config, interactions, told, table.sizes, cpu_s), tried


def _train(
    rival: Rival,
    config: RunConfig,
    interactions: Interactions,
    interactions_ref: Any,
    tell: Tell,
    best: float,
    effort: Effort,
) -> tuple[RunConfig | None, Rated, list[Tried]]:
    """A recommender that is trained: its recipes, to their end unless it is far behind after a part."""
    recipes = Recipes(config, interactions, interactions_ref, tell, effort)
    for share in ROUNDS:
        recipes.try_for(share)
        told, sizes = recipes.best
        row = _rated(rival, config, interactions, told, sizes, recipes.cpu_s)
        if told.quality < 0:
            return None, replace(row, quality=None, why="no recipe gives numbers"), recipes.tried
        if share < 1 and _FAR_BEHIND * told.quality < best:
            return None, replace(row, why="far behind, and not trained to its end"), recipes.tried
    return recipes.found(), row, recipes.tried


def _best_first(config: RunConfig, table: Allocation) -> dict[str, Any]:
    """Options of a recommender in closed form, with what suits a table best before what else is tried."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(find_recommender(config.recommender.name)).parameters.items()
    }
    values = {name: (defaults[name], *others) for name, others in config.recommender.other_options.items()}
    return {
        name: sorted(tried, key=lambda value: value != table.options.get(name, tried[0]))
        for name, tried in values.items()
    }


def _rated(
    rival: Rival,
    config: RunConfig,
    interactions: Interactions,
    told: Tried,
    sizes: EmbeddingSizes,
    cpu_s: float,
) -> Rated:
    file_bytes = sizes.packed_bytes + sizes.num_params * config.recommender.id_bytes(interactions)
    return Rated(
        rival.name,
        "not chosen",
        told.table,
        told.recipe,
        told.share,
        told.quality,
        sizes.num_params,
        file_bytes,
        file_bytes + rival.beside.num_bytes,
        round(cpu_s, 2),
    )
