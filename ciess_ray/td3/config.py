"""The configuration of TD3 on RLlib, and what it must keep to.

Each rule is whether it is broken, and what to change.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from ciess_ray.td3 import defaults
from ciess_ray.td3.env_runner import TableEnvRunner
from ciess_ray.td3.exploration import build_exploration
from ciess_ray.td3.learner import TD3TorchLearner
from ciess_ray.td3.module import TD3Module
from envs.errors import ConfigError
from envs.mdp import KINDS, MAX_MEMORY_WEIGHT

Rules = list[tuple[bool, str]]

#: Iterations at the end of the warm-up that have updates. Earlier ones would learn from a table or two, and
#: cost several times what their step does.
NUM_LEARNING_ITERATIONS = 32

# What RLlib offers and TD3 has no use for, and what takes its place.
_UNUSED_FIELDS = {
    "grad_clip": "gradients are not clipped",
    "lr": "set actor_lr and critic_lr",
    "minibatch_size": "set train_batch_size_per_learner",
    "num_epochs": "set updates_per_step",
    "train_batch_size": "set train_batch_size_per_learner",
}


#: Those of :meth:`TD3Config.training` that RLlib does not know.
_FIELDS = {
    "hiddens",
    "actor_lr",
    "critic_lr",
    "tau",
    "policy_delay",
    "target_noise",
    "target_noise_clip",
    "replay_buffer_capacity",
    "updates_per_step",
    "imitation_weight",
    "exploration_spec",
    "num_warmup_steps",
    "memory_weight",
    "target_ratio",
    "memory_weight_lr",
    "memory_weight_bounds",
}


class TD3Config(AlgorithmConfig):
    """Configuration that ``TD3.get_default_config()`` gives; the fields below are set with :meth:`training`.

    Networks and learning, as in CIESS (arXiv 2304.03501, section 3) unless said:
        hiddens: Widths of the hidden layers of actors and critics.
        actor_lr, critic_lr: Learning rates of Adam.
        gamma: Discount; 0.99 in the paper, here 0.
        tau: Share of the network that a target takes on at each of its updates.
        policy_delay: Critic updates to one of the actor; Fujimoto et al. 2018 section 5.2.
        target_noise, target_noise_clip: Target-policy smoothing, in action units; ibid. section 6.1.
        train_batch_size_per_learner: Transitions drawn for users, and as many for items, an update.
        replay_buffer_capacity: Transitions kept of users, and as many of items; 40 bytes each.
        updates_per_step: Updates an iteration. The paper makes 1; here 20, because a table step costs minutes
            and an update milliseconds (docs/findings.md).
        imitation_weight: What the squared distance of the actors from the best table so far counts beside
            their critic's value, in action units; see :mod:`ciess_ray.td3.replay`. 0, as in the paper, is
            for none.

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
            of training. The driver takes them.
        evaluation_duration, evaluation_duration_unit: How many ``episodes`` or ``timesteps`` (table steps).
    """

    # RLlib declares None.
    env_runner_cls: Any

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.hiddens: tuple[int, ...] = defaults.HIDDENS
        self.actor_lr = 1e-3
        self.critic_lr = 3e-3
        self.gamma = defaults.GAMMA
        self.tau = 0.005
        self.policy_delay = 2
        self.target_noise = 0.2
        self.target_noise_clip = 0.5
        self.train_batch_size_per_learner = defaults.BATCH_SIZE
        self.replay_buffer_capacity = defaults.CAPACITY
        self.updates_per_step = defaults.UPDATES_PER_STEP
        self.imitation_weight = defaults.IMITATION_WEIGHT

        self.exploration_spec: Mapping[str, Any] = defaults.EXPLORATION
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
        # Learners get batches, not episodes; to make a connector takes a look through the whole stack.
        self.learners(add_default_connectors_to_learner_pipeline=False)
        # There are no connectors whose states could differ.
        self._dont_auto_sync_env_runner_states = True
        # A tuple: the order of a set, and with it the initial weights, would differ between processes.
        self.multi_agent(policies=KINDS, policy_mapping_fn=lambda agent_id, episode, **kwargs: agent_id)
        self.framework("torch")

    def training(self, **fields: Any) -> Self:
        """Sets fields of the class, and RLlib's: gamma, train_batch_size_per_learner."""
        super().training(**{name: value for name, value in fields.items() if name not in _FIELDS})
        for name in _FIELDS & fields.keys():
            setattr(self, name, fields[name])
        return self

    def validate(self) -> None:
        """Refuses what cannot work, before anything is built.

        Raises:
            ConfigError: A field cannot work; the message says what to change.
        """
        for is_wrong, message in [*_env_runner_rules(self), *_learner_rules(self), *_search_rules(self)]:
            if is_wrong:
                raise ConfigError(message)
        build_exploration(self.exploration_spec, 1, 2)
        super().validate()

    @property
    def num_warmup_iterations(self) -> int:
        """Iterations that the warm-up takes."""
        return math.ceil(self.num_warmup_steps / max(self.num_env_runners, 1))

    @property
    def num_idle_iterations(self) -> int:
        """Those of them that have no updates."""
        return max(self.num_warmup_iterations - NUM_LEARNING_ITERATIONS, 0)

    @property
    def num_warmup_updates(self) -> int:
        """Updates that fall into the warm-up, in which critics learn and actors stand still."""
        return (self.num_warmup_iterations - self.num_idle_iterations) * self.updates_per_step

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Networks of users and of items."""
        return RLModuleSpec(module_class=TD3Module, model_config={"hiddens": tuple(self.hiddens)})

    def get_default_learner_class(self) -> type[TD3TorchLearner]:
        """The learner."""
        return TD3TorchLearner


def _env_runner_rules(config: Any) -> Rules:
    return [
        (
            not isinstance(config.env, str),
            f"environment must be the id of one of Gymnasium's, or a name registered with Tune, not "
            f"{config.env!r}.",
        ),
        (
            not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2),
            "TD3 runs on RLlib's new API stack alone; leave api_stack() as it is.",
        ),
        (
            not issubclass(config.env_runner_cls, TableEnvRunner),
            f"env_runner_cls must be TableEnvRunner or made from it, not {config.env_runner_cls}.",
        ),
        (
            set(config.policies) != set(KINDS),
            f"policies must be {KINDS}, not {tuple(config.policies)}; leave multi_agent() as it is.",
        ),
        (
            not config.create_local_env_runner,
            "create_local_env_runner must stay True; RLlib needs it here.",
        ),
        (
            config.num_envs_per_env_runner != 1,
            f"an env runner steps one table: num_envs_per_env_runner must be 1, not "
            f"{config.num_envs_per_env_runner}; raise num_env_runners to step several.",
        ),
        # RLlib sets these itself for evaluation, where they mean nothing.
        (
            not config.in_evaluation
            and (config.rollout_fragment_length != 1 or config.batch_mode != "truncate_episodes"),
            "an iteration is one table step an env runner: rollout_fragment_length must be 1 and batch_mode "
            f"'truncate_episodes', not {config.rollout_fragment_length!r} and {config.batch_mode!r}; raise "
            "num_env_runners for more steps an iteration.",
        ),
        (
            config.sample_timeout_s is not None,
            f"sample_timeout_s must be None, not {config.sample_timeout_s}: a step that takes longer would "
            "be lost.",
        ),
        (
            config.evaluation_duration_unit not in ("episodes", "timesteps"),
            "evaluation_duration_unit must be 'episodes' or 'timesteps', not "
            f"{config.evaluation_duration_unit!r}.",
        ),
        (
            config.evaluation_parallel_to_training or config.evaluation_num_env_runners > 0,
            "the driver evaluates, between two iterations: leave evaluation_parallel_to_training and "
            "evaluation_num_env_runners alone.",
        ),
    ]


def _learner_rules(config: Any) -> Rules:
    batch_size, untouched = config.train_batch_size_per_learner, AlgorithmConfig()
    return [
        *(
            (
                getattr(config, name) != getattr(untouched, name),
                f"{name} is not used by TD3: {remedy}; leave {name} alone.",
            )
            for name, remedy in _UNUSED_FIELDS.items()
        ),
        (config.framework_str != "torch", f"framework must be 'torch', not {config.framework_str!r}."),
        (config.num_learners > 1, "num_learners > 1 is not supported: the nets are small; use 0 or 1."),
        (
            config.num_learners == 0 and config.num_gpus_per_learner > 0 and not torch.cuda.is_available(),
            f"num_gpus_per_learner is {config.num_gpus_per_learner} and the driver, which learns where "
            "num_learners is 0, has no GPU that PyTorch can use; set it to 0.",
        ),
        (batch_size < 1, f"train_batch_size_per_learner must be at least 1, not {batch_size}."),
        (
            config.replay_buffer_capacity < batch_size,
            f"a replay_buffer_capacity of {config.replay_buffer_capacity} cannot fill a batch of "
            f"{batch_size} transitions without repeating some: raise it, or lower "
            "train_batch_size_per_learner.",
        ),
        (
            min(config.actor_lr, config.critic_lr) <= 0,
            f"actor_lr and critic_lr must be positive, not {config.actor_lr} and {config.critic_lr}.",
        ),
        (
            min(config.target_noise, config.target_noise_clip) < 0,
            "target_noise and target_noise_clip must not be negative, but are "
            f"{config.target_noise} and {config.target_noise_clip}.",
        ),
        (config.policy_delay < 1, f"policy_delay must be at least 1, not {config.policy_delay}."),
        (not 0 < config.tau <= 1, f"tau must lie in (0, 1], not {config.tau}."),
        (
            not 0 <= config.gamma < 1,
            f"gamma must lie in [0, 1), not {config.gamma}: episodes never terminate.",
        ),
    ]


def _search_rules(config: Any) -> Rules:
    low, high = config.memory_weight_bounds
    return [
        *(
            (getattr(config, name) < 0, f"{name} must not be negative: {getattr(config, name)}.")
            for name in ("updates_per_step", "imitation_weight", "num_warmup_steps")
        ),
        (
            config.seed is None or config.seed < 0,
            f"seed must be a whole number from 0 on, not {config.seed}.",
        ),
        (
            not config.hiddens or min(config.hiddens) < 1,
            f"hiddens needs one width or more, each at least 1, e.g. (256, 256), not {config.hiddens}.",
        ),
        (
            not 0 <= low <= config.memory_weight <= high,
            f"memory_weight {config.memory_weight} must lie in memory_weight_bounds {low, high}, >= 0.",
        ),
        (
            config.target_ratio is not None and not 0 < config.target_ratio <= 1,
            f"target_ratio is a share of the full table, in (0, 1], not {config.target_ratio}.",
        ),
    ]
