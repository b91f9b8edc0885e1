"""What a trial claims of the cluster, and whether the cluster can ever hold it."""

import time
from collections.abc import Sequence
from typing import Any

import ray

from ciess_ray.config.run import RunConfig
from ciess_ray.sweeps.config import SweepPlan, TrialResources
from envs.errors import ConfigError

Claims = list[dict[str, float]]

#: What a process claims that waits while its trainings work. Tune knows no claim of nothing.
_WAITING_CPUS = 0.01
_POLL_S = 2.0
#: Fractions that add up to a CPU may miss it by this.
_SLACK = 1e-6


def claims_of(config: RunConfig, resources: TrialResources, num_gpus_there: float) -> Claims:
    """What a trial claims: a bundle for its own process, then one for each process that it starts.

    Trainings come after the env runners, in their bundles; the last one holds a training in any case.

    Args:
        config: The trial's.
        resources: The sweep's.
        num_gpus_there: GPUs of the cluster.
    """
    settings, asked = config.search, config.resources
    num_runners = settings.num_env_runners
    # A GPU that is asked for by name is waited for, or missed.
    is_on_gpu = config.recommender.device == "cuda" or (
        config.recommender.device == "auto" and num_gpus_there
    )
    share = 0.5 if is_on_gpu else 0.0
    driver_gpus = _given(resources.num_gpus_per_driver, share)
    runner_gpus = _given(asked.num_gpus_per_env_runner, share / max(num_runners, 1))
    training_gpus = _given(asked.num_gpus_per_training, share)
    driver_cpus = _given(resources.num_cpus_per_driver, 1.0 if num_runners else _WAITING_CPUS)
    training_cpus = asked.num_cpus_per_training
    if not num_runners and resources.num_cpus_per_driver is None:
        training_cpus -= _WAITING_CPUS
    claims = [_claim(driver_cpus, driver_gpus)]
    claims += [_claim(asked.num_cpus_per_env_runner, runner_gpus)] * num_runners
    if not num_runners or asked.num_cpus_per_env_runner < training_cpus or runner_gpus < training_gpus:
        claims.append(_claim(training_cpus, training_gpus))
    return claims


def within_claims(config: RunConfig, claims: Claims) -> dict[str, Any]:
    """Plain values of a trial whose processes ask for no more than the trial has claimed."""
    told: dict[str, Any] = {"num_gpus_per_training": claims[-1].get("GPU", 0.0)}
    if config.search.num_env_runners:
        told["num_gpus_per_env_runner"] = claims[1].get("GPU", 0.0)
    else:
        told["num_cpus_per_training"] = claims[-1]["CPU"]
    values = config.model_dump(mode="json")
    return values | {"resources": values["resources"] | told}


def num_threads(config: RunConfig, claims: Claims) -> int:
    """Threads of a trial's own process, which without env runners works while nothing else of it does."""
    return max(round(claims[0]["CPU"] if config.search.num_env_runners else total_cpus(claims)), 1)


def num_at_once(claims: Claims, nodes: Sequence[dict[str, float]], at_most: int) -> int:
    """How many trials that claim so much the nodes hold side by side."""
    free = [dict(node) for node in nodes]
    for count in range(at_most):
        for bundle in sorted(claims, key=lambda bundle: -bundle["CPU"]):
            for node in free:
                if all(node.get(name, 0.0) + _SLACK >= amount for name, amount in bundle.items()):
                    for name, amount in bundle.items():
                        node[name] -= amount
                    break
            else:
                return count
    return at_most


def check_claims(plan: SweepPlan) -> list[tuple[Claims, int]]:
    """What each trial claims and how many such run at once.

    Raises:
        ConfigError: The cluster can never hold a trial, nor does it grow within the time that is given to it;
            with the arithmetic and the field to change.
    """
    deadline = time.monotonic() + plan.config.resources.wait_for_nodes_s
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        num_gpus = sum(node.get("GPU", 0.0) for node in nodes)
        known: dict[str, int] = {}
        found = []
        for trial in plan.trials:
            claims = claims_of(trial.config, plan.config.resources, num_gpus)
            if repr(claims) not in known:
                known[repr(claims)] = num_at_once(claims, nodes, len(plan.trials))
            found.append((claims, known[repr(claims)]))
        too_large = next((i for i, (_, room) in enumerate(found) if room == 0), None)
        if too_large is None:
            return found
        if time.monotonic() >= deadline:
            trial, (claims, _) = plan.trials[too_large], found[too_large]
            raise ConfigError(_refusal(plan, trial.name, trial.config, claims, nodes))
        time.sleep(_POLL_S)


def total_cpus(claims: Claims) -> float:
    """CPUs of all bundles."""
    return sum(bundle["CPU"] for bundle in claims)


def told_claims(claims: Claims) -> str:
    """A trial's claims as people write them, e.g. ``1 + 2 x 1 = 3 CPU``."""
    gpus = sum(bundle.get("GPU", 0.0) for bundle in claims)
    parts: list[tuple[float, int]] = []
    for bundle in claims:
        if parts and parts[-1][0] == bundle["CPU"] and len(parts) > 1:
            parts[-1] = bundle["CPU"], parts[-1][1] + 1
        else:
            parts.append((bundle["CPU"], 1))
    sum_of = " + ".join(f"{count} x {cpus:g}" if count > 1 else f"{cpus:g}" for cpus, count in parts)
    return f"{sum_of} = {total_cpus(claims):g} CPU" + (f", {gpus:g} GPU" if gpus else "")


def _refusal(
    plan: SweepPlan, name: str, config: RunConfig, claims: Claims, nodes: Sequence[dict[str, float]]
) -> str:
    there = " + ".join(
        f"{node.get('CPU', 0.0):g} CPU" + (f" {node['GPU']:g} GPU" if "GPU" in node else "") for node in nodes
    )
    num_runners = config.search.num_env_runners
    has_gpus = any("GPU" in node for node in nodes)
    what = (
        f"its own process and {len(claims) - 1} more" if num_runners else "its own process and its trainings"
    )
    if config.recommender.device == "cuda" and not has_gpus:
        remedy = "set recommender.device to auto or cpu"
    elif num_runners:
        room = next(
            (
                n
                for n in range(num_runners - 1, 0, -1)
                if num_at_once([claims[0], *[claims[1]] * n], nodes, 1)
            ),
            0,
        )
        field = "search.num_env_runners"
        remedy = (
            f"set {field} to {room}, or lower resources.num_cpus_per_env_runner"
            if room
            else f"lower {field} or resources.num_cpus_per_env_runner"
        )
    else:
        remedy = "lower resources.num_cpus_per_training"
    return (
        f"{plan.source}: the trial {name} claims {told_claims(claims)} for {what}, and this cluster "
        f"({there}) can never hold one: {remedy} (under 'set', or in the base configuration)."
        + (
            ""
            if plan.config.resources.wait_for_nodes_s
            else " Where nodes are still to join, say how long to wait: resources.wait_for_nodes_s."
        )
    )


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _claim(num_cpus: float, num_gpus: float) -> dict[str, float]:
    return {"CPU": num_cpus} | ({"GPU": num_gpus} if num_gpus else {})
