"""The base recommender of a run, with its options."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from ciess_ray.config.section import Section, one_of, refuse_twice
from envs.budget import check_bounds
from envs.data import Interactions
from envs.errors import ConfigError
from envs.recommenders import (
    DEVICES,
    RECOMMENDERS,
    BaseRecommender,
    ClosedForm,
    check_recommender,
    find_recommender,
)

#: The name of none: validation chooses one of several.
AUTO = "auto"
#: Whose table is as an ordinary one: a row for every user and every item.
_ORDINARY = "mf"


def default_l2(recommender: str) -> Any:
    """The weight of L2 of a recommender whose options name none; None where it knows no L2."""
    parameter = inspect.signature(find_recommender(recommender)).parameters.get("l2")
    return None if parameter is None else parameter.default


class RecommenderConfig(Section):
    """The base recommender whose table is to shrink."""

    #: d_min of CIESS: a row of nothing would be no row.
    min_embedding_size: ClassVar[int] = 1

    name: str = Field(
        "lightgcn",
        description=f"{', '.join(sorted(RECOMMENDERS))}, or package.module:ClassName for one of your own, "
        f"or {AUTO}: of lightgcn, mf, spectral and neighbours whichever validation likes best in as many "
        "served bytes, which a search has that says nothing of one",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="what the recommender itself takes: l2, init_std; lightgcn and ngcf: num_layers; ngcf: "
        "node_dropout, message_dropout; spectral: user_exponent, item_exponent, spectrum_exponent; "
        "neighbours: user_exponent, item_exponent, outgoing; ease: l2, in interactions. Of a list "
        "(l2: [0.0001, 0.0003]) the first is what is searched with; what was chosen, equal sizes and "
        "the full table are trained with each of the others too, and keep what is best on validation. "
        "spectral, neighbours and ease try some values where none is given",
    )
    max_embedding_size: int = Field(128, description="d_max, the width of the full table; 128 in CIESS")
    # Whether there is a GPU is seen where the training runs, which need not be here.
    device: Annotated[str, one_of("device", DEVICES)] = Field(
        "auto", description="cpu, cuda, or auto: a GPU where there is one"
    )

    @model_validator(mode="before")
    @classmethod
    def _take_name(cls, values: Any) -> Any:
        """A recommender that is named and nothing else."""
        return {"name": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _check(self) -> "RecommenderConfig":
        check_bounds(self.min_embedding_size, self.max_embedding_size)
        if self.is_auto:
            if self.options:
                raise ConfigError(
                    f"recommender.options: they are of one recommender, and {AUTO} chooses among several: "
                    "leave them out, or name one in recommender.name."
                )
            return self
        lists = {name: value for name, value in self.options.items() if isinstance(value, list | tuple)}
        for name, values in lists.items():
            if not values:
                raise ConfigError(f"recommender.options.{name}: the list names none; leave it out.")
            refuse_twice(f"recommender.options.{name}", values)
        check_recommender(self.name, self.options_with())
        for name, values in lists.items():
            for value in values[1:]:
                check_recommender(self.name, self.options_with({name: value}))
        return self

    @property
    def is_auto(self) -> bool:
        """Whether validation is yet to choose one; its table is then told as an ordinary one."""
        return self.name == AUTO

    @property
    def _class(self) -> type[BaseRecommender]:
        return find_recommender(_ORDINARY if self.is_auto else self.name)

    @property
    def weights_of_l2(self) -> list[Any]:
        """Those that options name, the first of which is searched with; None for the recommender's own."""
        l2 = self.options.get("l2")
        return list(l2) if isinstance(l2, list | tuple) else [l2]

    @property
    def other_options(self) -> dict[str, tuple[float, ...]]:
        """By option, the values that are tried beside what is searched with."""
        named = {
            name: tuple(value[1:]) for name, value in self.options.items() if isinstance(value, list | tuple)
        }
        by_default = self._class.tried
        return {name: values for name, values in by_default.items() if name not in self.options} | named

    def options_with(self, chosen: Mapping[str, float] | None = None) -> dict[str, Any]:
        """What its constructor is given, with values of some options, or else the first that are named."""
        first = {
            name: value[0] if isinstance(value, list | tuple) else value
            for name, value in self.options.items()
        }
        return first | dict(chosen or {})

    @property
    def num_tables(self) -> int:
        """Tables of the recommender in which every row has its size; the budget caps them together."""
        return self._class.num_tables

    @property
    def is_closed_form(self) -> bool:
        """Whether its table is computed, not trained."""
        return issubclass(self._class, ClosedForm)

    def row_counts(self, interactions: Interactions) -> tuple[int, int]:
        """Rows of its table that are users', of which there may be none, and rows that are items'."""
        return self._class.row_counts(interactions.num_users, interactions.num_items)

    def most_numbers(self, interactions: Interactions) -> int | None:
        """Numbers of a row that can say something of these data; None where all can."""
        return self._class.most_numbers(interactions.num_users, interactions.num_items)

    def id_bytes(self, interactions: Interactions) -> int:
        """Bytes that a parameter of its table has beside it in the packed file."""
        return self._class.id_bytes(interactions.num_items)
