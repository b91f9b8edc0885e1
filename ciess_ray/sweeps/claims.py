"""What a trial claims of the cluster, and whether the cluster can ever hold it."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

from ciess_ray.config.grid import Trial
from ciess_ray.config.run import RunConfig
from ciess_ray.resources import Claim, claim_of, cluster_nodes, num_at_once, told_nodes
from ciess_ray.streaming.config import StreamConfig
from ciess_ray.sweeps.config import SweepPlan, TrialResources
from envs.errors import ConfigError

Claims = list[Claim]

#: What a process claims that waits while its trainings work. Tune knows no claim of nothing.
_WAITING_CPUS = 0.01
_POLL_S = 2.0


def claims_of(config: RunConfig | StreamConfig, resources: TrialResources, num_gpus_there: float) -> Claims:
    """What a trial claims: a bundle for its own process, then one for each process that it starts.

    Trainings come after the env runners, in their bundles; the last one holds a training in any case.

    Args:
        config: The trial's.
        resources: The sweep's.
        num_gpus_there: GPUs of the cluster.
    """
    device = config.recommender.device
    # A GPU that is asked for by name is waited for, or missed.
    share = 0.5 if device == "cuda" or (device == "auto" and num_gpus_there) else 0.0
    if isinstance(config, StreamConfig):
        return _claims_of_stream(config, resources, share)
    asked, num_runners = config.resources, config.search.num_env_runners
    runner_gpus = _given(asked.num_gpus_per_env_runner, share / max(num_runners, 1))
    training_gpus = _given(asked.num_gpus_per_training, share)
    training_cpus = asked.num_cpus_per_training
    if not num_runners and resources.num_cpus_per_driver is None:
        training_cpus -= _WAITING_CPUS
    claims = [
        claim_of(
            _given(resources.num_cpus_per_driver, 1.0 if num_runners else _WAITING_CPUS),
            _given(resources.num_gpus_per_driver, share),
        ),
        *[claim_of(asked.num_cpus_per_env_runner, runner_gpus)] * num_runners,
    ]
    if not num_runners or asked.num_cpus_per_env_runner < training_cpus or runner_gpus < training_gpus:
        claims.append(claim_of(training_cpus, training_gpus))
    return claims


def _claims_of_stream(config: StreamConfig, resources: TrialResources, gpu_share: float) -> Claims:
    """Of its own process, which without tasks trains too, and of each task at once."""
    asked = config.resources
    training = claim_of(
        asked.num_cpus_per_training,
        _given(asked.num_gpus_per_training, gpu_share / max(asked.num_workers, 1)),
    )
    driver = claim_of(
        _given(resources.num_cpus_per_driver, asked.num_cpus_per_training),
        _given(resources.num_gpus_per_driver, gpu_share),
    )
    return [driver, *[training] * asked.num_workers]


def within_claims(config: RunConfig | StreamConfig, claims: Claims) -> dict[str, Any]:
    """Plain values of a trial whose processes ask for no more than the trial has claimed."""
    values = config.model_dump(mode="json")
    if isinstance(config, StreamConfig) and not config.resources.num_workers:
        return values
    values["resources"]["num_gpus_per_training"] = claims[-1].get("GPU", 0.0)
    if isinstance(config, StreamConfig):
        return values
    if config.search.num_env_runners:
        values["resources"]["num_gpus_per_env_runner"] = claims[1].get("GPU", 0.0)
    else:
        values["resources"]["num_cpus_per_training"] = claims[-1]["CPU"]
    return values


def num_threads(config: RunConfig | StreamConfig, claims: Claims) -> int:
    """Threads of a trial's own process, which without env runners works while nothing else of it does."""
    if isinstance(config, StreamConfig):
        return max(round(claims[0]["CPU"]), 1)
    return max(round(claims[0]["CPU"] if config.search.num_env_runners else total_cpus(claims)), 1)


def check_claims(plan: SweepPlan) -> list[tuple[Claims, int]]:
    """What each trial claims and how many such run at once.

    Raises:
        ConfigError: The cluster can never hold a trial, nor does it grow within the time that is given to it;
            with the arithmetic and the field to change.
    """
    deadline = time.monotonic() + plan.config.resources.wait_for_nodes_s
    while True:
        nodes = cluster_nodes()
        num_gpus = sum(node.get("GPU", 0.0) for node in nodes)
        claims = [claims_of(trial.config, plan.config.resources, num_gpus) for trial in plan.trials]
        distinct = {repr(bundles): bundles for bundles in claims}
        room = {key: num_at_once(bundles, nodes, len(plan.trials)) for key, bundles in distinct.items()}
        refused = (pair for pair in zip(plan.trials, claims, strict=True) if not room[repr(pair[1])])
        too_large = next(refused, None)
        if too_large is None:
            return [(bundles, room[repr(bundles)]) for bundles in claims]
        if time.monotonic() >= deadline:
            raise ConfigError(_refusal(plan, *too_large, nodes))
        time.sleep(_POLL_S)


def total_cpus(claims: Claims) -> float:
    """CPUs of all bundles."""
    return sum(bundle["CPU"] for bundle in claims)


def told_claims(claims: Claims) -> str:
    """A trial's claims as people write them, e.g. ``1 + 2 x 1 = 3 CPU``."""
    gpus = sum(bundle.get("GPU", 0.0) for bundle in claims)
    parts = [f"{claims[0]['CPU']:g}"]
    for cpus, bundles in itertools.groupby(bundle["CPU"] for bundle in claims[1:]):
        count = len(list(bundles))
        parts.append(f"{count} x {cpus:g}" if count > 1 else f"{cpus:g}")
    return f"{' + '.join(parts)} = {total_cpus(claims):g} CPU" + (f", {gpus:g} GPU" if gpus else "")


def _refusal(plan: SweepPlan, trial: Trial, claims: Claims, nodes: Sequence[Claim]) -> str:
    what, remedy = "its own process and its trainings", "lower resources.num_cpus_per_training"
    is_stream = isinstance(trial.config, StreamConfig)
    num_runners = 0 if is_stream else trial.config.search.num_env_runners
    if is_stream and len(claims) > 1:
        remedy = "lower resources.num_workers or resources.num_cpus_per_training"
    if num_runners:
        what = f"its own process and {len(claims) - 1} more"
        driver, runner, *training = claims[0], claims[1], *claims[num_runners + 1 :]
        fitting = [
            number
            for number in range(1, num_runners)
            if num_at_once([driver, *[runner] * number, *training], nodes, 1)
        ]
        fewer = f"set search.num_env_runners to {fitting[-1]}," if fitting else "lower search.num_env_runners"
        remedy = f"{fewer} or lower resources.num_cpus_per_env_runner"
    if trial.config.recommender.device == "cuda" and not any("GPU" in node for node in nodes):
        remedy = "set recommender.device to auto or cpu"
    return (
        f"{plan.source}: the trial {trial.name} claims {told_claims(claims)} for {what}, and this cluster "
        f"({told_nodes(nodes)}) can never hold one: {remedy} (under 'set', or in the base configuration). "
        "Where nodes are still to join, resources.wait_for_nodes_s says how long to wait for them."
    )


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
