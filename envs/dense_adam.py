"""Adam for parameters that every batch moves."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def fused_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    counts: Sequence[Tensor],
    learning_rate: float,
) -> None:
    """A step of PyTorch's fused Adam, all in place.

    Args:
        parameters: What moves, float32.
        gradients: Of each, in its shape.
        means: Of the gradients so far, in the same shapes.
        squares: Means of their squares.
        counts: Steps that each has taken, float32 scalars.
        learning_rate: How far.
    """
    adam(
        [parameter.detach() for parameter in parameters],
        list(gradients),
        list(means),
        list(squares),
        [],
        list(counts),
        fused=True,
        amsgrad=False,
        beta1=BETA1,
        beta2=BETA2,
        lr=learning_rate,
        weight_decay=0.0,
        eps=EPSILON,
        maximize=False,
    )


class DenseAdam:
    """PyTorch's fused Adam (arXiv 1412.6980), to the bit.

    ``torch.optim.Adam`` imports PyTorch's compiler and SymPy as soon as it is made: 800 modules, of which
    nothing is used here, and more than a CPU second in every process that trains.

    Args:
        parameters: Leaves that take gradients, float32; changed in place. One without a gradient stays.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        # Mean and square of the gradients, and the number of steps.
        self._moments: list[tuple[Tensor, Tensor, Tensor] | None] = [None] * len(self._parameters)

    def forget_gradients(self) -> None:
        """Let the next backward pass begin anew."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """A step with the gradients that the parameters have by now."""
        taken = []
        for number, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            if (moments := self._moments[number]) is None:
                count = torch.zeros((), device=parameter.device)
                moments = torch.zeros_like(parameter), torch.zeros_like(parameter), count
                self._moments[number] = moments
            taken.append((parameter, parameter.grad, *moments))
        if taken:
            parameters, gradients, means, squares, counts = zip(*taken, strict=True)
            fused_step(parameters, gradients, means, squares, counts, learning_rate)
