"""What is trained once before the steps: the full-size table, and the supernet where steps share one.

Every quality is measured against the full-size table. Both are known by the hash of what they depend on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ciess_ray.config.data import caps_params_of, check_training_memory
from ciess_ray.config.keys import NOT_SUPERNET, NOT_TRAINING, key_of_run
from ciess_ray.config.run import RunConfig
from ciess_ray.streams import Stream, key_of, rng_of
from ciess_ray.training.convergence import Trained, fit_to_convergence, recipe_of, state_arrays
from envs.data import Interactions
from envs.metrics import entity_quality
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import state_of, train_supernet

FULL_SIZE_FIT, SUPERNET = "full-size fit", "supernet"

#: Is called with the batches trained, and the quality or the loss.
Tell = Callable[[int, float], None]


@dataclass(frozen=True, eq=False)
class Preparation:
    """What is to be trained once: the full-size table to convergence, or a supernet.

    Attributes:
        kind: :data:`FULL_SIZE_FIT` or :data:`SUPERNET`.
        key: Ends in the hash of all that it depends on: the split interactions, recommender, training recipe,
            seed, and the versions of this package and of PyTorch.
        config: The run.
        keeps_state: Whether the parameters of the full-size table are kept too.
        kept_ratios: The least and the greatest that a supernet is trained on.
    """

    kind: str
    key: str
    config: RunConfig
    keeps_state: bool = True
    kept_ratios: tuple[float, float] | None = None

    @classmethod
    def full_size(
        cls, config: RunConfig, interactions: Interactions, *, keeps_state: bool | None = None
    ) -> "Preparation":
        """The full-size fit of a run.

        Args:
            config: The run.
            interactions: The splits.
            keeps_state: See the class; None where steps are finetuned from them.
        """
        if keeps_state is None:
            keeps_state = config.search.steps_start_from == "full size"
        key = key_of_run(config, interactions, FULL_SIZE_FIT, keeps_state, ignores=NOT_TRAINING)
        return cls(FULL_SIZE_FIT, f"full-size-{key}", config, keeps_state)

    @classmethod
    def supernet(
        cls, config: RunConfig, interactions: Interactions, caps_params: Sequence[int]
    ) -> "Preparation":
        """The supernet of a run.

        Args:
            config: The run.
            interactions: The splits.
            caps_params: The budgets, near which its prefixes are drawn where nothing else is configured.
        """
        kept_ratios = kept_ratios_of(config, full_sizes(config, interactions), caps_params)
        key = key_of_run(config, interactions, "supernet", kept_ratios, ignores=NOT_SUPERNET)
        return cls(SUPERNET, f"supernet-{key}", config, kept_ratios=kept_ratios)

    def train(self, interactions: Interactions, tell: Tell | None = None) -> dict[str, Any]:
        """Train it in this process.

        Returns:
            Arrays by name, from which :class:`Trained` is read, or the parameters of a supernet.

        Raises:
            ConfigError: This machine has no memory for it.
        """
        check_training_memory(self.config, interactions.num_entities)
        config, full = self.config, full_sizes(self.config, interactions)
        if self.kept_ratios is not None:
            supernet = train_supernet(
                recipe_of(config, interactions),
                interactions,
                full,
                self.kept_ratios,
                config.search.supernet_batches,
                rng_of(config.seed, Stream.SUPERNET),
                tell,
            )
            return state_arrays(state_of(supernet))
        seed = key_of(config.seed, Stream.FULL_SIZE)
        recommender, report = fit_to_convergence(config, interactions, full, seed, tell)
        return Trained.of(
            report,
            state=state_of(recommender) if self.keeps_state else {},
            entity_quality=entity_quality(report.best, interactions.train),
        ).to_arrays()


def preparations_of(config: RunConfig, interactions: Interactions) -> list[Preparation]:
    """The full-size fit of a search, and its supernet where it has one."""
    preparations = [Preparation.full_size(config, interactions)]
    if config.search.steps_start_from == "supernet":
        caps_params = caps_params_of(config, interactions.num_entities)
        preparations.append(Preparation.supernet(config, interactions, caps_params))
    return preparations


def full_sizes(config: RunConfig, interactions: Interactions) -> EmbeddingSizes:
    """Every entity at d_max."""
    return EmbeddingSizes.full(
        interactions.num_users,
        interactions.num_items,
        config.recommender.max_embedding_size,
        config.recommender.min_embedding_size,
        config.recommender.num_tables,
    )


def kept_ratios_of(
    config: RunConfig, full: EmbeddingSizes, caps_params: Sequence[int]
) -> tuple[float, float]:
    """The least and the greatest kept ratio that a supernet for these budgets is trained on."""
    ratios = [cap_params / full.num_params for cap_params in caps_params]
    return config.search.supernet_kept_ratios or (min(ratios) * 2 / 3, min(1.0, max(ratios) * 4 / 3))
