"""What a comparison is told: a base configuration, a grid of fields, and methods."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from ciess_ray.config.grid import Grid, ManyRuns, slug
from ciess_ray.config.keys import digest
from ciess_ray.config.run import RunConfig
from ciess_ray.config.section import Names, Place, refuse_twice
from ciess_ray.names import FULL_SIZE, YARDSTICKS
from envs.errors import ConfigError, check_name, unknown_name

#: Names of ``ciess_ray.comparisons.methods.METHODS``, which takes seconds to import, in the order of tables.
METHOD_NAMES = (
    "full size",
    "equal sizes",
    "mixed random",
    "split",
    "split in communities",
    "popularity",
    "popular items",
    "random search",
    "magnitude pruning",
    "pep",
    "dnis",
    "search",
)
#: Methods that no cell is computed with any more, with the reason; those that are kept are read.
FORMER_METHODS = {
    "discrete": "a search over six sizes came within 0.3 % of one over all (docs/comparison.md)",
}
RANDOM_SEARCH = "random search"


#: Methods that train what they keep with the table.
_OF_GRADIENTS = ("pep", "dnis")


class ComparisonConfig(ManyRuns):
    """Methods side by side, in every cell of a grid."""

    space: dict[str, list[Any]] = Field(
        min_length=1,
        description="fields that differ, by dotted name, each with the list of its values: budget, "
        "recommender.name, dataset, seed, ...",
    )
    methods: Names = Field(METHOD_NAMES, min_length=1, description=", ".join(METHOD_NAMES))
    yardsticks: Names = Field(
        YARDSTICKS,
        description="what stands beside the methods, uncut and so within no budget, once for each split: "
        + ", ".join(YARDSTICKS),
    )
    num_resamples: int = Field(10_000, ge=1, description="resamples of the bootstrap over users and splits")
    output: Place = Field(
        Path("runs/comparison"), description="folder of the comparison, which every node must reach"
    )

    @field_validator("methods")
    @classmethod
    def _check_methods(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        for method in methods:
            if method not in (*METHOD_NAMES, *FORMER_METHODS):
                raise unknown_name("method", method, METHOD_NAMES)
        refuse_twice("methods", methods)
        return methods

    @field_validator("yardsticks")
    @classmethod
    def _check_yardsticks(cls, yardsticks: tuple[str, ...]) -> tuple[str, ...]:
        for name in yardsticks:
            check_name("yardstick", name, YARDSTICKS)
        refuse_twice("yardsticks", yardsticks)
        return yardsticks


@dataclass(frozen=True, eq=False)
class Cell:
    """One method at one point of the grid.

    Attributes:
        name: Of its file, and what people call it.
        method: A name in :data:`METHOD_NAMES`, :data:`FORMER_METHODS` or
            :data:`ciess_ray.names.YARDSTICKS`.
        fields: What its run has that others have not, by dotted name; without a budget for the full size, of
            a yardstick the data alone.
        config: The whole configuration of its run; of a yardstick the first run's on its data.
        group: What the cells have in common that share their full-size fit: all fields but the budget.
        asked: The same before it was found how it trains, and with which recommender; None where that was
            said.
    """

    name: str
    method: str
    fields: dict[str, Any]
    config: RunConfig
    group: str
    asked: RunConfig | None = None

    @property
    def split(self) -> tuple[str, int]:
        """The data and their split, by which yardsticks are told apart."""
        return self.config.dataset.model_dump_json(), self.config.split_seed

    @property
    def is_yardstick(self) -> bool:
        """Whether it keeps to no budget and has no table."""
        return self.method in YARDSTICKS


class ComparisonPlan(Grid):
    """A comparison that has been checked, cell by cell.

    Args:
        config: The comparison.
        base_values: Plain values of what all cells share.
        source: What messages call the comparison's file.

    Attributes:
        cells: Every cell; the full size once for all budgets, yardsticks once for each split of some data.

    Raises:
        ConfigError: A point of the grid is wrong, or no method could be compared fairly there.
    """

    model = ComparisonConfig
    config: ComparisonConfig

    def __init__(self, config: ComparisonConfig, base_values: Mapping[str, Any], source: str) -> None:
        super().__init__(config, base_values, source)
        for trial in self.trials:
            search = trial.config.search
            if search.mode != "projected":
                raise ConfigError(
                    f"{self.source}: search.mode={search.mode} leaves it to λ whether the budget is met, and "
                    "methods are compared at one budget: set search.mode=projected."
                )
            if search.num_env_runners:
                raise ConfigError(
                    f"{self.source}: CPU seconds are those of a cell's own process: set "
                    "search.num_env_runners=0; cells run side by side."
                )
            learning = [method for method in self.config.methods if method in _OF_GRADIENTS]
            recommender = trial.config.recommender
            if learning and (recommender.is_closed_form or recommender.is_auto):
                may_be = "may choose one that is" if recommender.is_auto else "is"
                raise ConfigError(
                    f"{self.source}: methods: {' and '.join(learning)} learn what to keep by gradients, and "
                    f"{recommender.name} {may_be} computed, not trained: leave them out there."
                )
        self._cells: dict[str, Cell] = {}
        groups: set[str] = set()
        for trial in self.trials:
            shared = {name: value for name, value in trial.fields.items() if name != "budget"}
            group = json.dumps(shared, sort_keys=True)
            for method in self.config.methods:
                # A full table is the same at every budget.
                if method != FULL_SIZE:
                    self._add(method, trial.fields, trial.config, group)
                elif group not in groups:
                    self._add(method, shared, trial.config, group)
            groups.add(group)
        splits: set[tuple[str, int]] = set()
        for trial in self.trials:
            run = trial.config
            split = run.dataset.model_dump_json(), run.split_seed
            if split in splits:
                continue
            splits.add(split)
            is_drawn = run.dataset.split == "random" and run.dataset.split_seed is None
            fields = {
                name: value
                for name, value in trial.fields.items()
                if name.split(".")[0] == "dataset" or (name == "seed" and is_drawn)
            }
            for method in self.config.yardsticks:
                self._add(method, fields, run, json.dumps(fields, sort_keys=True))
        self.cells = list(self._cells.values())

    def _add(self, method: str, fields: dict[str, Any], config: RunConfig, group: str) -> None:
        """A cell under a name that no other has."""
        end = method.replace(" ", "-")
        name = "_".join(filter(None, (slug(fields), end)))
        if name in self._cells:
            name = "_".join(filter(None, (slug(fields), digest(fields)[:8], end)))
        self._cells[name] = Cell(name, method, fields, config, group)
