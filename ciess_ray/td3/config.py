"""The configuration of TD3 on RLlib, and what it must keep to.

Each rule is whether it is broken, and what to change.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.from_config import NotProvided

from ciess_ray.td3.env_runner import TableEnvRunner
from ciess_ray.td3.evaluation import evaluate_greedily
from ciess_ray.td3.exploration import build_exploration
from ciess_ray.td3.learner import TD3TorchLearner
from ciess_ray.td3.module import TD3Module
from ciess_ray.td3.replay import CAPACITY, ReplayBuffer
from envs.errors import ConfigError
from envs.mdp import KINDS, MAX_MEMORY_WEIGHT

Rules = Iterator[tuple[bool, str]]

# What RLlib offers and TD3 has no use for, and what takes its place.
_UNUSED_FIELDS = {
    "grad_clip": "gradients are not clipped",
    "lr": "set actor_lr and critic_lr",
    "minibatch_size": "set train_batch_size_per_learner",
    "num_epochs": "set updates_per_step",
    "train_batch_size": "set train_batch_size_per_learner",
}


def _module_of_agent(agent_id: Any, episode: Any, **kwargs: Any) -> str:
    return str(agent_id)


class TD3Config(AlgorithmConfig):
    """Configuration that ``TD3.get_default_config()`` gives; the fields below are set with :meth:`training`.

    Networks and learning (CIESS, arXiv 2304.03501, section 3, unless said):
        hiddens: Widths of the hidden layers of actors and critics.
        actor_lr, critic_lr: Learning rates of Adam.
        gamma: Discount.
        tau: Share of the network that a target takes on at each of its updates.
        policy_delay: Critic updates to one of the actor; Fujimoto et al. 2018 section 5.2.
        target_noise, target_noise_clip: Target-policy smoothing, in action units; ibid. section 6.1.
        train_batch_size_per_learner: Transitions drawn for users, and as many for items, an update.
        replay_buffer_capacity: Transitions kept of users, and as many of items; 40 bytes each.
        updates_per_step: Updates an iteration. The paper makes 1; here 20, because a table step costs minutes
            and an update milliseconds (docs/findings.md).
        imitation_weight: What the squared distance of the actors from the best table so far counts beside
            their critic's value, in action units; see :mod:`ciess_ray.td3.imitation`. 0, as in the paper, for
            none.

    Exploration:
        exploration_spec: See :func:`ciess_ray.td3.exploration.build_exploration`.
        num_warmup_steps: Table steps, over all env runners, with policies of a whole table instead of the
            actors, at first random, then near the best: one :class:`ciess_ray.td3.warmup.WarmUp` for all of
            them. None in the paper.

    Memory:
        memory_weight: λ, what a squared kept ratio of 1 costs in quality; the initial one under dual ascent.
            0.4 is the paper's for LightGCN on ML-1M.
        target_ratio: Kept ratio that the actors' own mean size is held to by dual ascent on λ; None keeps λ.
        memory_weight_lr: Step of ln λ an iteration, as a share of ln (mean size / target size).
        memory_weight_bounds: Smallest and largest λ. There it stays until the mean size is on the other side
            of the target, and leaves with the next iteration.

    Evaluation, set with :meth:`evaluation`:
        evaluation_interval: Iterations from one evaluation to the next: new episodes that the actors take
            alone, under the weights and the λ of the moment, in environments of its own. Training is the same
            with and without. The steps are in ``TD3.last_evaluation_steps``, their means in the results
            under ``evaluation`` (docs/metrics.md). Every evaluation makes the same draws, which are not those
            of training.
        evaluation_duration, evaluation_duration_unit: How many ``episodes`` or ``timesteps`` (table steps),
            over all evaluation env runners.
        evaluation_num_env_runners: Ray actors that take them; with 0 the driver does.
        evaluation_parallel_to_training: Whether they are taken while the next iteration trains, with the
            weights and the λ from before it.
    """

    # RLlib declares None, or one of several types.
    env_runner_cls: Any
    evaluation_duration: Any

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.hiddens: tuple[int, ...] = (256, 256)
        self.actor_lr = 1e-3
        self.critic_lr = 3e-3
        self.gamma = 0.99
        self.tau = 0.005
        self.policy_delay = 2
        self.target_noise = 0.2
        self.target_noise_clip = 0.5
        self.train_batch_size_per_learner = 4096
        self.replay_buffer_capacity = CAPACITY
        self.updates_per_step = 20
        self.imitation_weight = 0.0

        self.exploration_spec: Mapping[str, Any] = {
            "name": "random_walk",
            "noise": {"name": "gaussian", "sigma": 6.0},
            "num_steps": 5,
            "max_step": 5,
        }
        self.num_warmup_steps = 0

        self.memory_weight = 0.4
        self.target_ratio: float | None = None
        self.memory_weight_lr = 0.1
        self.memory_weight_bounds = (0.0, MAX_MEMORY_WEIGHT)

        self.debugging(seed=0)
        # A table step may take minutes; the default of 60 s would drop it.
        self.env_runners(env_runner_cls=TableEnvRunner, rollout_fragment_length=1, sample_timeout_s=None)
        # A runner that died is wanted back before the next step, not a minute later.
        self.fault_tolerance(delay_between_env_runner_restarts_s=0, env_runner_health_probe_timeout_s=10)
        # There are no connectors whose states could differ.
        self._dont_auto_sync_env_runner_states = True
        # A tuple: the order of a set, and with it the initial weights, would differ between processes.
        self.multi_agent(policies=KINDS, policy_mapping_fn=_module_of_agent)
        self.framework("torch")
        # No time limit, as for a training step.
        self.evaluation(custom_evaluation_function=evaluate_greedily, evaluation_sample_timeout_s=None)

    def training(
        self,
        *,
        hiddens: Any = NotProvided,
        actor_lr: Any = NotProvided,
        critic_lr: Any = NotProvided,
        tau: Any = NotProvided,
        policy_delay: Any = NotProvided,
        target_noise: Any = NotProvided,
        target_noise_clip: Any = NotProvided,
        replay_buffer_capacity: Any = NotProvided,
        updates_per_step: Any = NotProvided,
        imitation_weight: Any = NotProvided,
        exploration_spec: Any = NotProvided,
        num_warmup_steps: Any = NotProvided,
        memory_weight: Any = NotProvided,
        target_ratio: Any = NotProvided,
        memory_weight_lr: Any = NotProvided,
        memory_weight_bounds: Any = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets fields of the class, and by ``kwargs`` RLlib's: gamma, train_batch_size_per_learner."""
        given = {name: value for name, value in locals().items() if name in _FIELDS}
        super().training(**kwargs)
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def validate(self) -> None:
        """Refuses what cannot work, before anything is built.

        Raises:
            ConfigError: A field cannot work; the message says what to change.
        """
        for is_wrong, message in rules(self):
            if is_wrong:
                raise ConfigError(message)
        ReplayBuffer(self.replay_buffer_capacity, 0)
        build_exploration(self.exploration_spec, 1, 2)
        super().validate()

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Networks of users and of items; the env runner adds the sizes its environment knows."""
        return RLModuleSpec(
            module_class=TD3Module,
            model_config={"hiddens": tuple(self.hiddens), "exploration": dict(self.exploration_spec)},
        )

    def get_default_learner_class(self) -> type[TD3TorchLearner]:
        """The learner."""
        return TD3TorchLearner


_FIELDS = frozenset(TD3Config.training.__kwdefaults__ or ())


def rules(config: Any) -> Rules:
    """Every rule, of a ``TD3Config``: whether it is broken, and what to say."""
    yield from _env_runner_rules(config)
    yield from _learner_rules(config)
    low, high = config.memory_weight_bounds
    yield from (
        (
            config.seed is None or config.seed < 0,
            f"seed must be a whole number from 0 on, not {config.seed}.",
        ),
        (
            not config.hiddens or min(config.hiddens) < 1,
            f"hiddens needs one width or more, each at least 1, e.g. (256, 256), not {config.hiddens}.",
        ),
        (config.policy_delay < 1, f"policy_delay must be at least 1, not {config.policy_delay}."),
        (not 0 < config.tau <= 1, f"tau must lie in (0, 1], not {config.tau}."),
        (
            not 0 <= config.gamma < 1,
            f"gamma must lie in [0, 1), not {config.gamma}: episodes never terminate.",
        ),
        (config.updates_per_step < 0, f"updates_per_step must not be negative: {config.updates_per_step}."),
        (config.imitation_weight < 0, f"imitation_weight must not be negative: {config.imitation_weight}."),
        (config.num_warmup_steps < 0, f"num_warmup_steps must not be negative: {config.num_warmup_steps}."),
        (
            not 0 <= low <= config.memory_weight <= high,
            f"memory_weight {config.memory_weight} must lie in memory_weight_bounds {low, high}, >= 0.",
        ),
        (
            config.target_ratio is not None and not 0 < config.target_ratio <= 1,
            f"target_ratio is a share of the full table, in (0, 1], not {config.target_ratio}.",
        ),
    )


def _env_runner_rules(config: Any) -> Rules:
    yield (
        not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2),
        "TD3 runs on RLlib's new API stack alone; leave api_stack() as it is.",
    )
    yield (
        not issubclass(config.env_runner_cls, TableEnvRunner),
        f"env_runner_cls must be TableEnvRunner or made from it, not {config.env_runner_cls}.",
    )
    yield (
        set(config.policies) != set(KINDS),
        f"policies must be {KINDS}, not {tuple(config.policies)}; leave multi_agent() as it is.",
    )
    yield not config.create_local_env_runner, "create_local_env_runner must stay True; RLlib needs it here."
    yield (
        config.num_envs_per_env_runner != 1,
        f"an env runner steps one table: num_envs_per_env_runner must be 1, not "
        f"{config.num_envs_per_env_runner}; raise num_env_runners to step several.",
    )
    # RLlib sets these itself for evaluation, where they mean nothing.
    yield (
        not config.in_evaluation
        and (config.rollout_fragment_length != 1 or config.batch_mode != "truncate_episodes"),
        "an iteration is one table step an env runner: rollout_fragment_length must be 1 and batch_mode "
        f"'truncate_episodes', not {config.rollout_fragment_length!r} and {config.batch_mode!r}; raise "
        "num_env_runners for more steps an iteration.",
    )
    for name in ("sample_timeout_s", "evaluation_sample_timeout_s"):
        yield (
            getattr(config, name) is not None,
            f"{name} must be None, not {getattr(config, name)}: a step that takes longer would be lost.",
        )
    yield (
        config.evaluation_duration == "auto",
        "evaluation_duration must be a number: 'auto' takes as many steps as the clock allows.",
    )
    yield (
        config.evaluation_duration_unit not in ("episodes", "timesteps"),
        "evaluation_duration_unit must be 'episodes' or 'timesteps', not "
        f"{config.evaluation_duration_unit!r}.",
    )
    yield (
        config.evaluation_parallel_to_training and config.evaluation_num_env_runners == 0,
        "evaluation_parallel_to_training needs an env runner beside the driver: set "
        "evaluation_num_env_runners to 1 or more.",
    )
    yield (
        isinstance(config.evaluation_config, Mapping) and bool(config.evaluation_config.get("explore")),
        "evaluation is of the actors alone: leave explore out of evaluation_config.",
    )


def _learner_rules(config: Any) -> Rules:
    defaults = AlgorithmConfig()
    for name, remedy in _UNUSED_FIELDS.items():
        is_set = getattr(config, name) != getattr(defaults, name)
        yield is_set, f"{name} is not used by TD3: {remedy}; leave {name} alone."
    yield config.framework_str != "torch", f"framework must be 'torch', not {config.framework_str!r}."
    yield config.num_learners > 1, "num_learners > 1 is not supported: the nets are small; use 0 or 1."
    yield (
        config.num_learners == 0 and config.num_gpus_per_learner > 0 and not torch.cuda.is_available(),
        f"num_gpus_per_learner is {config.num_gpus_per_learner} and the driver, which learns where "
        "num_learners is 0, has no GPU that PyTorch can use; set it to 0.",
    )
    yield (
        min(config.actor_lr, config.critic_lr) <= 0,
        f"actor_lr and critic_lr must be positive, not {config.actor_lr} and {config.critic_lr}.",
    )
    yield (
        min(config.target_noise, config.target_noise_clip) < 0,
        "target_noise and target_noise_clip must not be negative, but are "
        f"{config.target_noise} and {config.target_noise_clip}.",
    )
    batch_size = config.train_batch_size_per_learner
    yield batch_size < 1, f"train_batch_size_per_learner must be at least 1, not {batch_size}."
    yield (
        1 <= config.replay_buffer_capacity < batch_size,
        f"a replay_buffer_capacity of {config.replay_buffer_capacity} cannot fill a batch of {batch_size} "
        "transitions without repeating some: raise it, or lower train_batch_size_per_learner.",
    )
