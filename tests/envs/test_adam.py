import torch

from envs.adam import DenseAdam, RowAdam

NUM_ROWS, WIDTH = 40, 3


def trained(num_batches, gradient, settle_every):
    """A table after steps of rows, and after those of PyTorch's Adam with the same gradients."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.nn.Parameter(torch.randn(NUM_ROWS, WIDTH, generator=generator))
    weight = dense.detach().clone()
    adam, by_rows = torch.optim.Adam([dense], lr=0.1), RowAdam(weight)
    for batch in range(num_batches):
        # Some rows are used all the time, some now and then, some from a late batch on, the last ones never.
        reach = NUM_ROWS - 5 if batch > num_batches // 2 else NUM_ROWS // 2
        rows = torch.cat([torch.arange(3), 3 + torch.randperm(reach - 3, generator=generator)[:4]])
        rows = rows.sort().values
        learning_rate = 0.1 * 0.9 ** (batch // 10)
        noise = torch.randn(len(rows), WIDTH, generator=generator)
        adam.param_groups[0]["lr"] = learning_rate
        dense.grad = torch.zeros_like(dense)
        dense.grad[rows] = gradient * (noise + dense.detach()[rows])
        adam.step()
        taken = by_rows.rows(rows)
        taken.grad = gradient * (noise + taken.detach())
        by_rows.step(learning_rate)
        if batch % settle_every == settle_every - 1:
            by_rows.settle()
    by_rows.settle()
    return weight, dense.detach()


def test_a_table_is_where_dense_adam_leaves_it():
    weight, expected = trained(300, 1e-2, 50)
    torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-4)


def test_gradients_near_epsilon():
    weight, expected = trained(300, 1e-6, 50)
    torch.testing.assert_close(weight, expected, rtol=1e-2, atol=1e-2)


def test_it_does_not_matter_when_a_table_is_read():
    (weight, _), (once, _) = trained(120, 1e-3, 7), trained(120, 1e-3, 1000)
    torch.testing.assert_close(weight, once, rtol=1e-4, atol=1e-4)


def test_dense_adam_is_pytorchs_to_the_bit_and_leaves_what_has_no_gradient():
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
