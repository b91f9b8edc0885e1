"""What a step of the search would say of given sizes."""

from dataclasses import replace

from ciess_ray.config.run import RunConfig
from ciess_ray.streams import Stream, rng_of
from ciess_ray.training.convergence import recipe_of
from ciess_ray.training.pretrained import full_sizes
from envs.data import Interactions
from envs.recommenders.evaluation import evaluate
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import State, StepRecommenders, batches_of_step


class Judge:
    """Validation quality of sizes in the configured step mode; with ``supernet`` it costs one evaluation.

    Args:
        config: The run.
        interactions: The splits; test is not looked at.
        pretrained: What the step mode starts from; None where it needs nothing.

    Attributes:
        num_steps: Allocations judged so far.
        trains: Whether a step trains a recommender.
    """

    def __init__(self, config: RunConfig, interactions: Interactions, pretrained: State | None) -> None:
        settings, recipe = config.search, recipe_of(config, interactions)
        learning_rate = settings.step_learning_rate or recipe.settings.learning_rate
        recipe = replace(recipe, settings=replace(recipe.settings, learning_rate=learning_rate))
        self._recommenders = StepRecommenders(
            settings.resolved_step_mode,
            recipe,
            settings.batches_per_step or batches_of_step(recipe),
            full_sizes(config, interactions),
            pretrained,
        )
        self._interactions, self._seed = interactions, config.seed
        self.num_steps = 0
        self.trains = self._recommenders.mode.trains

    def __call__(self, sizes: EmbeddingSizes) -> float:
        """Mean ranking metric on validation."""
        rng = rng_of(self._seed, Stream.JUDGEMENT, self.num_steps)
        self.num_steps += 1
        recommender = self._recommenders.recommender(sizes, rng)
        return evaluate(recommender, self._interactions.train, self._interactions.validation).quality
