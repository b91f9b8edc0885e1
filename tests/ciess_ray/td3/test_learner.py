import pytest
import torch

from ciess_ray.td3 import learner
from ciess_ray.td3.exploration import seeded_generator


def test_target_takes_the_smaller_value_and_stops_at_termination_only():
    target = learner.critic_target(
        reward=torch.tensor([1.0, 1.0, 0.5]),
        terminated=torch.tensor([0.0, 0.0, 1.0]),
        gamma=0.9,
        target_value_1=torch.tensor([2.0, 5.0, 7.0]),
        target_value_2=torch.tensor([3.0, 4.0, 8.0]),
    )
    assert target.tolist() == pytest.approx([1.0 + 0.9 * 2.0, 1.0 + 0.9 * 4.0, 0.5])


def test_critic_loss_sums_both_mean_squared_errors():
    loss = learner.critic_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0]), torch.tensor([2.0, 4.0]))
    assert loss.item() == pytest.approx((1 + 4) / 2 + (4 + 16) / 2)


def test_smoothing_noise_differs_by_sample_and_is_clipped():
    action = torch.zeros(100_000)
    smoothed = learner.smoothed_action(action, 0.2, 0.5, seeded_generator(0))
    assert smoothed.unique().numel() > 90_000
    assert smoothed.std().item() == pytest.approx(0.2, rel=0.03)
    assert smoothed.abs().max().item() == 0.5
    assert learner.smoothed_action(torch.ones(1000), 0.2, 0.5, seeded_generator(0)).max().item() == 1.0
    assert torch.equal(smoothed, learner.smoothed_action(action, 0.2, 0.5, seeded_generator(0)))
