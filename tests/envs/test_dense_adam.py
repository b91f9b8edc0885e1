import torch

from envs.dense_adam import DenseAdam


def test_it_is_pytorchs_to_the_bit_and_leaves_what_has_no_gradient():
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((40, 3), (7,), (2, 2))]
    mine, theirs = ([part.clone().requires_grad_() for part in start] for _ in range(2))
    adam, expected = DenseAdam(mine), torch.optim.Adam(theirs, fused=True)
    for batch in range(30):
        learning_rate = 0.1 * 0.9 ** (batch // 10)
        expected.param_groups[0]["lr"] = learning_rate
        # The second takes part in every other batch, the last one in none.
        used = 1 + (batch % 2)
        for parameters, optimizer in ((mine, adam), (theirs, expected)):
            for parameter in parameters:
                parameter.grad = None
            sum((parameter**2).sum() * (batch + 1) for parameter in parameters[:used]).backward()
            optimizer.step(*([learning_rate] if optimizer is adam else []))
    for parameter, its in zip(mine, theirs, strict=True):
        assert torch.equal(parameter, its)
    assert torch.equal(mine[2], start[2]) and not torch.equal(mine[1], start[1])
    adam.forget_gradients()
    assert all(parameter.grad is None for parameter in mine)
