"""Equal sizes at a budget as one takes them: options chosen on validation, test looked at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ciess_ray.config.run import RunConfig
from ciess_ray.searches.finalists import equal_sizes
from ciess_ray.streams import Stream, key_of
from ciess_ray.training.contest import Allocation, Contest, choose
from ciess_ray.training.convergence import Meter, Trained, fit_to_convergence, train_for_test
from envs.data import Interactions
from envs.recommenders import BaseRecommender
from envs.recommenders.training import FitReport


@dataclass(frozen=True, eq=False)
class EqualTable:
    """Equal sizes, and how good they are.

    Attributes:
        chosen: The sizes, their options and what these came to on validation.
        recommender: The same trained on training and validation interactions.
        test: Its report, measured on test.
        num_trainings: What was trained, for test too.
    """

    chosen: Allocation
    recommender: BaseRecommender
    test: FitReport
    num_trainings: int


def best_equal_table(
    config: RunConfig,
    interactions: Interactions,
    cap_params: int,
    meter: Meter,
    tell: Callable[[str], None] | None = None,
) -> EqualTable:
    """Train equal sizes with each of the options that are tried, and the best of them for test.

    Args:
        config: The run.
        interactions: The splits.
        cap_params: The budget, in parameters.
        meter: Gets the phases ``choosing`` and ``computing, test``.
        tell: Is told how far a training has come, if it is long.
    """
    seed, num_trainings = key_of(config.seed, Stream.RETRAINING), 0

    def progress(what: str) -> Callable[..., None] | None:
        if tell is None:
            return None
        return lambda batch, value: tell(f"{what}, batch {batch}: {value:.4g}")

    def fit(asked: Sequence[tuple[int, Allocation]]) -> list[Trained]:
        nonlocal num_trainings
        num_trainings += len(asked)
        reports = (
            fit_to_convergence(
                config.with_options(table.options),
                interactions,
                table.sizes,
                seed,
                progress(f"{dict(table.options)} on validation"),
            )[1]
            for _, table in asked
        )
        return [Trained.of(report) for report in reports]

    with meter.phase("choosing"):
        equal = Allocation("equal sizes", equal_sizes(config, interactions, cap_params))
        ((chosen, _),) = choose([Contest([equal])], fit, (), config.recommender.other_options)
    with meter.phase("computing, test"):
        recommender, report = train_for_test(
            config.with_options(chosen.options),
            interactions,
            chosen.sizes,
            chosen.outcome.num_batches,
            seed,
            progress(f"{dict(chosen.options)} for test, of batches"),
        )
    return EqualTable(chosen, recommender, report, num_trainings + 1)
