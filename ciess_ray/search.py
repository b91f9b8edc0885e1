"""One budget: full-size fit, TD3 search, selective retraining, test figures, result folder.

METHOD of CIESS (arXiv 2304.03501) sections 2.2 and 3: what is returned is the candidate that is best on
validation once trained to convergence, next to the full-size table and to equal sizes at the same budget.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ciess_ray import figures, metric_keys
from ciess_ray.candidate_search import check_env_runners, find_candidates, ray_session
from ciess_ray.config import RunConfig
from ciess_ray.full_size import FullSizeFit, fit_full_size, fit_supernet, full_sizes
from ciess_ray.journal import Journal, Progress
from ciess_ray.packed import pack_recommender
from ciess_ray.result import Candidate, ResultFolder, SearchResult, check_output
from ciess_ray.retraining import FinalRecommender, fit_to_convergence, train_for_test
from ciess_ray.tracking import track
from envs.budget import EmbeddingSizes
from envs.data import Interactions, k_core, read_interactions, read_sample, split_interactions
from envs.errors import ConfigError

FULL_SIZE, EQUAL_SIZES, SEARCH = "full size", "equal sizes", "search"

_EQUAL_STREAM, _RETRAIN_STREAM, _TEST_STREAM, _PROJECTION_STREAM = 21, 22, 23, 24


@dataclass(frozen=True, eq=False)
class _Method:
    """Sizes with the point at which their training on validation was best."""

    name: str
    sizes: EmbeddingSizes
    best_batch: int
    validation: dict[str, float]
    validation_quality: float


def load_interactions(config: RunConfig) -> Interactions:
    """Read and split what the configuration names.

    Raises:
        DataError: The file cannot be read, or holds too little to split.
    """
    dataset = config.dataset
    if dataset.sample is not None:
        log = read_sample(dataset.sample)
    else:
        assert dataset.path is not None
        log = read_interactions(dataset.path, format=dataset.format, columns=dataset.named_columns())
    if dataset.k_core is not None:
        log = k_core(log, dataset.k_core)
    return split_interactions(log, seed=dataset.split_seed)


def search(
    config: RunConfig, *, overwrite: bool = False, on_progress: Callable[[Progress], None] | None = None
) -> SearchResult:
    """Find the sizes that rank best under the budget, and leave a folder with the packed table.

    Starts Ray on this machine where none is running, and shuts down what it started. On Ctrl-C the folder
    says how far the search came and keeps its candidates.

    Args:
        config: The run.
        overwrite: Whether a result in the output folder may be replaced.
        on_progress: Called after each step of each phase.

    Raises:
        CiessError: Before minutes are lost: data, budget, configuration or output folder are wrong.
    """
    check_output(config.output, overwrite=overwrite)
    interactions = load_interactions(config)
    bounds = config.recommender.min_embedding_size, config.recommender.max_embedding_size
    cap_params = config.memory_budget.cap_params(
        interactions.num_entities, *bounds, config.recommender.num_tables
    )
    if config.tracking.mlflow:
        _check_tracking(config)
    with ray_session():
        check_env_runners(config)
        return _search(config, interactions, cap_params, overwrite, on_progress)


def _search(
    config: RunConfig,
    interactions: Interactions,
    cap_params: int,
    overwrite: bool,
    on_progress: Callable[[Progress], None] | None,
) -> SearchResult:
    summary: dict[str, Any] = {
        "status": "running",
        "config": config.model_dump(mode="json"),
        "dataset": _describe(interactions),
        "budget": {"asked": str(config.memory_budget), "cap_params": cap_params},
    }
    with track(config, run_name=config.output.name) as tracker:
        folder = ResultFolder(config.output, overwrite=overwrite)
        journal = Journal(folder, tracker, on_progress)
        candidates: list[Candidate] = []

        def phase(name: str, num_steps: int) -> AbstractContextManager[None]:
            # A search that is killed leaves the name of the phase it was in.
            folder.write_result(summary | {"phase": name})
            return journal.phase(name, num_steps)

        try:
            with phase("full-size fit", config.training.max_batches):
                full = fit_full_size(config, interactions, journal.advance_to_batch)
            journal.full_quality = full.mean_quality
            summary["full_size_fit"] = {"is_cached": full.is_cached, "best_batch": full.best_batch}
            pretrained = full.state
            if config.search.resolved_step_mode == "supernet":
                with phase("supernet", config.search.supernet_batches):
                    pretrained = fit_supernet(config, interactions, cap_params, journal.advance_to_loss)
            with phase("search", config.search.num_steps + config.search.num_greedy_steps):
                find_candidates(config, interactions, full, pretrained, cap_params, candidates, journal)
            folder.write_candidates(candidates)
            with phase("retraining", config.search.num_candidates + 1):
                equal, best, retrained = _retrain(config, interactions, candidates, cap_params, journal)
            methods = [_full_method(config, interactions, full), equal, best]
            with phase("test", len(methods)):
                outcomes = [
                    _measure(config, interactions, method, position, journal)
                    for position, method in enumerate(methods)
                ]
            merged = interactions.merge_validation_into_training()
            folder.write_table(outcomes[-1].recommender, merged)
            figures.draw_sizes(folder.path / "sizes.png", interactions, best.sizes)
            figures.draw_search(folder.path / "search.png", candidates, full.mean_quality, cap_params)
            summary |= {
                "status": "finished",
                "phase": "done",
                "budget": _budget_met(summary["budget"], best.sizes),
                "methods": [_row(method, outcome) for method, outcome in zip(methods, outcomes, strict=True)],
                "retrained": retrained,
                "hints": _hints(config, methods),
                "num_steps": len(candidates),
            }
        except BaseException as error:
            # Ctrl-C as well as a failure leaves a folder that tells how far it came.
            summary |= {
                "status": "interrupted" if isinstance(error, KeyboardInterrupt) else "failed",
                "phase": journal.current_phase,
                "num_steps": len(candidates),
                "reason": f"{type(error).__name__}: {error}".removesuffix(": "),
            }
            if candidates:
                folder.write_candidates(candidates)
            raise
        finally:
            folder.write_result(summary | {"seconds": journal.seconds})
        for row in summary["methods"]:
            if row["name"] == SEARCH:
                tracker.log_metrics({f"test/{k}": v for k, v in row["test"].items()}, len(candidates))
        tracker.log_folder(folder.path)
    return SearchResult.load(folder.path)


def _check_tracking(config: RunConfig) -> None:
    prefix = "sqlite:///"
    if config.tracking.uri.startswith(prefix):
        parent = Path(config.tracking.uri.removeprefix(prefix)).parent
        if not parent.is_dir():
            raise ConfigError(
                f"tracking.uri: the folder {parent} of the MLflow store does not exist; make it."
            )


def _describe(interactions: Interactions) -> dict[str, Any]:
    return {
        "source": interactions.source,
        "fingerprint": interactions.fingerprint,
        "num_users": interactions.num_users,
        "num_items": interactions.num_items,
        "num_interactions": interactions.num_interactions,
        "num_duplicates": interactions.num_duplicates,
        "num_unevaluated_users": interactions.num_unevaluated_users,
    }


def select_candidates(candidates: Sequence[Candidate], cap_params: int, num_best: int) -> list[Candidate]:
    """The best distinct candidates that meet the cap, by mean quality, best first; may be fewer."""
    meeting = sorted(
        (c for c in candidates if c.sizes.num_params <= cap_params), key=lambda c: c.quality, reverse=True
    )
    distinct: dict[bytes, Candidate] = {}
    for candidate in meeting:
        distinct.setdefault(candidate.sizes.user.tobytes() + candidate.sizes.item.tobytes(), candidate)
    return list(distinct.values())[:num_best]


def _retrain(
    config: RunConfig,
    interactions: Interactions,
    candidates: Sequence[Candidate],
    cap_params: int,
    journal: Journal,
) -> tuple[_Method, _Method, list[dict[str, Any]]]:
    """Train equal sizes and the best candidates to convergence; the best of these on validation wins."""
    bounds = config.recommender.min_embedding_size, config.recommender.max_embedding_size
    num_tables = config.recommender.num_tables
    equal_rng = np.random.default_rng((config.seed, _EQUAL_STREAM))
    equal_sizes = EmbeddingSizes.equal(
        interactions.num_users,
        interactions.num_items,
        cap_params,
        *bounds,
        equal_rng,
        num_tables=num_tables,
    )
    chosen = select_candidates(candidates, cap_params, config.search.num_candidates)
    if not chosen:
        # λ alone did not get there in paper mode: the smallest table seen is projected onto the cap.
        nearest = min(candidates, key=lambda c: c.sizes.num_params)
        rng = np.random.default_rng((config.seed, _PROJECTION_STREAM))
        sizes = EmbeddingSizes.from_proposal(
            nearest.sizes.user,
            nearest.sizes.item,
            cap_params,
            *bounds,
            rng,
            fill=True,
            num_tables=num_tables,
        )
        chosen = [Candidate(nearest.step, sizes, nearest.quality, nearest.proposed_ratio)]
    journal.num_steps = len(chosen) + 1
    fitted: list[_Method] = []
    retrained: list[dict[str, Any]] = []
    for position, (name, sizes) in enumerate(
        [(EQUAL_SIZES, equal_sizes), *((SEARCH, c.sizes) for c in chosen)]
    ):
        _, report = fit_to_convergence(
            config, interactions, sizes, (config.seed, _RETRAIN_STREAM, position), journal.at_batch
        )
        fitted.append(_Method(name, sizes, report.best_batch, report.best.summary(), report.best.quality))
        step = chosen[position - 1].step if position else None
        retrained.append(
            {
                "name": name,
                "step": step,
                "quality_in_search": chosen[position - 1].quality if position else None,
                "quality": report.best.quality,
                "best_batch": report.best_batch,
                "num_params": sizes.num_params,
            }
        )
        journal.advance(
            position + 1,
            {metric_keys.KEPT_RATIO: sizes.kept_ratio, metric_keys.QUALITY: report.best.quality},
            note=name if step is None else f"step {step}",
        )
    equal, *found = fitted
    return equal, max(found, key=lambda method: method.validation_quality), retrained


def _hints(config: RunConfig, methods: Sequence[_Method]) -> list[str]:
    """What a reader of the figures should know about how they came about."""
    training = config.training
    last_best = training.max_batches - training.patience * training.evaluate_every
    rising = [f"{m.name} (best at batch {m.best_batch:,})" for m in methods if m.best_batch > last_best]
    if not rising:
        return []
    return [
        f"training ended at training.max_batches={training.max_batches:,} before {', '.join(rising)} had "
        "stopped rising: raise it for a fair comparison."
    ]


def _full_method(config: RunConfig, interactions: Interactions, full: FullSizeFit) -> _Method:
    sizes = full_sizes(config, interactions)
    return _Method(FULL_SIZE, sizes, full.best_batch, full.validation, full.mean_quality)


def _measure(
    config: RunConfig, interactions: Interactions, method: _Method, position: int, journal: Journal
) -> FinalRecommender:
    final = train_for_test(
        config,
        interactions,
        method.sizes,
        method.best_batch,
        (config.seed, _TEST_STREAM, position),
        journal.at_batch_of,
    )
    journal.advance(position + 1, {metric_keys.KEPT_RATIO: method.sizes.kept_ratio}, note=method.name)
    return final


def _budget_met(budget: dict[str, Any], sizes: EmbeddingSizes) -> dict[str, Any]:
    return budget | {
        "num_params": sizes.num_params,
        "kept_ratio": sizes.kept_ratio,
        "max_packed_bytes": sizes.packed_bytes,
    }


def _row(method: _Method, final: FinalRecommender) -> dict[str, Any]:
    return {
        "name": method.name,
        "num_params": method.sizes.num_params,
        "kept_ratio": method.sizes.kept_ratio,
        "packed_bytes": len(pack_recommender(final.recommender).to_bytes()),
        "validation": method.validation | {"quality": method.validation_quality},
        "test": final.metrics,
        "best_batch": method.best_batch,
        "num_test_batches": final.num_batches,
        "mean_user_size": float(method.sizes.user.mean()),
        "mean_item_size": float(method.sizes.item.mean()),
    }
