"""What is trained once before the steps: the full-size table, and the supernet where steps share one.

Every quality is measured against the full-size table. Both are kept by the hash of what they depend on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ciess_ray.config import RunConfig
from ciess_ray.kept_files import NULL_KEEPER, Keeper
from ciess_ray.keys import NOT_SUPERNET, NOT_TRAINING, key_of_run
from ciess_ray.retraining import fit_to_convergence, recipe_of
from ciess_ray.streams import Stream, key_of, rng_of
from ciess_ray.whole_files import read_arrays, write_arrays
from envs.budget import EmbeddingSizes
from envs.data import Interactions
from envs.metrics import EntityQuality, entity_quality
from envs.step_modes import State, state_of, train_supernet

_STATE = "state/"


@dataclass(frozen=True, eq=False)
class FullSizeFit:
    """What is kept of the full-size recommender.

    Attributes:
        quality: Validation quality of every entity.
        mean_quality: Their mean over the users that have one.
        validation: Validation metrics by name.
        best_batch: Batches after which validation quality was best.
        state: Its parameters, where steps are finetuned from them.
        is_cached: Whether it was read instead of trained.
    """

    quality: EntityQuality
    mean_quality: float
    validation: dict[str, float]
    best_batch: int
    state: State | None = None
    is_cached: bool = False


def full_sizes(config: RunConfig, interactions: Interactions) -> EmbeddingSizes:
    """Every entity at d_max."""
    return EmbeddingSizes.full(
        interactions.num_users,
        interactions.num_items,
        config.recommender.max_embedding_size,
        config.recommender.min_embedding_size,
        config.recommender.num_tables,
    )


def fit_full_size(
    config: RunConfig,
    interactions: Interactions,
    progress: Callable[[int, float], None] | None = None,
    keeper: Keeper = NULL_KEEPER,
    *,
    keeps_state: bool | None = None,
) -> FullSizeFit:
    """Train the full-size recommender to convergence, or read the fit of an earlier search.

    A fit is reused only where everything that it depends on is the same: the split interactions,
    recommender, training recipe, seed, and the versions of this package and of PyTorch.

    Args:
        config: The run.
        interactions: The splits.
        progress: Called after each validation with the batches trained and the quality.
        keeper: Decides who trains where others need the same fit at the same time.
        keeps_state: Whether its parameters are kept too; None where steps are finetuned from them.
    """
    if keeps_state is None:
        keeps_state = config.search.steps_start_from == "full size"
    file = full_size_file(config, interactions, keeps_state)
    with keeper.once(file):
        fit = _read_fit(file)
        if fit is not None:
            return fit
        recommender, report = fit_to_convergence(
            config,
            interactions,
            full_sizes(config, interactions),
            key_of(config.seed, Stream.FULL_SIZE),
            progress,
        )
        fit = FullSizeFit(
            entity_quality(report.best, interactions.train),
            report.best.quality,
            report.best.summary(),
            report.best_batch,
            state_of(recommender) if keeps_state else None,
        )
        _write_fit(file, fit)
    return fit


def full_size_file(config: RunConfig, interactions: Interactions, keeps_state: bool) -> Path:
    """Where :func:`fit_full_size` looks for a fit and leaves it."""
    key = key_of_run(config, interactions, "full size", keeps_state, ignores=NOT_TRAINING)
    return config.kept_folder / f"full-size-{key}.npz"


def fit_supernet(
    config: RunConfig,
    interactions: Interactions,
    caps_params: Sequence[int],
    progress: Callable[[int, float], None] | None = None,
    keeper: Keeper = NULL_KEEPER,
) -> State:
    """Train the weight-sharing recommender that ``search.step_mode=supernet`` masks, or read an earlier one.

    Args:
        config: The run.
        interactions: The splits.
        caps_params: The budgets, near which the prefixes are drawn where the configuration gives no range.
        progress: Called now and then with the batches trained and the loss.
        keeper: Decides who trains where others need the same supernet at the same time.
    """
    full = full_sizes(config, interactions)
    kept_ratios = kept_ratios_of(config, full, caps_params)
    num_batches = config.search.supernet_batches
    file = supernet_file(config, interactions, caps_params)
    with keeper.once(file):
        state = read_arrays(file)
        if state is None:
            supernet = train_supernet(
                recipe_of(config, interactions),
                interactions,
                full,
                kept_ratios,
                num_batches,
                rng_of(config.seed, Stream.SUPERNET),
                progress,
            )
            state = state_of(supernet)
            write_arrays(file, state)
    return state


def supernet_file(config: RunConfig, interactions: Interactions, caps_params: Sequence[int]) -> Path:
    """Where :func:`fit_supernet` looks for a supernet and leaves it."""
    kept_ratios = kept_ratios_of(config, full_sizes(config, interactions), caps_params)
    key = key_of_run(config, interactions, "supernet", kept_ratios, ignores=NOT_SUPERNET)
    return config.kept_folder / f"supernet-{key}.npz"


def kept_ratios_of(
    config: RunConfig, full: EmbeddingSizes, caps_params: Sequence[int]
) -> tuple[float, float]:
    """The least and the greatest kept ratio that a supernet for these budgets is trained on."""
    ratios = [cap_params / full.num_params for cap_params in caps_params]
    return config.search.supernet_kept_ratios or (min(ratios) * 2 / 3, min(1.0, max(ratios) * 4 / 3))


def _write_fit(file: Path, fit: FullSizeFit) -> None:
    write_arrays(
        file,
        {
            "user": fit.quality.user,
            "item": fit.quality.item,
            "mean_quality": fit.mean_quality,
            "best_batch": fit.best_batch,
            "metric_names": np.array(list(fit.validation)),
            "metric_values": np.array(list(fit.validation.values())),
            **{_STATE + name: value for name, value in (fit.state or {}).items()},
        },
    )


def _read_fit(file: Path) -> FullSizeFit | None:
    kept = read_arrays(file)
    if kept is None:
        return None
    return FullSizeFit(
        EntityQuality(kept["user"], kept["item"]),
        float(kept["mean_quality"]),
        dict(zip(kept["metric_names"].tolist(), kept["metric_values"].tolist(), strict=True)),
        int(kept["best_batch"]),
        {name.removeprefix(_STATE): kept[name] for name in kept if name.startswith(_STATE)} or None,
        is_cached=True,
    )
