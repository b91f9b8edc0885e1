"""The candidates of a search: TD3 sets the sizes of a whole table, step after step."""

from typing import Any, cast

import ray

from ciess_ray import metric_keys
from ciess_ray.candidate import EVALUATION, EXPLORED, GREEDY, WARM_UP, Candidate
from ciess_ray.resources import gpus_of_each
from ciess_ray.searches.checkpoints import Checkpoint, Checkpoints
from ciess_ray.searches.run import Run
from ciess_ray.td3.algorithm import TD3, mean_metrics
from ciess_ray.td3.config import TD3Config
from ciess_ray.td3.rollout import TableStep, rollouts_of
from ciess_ray.training.convergence import Trained, full_sizes
from envs import EMBEDDING_SIZE_ENV_ID
from envs.budget import MemoryBudget
from envs.errors import TrainingError
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import State

#: Iterations in which no env runner took a step, after which none is waited for.
_MAX_IDLE_ITERATIONS = 30
#: Noise of exploration, and longest step of its walk, as a share of the budget's mean size.
_REACH = 0.25


def _td3_config(run: Run, full: Trained, pretrained: State | None) -> TD3Config:
    config, cap_params = run.config, run.budgets[0].cap_params
    recommender, agent, settings = config.recommender, config.agent, config.search
    is_auto = settings.memory_weight == "auto"
    is_reference = settings.mode == "reference"
    target_ratio = cap_params / full_sizes(config, run.interactions).num_params
    env_config = {
        # In the object store once, and mapped by every runner instead of copied.
        "interactions": run.interactions_ref,
        # The authors' code measures no full-size table; the fit is the yardstick of the report alone.
        "full_quality": None if is_reference else ray.put(full.entity_quality),
        "recommender": recommender.name,
        "recommender_options": recommender.options_with(),
        "training": config.step_training,
        "step_mode": config.step_mode,
        "pretrained": None if pretrained is None else ray.put(pretrained),
        "batches_per_step": settings.batches_per_step,
        "budget": MemoryBudget(cap_params, "params") if settings.mode == "projected" else None,
        "min_embedding_size": recommender.min_embedding_size,
        "max_embedding_size": recommender.max_embedding_size,
        "episode_length": settings.episode_length,
        "form": "reference" if is_reference else "paper",
        "shows_quality": settings.shows_quality,
        "device": recommender.device,
    }
    num_runners, interval = settings.num_env_runners, settings.evaluation_interval
    return (
        TD3.get_default_config()
        .environment(EMBEDDING_SIZE_ENV_ID, env_config=env_config)
        .env_runners(
            num_env_runners=num_runners,
            # A fraction is as good, whatever RLlib declares.
            num_cpus_per_env_runner=cast(int, config.resources.num_cpus_per_env_runner),
            num_gpus_per_env_runner=gpus_of_each(
                config.recommender.device, config.resources.num_gpus_per_env_runner, num_runners
            ),
        )
        .evaluation(
            evaluation_interval=max(1, round(interval / max(1, num_runners))) if interval else None,
            evaluation_duration=1,
            evaluation_duration_unit="timesteps",
        )
        .debugging(seed=config.seed, log_level="ERROR")
        .training(
            hiddens=agent.hiddens,
            gamma=agent.gamma,
            updates_per_step=agent.updates_per_step,
            imitation_weight=agent.imitation_weight,
            exploration_spec=agent.exploration
            if settings.mode != "projected"
            else scaled_exploration(agent.exploration, target_ratio * recommender.max_embedding_size),
            num_warmup_steps=settings.num_warmup_steps,
            # Dual ascent begins without a charge.
            memory_weight=0.0 if is_auto else settings.memory_weight,
            target_ratio=target_ratio if is_auto else None,
        )
    )


def scaled_exploration(spec: dict[str, Any], mean_size: float) -> dict[str, Any]:
    """An exploration whose reach, where it leaves that open, suits tables of a mean size.

    CIESS's noise of 6 sizes and steps of 5 are a quarter of the mean size of 26 that its largest budget has.
    At a mean of 6 they make tables that rank far worse than those of the actors alone, since differences
    between rows cost quality in themselves (results/diagnosis.jsonl).

    Args:
        spec: See :func:`ciess_ray.td3.exploration.build_exploration`.
        mean_size: Of the budget.
    """
    reach = _REACH * mean_size
    noise = spec.get("noise", "gaussian")
    noise = {"name": noise} if isinstance(noise, str) else dict(noise)
    if noise.get("name", "gaussian") == "gaussian":
        noise.setdefault("sigma", min(6.0, reach))
    scaled = {**spec, "noise": noise}
    if scaled.get("name", "random_walk") == "random_walk":
        scaled.setdefault("max_step", max(1, min(5, round(reach))))
    return scaled


def find_candidates(
    run: Run,
    full: Trained,
    pretrained: State | None,
    checkpoints: Checkpoints | None = None,
    resumed: Checkpoint | None = None,
) -> None:
    """Take every step of the search, each of which is a candidate of the run.

    Args:
        run: The search; has the candidates of ``resumed`` already.
        full: What qualities are measured against.
        pretrained: What the step mode starts from.
        checkpoints: Where the search's state is left now and then, and once all steps are taken.
        resumed: The state to go on from; None for a new search.
    """
    settings = run.config.search
    algorithm = cast(TD3, _td3_config(run, full, pretrained).build_algo())
    try:
        if resumed:
            algorithm.set_state(resumed.state["algorithm"])
        num_idle = 0
        while run.num_steps < settings.num_steps:
            outcome = algorithm.train()  # type: ignore[no-untyped-call]
            steps = algorithm.last_steps[: settings.num_steps - run.num_steps]
            num_idle = 0 if steps else num_idle + 1
            if num_idle > _MAX_IDLE_ITERATIONS:
                raise TrainingError(
                    f"none of {settings.num_env_runners} env runners took a step in {num_idle} attempts: "
                    "they die as they start; is there memory for as many? Ray's logs tell more."
                )
            iteration = {key: value for key, value in outcome.items() if key.startswith("td3/")}
            evaluated = mean_metrics(algorithm.last_evaluation_steps)
            iteration |= {
                key.replace("search/", "evaluation/"): evaluated[key]
                for key in (metric_keys.QUALITY, metric_keys.KEPT_RATIO, metric_keys.REWARD)
                if evaluated
            }
            for step in steps:
                _remember(run, step, WARM_UP if step.is_warmup else EXPLORED, iteration)
            run.candidates.extend(
                _candidate(run, step, run.num_steps, EVALUATION) for step in algorithm.last_evaluation_steps
            )
            if checkpoints and steps and (checkpoints.is_due or run.num_steps == settings.num_steps):
                checkpoints.write(
                    run.num_steps,
                    {
                        "algorithm": algorithm.get_state(),
                        "candidates": run.candidates,
                        "elapsed_s": run.journal.elapsed_s,
                    },
                )
        for step in _greedy_steps(algorithm, settings.num_greedy_steps):
            _remember(run, step, GREEDY, {})
    finally:
        algorithm.stop()  # type: ignore[no-untyped-call]


def _greedy_steps(algorithm: TD3, num_steps: int) -> list[TableStep]:
    """Steps of a new episode that the actors take alone, on one env runner."""
    group, memory_weight = algorithm.env_runner_group, algorithm.memory_weight
    is_local = group.num_remote_workers() == 0
    for _ in range(_MAX_IDLE_ITERATIONS if num_steps else 0):
        sampled = group.foreach_env_runner(
            lambda runner: runner.sample(
                num_timesteps=num_steps, explore=False, force_reset=True, memory_weight=memory_weight
            ),
            local_env_runner=is_local,
            remote_worker_ids=None if is_local else group.healthy_worker_ids()[:1],
            timeout_seconds=None,
        )
        if sampled:
            return [rollout.step for rollout in rollouts_of(sampled)]
        algorithm.restore_env_runners(group)
    return []


def _remember(run: Run, step: TableStep, kind: str, iteration: dict[str, float]) -> None:
    number = run.num_steps + 1
    run.candidates.append(_candidate(run, step, number, kind))
    run.journal.advance(
        number,
        {
            **iteration,
            **step.metrics(),
            metric_keys.MEMORY_WEIGHT: step.memory_weight,
            **{f"recommender/{k}": v for k, v in step.info.items() if "@" in k},
        },
        note="" if kind == EXPLORED else kind,
    )


def _candidate(run: Run, step: TableStep, number: int, kind: str) -> Candidate:
    recommender = run.config.recommender
    sizes, proposed = (
        EmbeddingSizes(
            taken["user"],
            taken["item"],
            recommender.min_embedding_size,
            recommender.max_embedding_size,
            recommender.num_tables,
        )
        for taken in (step.embedding_sizes, step.proposed_sizes)
    )
    return Candidate(number, sizes, proposed, step.info["quality"], kind)
