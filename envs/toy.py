"""An embedding-size environment whose best sizes are known in closed form."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import ConfigError
from envs.mdp import KINDS, TableEnv

#: Saturation point of the least popular and of the most popular entity, as shares of d_max.
SATURATION = {"user": (0.2, 0.8), "item": (0.8, 0.2)}


def power_law_counts(
    num_entities: int, max_count: int, exponent: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Interaction counts in 1..max_count with density proportional to count^-exponent, shape (n,).

    Drawn by inverting the distribution function of the bounded power law.
    """
    tail = 1.0 - exponent
    counts = ((max_count**tail - 1.0) * rng.random(num_entities) + 1.0) ** (1.0 / tail)
    return np.asarray(np.rint(counts), np.int64)


class ToySizeEnv(TableEnv):
    """Sizes for a table whose quality is a parabola around each entity's saturation point.

    No recommender is trained: entity n with saturation point s_n has quality
    ``q_n(d) = 1 - κ (d / d_max - s_n)²``. s_n is linear in the scaled popularity and rises for users
    (0.2 to 0.8 of d_max), falls for items, so an agent that mixes the two up, or ignores popularity,
    misses the optimum. Reward ``q - λ (d / d_max)²`` is largest at ``κ s_n / (κ + λ)``, clipped to the
    bounds: :meth:`optimal_sizes`. The best policy is greedy, as an action changes no later quality.

    ## Action Space

    ``Dict``; -1 stands for the smallest size, +1 for the largest, and the size is rounded.

    | Key | Space | Meaning |
    | --- | --- | --- |
    | user | Box(-1, 1, (num_users,), float32) | size of each user |
    | item | Box(-1, 1, (num_items,), float32) | size of each item |

    ## Observation Space

    ``Dict``; every column is scaled to [-1, 1].

    | Key | Space | Columns |
    | --- | --- | --- |
    | user | Box(-1, 1, (num_users, 3), float32) | popularity, current size, quality |
    | item | Box(-1, 1, (num_items, 3), float32) | popularity, current size, quality |

    ## Rewards

    The mean over entities of ``q - λ (d / d_max)²``; the entities' own are in ``info``.

    ## Starting State

    Every size is d_max and every quality 1, as in CIESS.

    ## Episode End

    Never terminates; truncates after ``episode_length`` steps.

    ## Arguments

    | Argument | Default | Meaning |
    | --- | --- | --- |
    | num_users, num_items | 1000 | entities |
    | min_embedding_size, max_embedding_size | 1, 128 | bounds of a size, in dimensions |
    | episode_length | 10 | steps an episode, T of CIESS |
    | memory_weight | 0.4 | λ; may be set between steps |
    | curvature | 4.0 | κ, how much quality a wrong size costs |
    | max_count | 1000 | interactions of the most popular entity |
    | popularity_exponent | 0.5 | exponent of the popularity power law, below 1 |
    | seed | 0 | of the popularities, which a reset does not draw anew |

    ## Version History

    * v0: first version.
    """

    def __init__(
        self,
        num_users: int = 1000,
        num_items: int = 1000,
        min_embedding_size: int = 1,
        max_embedding_size: int = 128,
        episode_length: int = 10,
        memory_weight: float = 0.4,
        curvature: float = 4.0,
        max_count: int = 1000,
        popularity_exponent: float = 0.5,
        seed: int = 0,
    ) -> None:
        if curvature <= 0 or not 0 <= popularity_exponent < 1:
            raise ConfigError(
                f"need curvature > 0 and 0 <= popularity_exponent < 1, not {curvature} and "
                f"{popularity_exponent}."
            )
        rng = np.random.default_rng(seed)
        counts = {
            kind: power_law_counts(num_entities, max_count, popularity_exponent, rng)
            for kind, num_entities in (("user", num_users), ("item", num_items))
        }
        super().__init__(counts, min_embedding_size, max_embedding_size, episode_length, memory_weight)
        self.curvature = curvature
        self._saturation = {
            kind: least + (most - least) * (self._popularity[kind].astype(np.float64) + 1.0) / 2.0
            for kind, (least, most) in SATURATION.items()
        }

    def optimal_sizes(self) -> dict[str, NDArray[np.float64]]:
        """The real-valued sizes with the largest reward under the current λ, shape (n,) each."""
        bounds = self.min_embedding_size / self.max_embedding_size, 1.0
        return {
            kind: self.max_embedding_size
            * np.clip(self.curvature * s / (self.curvature + self.memory_weight), *bounds)
            for kind, s in self._saturation.items()
        }

    def _full_size_quality(self) -> dict[str, NDArray[np.float32]]:
        return {kind: np.ones(len(self._popularity[kind]), np.float32) for kind in KINDS}

    def _judge(self) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]], dict[str, Any]]:
        """q_n(d) of every entity."""
        quality = {}
        for kind in KINDS:
            excess = getattr(self._sizes, kind) / self.max_embedding_size - self._saturation[kind]
            quality[kind] = (1.0 - self.curvature * np.square(excess)).astype(np.float32)
        mean = float(np.concatenate(list(quality.values())).mean())
        return quality, quality, {"quality": mean, "train_s": 0.0, "evaluate_s": 0.0}
