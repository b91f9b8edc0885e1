"""The cells of a comparison with their data: what each depends on, needs, and has come to."""

from pathlib import Path
from typing import Any

from ciess_ray.comparisons.cell import CellResult
from ciess_ray.comparisons.config import FORMER_METHODS, RANDOM_SEARCH, Cell, ComparisonPlan
from ciess_ray.comparisons.methods import METHODS
from ciess_ray.config.data import caps_params_of, dataset_key, read_data
from ciess_ray.config.keys import JUDGING, SEARCHING, SUPERNET, key_of_run
from ciess_ray.names import FULL_SIZE, SEARCH
from ciess_ray.training.pretrained import Preparation, full_sizes, kept_ratios_of
from envs.data import Interactions
from envs.errors import ConfigError

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
        caps: dict[str, set[int]] = {}
        for cell in plan.cells:
            caps.setdefault(cell.group, set()).update(self._budget_caps(cell))
        self._caps = {group: sorted(caps_params) for group, caps_params in caps.items()}

    def interactions(self, cell: Cell) -> Interactions:
        """The splits of a cell, test included."""
        return self.data[dataset_key(cell.config)]

    def cap_params(self, cell: Cell) -> int:
        """Parameters that a cell's table has."""
        if cell.method == FULL_SIZE:
            return full_sizes(cell.config, self.interactions(cell)).num_params
        return self._budget_caps(cell)[0]

    def _budget_caps(self, cell: Cell) -> list[int]:
        return caps_params_of(cell.config, self.interactions(cell).num_entities)

    def needed(self, cell: Cell) -> list[Preparation]:
        """What is trained beforehand for a cell, and for others: the full-size fit, the supernet."""
        method, start = METHODS[cell.method], cell.config.search.steps_start_from
        interactions, needed = self.interactions(cell), []
        if method.needs_full or (method.is_judging and start == "full size"):
            needed.append(Preparation.full_size(cell.config, interactions, keeps_state=True))
        if method.is_judging and start == "supernet":
            needed.append(Preparation.supernet(cell.config, interactions, self._caps[cell.group]))
        return needed

    def key(self, cell: Cell) -> str:
        """A name for what a cell computes, by the hash of all that it depends on."""
        method = METHODS[cell.method]
        what: dict[str, Any] = {"method": cell.method, "cap_params": self.cap_params(cell)}
        # What the budgets of all cells come to for the supernet are its kept ratios.
        ignores = {"looser_budgets", "search.supernet_kept_ratios"}
        if method.is_judging:
            full = full_sizes(cell.config, self.interactions(cell))
            what["kept_ratios"] = kept_ratios_of(cell.config, full, self._caps[cell.group])
        else:
            ignores |= JUDGING | SUPERNET
        if not method.is_search:
            ignores.add("search.tried_communities")
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
