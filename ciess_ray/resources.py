"""What a run claims of a Ray cluster, and whether the cluster can ever hold it."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import ray
from ray._private import ray_constants

from ciess_ray.config.run import RunConfig
from ciess_ray.own_packages import refuse_foreign_envs
from ciess_ray.signals import terminable
from envs.errors import ConfigError

#: CPUs and GPUs, by ``CPU`` and ``GPU``.
Claim = dict[str, float]

#: Fractions that add up to a CPU may miss it by this.
_SLACK = 1e-6


@contextlib.contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """The Ray that runs or that ``RAY_ADDRESS`` names, else one on this machine for the length of the block.

    Whoever reaches a Ray may run code in it. One that is started here listens on loopback alone and wants
    Ray's token, unless ``RAY_AUTH_MODE`` says otherwise.

    Args:
        num_cpus: CPUs of a Ray that is started here; None for those of the machine.

    Raises:
        ConfigError: Workers would find another package ``envs`` than ours, or Ray does not start.
    """
    try:
        # It comes before all others where Ray's workers look.
        refuse_foreign_envs([os.getcwd()])
    except ImportError as error:
        raise ConfigError(str(error)) from None
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # RLlib warns at every start that its new API stack, the only one used here, is new.
            logging.getLogger("ray.rllib").setLevel(logging.ERROR)
            if os.environ.get("RAY_ADDRESS", "local") != "local":
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
            else:
                _start_here(num_cpus)
            stack.callback(ray.shutdown)
        # After Ray's start, which puts a handler of its own in place.
        stack.enter_context(terminable())
        yield


def _start_here(num_cpus: int | None) -> None:
    """Start a Ray that listens on 127.0.0.1 alone.

    ``_node_ip_address="127.0.0.1"`` is replaced by the machine's address. The switch is what Ray reads
    ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER`` into when it is imported; off, it makes a Ray of one machine.
    """
    # Ray's own is 15, with which the workers of a search starve beside any other work.
    os.environ.setdefault("RAY_worker_niceness", "0")
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(
            "local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except OSError as error:
        raise ConfigError(
            f"Ray cannot start ({error}): it writes its token below HOME, or where RAY_AUTH_TOKEN_PATH "
            "says, and its sessions below RAY_TMPDIR or /tmp; name folders that you may write."
        ) from error
    # Of a node that is not there in half a minute Ray raises a plain Exception, of settings of its own any.
    except Exception as error:
        raise ConfigError(
            f"Ray cannot start ({type(error).__name__}: {error}): where this machine is busy, "
            "try again once it is not; else look at the variables of the environment that begin with RAY_."
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def gpus_of_each(device: str, given: float | None, num_claims: int) -> float:
    """GPUs that each of so many processes claims.

    Args:
        device: What the recommender is asked to live on.
        given: What the configuration says; None for an equal share of the cluster's, at most one.
        num_claims: Processes that run side by side.
    """
    if given is not None:
        return given
    if device == "cpu" or num_claims == 0:
        return 0.0
    return min(1.0, float(ray.cluster_resources().get("GPU", 0.0)) / num_claims)


def check_resources(config: RunConfig) -> None:
    """Refuse what the cluster can never hold, instead of waiting for it for ever.

    Raises:
        ConfigError: With the arithmetic and the field to change.
    """
    settings, resources = config.search, config.resources
    num_runners, device = settings.num_env_runners, config.recommender.device
    _check(
        f"search.num_env_runners={num_runners}",
        "env_runner",
        num_runners,
        resources.num_cpus_per_env_runner,
        gpus_of_each(device, resources.num_gpus_per_env_runner, num_runners),
    )
    check_training(device, resources.num_cpus_per_training, resources.num_gpus_per_training or 0.0)


def check_training(device: str, num_cpus: float, num_gpus: float) -> None:
    """Refuse a training that the cluster can never hold; one at a time is enough.

    Args:
        device: What the recommender is asked to live on.
        num_cpus: That the training claims.
        num_gpus: The same.

    Raises:
        ConfigError: With the arithmetic and the field to change.
    """
    if device == "cuda" and not ray.cluster_resources().get("GPU"):
        raise ConfigError(
            "recommender.device='cuda' was asked for, but this cluster has no GPU: use 'auto' or 'cpu'."
        )
    _check("a training", "training", 1, num_cpus, num_gpus)


def cluster_nodes() -> list[Claim]:
    """What each node that is alive has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def told_nodes(nodes: Iterable[Claim]) -> str:
    """Nodes as people write them, e.g. ``2 CPU + 4 CPU 1 GPU``."""
    return " + ".join(
        f"{node.get('CPU', 0.0):g} CPU" + (f" {node['GPU']:g} GPU" if "GPU" in node else "") for node in nodes
    )


def claim_of(num_cpus: float, num_gpus: float) -> Claim:
    """What a process asks of one node."""
    return {"CPU": num_cpus} | ({"GPU": num_gpus} if num_gpus else {})


def num_at_once(claims: Sequence[Claim], nodes: Iterable[Claim], at_most: int) -> int:
    """How often the nodes hold processes of these claims side by side, no process on two of them."""
    free = [Counter(node) for node in nodes]
    for count in range(at_most):
        for claim in sorted(claims, key=lambda claim: -claim["CPU"]):
            fits = (
                node for node in free if all(node[name] + _SLACK >= amount for name, amount in claim.items())
            )
            node = next(fits, None)
            if node is None:
                return count
            node.subtract(claim)
    return at_most


def _check(asked: str, kind: str, count: int, num_cpus: float, num_gpus: float) -> None:
    nodes = cluster_nodes()
    room = num_at_once([claim_of(num_cpus, num_gpus)], nodes, count)
    if room < count:
        each = f"{num_cpus:g} CPU" + (f" and {num_gpus:g} GPU" if num_gpus else "")
        total = f"{count} x {each} = {count * num_cpus:g} CPU" if count > 1 else each
        remedy = f"ask for {room} or fewer, or " if count > 1 and room else ""
        raise ConfigError(
            f"{asked} asks for {total}, and this cluster ({told_nodes(nodes)}) has room for {room} such: it "
            f"would wait for ever. Please {remedy}lower resources.num_cpus_per_{kind}"
            + (f" or resources.num_gpus_per_{kind}." if num_gpus else ".")
        )


def num_threads(config: RunConfig) -> int:
    """Threads of a training; a trial leaves a hundredth of its CPUs to the process that waits for it."""
    return max(round(config.resources.num_cpus_per_training), 1)
