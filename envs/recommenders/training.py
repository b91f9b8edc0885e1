"""Training of a base recommender: a number of batches, or until validation stops rising."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from scipy.sparse import csr_array
from torch import Tensor

from envs.adam import DenseAdam, RowAdam
from envs.errors import ConfigError, TrainingError, check_name
from envs.metrics import RankingMetrics
from envs.recommenders import build_recommender, find_recommender
from envs.recommenders.base import (
    BaseRecommender,
    ClosedForm,
    DotProductRecommender,
)
from envs.recommenders.evaluation import evaluate
from envs.recommenders.losses import LOSSES, POSITIVES, RankingLoss, check_any
from envs.recommenders.rows import OfRows, Used, few_rows
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Of the learning rate at each decay, in the authors' code; ``decay_every`` says how fast the rate falls.
_DECAY = 0.9
#: Within which a temperature leaves something to learn.
_TEMPERATURES = 1e-4, 100.0
#: Batches between two copies of the parameters that a NaN is undone with.
_BATCHES_PER_SNAPSHOT = 100


class TrainingSettings(BaseModel):
    """How a base recommender is trained; Adam, and with bpr one positive and one negative item a triple.

    The defaults are the paper's recipe (METHOD: CIESS section 3.1).

    Raises:
        UnknownNameError: There is no such loss, or no such draw of positives.
        ConfigError: The loss knows no temperature, or float32 nothing of one so small or so large.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    batch_size: int = Field(
        10_000,
        ge=1,
        description="positives a batch, with bpr triples; 10,000 in CIESS's code; other losses take as many "
        "users, each with all its items, as have so many on average",
    )
    learning_rate: float = Field(0.03, gt=0, description="first learning rate; 0.03 in CIESS's code")
    decay_every: int = Field(
        100, ge=1, description="batches between two decays by 0.9; 50 to 200 in CIESS's code"
    )
    min_learning_rate: float = Field(1e-3, ge=0, description="where the decay ends; 1e-3 in CIESS's code")
    loss: Annotated[str, AfterValidator(lambda loss: check_name("training.loss", loss, LOSSES))] = Field(
        "bpr",
        description="bpr, CIESS's; softmax: among 1,024 negatives that a batch shares; full_softmax: among "
        "all items; sce: among the hardest items of buckets, which random projections find",
    )
    positives: Annotated[
        str, AfterValidator(lambda positives: check_name("training.positives", positives, POSITIVES))
    ] = Field(
        "user",
        description="user: each user is as likely, as in CIESS; interaction: each interaction, so that who "
        "has more counts more",
    )
    temperature: float | None = Field(
        None,
        description="what cosines are divided by that take the place of inner products in training, of all "
        "losses but bpr, 0.0001 to 100; null: inner products",
    )
    evaluate_every: int = Field(100, ge=1, description="batches between two validations")
    patience: Annotated[int, Field(ge=1)] | None = Field(
        5,
        description="validations in a row without a rise that end a training; null: none do, for a learning "
        "rate that has decayed by max_batches",
    )
    max_batches: int = Field(4_000, ge=1, description="where a training ends in any case")

    @model_validator(mode="after")
    def _check_temperature(self) -> "TrainingSettings":
        if self.temperature is None:
            return self
        least, most = _TEMPERATURES
        if not least <= self.temperature <= most:
            raise ConfigError(
                f"training.temperature={self.temperature:g}: choose {least:g} to {most:g}; 0.05 to 0.5 is "
                "usual. float32 has cosines to some 1e-7, which divided by less are rounding as much as what "
                "is learnt, and divided by more are all alike."
            )
        if not LOSSES[self.loss].has_temperature:
            others = [name for name, loss in LOSSES.items() if loss.has_temperature]
            raise ConfigError(
                f"training.temperature: training.loss={self.loss} has none; leave it out, or take "
                f"{', '.join(others[:-1])} or {others[-1]}."
            )
        return self

    @property
    def patience_batches(self) -> float:
        """Batches without a rise that end a training."""
        return math.inf if self.patience is None else self.patience * self.evaluate_every

    def learning_rate_at(self, batch: int) -> float:
        """Adam's learning rate for the batch of this number, from 0."""
        decayed = self.learning_rate * _DECAY ** (batch // self.decay_every)
        return max(decayed, min(self.min_learning_rate, self.learning_rate))

    def is_cut_short(self, best_batch: int) -> bool:
        """Whether a training whose validation was best there may have ended before it stopped rising."""
        last = max(self.max_batches - self.patience_batches, 0)
        return self.patience is not None and best_batch > last


def check_temperature(settings: TrainingSettings, recommender: type[BaseRecommender], name: str) -> None:
    """Refuse cosines of representations whose score is no inner product.

    Args:
        settings: How it is trained.
        recommender: Its class.
        name: What its user calls it.

    Raises:
        ConfigError: They are asked for.
    """
    if settings.temperature is not None and not issubclass(recommender, DotProductRecommender):
        raise ConfigError(
            f"training.temperature: {name} scores with more than an inner product, and has no cosine; leave "
            "it out."
        )


@dataclass(frozen=True)
class FitReport:
    """Where a training to convergence was best, or one for test ended.

    Attributes:
        best: Metrics there, on validation or on test.
        best_batch: Batches until there; the recommender is left in that state.
    """

    best: RankingMetrics
    best_batch: int


def make_loss(train: csr_array, settings: TrainingSettings) -> RankingLoss:
    """The loss that the settings name, which draws its own batches.

    Raises:
        DataError: The interactions leave nothing to draw.
        ConfigError: A batch of the loss would have too many scores.
    """
    loss = LOSSES[settings.loss]
    scale = {"temperature": settings.temperature} if loss.has_temperature else {}
    return loss(train, settings.batch_size, positives=settings.positives, **scale)


def _copy_of_state(recommender: BaseRecommender) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in recommender.state_dict().items()}


class Trainer:
    """Trains one recommender with Adam.

    Args:
        recommender: What is trained, in place.
        train: Training interactions, shape (num_users, num_items).
        settings: The recipe.
        rng: Draws the batches.
        loss: What :func:`make_loss` gave for these interactions and settings; None makes it.
        draw_sizes: Draws the sizes that the recommender is masked to for each batch, as a weight-sharing
            supernet is trained; None leaves it as it is.
    """

    def __init__(
        self,
        recommender: BaseRecommender,
        train: csr_array,
        settings: TrainingSettings,
        rng: np.random.Generator,
        loss: RankingLoss | None = None,
        draw_sizes: Callable[[np.random.Generator], EmbeddingSizes] | None = None,
    ) -> None:
        self.recommender, self.settings, self.train_interactions, self.rng = recommender, settings, train, rng
        self.loss = loss or make_loss(train, settings)
        self.draw_sizes = draw_sizes
        self.num_batches = 0
        self._optimizer: DenseAdam | None = None
        self._rows: tuple[OfRows, RowAdam] | None = None

    def train(self, num_batches: int) -> float:
        """Train so many batches more.

        Returns:
            Mean loss of these batches.

        Raises:
            TrainingError: A loss is NaN or infinite. The message names the batch, the learning rate and the
                remedy; the recommender is left as it was some batches before.
        """
        recommender, device = self.recommender, self.recommender.device
        total = 0.0
        recommender.train()
        for done in range(0, num_batches, _BATCHES_PER_SNAPSHOT):
            chunk = min(num_batches - done, _BATCHES_PER_SNAPSHOT)
            good_state, good_batch = _copy_of_state(recommender), self.num_batches
            losses = torch.stack([self._train_batch(device) for _ in range(chunk)]).double()
            if self._rows is not None:
                self._rows[1].settle()
            if not losses.isfinite().all():
                recommender.load_state_dict(good_state)
                failed = good_batch + int(losses.isfinite().logical_not().nonzero()[0])
                self.num_batches = good_batch
                raise TrainingError(
                    f"the loss of {type(recommender).__name__} is {float(losses[failed - good_batch])} at "
                    f"batch {failed + 1}, learning rate {self.settings.learning_rate_at(failed):g}: lower "
                    f"training.learning_rate; the recommender is left as it was after {good_batch} batches."
                )
            total += float(losses.sum())
        return total / max(num_batches, 1)

    def _train_batch(self, device: torch.device) -> Tensor:
        if self.draw_sizes is not None:
            self.recommender.table.mask_to(self.draw_sizes(self.rng))
        return self.step(tuple(torch.from_numpy(column).to(device) for column in self.loss.draw(self.rng)))

    def step(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Train on a batch that the loss drew, on the recommender's device, as :meth:`train` does.

        Where a table is trained by rows, :meth:`train` brings those up to date that batches do not use.

        Returns:
            Its loss, one number.
        """
        learning_rate = self.settings.learning_rate_at(self.num_batches)
        if self._optimizer is None:
            self._optimizer = self._begin(batch)
        self._optimizer.forget_gradients()
        recommender, adam = self.recommender, None
        if self._rows is not None:
            of_rows, adam = self._rows
            of_rows.take(adam.rows(of_rows.use(cast(Used, self.loss.used(batch)))))
            recommender = cast(BaseRecommender, of_rows)
        loss = self.loss(recommender, *batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step(learning_rate)
        if adam is not None:
            adam.step(learning_rate)
        self.num_batches += 1
        return loss.detach()

    def _begin(self, batch: tuple[Tensor, ...]) -> DenseAdam:
        """Adam for all parameters, or for those beside a table that is trained by the rows that batches use.

        Args:
            batch: The first one: that its rows are few decides.
        """
        parameters = {name: p for name, p in self.recommender.named_parameters() if p.requires_grad}
        if (of_rows := few_rows(self.recommender, self.loss.used(batch))) is not None:
            self._rows = of_rows, RowAdam(parameters.pop("table.weight"))
        return DenseAdam(list(parameters.values()))

    def fit(
        self,
        validation: csr_array,
        progress: Callable[[int, float], None] | None = None,
    ) -> FitReport:
        """Train until validation quality has stopped rising, and go back to where it was best.

        Args:
            validation: Held-out interactions that early stopping looks at.
            progress: Called after each validation with the batches trained and the quality.

        Raises:
            TrainingError: A loss is NaN or infinite; the recommender is left at its best validation, or
                before the first one as :meth:`train` leaves it.
        """
        settings, recommender = self.settings, self.recommender
        report: FitReport | None = None
        best_state: dict[str, Tensor] = {}
        while report is None or self.num_batches < min(
            settings.max_batches, report.best_batch + settings.patience_batches
        ):
            try:
                self.train(min(settings.evaluate_every, settings.max_batches - self.num_batches))
            except TrainingError:
                if best_state:
                    recommender.load_state_dict(best_state)
                raise
            metrics = evaluate(recommender, self.train_interactions, validation)
            if report is None or metrics.quality > report.best.quality:
                report, best_state = FitReport(metrics, self.num_batches), _copy_of_state(recommender)
            if progress is not None:
                progress(self.num_batches, metrics.quality)
        recommender.load_state_dict(best_state)
        return report


class Solved:
    """Stands in a trainer's place where a recommender is in closed form: what it is, it is from the start.

    Args:
        recommender: What would be trained.
        train: Training interactions, shape (num_users, num_items).
    """

    #: Batches trained.
    num_batches = 0

    def __init__(self, recommender: BaseRecommender, train: csr_array) -> None:
        self.recommender, self.train_interactions = recommender, train

    def train(self, num_batches: int) -> float:
        """There is nothing to train, and no loss."""
        return 0.0

    def fit(self, validation: csr_array, progress: Callable[[int, float], None] | None = None) -> FitReport:
        """How good it is, after no batch; see :meth:`Trainer.fit`. There is no progress to tell."""
        return FitReport(evaluate(self.recommender, self.train_interactions, validation), 0)


@dataclass(frozen=True, eq=False)
class Recipe:
    """Everything that a training depends on beside the sizes and the draws.

    Attributes:
        train: Training interactions, shape (num_users, num_items).
        settings: How it is trained.
        name: The recommender, by its name in :data:`envs.recommenders.RECOMMENDERS`.
        options: The recommender's options.
        device: Where it lives.

    Raises:
        DataError: The interactions leave nothing to draw, or to compute from.
        ConfigError: The settings do not suit the recommender, or the data.
    """

    train: csr_array
    settings: TrainingSettings
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")

    def __post_init__(self) -> None:
        if self.is_closed_form:
            check_any(self.train)
        else:
            check_temperature(self.settings, find_recommender(self.name), self.name)
            # What leaves nothing to draw is refused before any work.
            _ = self.loss

    @cached_property
    def loss(self) -> RankingLoss:
        """Made once for all trainings; a closed form has none."""
        return make_loss(self.train, self.settings)

    @property
    def is_closed_form(self) -> bool:
        """Whether the recommender is computed, not trained."""
        return issubclass(find_recommender(self.name), ClosedForm)

    def recommender(
        self,
        sizes: EmbeddingSizes,
        rng: np.random.Generator,
        state: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> BaseRecommender:
        """A fresh recommender of these sizes, or one with the parameters of another of its shape, by name.

        A fresh one in closed form has been computed.
        """
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        recommender = build_recommender(
            self.name, self.train, sizes, generator=generator, device=self.device, options=self.options
        )
        if state is not None:
            recommender.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
        elif isinstance(recommender, ClosedForm):
            recommender.solve(rng)
        return recommender

    def trainer(
        self,
        sizes: EmbeddingSizes,
        rng: np.random.Generator,
        draw_sizes: Callable[[np.random.Generator], EmbeddingSizes] | None = None,
        state: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> Trainer | Solved:
        """A trainer of a :meth:`recommender`, see :class:`Trainer`; both draw from ``rng``."""
        recommender = self.recommender(sizes, rng, state)
        if self.is_closed_form:
            return Solved(recommender, self.train)
        return Trainer(recommender, self.train, self.settings, rng, self.loss, draw_sizes)
