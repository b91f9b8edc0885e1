"""Training of a base recommender: a number of batches, or until validation stops rising."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import csr_array

from envs.data import TripleSampler
from envs.data.sampling import Positives
from envs.errors import TrainingError
from envs.metrics import RankingMetrics
from envs.recommenders.base import BaseRecommender
from envs.recommenders.evaluation import evaluate


@dataclass(frozen=True)
class TrainingSettings:
    """How a base recommender is trained; the defaults are the paper's recipe (METHOD: CIESS section 3.1).

    Attributes:
        batch_size: Triples a batch; 10,000 in the authors' code.
        learning_rate: Adam's first learning rate; 0.03 in the authors' code.
        learning_rate_decay: Factor applied every ``decay_every`` batches; 0.9.
        decay_every: Batches between two decays; 50 to 200 in the authors' code.
        min_learning_rate: Where the decay ends; 1e-3.
        positives: A positive drawn for a random ``user``, or a random ``interaction``.
        evaluate_every: Batches between two validations.
        patience: Validations in a row without a new best after which training has converged.
        max_batches: Where training ends in any case.
    """

    batch_size: int = 10_000
    learning_rate: float = 0.03
    learning_rate_decay: float = 0.9
    decay_every: int = 100
    min_learning_rate: float = 1e-3
    positives: Positives = "user"
    evaluate_every: int = 100
    patience: int = 5
    max_batches: int = 4_000

    def learning_rate_at(self, batch: int) -> float:
        """Adam's learning rate for the batch of this number, from 0."""
        decayed = self.learning_rate * self.learning_rate_decay ** (batch // self.decay_every)
        return max(decayed, min(self.min_learning_rate, self.learning_rate))


@dataclass
class FitReport:
    """How a training to convergence went.

    Attributes:
        num_batches: Batches trained.
        best_batch: Batches after which validation quality was best; the recommender is left in that state.
        best: Validation metrics at that point.
        history: Validation quality after so many batches.
        train_s: Seconds spent training.
        evaluate_s: Seconds spent on validation.
    """

    best: RankingMetrics
    num_batches: int = 0
    best_batch: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    train_s: float = 0.0
    evaluate_s: float = 0.0


class Trainer:
    """Trains one recommender with Adam on triples.

    Args:
        recommender: What is trained, in place.
        train: Training interactions, shape (num_users, num_items).
        settings: The recipe.
        rng: Draws the triples.
        sampler: A sampler already made for these interactions and ``settings.positives``.
    """

    def __init__(
        self,
        recommender: BaseRecommender,
        train: csr_array,
        settings: TrainingSettings,
        rng: np.random.Generator,
        sampler: TripleSampler | None = None,
    ) -> None:
        self.recommender, self.settings, self.train_interactions, self.rng = recommender, settings, train, rng
        self.sampler = sampler or TripleSampler(train, positives=settings.positives)
        self.optimizer = torch.optim.Adam(
            [p for p in recommender.parameters() if p.requires_grad], lr=settings.learning_rate, fused=True
        )
        self.num_batches = 0

    def train(self, num_batches: int) -> float:
        """Train so many batches more.

        Returns:
            Mean loss of these batches.

        Raises:
            TrainingError: The loss is NaN or infinite; the message names the batch and the learning rate.
        """
        device = self.recommender.device
        total = torch.zeros((), device=device)
        self.recommender.train()
        for _ in range(num_batches):
            learning_rate = self.settings.learning_rate_at(self.num_batches)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            triple = self.sampler.draw(self.settings.batch_size, self.rng)
            loss = self.recommender.loss(*(torch.from_numpy(column).to(device) for column in triple))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach()
            self.num_batches += 1
        mean = float(total) / max(num_batches, 1)
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss of {type(self.recommender).__name__} is {mean} at batch {self.num_batches}, "
                f"learning rate {self.settings.learning_rate_at(self.num_batches - 1):g}: "
                "lower training.learning_rate."
            )
        return mean

    def fit(
        self,
        validation: csr_array,
        progress: Callable[[int, float], None] | None = None,
    ) -> FitReport:
        """Train until validation quality has stopped rising, and go back to where it was best.

        Args:
            validation: Held-out interactions that early stopping looks at.
            progress: Called after each validation with the batches trained and the quality.
        """
        settings, recommender = self.settings, self.recommender
        report: FitReport | None = None
        best_state = {}
        train_s = evaluate_s = 0.0
        history: list[tuple[int, float]] = []
        waited = 0
        while self.num_batches < settings.max_batches and waited < settings.patience:
            started = time.perf_counter()
            self.train(min(settings.evaluate_every, settings.max_batches - self.num_batches))
            trained = time.perf_counter()
            metrics = evaluate(recommender, self.train_interactions, validation)
            train_s += trained - started
            evaluate_s += time.perf_counter() - trained
            history.append((self.num_batches, metrics.quality))
            if report is None or metrics.quality > report.best.quality:
                report = FitReport(metrics, best_batch=self.num_batches)
                best_state = {name: value.clone() for name, value in recommender.state_dict().items()}
                waited = 0
            else:
                waited += 1
            if progress is not None:
                progress(self.num_batches, metrics.quality)
        if report is None:
            raise TrainingError("nothing was trained: training.max_batches must be at least 1.")
        recommender.load_state_dict(best_state)
        report.num_batches, report.history = self.num_batches, history
        report.train_s, report.evaluate_s = train_s, evaluate_s
        return report
