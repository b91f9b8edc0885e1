"""What trainings take on the machines that they will run on, measured in a few seconds before they begin."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from ciess_ray.config.run import RunConfig
from ciess_ray.resources import num_threads
from ciess_ray.training.convergence import cpu_seconds, peak_bytes, recipe_of
from ciess_ray.training.preparing import claiming, value_of
from envs.data import Interactions
from envs.errors import TrainingError
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Solved, Trainer, TrainingSettings
from envs.sizes.by_popularity import allocation_sampler
from envs.sizes.embedding_sizes import EmbeddingSizes

#: CPU seconds that batches are measured for at least; one that takes longer is measured alone.
_LEAST_S = 0.15
#: Part of its most batches after which patience usually ends a training.
_USUAL_PART = 0.5


@dataclass(frozen=True)
class Pace:
    """What a training takes, in CPU seconds of its process.

    Attributes:
        start_s: Until the first batch is trained; of what is computed all of it.
        batch_s: A batch.
        validation_s: Ranking for all users that have held-out interactions.
        peak_bytes: The most memory that the process has held.
        slowness: Seconds that a CPU second of a thread took, on a machine that others may work on too.
    """

    start_s: float
    batch_s: float
    validation_s: float
    peak_bytes: int
    slowness: float = 1.0

    def training_s(self, num_batches: float, num_validations: float) -> float:
        """A training of so many batches and validations."""
        return self.start_s + self.batch_s * num_batches + self.validation_s * num_validations

    def convergence_s(self, settings: TrainingSettings, *, is_closed_form: bool = False) -> float:
        """A training to convergence, of so many batches as are usual where validation ends it."""
        if is_closed_form:
            return self.training_s(0, 1)
        batches = usual_batches(settings)
        return self.training_s(batches, math.ceil(batches / settings.evaluate_every))


def usual_batches(settings: TrainingSettings) -> float:
    """Batches of a training to convergence."""
    if settings.patience is None:
        return settings.max_batches
    return min(settings.max_batches, _USUAL_PART * settings.max_batches + settings.patience_batches)


@dataclass(frozen=True, eq=False)
class Probe:
    """A training whose pace is measured.

    Attributes:
        config: The run, with how it is trained.
        sizes: Of its table.
        kept_ratios: Where it is a supernet, the least and the greatest kept ratio of a batch.
    """

    config: RunConfig
    sizes: EmbeddingSizes
    kept_ratios: tuple[float, float] | None = None


def measure_paces(probes: Sequence[Probe], interactions_ref: Any) -> list[Pace]:
    """Measure trainings side by side, as they will run, in the processes that will run them.

    Raises:
        TrainingError: A process died again and again.
    """
    references = [
        claiming(_measure, probe.config, len(probes)).remote(
            probe, interactions_ref, num_threads(probe.config)
        )
        for probe in probes
    ]
    return [value_of(reference, "a few batches, to see what they take") for reference in references]


@ray.remote(max_retries=3)
def _measure(probe: Probe, interactions: Interactions, num_threads: int) -> Pace:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        return measure_pace(probe, interactions)
    finally:
        torch.set_num_threads(before)


def _train(trainer: Trainer | Solved, num_batches: int) -> bool:
    """Train so many batches; whether they gave numbers, which is told where a training needs them."""
    try:
        trainer.train(num_batches)
    except TrainingError:
        return False
    return True


def measure_pace(probe: Probe, interactions: Interactions) -> Pace:
    """Measure a training in this process."""
    sizes, began = probe.sizes, cpu_seconds()
    all_began = began, time.perf_counter()
    recipe = recipe_of(probe.config, interactions)
    draw_sizes = None
    if probe.kept_ratios is not None:
        draw_sizes = allocation_sampler(
            interactions.user_popularity,
            interactions.item_popularity,
            probe.kept_ratios,
            sizes.min_embedding_size,
            sizes.max_embedding_size,
            sizes.num_tables,
        )
    trainer = recipe.trainer(sizes, np.random.default_rng(0), draw_sizes)
    # The first one finds memory and code for all others.
    has_numbers = _train(trainer, 1)
    start_s, num_batches, batches_s = cpu_seconds() - began, 1, 0.0
    batch_s = 0.0 if recipe.is_closed_form else start_s
    while batches_s < _LEAST_S and has_numbers and not recipe.is_closed_form:
        began = cpu_seconds()
        has_numbers = _train(trainer, num_batches)
        batches_s = cpu_seconds() - began
        batch_s = batches_s / num_batches
        num_batches *= 2
    began = cpu_seconds()
    evaluate(trainer.recommender, interactions.train, interactions.validation)
    validation_s = cpu_seconds() - began
    taken_s, seconds = cpu_seconds() - all_began[0], time.perf_counter() - all_began[1]
    return Pace(
        start_s,
        batch_s,
        validation_s,
        peak_bytes(),
        max(1.0, seconds * num_threads(probe.config) / max(taken_s, 1e-9)),
    )
