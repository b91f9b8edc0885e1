"""What the parts of every configuration have in common, and kinds of field."""

import json
from collections import Counter
from collections.abc import Iterable
from os.path import expanduser
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from envs.budget import MemoryBudget
from envs.errors import BudgetError, ConfigError, UnknownNameError

#: The smallest part of a CPU or a GPU that Ray knows.
_LEAST_CLAIM = 1e-4


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def refuse_equal_budgets(where: str, budgets: Iterable[str | float]) -> None:
    """Refuse a list that names a budget twice, be it in two spellings.

    Raises:
        BudgetError: One cannot be read.
        ConfigError: Two are the same.
    """
    spellings: dict[str, str | float] = {}
    for budget in budgets:
        try:
            same = str(MemoryBudget.parse(budget))
        except BudgetError as error:
            raise error.within(where) from None
        if same in spellings:
            raise ConfigError(f"{where}: {spellings[same]} and {budget} are the same budget; name it once.")
        spellings[same] = budget


def refuse_twice(where: str, values: Iterable[Any]) -> None:
    """Refuse a list that has a value twice.

    Raises:
        ConfigError: It has one.
    """
    # 1 and 1.0 are one seed.
    whole = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    counts = Counter(json.dumps(value, sort_keys=True) for value in whole)
    twice = sorted(value for value, count in counts.items() if count > 1)
    if twice:
        raise ConfigError(f"{where}: {', '.join(twice)} stands there twice; once is enough.")


def _refuse_empty(path: Any) -> Any:
    """To the operating system an empty name is the folder that a command was started in."""
    if path == "":
        raise PydanticCustomError("empty_name", "an empty name; name a file or a folder")
    return path


#: A field that names a file or a folder.
Place = Annotated[Path, BeforeValidator(_refuse_empty), AfterValidator(lambda path: Path(expanduser(path)))]
#: One that may be a URI instead.
Location = Annotated[str, BeforeValidator(_refuse_empty)]


def one_of(where: str, names: Iterable[str]) -> AfterValidator:
    """For a name of a table; what pydantic says of a wrong one lacks the nearest that is right."""
    names = list(names)

    def check(name: Any) -> Any:
        if name is not None and name not in names:
            raise UnknownNameError(where, name, names)
        return name

    return AfterValidator(check)


class Claims(Section):
    """Amounts that are claimed of a Ray cluster."""

    @field_validator("*")
    @classmethod
    def _check_amount(cls, amount: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        if amount is None or not name.startswith(("num_cpus", "num_gpus")):
            return amount
        if 0 < amount < _LEAST_CLAIM:
            raise ConfigError(
                f"resources.{name}={amount:g}: the least that Ray deals in is {_LEAST_CLAIM:g}."
            )
        if name.startswith("num_gpus") and amount > 1 and amount != int(amount):
            raise ConfigError(f"resources.{name}={amount:g}: above 1 Ray deals in whole GPUs.")
        return amount
