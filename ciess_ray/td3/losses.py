"""The formulas of TD3 (Fujimoto et al. 2018, arXiv 1802.09477) on tensors of one number an entity."""

import torch
from torch import Tensor


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


def td_error(value_1: Tensor, target: Tensor) -> Tensor:
    """Mean distance of critic 1 from the target; a scalar."""
    return (value_1 - target).abs().mean()


def actor_loss(value_1: Tensor) -> Tensor:
    """Minus the mean value critic 1 gives the actor's own actions; a scalar."""
    return -value_1.mean()


def imitation_loss(action: Tensor, imitated_action: Tensor) -> Tensor:
    """Mean squared distance of the actor's actions from those to imitate; a scalar."""
    return (action - imitated_action).square().mean()
