"""The recipes that are tried where a run says nothing of training, by recommender."""

import inspect
import math
from dataclasses import dataclass, replace
from typing import Any

from ciess_ray.config.run import RunConfig
from ciess_ray.training.effort import WHOLE, Effort
from envs.data import Interactions
from envs.recommenders import DotProductRecommender, find_recommender

#: Options of a recommender in which recipes differ.
_OPTIONS = "init_std", "l2"
#: Positives of a batch: a part of the interactions, rounded to a power of 2 between these.
_BATCHES_PER_EPOCH, _LEAST_BATCH, _MOST_BATCH = 32, 2**12, 2**15
#: Batches of a training at least, of a softmax, and of BPR, whose batches take half as long; and how often it
#: sees all interactions at least.
_SOFTMAX_BATCHES, _BPR_BATCHES, _EPOCHS = 600, 1_000, 8
#: Decays of the learning rate by 0.9 in a training, of a softmax to a twelfth. Pairs are noisier: BPR that
#: ends at a 150th had 1 to 8 % more quality than at a twelfth, of MF and LightGCN on three data sets.
_SOFTMAX_DECAYS, _BPR_DECAYS = 24, 48
_VALIDATIONS = 10
#: Up to so many items a softmax is taken over all of them.
_MOST_ITEMS_OF_FULL_SOFTMAX = 20_000


@dataclass(frozen=True)
class Arm:
    """A recipe that is tried.

    Attributes:
        loss: ``softmax`` stands for both, over all items where these are few.
        learning_rate: The first one.
        l2: The weight of L2.
        positives: What counts the same.
        temperature: Of cosines.
        init_std: Standard deviation of initial values.
        share: Part of a training of usual length that it takes, in which the learning rate goes to its end.
    """

    loss: str
    learning_rate: float
    l2: float
    positives: str = "interaction"
    temperature: float | None = None
    init_std: float = 0.01
    share: float = 1.0

    def __str__(self) -> str:
        cosine = "" if self.temperature is None else f", temperature {self.temperature:g}"
        short = "" if self.share == 1 else f", {self.share:g} of the batches"
        return (
            f"{self.loss} by {self.positives}{cosine}, learning rate {self.learning_rate:g}, "
            f"L2 {self.l2:g}{short}"
        )


def _bpr(learning_rate: float, l2: float) -> Arm:
    return Arm("bpr", learning_rate, l2, "user", init_std=0.1)


def _softmax(learning_rate: float, *weights: float, positives: str = "interaction") -> list[Arm]:
    return [Arm("softmax", learning_rate, l2, positives) for l2 in weights]


_COSINE = Arm("softmax", 0.03, 1e-5, temperature=0.1, init_std=0.1)
#: By recommender, the likeliest first.
_GRAPH_ARMS = [
    *_softmax(0.15, 0.01, 0.003, 0.03),
    *_softmax(0.5, 0.003, 0.001),
    *_softmax(0.3, 0.03, positives="user"),
    _bpr(0.5, 5e-4),
    _bpr(0.1, 2e-4),
    _COSINE,
]
_MF_ARMS = [
    *_softmax(0.03, 0.03, 0.01, 0.1),
    *_softmax(0.03, 0.03, 0.1, positives="user"),
    _bpr(0.1, 0.01),
    _bpr(0.1, 0.005),
]
_OTHER_ARMS = [_bpr(rate, l2) for rate in (0.02, 0.005) for l2 in (0.01, 0.003, 0.03)]
_NGCF_ARMS = [*_softmax(0.05, 0.01, 0.03, positives="user"), *_softmax(0.05, 0.01), _bpr(0.3, 0.005)]
_ARMS = {"lightgcn": _GRAPH_ARMS, "mf": _MF_ARMS, "ngcf": _NGCF_ARMS, "ncf": _OTHER_ARMS}


def arms_of(config: RunConfig) -> list[Arm]:
    """The recipes that are tried for a recommender, the likeliest first; none for one in closed form."""
    recommender = config.recommender
    if recommender.is_closed_form:
        return []
    has_product = issubclass(find_recommender(recommender.name), DotProductRecommender)
    arms = _ARMS.get(recommender.name, _MF_ARMS if has_product else _OTHER_ARMS)
    known = inspect.signature(find_recommender(recommender.name)).parameters
    # Recipes do not differ in what a user names, nor in what the recommender has not.
    settled: dict[str, Any] = {name: 0.0 for name in _OPTIONS if name not in known}
    settled |= {name: value for name, value in recommender.options_with().items() if name in _OPTIONS}
    return list(dict.fromkeys(replace(arm, **settled) for arm in arms))


def fields_of(arm: Arm, interactions: Interactions, effort: Effort = WHOLE) -> dict[str, Any]:
    """A recipe as fields of training, of as many batches as an effort has."""
    num_interactions = interactions.train.nnz
    exponent = round(math.log2(max(num_interactions / _BATCHES_PER_EPOCH, 1)))
    batch_size = min(max(2**exponent, _LEAST_BATCH), _MOST_BATCH)
    is_bpr = arm.loss == "bpr"
    least, num_decays = (_BPR_BATCHES, _BPR_DECAYS) if is_bpr else (_SOFTMAX_BATCHES, _SOFTMAX_DECAYS)
    whole = max(least, math.ceil(_EPOCHS * num_interactions / batch_size))
    num_batches = effort.batches_of(max(1, round(arm.share * whole)))
    is_full = arm.loss == "softmax" and interactions.num_items <= _MOST_ITEMS_OF_FULL_SOFTMAX
    return {
        "loss": "full_softmax" if is_full else arm.loss,
        "positives": arm.positives,
        "temperature": arm.temperature,
        "learning_rate": arm.learning_rate,
        "min_learning_rate": 0.0,
        "batch_size": batch_size,
        "max_batches": num_batches,
        "decay_every": max(1, round(num_batches / num_decays)),
        "evaluate_every": max(1, round(num_batches / _VALIDATIONS)),
        "patience": None,
    }


def options_of(arm: Arm, config: RunConfig) -> dict[str, Any]:
    """A recipe's options of the recommender, but for those that its user names, or it has not.

    Args:
        arm: The recipe.
        config: What its user asked for.
    """
    known = inspect.signature(find_recommender(config.recommender.name)).parameters
    return {
        name: getattr(arm, name)
        for name in _OPTIONS
        if name in known and name not in config.recommender.options
    }
