"""Equal sizes at a budget as one takes them: options chosen on validation, test looked at once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ciess_ray.config.run import RunConfig
from ciess_ray.streams import Stream, key_of
from ciess_ray.training.contest import Allocation, Contest, choose
from ciess_ray.training.convergence import Meter, Trained, equal_sizes, fit_to_convergence, train_for_test
from ciess_ray.training.preparing import training_file
from envs.data import Interactions
from envs.recommenders import BaseRecommender
from envs.recommenders.training import FitReport
from envs.sizes.embedding_sizes import EmbeddingSizes


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
    kept: Path | None = None,
    sizes: EmbeddingSizes | None = None,
) -> EqualTable:
    """Train equal sizes, or others, with each of the options that are tried, and the best of them for test.

    Args:
        config: The run.
        interactions: The splits.
        cap_params: The budget, in parameters.
        meter: Gets the phases ``choosing`` and ``computing, test``.
        tell: Is told how far a training has come, if it is long.
        kept: Folder where trainings for validation are looked for, and left: of code as it is now.
        sizes: In place of equal ones.
    """
    seed, num_trainings, found_cpu_s = key_of(config.seed, Stream.RETRAINING), 0, 0.0

    def progress(what: str) -> Callable[..., None] | None:
        if tell is None:
            return None
        return lambda batch, value: tell(f"{what}, batch {batch}: {value:.4g}")

    def trained(table: Allocation) -> Trained:
        nonlocal num_trainings, found_cpu_s
        num_trainings += 1
        asked = config.with_options(table.options)
        file = kept and kept / training_file(interactions, asked, table.sizes, seed, None)
        if file and (found := Trained.read(file)) and found.cost:
            found_cpu_s += found.cost.cpu_s
            return found
        own = Meter()
        with own.phase("training"):
            told = progress(f"{dict(table.options)} on validation")
            _, report = fit_to_convergence(asked, interactions, table.sizes, seed, told)
        outcome = Trained.of(report, cost=own.cost(1))
        if file:
            outcome.write(file)
        return outcome

    with meter.phase("choosing"):
        sizes = sizes or equal_sizes(config, interactions, cap_params)
        equal = Allocation("equal sizes", sizes)
        ((chosen, _),) = choose(
            [Contest([equal])],
            lambda asked: [trained(table) for _, table in asked],
            (),
            config.ways,
        )
    meter.cpu_s["choosing"] += found_cpu_s
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
