"""The update of TD3 (Fujimoto et al. 2018, algorithm 1), users and items each with networks of their own."""

import zlib
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.utils import update_target_network
from torch import Tensor

from ciess_ray.metric_keys import ACTOR_LOSS, CRITIC_1_VALUE, CRITIC_2_VALUE, CRITIC_LOSS, TD_ERROR
from ciess_ray.streams import Stream, key_of
from ciess_ray.td3.exploration import seeded_generator
from ciess_ray.td3.replay import IMITATED_ACTION, IMITATED_OBS
from envs.errors import TrainingError

ACTOR = "actor"
CRITIC = "critic"


class TD3TorchLearner(TorchLearner):
    """Critics at every update; actor and targets at every ``policy_delay``-th.

    RLlib computes all losses and then applies all gradients; here the critics step first, because TD3's
    actor follows the critic that this very update has improved.
    """

    # RLlib declares the base class of each.
    config: Any
    module: Any
    _num_updates = 0

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """One Adam for the actor, one for both critics."""
        module = self.module[module_id]
        critic_params = [*module.critic_1.parameters(), *module.critic_2.parameters()]
        for name, params, lr in (
            (ACTOR, list(module.actor.parameters()), config.actor_lr),
            (CRITIC, critic_params, config.critic_lr),
        ):
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=torch.optim.Adam(params, lr=lr),
                params=params,
                lr_or_lr_schedule=lr,
            )

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """The critics' loss on one batch; the actor's comes after the critics' step."""
        module = self.module[module_id]
        obs, actions, next_obs = batch[Columns.OBS], batch[Columns.ACTIONS], batch[Columns.NEXT_OBS]
        with torch.no_grad():
            noise = key_of(
                config.seed, Stream.TARGET_NOISE, self._num_updates, zlib.crc32(module_id.encode())
            )
            generator = seeded_generator(*noise, device=obs.device)
            next_actions = smoothed_action(
                module.target_actor(next_obs), config.target_noise, config.target_noise_clip, generator
            )
            target = critic_target(
                batch[Columns.REWARDS],
                batch[Columns.TERMINATEDS],
                config.gamma,
                module.target_critic_1(next_obs, next_actions),
                module.target_critic_2(next_obs, next_actions),
            )
        value_1, value_2 = module.critic_1(obs, actions), module.critic_2(obs, actions)
        loss = critic_loss(value_1, value_2, target)
        for key, value in (
            (CRITIC_LOSS, loss),
            (CRITIC_1_VALUE, value_1.mean()),
            (CRITIC_2_VALUE, value_2.mean()),
            (TD_ERROR, (value_1 - target).abs().mean()),
        ):
            self.metrics.log_value((module_id, key), value.item(), window=1)
        return loss

    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        self._num_updates += 1
        is_delayed_update = self._num_updates % self.config.policy_delay == 0
        # Nothing an actor says is tried during the warm-up. Following critics that have seen a table or two,
        # it would only run into a bound of tanh, where no gradient brings it back.
        is_actor_update = is_delayed_update and self._num_updates > self.config.num_warmup_updates
        critic_losses = {}
        for module_id, columns in batch.items():
            config = self.config.get_config_for_module(module_id)
            loss = self.compute_loss_for_module(module_id=module_id, config=config, batch=columns, fwd_out={})
            self._minimise(module_id, CRITIC, loss)
            critic_losses[module_id] = loss.detach()
            if is_actor_update:
                self._update_actor(module_id, columns)
            if is_delayed_update:
                for network, target in self.module[module_id].get_target_network_pairs():
                    update_target_network(main_net=network, target_net=target, tau=config.tau)
        return {}, critic_losses, {}

    def _update_actor(self, module_id: str, columns: dict[str, Tensor]) -> None:
        module, obs = self.module[module_id], columns[Columns.OBS]
        loss = -module.critic_1(obs, module.actor(obs)).mean()
        if IMITATED_OBS in columns:
            distance = module.actor(columns[IMITATED_OBS]) - columns[IMITATED_ACTION]
            loss = loss + self.config.imitation_weight * distance.square().mean()
        self.metrics.log_value((module_id, ACTOR_LOSS), loss.item(), window=1)
        self._minimise(module_id, ACTOR, loss)

    def _minimise(self, module_id: str, name: str, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the {name} loss of the {module_id} module is {loss.item()} at update {self._num_updates}; "
                "lower actor_lr and critic_lr, or look for values that are not finite in the environment's "
                "quality."
            )
        optimizer = self.get_optimizer(module_id, name)
        params = [param for group in optimizer.param_groups for param in group["params"]]
        # Not backward(): the actor's loss passes through critic 1, whose gradients must stay untouched.
        for param, gradient in zip(params, torch.autograd.grad(loss, params), strict=True):
            param.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Adds the update counter, on which the delay and the smoothing noise depend."""
        return {**super().get_state(*args, **kwargs), "num_updates": self._num_updates}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`get_state` returned."""
        super().set_state(state)
        self._num_updates = state.get("num_updates", self._num_updates)


def smoothed_action(
    target_action: Tensor, noise_std: float, noise_clip: float, generator: torch.Generator
) -> Tensor:
    """Target-policy smoothing, equation 14: clipped noise, independent for each sample, within [-1, 1].

    Args:
        target_action: Output of the target actor, shape (n,).
        noise_std: Standard deviation of the noise, in action units.
        noise_clip: Largest noise, in action units.
        generator: The generator drawn from, on the action's device.
    """
    noise = torch.randn(
        target_action.shape, generator=generator, dtype=target_action.dtype, device=target_action.device
    )
    return (target_action + (noise_std * noise).clamp(-noise_clip, noise_clip)).clamp(-1.0, 1.0)


def critic_target(
    reward: Tensor, terminated: Tensor, gamma: float, target_value_1: Tensor, target_value_2: Tensor
) -> Tensor:
    """Algorithm 1: r + γ (1 - terminated) min(Q1', Q2').

    Truncation is no termination: an episode cut at T bootstraps. All tensors have shape (n,).
    """
    return reward + gamma * (1.0 - terminated) * torch.minimum(target_value_1, target_value_2)


def critic_loss(value_1: Tensor, value_2: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of both critics against one target, summed; a scalar."""
    return (value_1 - target).square().mean() + (value_2 - target).square().mean()
