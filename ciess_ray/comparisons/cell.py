"""The cells of a comparison: what each depends on and needs, and how one is computed.

In a cell a method proposes, validation chooses, test measures once. Training to convergence, choosing and
measuring are the same for every method, and those of ``ciess-ray search``, draws included.
"""

import json
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.comparisons.config import FORMER_METHODS, RANDOM_SEARCH, Cell, ComparisonPlan
from ciess_ray.comparisons.methods import METHODS, Problem
from ciess_ray.config.data import caps_params_of, dataset_key, read_data
from ciess_ray.config.keys import JUDGING, SEARCHING, SUPERNET, digest, key_of_run
from ciess_ray.config.run import RunConfig
from ciess_ray.files.whole import read_arrays, write_arrays
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH
from ciess_ray.serving.served_bytes import served_bytes
from ciess_ray.streams import Stream, key_of
from ciess_ray.training.auto import check_rivals, find_run
from ciess_ray.training.contest import Allocation, Contest, choose, options_text, place
from ciess_ray.training.convergence import (
    Cost,
    Meter,
    Trained,
    equal_sizes,
    fit_to_convergence,
    full_sizes,
    train_for_test,
)
from ciess_ray.training.preparing import Preparation, kept_ratios_of
from ciess_ray.training.rules import with_sections
from envs.data import Interactions
from envs.errors import BudgetError, ConfigError
from envs.metrics import RankingMetrics
from envs.recommenders import BaseRecommender, resolve_device
from envs.recommenders.training import FitReport
from envs.step_modes import state_of

#: What a method may miss the budget by.
TOLERANCE = 1e-3
CELLS_FOLDER = "cells"
#: What a random search begins with, and how many tables it judges.
_RANDOM_SEARCHING = {
    f"search.{name}"
    for name in (
        "num_warmup_steps",
        "memory_weight",
        "num_episodes",
        "episode_length",
        "evaluation_interval",
        "num_greedy_steps",
    )
}
_ROW = "row"
_USER = "user/"
_SIZES = ("user_sizes", "item_sizes", "first_columns")


@dataclass(frozen=True, eq=False)
class CellResult:
    """What a cell came to.

    Attributes:
        row: Its figures, by the names of the columns of ``comparison.parquet``.
        user_metrics: Test metrics of each user by name, shape (num_users,), float32; NaN where it has no test
            items.
        sizes: The sizes of users and of items that were measured, by ``user_sizes`` and ``item_sizes``, and
            by ``first_columns`` where their rows begin, if not at the first column.
    """

    row: dict[str, Any]
    user_metrics: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    sizes: dict[str, NDArray[Any]] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Leave it in a file that is there whole or not at all."""
        metrics = {_USER + name: values for name, values in self.user_metrics.items()}
        write_arrays(file, {_ROW: json.dumps(self.row), **metrics, **self.sizes})

    @classmethod
    def read(cls, file: Path) -> "CellResult | None":
        """What :meth:`write` left; None where there is none, or it is damaged."""
        # Cells that are kept since before files had their names in them are read too.
        arrays = read_arrays(file, is_named=False)
        if arrays is None or _ROW not in arrays:
            return None
        metrics = {name.removeprefix(_USER): arrays[name] for name in arrays if name.startswith(_USER)}
        sizes: dict[str, NDArray[Any]] = {name: arrays[name] for name in _SIZES if name in arrays}
        return cls(json.loads(str(arrays[_ROW])), metrics, sizes)


class Board:
    """The cells of a plan with their data.

    Args:
        plan: The comparison.

    Attributes:
        data: Interactions by :func:`ciess_ray.config.data.dataset_key`, test included.
    """

    def __init__(self, plan: ComparisonPlan) -> None:
        self.plan = plan
        methods = [METHODS[name] for name in plan.config.methods]
        trains_full = FULL_SIZE in plan.config.methods or any(m.needs_full or m.is_judging for m in methods)
        self.data = read_data(plan.trials, plan.source, trains_full=trains_full)
        check_rivals(plan.trials, self.data, plan.source)
        self._caps = self._all_caps()

    @property
    def finds_recipes(self) -> bool:
        """Whether it is still to be found how cells train."""
        return any(cell.config.finds_recipe and not cell.is_yardstick for cell in self.plan.cells)

    def find_recipes(self, folder: Path, tell: Callable[[str], None]) -> None:
        """Have cells that do not say how they train do so, all budgets of a group alike.

        Args:
            folder: Where what is trained for it is kept.
            tell: Called with what has been tried.

        Raises:
            TrainingError: No recipe gives numbers.
        """
        cells = [cell for cell in self.plan.cells if cell.config.finds_recipe and not cell.is_yardstick]
        budgets: defaultdict[str, list[str]] = defaultdict(list)
        for cell in cells:
            budgets[cell.group] += map(str, cell.config.memory_budgets)

        def told(num_done: int, num_trainings: int, quality: float, name: str, batch: int | None) -> None:
            if name and batch is None:
                tell(f"recipe {num_done} of {num_trainings}: {name}, quality {quality:.4f}")

        found: dict[str, dict[str, RunConfig]] = {}
        for group, cell in {cell.group: cell for cell in cells}.items():
            asked = cell.config.model_copy(update={"budget": tuple(budgets[group]), "cache": folder})
            interactions = self.interactions(cell).without_test()
            run = find_run(asked, interactions, ray.put(interactions), told).config
            its = run.budget if isinstance(run.budget, tuple) else (run.budget,)
            found[group] = {
                budget: run.model_copy(update={"budget": left})
                for budget, left in zip(budgets[group], its, strict=True)
            }
        self.plan.cells = [
            replace(
                cell,
                config=with_sections(cell.config, found[cell.group][str(cell.config.memory_budgets[0])]),
                asked=cell.config,
            )
            if cell in cells
            else cell
            for cell in self.plan.cells
        ]
        self._caps = self._all_caps()

    def _all_caps(self) -> dict[str, set[int]]:
        """Parameters that the budgets of each group allow, where its recommender is known."""
        caps: defaultdict[str, set[int]] = defaultdict(set)
        for cell in self.plan.cells:
            if not cell.is_yardstick and not cell.config.recommender.is_auto:
                caps[cell.group].update(self._budget_caps(cell))
        return caps

    def interactions(self, cell: Cell) -> Interactions:
        """The splits of a cell, test included."""
        return self.data[dataset_key(cell.config)]

    def cap_params(self, cell: Cell) -> int:
        """Parameters that a cell's table has; a yardstick has none."""
        if cell.method == FULL_SIZE:
            return full_sizes(cell.config, self.interactions(cell)).num_params
        return self._budget_caps(cell)[0]

    def _budget_caps(self, cell: Cell) -> list[int]:
        return caps_params_of(cell.config, self.interactions(cell))

    def needed(self, cell: Cell) -> list[Preparation]:
        """What is trained beforehand for a cell, and for others: the full-size fit, the supernet."""
        if cell.is_yardstick:
            return []
        method, start = METHODS[cell.method], cell.config.steps.starts_from
        interactions, needed = self.interactions(cell), []
        if method.needs_full or (method.is_judging and start == "full size"):
            needed.append(Preparation.full_size(cell.config, interactions, keeps_state=True))
        if method.is_judging and start == "supernet":
            needed.append(Preparation.supernet(cell.config, interactions, self._caps[cell.group]))
        return needed

    def key(self, cell: Cell) -> str:
        """A name for what a cell computes, by the hash of all that it depends on."""
        if cell.is_yardstick:
            # Of a run's configuration on nothing but the data.
            return digest([self.interactions(cell).fingerprint, cell.method, version("ciess-ray")])[:24]
        method = METHODS[cell.method]
        what: dict[str, Any] = {"method": cell.method, "cap_params": self.cap_params(cell)}
        # What the budgets of all cells come to for the supernet are its kept ratios.
        ignores = {"looser_budgets", "search.supernet_kept_ratios"}
        if method.is_judging:
            caps_params = self._caps[cell.group]
            what["kept_ratios"] = kept_ratios_of(cell.config, self.interactions(cell), caps_params)
        else:
            ignores |= JUDGING | SUPERNET
        if not method.is_search:
            ignores |= {"search.tried_communities", "search.tries_users_first"}
        if cell.method == FULL_SIZE:
            ignores |= {"budget", "recommender.min_embedding_size", "search.num_candidates"}
        if cell.method == RANDOM_SEARCH:
            ignores |= SEARCHING - _RANDOM_SEARCHING
        elif cell.method not in (SEARCH, "discrete"):
            ignores |= SEARCHING
        # Cells may come of several machines: what PyTorch each had stands in its row.
        return key_of_run(cell.config, self.interactions(cell), what, ignores=ignores, with_torch=False)

    def kept(self, folder: Path) -> tuple[dict[str, CellResult], list[str]]:
        """Finished cells of a folder, and names of those that were finished under other settings.

        Raises:
            ConfigError: A cell is not kept whose method computes none any more.
        """
        kept: dict[str, CellResult] = {}
        others = []
        for cell in self.plan.cells:
            result = CellResult.read(cell_file(folder, cell))
            is_finished = result is not None and result.row["status"] == "finished"
            if result is not None and is_finished and result.row["key"] == self.key(cell):
                kept[cell.name] = result
            elif cell.method in FORMER_METHODS:
                raise ConfigError(
                    f"{self.plan.source}: methods: there is no {cell.method!r} any more: "
                    f"{FORMER_METHODS[cell.method]}; leave it out. {folder} does not keep {cell.name}."
                )
            elif is_finished:
                others.append(cell.name)
        return kept, others


def cell_file(folder: Path, cell: Cell) -> Path:
    """Where a cell is kept."""
    return folder / CELLS_FOLDER / f"{cell.name}.npz"


def run_cell(
    method: str, problem: Problem, costs: Sequence[Cost], reveal_test: Callable[[], csr_array]
) -> CellResult:
    """Let a method propose, train its best allocations, and measure the best on validation on test.

    Args:
        method: A name in :data:`ciess_ray.comparisons.methods.METHODS`.
        problem: What the method may look at.
        costs: What each took that was trained beforehand for it.
        reveal_test: Gives the test interactions; called once, when everything is chosen.

    Raises:
        BudgetError: The method proposed a table that misses the budget.
        TrainingError: A loss is NaN or infinite.
    """
    meter = Meter()
    config, cap_params = problem.config, problem.cap_params
    with meter.phase("choosing"):
        proposed = METHODS[method].propose(problem)[: config.search.num_candidates]
    for allocation in proposed:
        if abs(allocation.sizes.num_params - cap_params) > TOLERANCE * cap_params:
            raise BudgetError(
                f"{method}: {allocation.name} keeps {allocation.sizes.num_params:,} parameters where the "
                f"budget has {cap_params:,}."
            )
    with meter.phase("training"):
        chosen = _best_trained(problem, proposed, METHODS[method].is_search)
    with meter.phase("test"):
        recommender, final = _measure(problem, chosen, reveal_test)
    cost, device = meter.cost(problem.num_trainings), resolve_device(config.recommender.device)
    sizes, outcome, ranking = chosen.sizes, chosen.outcome, final.best
    both = problem.interactions.merge_validation_into_training()
    row = {
        "num_params": sizes.num_params,
        **vars(served_bytes(recommender, both, config.recommender.name)),
        "kept_ratio": sizes.kept_ratio,
        "mean_user_size": sizes.mean_sizes[0],
        "mean_item_size": sizes.mean_sizes[1],
        "allocation": chosen.name,
        "step_quality": chosen.step_quality,
        "num_columns": sizes.width,
        "l2": config.with_options(chosen.options).recommender.options_with().get("l2"),
        "options": options_text(chosen.options),
        "best_batch": outcome.num_batches,
        "is_still_rising": config.training.is_cut_short(outcome.num_batches),
        "num_test_batches": final.best_batch,
        "num_steps": problem.num_steps,
        "num_candidates": len(proposed),
        "num_trainings": cost.num_trainings + sum(shared.num_trainings for shared in costs),
        "cpu_s": cost.cpu_s + sum(shared.cpu_s for shared in costs),
        "wall_s": cost.wall_s,
        "peak_bytes": max(each.peak_bytes for each in (cost, *costs)),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {platform.machine()}",
        "torch": str(torch.__version__),
        "cpu_s/shared": sum(shared.cpu_s for shared in costs),
        **{f"cpu_s/{phase}": seconds for phase, seconds in meter.cpu_s.items()},
        "validation/quality": outcome.quality,
        **{f"validation/{name}": value for name, value in outcome.metrics.items()},
        **figures_of("test", ranking),
    }
    kept: dict[str, NDArray[Any]] = {"user_sizes": sizes.user, "item_sizes": sizes.item}
    if sizes.first_columns is not None:
        kept["first_columns"] = sizes.first_columns
    return CellResult(row, metrics_of_users(ranking), kept)


def figures_of(split: str, metrics: RankingMetrics) -> dict[str, float]:
    """Means over users as a row of a cell names them, ``test/quality``, ``test/ndcg@20`` and so on."""
    return {
        f"{split}/{name}": value for name, value in ({"quality": metrics.quality} | metrics.summary()).items()
    }


def metrics_of_users(metrics: RankingMetrics) -> dict[str, NDArray[np.float32]]:
    """Those of each user, as a cell keeps them."""
    return {
        f"{name}@{k}": values[:, column].astype(np.float32)
        for name, values in (("recall", metrics.recall), ("ndcg", metrics.ndcg))
        for column, k in enumerate(metrics.cutoffs)
    }


def _best_trained(problem: Problem, proposed: Sequence[Allocation], is_search: bool) -> Allocation:
    """What is best on validation, with its training."""
    config, interactions = problem.config, problem.interactions
    placed = partial(place, budget=config.memory_budgets[0], config=config, interactions=interactions)

    def train(asked: Sequence[tuple[int, Allocation]]) -> list[Trained]:
        return [_converge(problem, allocation) for _, allocation in asked]

    contests = [Contest(proposed, placed if is_search else None)]
    if is_search:
        equal = equal_sizes(config, interactions, problem.cap_params)
        contests.append(Contest([Allocation(EQUAL_SIZES, equal)]))
    chosen = choose(contests, train, config.search.tried_communities, config.ways)
    return max((best for best, _ in chosen), key=lambda allocation: allocation.quality)


def _converge(problem: Problem, allocation: Allocation) -> Trained:
    _, report = fit_to_convergence(
        problem.config.with_options(allocation.options),
        problem.interactions,
        allocation.sizes,
        # One seed for all: tables are compared, not draws.
        key_of(problem.config.seed, Stream.RETRAINING),
        initial=None if allocation.start is None else allocation.start.state,
    )
    problem.num_trainings += 1
    return Trained.of(report)


def _measure(
    problem: Problem,
    chosen: Allocation,
    reveal_test: Callable[[], csr_array],
) -> tuple[BaseRecommender, FitReport]:
    """What is measured on test, and its metrics."""
    config, seed, start = problem.config, key_of(problem.config.seed, Stream.TEST), chosen.start
    initial = None if start is None else start.state
    if start is not None and start.full_batches is not None:
        recommender, _ = train_for_test(
            config, problem.interactions, problem.full_sizes, start.full_batches, seed
        )
        initial = state_of(recommender)
        problem.num_trainings += 1
    problem.num_trainings += 1
    revealed = problem.interactions.with_test(reveal_test())
    return train_for_test(
        config.with_options(chosen.options),
        revealed,
        chosen.sizes,
        chosen.outcome.num_batches,
        seed,
        initial=initial,
    )
