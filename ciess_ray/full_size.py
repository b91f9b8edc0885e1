"""What is trained once before the steps: the full-size table, and the supernet where steps share one.

Every quality is measured against the full-size table; its fit is kept by hash.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ciess_ray.config import RunConfig
from ciess_ray.retraining import fit_to_convergence, recipe_of
from envs.budget import EmbeddingSizes
from envs.data import Interactions
from envs.metrics import EntityQuality, entity_quality
from envs.recommenders import own_source
from envs.step_modes import State, state_of, train_supernet

_STREAM, _SUPERNET_STREAM = 20, 21
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
    config: RunConfig, interactions: Interactions, progress: Callable[[int, float], None] | None = None
) -> FullSizeFit:
    """Train the full-size recommender to convergence, or read the fit of an earlier search.

    A fit is reused only where everything that it depends on is the same: the split interactions,
    recommender, training recipe, seed, and the versions of this package and of PyTorch.

    Args:
        config: The run.
        interactions: The splits.
        progress: Called after each validation with the batches trained and the quality.
    """
    file = None if config.cache is None else config.cache / f"full-size-{_key(config, interactions)}.npz"
    if file is not None:
        kept = _read(file)
        if kept is not None:
            return kept
    recommender, report = fit_to_convergence(
        config, interactions, full_sizes(config, interactions), (config.seed, _STREAM), progress
    )
    fit = FullSizeFit(
        entity_quality(report.best, interactions.train),
        report.best.quality,
        report.best.summary(),
        report.best_batch,
        state_of(recommender) if _keeps_state(config) else None,
    )
    if file is not None:
        _write(file, fit)
    return fit


def fit_supernet(
    config: RunConfig,
    interactions: Interactions,
    cap_params: int,
    progress: Callable[[int, float], None] | None = None,
) -> State:
    """Train the weight-sharing recommender that ``search.step_mode=supernet`` masks.

    Args:
        config: The run.
        interactions: The splits.
        cap_params: The budget, near which the prefixes are drawn where the configuration gives no range.
        progress: Called now and then with the batches trained and the loss.
    """
    full = full_sizes(config, interactions)
    ratio = cap_params / full.num_params
    supernet = train_supernet(
        recipe_of(config, interactions),
        interactions,
        full,
        config.search.supernet_kept_ratios or (ratio * 2 / 3, min(1.0, ratio * 4 / 3)),
        config.search.supernet_batches,
        np.random.default_rng((config.seed, _SUPERNET_STREAM)),
        progress,
    )
    return state_of(supernet)


def _keeps_state(config: RunConfig) -> bool:
    return config.search.resolved_step_mode == "finetune"


def _key(config: RunConfig, interactions: Interactions) -> str:
    depends_on = {
        "interactions": interactions.fingerprint,
        "recommender": config.recommender.model_dump(mode="json", exclude={"min_embedding_size"}),
        "own_source": own_source(config.recommender.name),
        "training": config.training.model_dump(mode="json"),
        "seed": config.seed,
        "keeps_state": _keeps_state(config),
        "versions": [version("ciess-ray"), version("torch")],
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:24]


def _write(file: Path, fit: FullSizeFit) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two searches may fit the same table at once; the file appears whole or not at all.
    temporary = file.with_suffix(f".{os.getpid()}.partial")
    arrays: dict[str, Any] = {
        "user": fit.quality.user,
        "item": fit.quality.item,
        "mean_quality": fit.mean_quality,
        "best_batch": fit.best_batch,
        "metric_names": np.array(list(fit.validation)),
        "metric_values": np.array(list(fit.validation.values())),
        **{_STATE + name: value for name, value in (fit.state or {}).items()},
    }
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    os.replace(temporary, file)


def _read(file: Path) -> FullSizeFit | None:
    """The fit in a file; None where there is none, or where the file is damaged and has to be made again."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            return FullSizeFit(
                EntityQuality(kept["user"], kept["item"]),
                float(kept["mean_quality"]),
                dict(zip(kept["metric_names"].tolist(), kept["metric_values"].tolist(), strict=True)),
                int(kept["best_batch"]),
                {name.removeprefix(_STATE): kept[name] for name in kept if name.startswith(_STATE)} or None,
                is_cached=True,
            )
    except Exception:  # Damage shows in a dozen ways, of zipfile, zlib and NumPy; the fit is made again.
        return None
