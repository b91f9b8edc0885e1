"""What every phase of a search works on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciess_ray.config.data import check_budgets
from ciess_ray.config.run import RunConfig
from ciess_ray.result import check_output
from ciess_ray.searches.journal import Journal
from envs.data import Interactions
from envs.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """A budget that a search serves.

    Attributes:
        asked: As it was asked for, e.g. ``10%``.
        cap_params: Parameters that its table may have.
        path: Folder of its result.
        name: Of that folder in the search's own; empty for the budget that is searched.
    """

    asked: str
    cap_params: int
    path: Path
    name: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """One search.

    Attributes:
        config: What it was told.
        interactions: The splits.
        interactions_ref: The same in the object store, once for all processes.
        budgets: The one that is searched, then the looser ones.
        journal: Is told of every step.
    """

    config: RunConfig
    interactions: Interactions
    interactions_ref: Any
    budgets: list[Budget]
    journal: Journal

    @property
    def searched(self) -> Budget:
        """The budget that the steps meet."""
        return self.budgets[0]


def budgets_of(config: RunConfig, interactions: Interactions, *, overwrite: bool) -> list[Budget]:
    """The budgets of a run, in parameters.

    Raises:
        BudgetError: One cannot be met.
        ConfigError: One that should be looser is not, there are too few users or items for communities, or
            the full table is too large for this machine.
        ResultError: A result would be overwritten.
    """
    budgets: list[Budget] = []
    caps_params = check_budgets(config, interactions)
    for asked, cap_params in zip(config.memory_budgets, caps_params, strict=True):
        name = f"at-{asked}".replace("%", "-percent").replace(" ", "-") if budgets else ""
        budgets.append(Budget(str(asked), cap_params, config.output / name, name))
        if len(budgets) > 1 and cap_params <= budgets[0].cap_params:
            raise ConfigError(
                f"budget: {asked} ({cap_params:,} parameters) is not looser than "
                f"{budgets[0].asked} ({budgets[0].cap_params:,}): name the tightest one first."
            )
        check_output(budgets[-1].path, overwrite=overwrite)
    return budgets
