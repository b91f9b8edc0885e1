"""How much of a search is done, so that it is over in a given time."""

import inspect
import math
from dataclasses import dataclass, replace
from typing import Any

from ciess_ray.config.run import RunConfig
from envs.recommenders import find_recommender

#: The least part of its batches and episodes that a search is cut down to.
LEAST_PART = 1 / 20
_LEAST_BATCHES = 20


@dataclass(frozen=True)
class Effort:
    """What of a search is done.

    Attributes:
        has_values: Whether what is chosen is trained with other values of options too, e.g. of L2.
        has_ways: Whether it is trained with other recipes too.
        has_communities: Whether it is trained in communities too.
        num_arms: Recipes at most that are tried, the likeliest first; None for all there are.
        part: Of batches and episodes.
    """

    has_values: bool = True
    has_ways: bool = True
    has_communities: bool = True
    num_arms: int | None = None
    part: float = 1.0

    def num_of(self, number: int) -> int:
        """So many batches, or episodes, cut down."""
        return max(1, round(self.part * number))

    def batches_of(self, number: int) -> int:
        """As :meth:`num_of`, of as many batches as say something."""
        return max(min(number, _LEAST_BATCHES), self.num_of(number))

    def reduced(self, config: RunConfig) -> RunConfig:
        """A run without what is left out."""
        search: dict[str, Any] = {}
        if not self.has_ways:
            search["tried_recipes"] = ()
        if not self.has_communities:
            search["tried_communities"] = ()
        recommender = config.recommender
        if not self.has_values:
            known = inspect.signature(find_recommender(recommender.name)).parameters
            others = {name: known[name].default for name in recommender.other_options if name in known}
            options = {**others, **recommender.options_with()}
            recommender = recommender.model_copy(update={"options": options})
        update = {"search": config.search.model_copy(update=search), "recommender": recommender}
        return config.model_copy(update=update) if search or not self.has_values else config

    def scaled(self, config: RunConfig) -> RunConfig:
        """A run whose user said how long it trains and searches, cut down."""
        if self.part == 1:
            return config
        training, search = config.training, config.search
        max_batches = self.batches_of(training.max_batches)
        cut = max_batches / training.max_batches
        of_training = {"max_batches": max_batches} | {
            name: max(1, math.floor(cut * getattr(training, name)))
            for name in ("decay_every", "evaluate_every")
        }
        of_search = {
            "num_episodes": self.num_of(search.num_episodes),
            "num_warmup_steps": round(self.part * search.num_warmup_steps),
            "supernet_batches": self.batches_of(search.supernet_batches),
        }
        return config.model_copy(
            update={
                "training": training.model_copy(update=of_training),
                "search": search.model_copy(update=of_search),
            }
        )

    @property
    def left_out(self) -> list[str]:
        """What is not done, for people."""
        texts = {
            "other values of options": not self.has_values,
            "other recipes for what is chosen": not self.has_ways,
            "communities": not self.has_communities,
            f"all but {self.num_arms} of the recipes": self.num_arms is not None,
            f"{1 - self.part:.0%} of batches and episodes": self.part < 1,
        }
        return [text for text, is_out in texts.items() if is_out]


WHOLE = Effort()
#: Less and less; of the last one parts are left out.
EFFORTS = [WHOLE, replace(WHOLE, has_values=False)]
EFFORTS.append(replace(EFFORTS[-1], has_ways=False))
EFFORTS.append(replace(EFFORTS[-1], has_communities=False))
EFFORTS += [replace(EFFORTS[-1], num_arms=number) for number in (6, 4, 2, 1)]
