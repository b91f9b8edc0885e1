"""Which trials run and which are stopped: Tune's schedulers and searchers, as a sweep needs them."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ciess_ray.config.grid import Trial
from ciess_ray.sweeps.claims import Claims, total_cpus
from ciess_ray.sweeps.config import SweepConfig, SweepPlan
from ciess_ray.sweeps.trial import OBJECTIVE, STEP, definition_of
from envs.errors import ConfigError

#: Trials that differ in these, or in a field of these, are not rivals: a tighter budget is worse by nature.
_RIVALS_SHARE = ("budget", "recommender", "dataset", "training")


class ByGroup(FIFOScheduler):
    """A scheduler of its own for the rivals of each group, started in the order they came.

    Args:
        make: What to call for each new group's scheduler.
    """

    def __init__(self, make: Callable[[], TrialScheduler]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._schedulers: defaultdict[str, TrialScheduler] = defaultdict(make)

    def _of(self, trial: Any) -> TrialScheduler:
        fields = definition_of(trial.config)["fields"]
        shared = {name: value for name, value in fields.items() if name.split(".")[0] in _RIVALS_SHARE}
        return self._schedulers[json.dumps(shared, sort_keys=True)]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial is there."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on."""
        return self._of(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial is over."""
        self._of(trial).on_trial_complete(tune_controller, trial, result)


def build_scheduler(config: SweepConfig, trials: Sequence[Trial]) -> TrialScheduler:
    """The scheduler that a sweep asks for."""
    settings = config.scheduler
    if settings.name == "asha":
        max_steps = max(trial.config.search.num_steps for trial in trials)
        if settings.grace_steps >= max_steps:
            raise ConfigError(
                f"scheduler.grace_steps={settings.grace_steps}: trials take {max_steps} steps, so that none "
                "could be stopped; lower it."
            )
        return ByGroup(
            lambda: AsyncHyperBandScheduler(
                time_attr=STEP,
                metric=OBJECTIVE,
                mode="max",
                grace_period=settings.grace_steps,
                reduction_factor=settings.reduction_factor,
                # There Tune would stop a trial before its retraining.
                max_t=max_steps * 100,
                stop_last_trials=False,
            )
        )
    return FIFOScheduler()


def build_searcher(config: SweepConfig) -> Searcher | None:
    """The searcher that a sweep asks for; None where trials are drawn beforehand."""
    if config.searcher == "random":
        return None
    try:
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(metric=OBJECTIVE, mode="max", seed=config.seed)
    except (ImportError, AssertionError) as error:
        raise ConfigError(
            "searcher=optuna: Optuna is not installed; pip install 'ciess-ray[optuna]', or take "
            "searcher=random."
        ) from error


def build_tune_config(plan: SweepPlan, name_of: Callable[[Any], str]) -> tune.TuneConfig:
    """How Tune is to run the trials.

    Args:
        plan: The sweep.
        name_of: Names a trial and its folder.

    Raises:
        ConfigError: Nothing could be stopped, or the searcher is not installed.
    """
    return tune.TuneConfig(
        search_alg=build_searcher(plan.config),
        scheduler=build_scheduler(plan.config, plan.trials),
        num_samples=plan.config.num_samples if plan.config.searcher != "random" else 1,
        max_concurrent_trials=plan.config.resources.max_concurrent_trials,
        trial_name_creator=name_of,
        trial_dirname_creator=name_of,
        # A new process takes seconds to import what a trial needs.
        reuse_actors=True,
    )


def build_space(config: SweepConfig, trials: Sequence[Trial], claims: Sequence[Claims]) -> dict[str, Any]:
    """The trials as Tune takes them, each with what it claims; for a searcher, what it draws from."""
    if config.searcher != "random":
        fields = {name: _domain(values) for name, values in config.space.items()}
        return {"trial": {"fields": fields, "claims": max(claims, key=total_cpus)}}
    # As text, because Tune copies all trials for each trial.
    definitions = [
        json.dumps({"name": trial.name, "fields": trial.fields, "claims": bundles})
        for trial, bundles in zip(trials, claims, strict=True)
    ]
    return {"trial": tune.grid_search(definitions)}


def _domain(values: Mapping[str, Any]) -> Any:
    """A distribution of a space as Tune has it."""
    ((kind, given),) = values.items()
    return tune.choice(given) if kind == "choice" else getattr(tune, kind)(*given)
