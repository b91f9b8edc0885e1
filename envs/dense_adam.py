"""Adam for parameters that every batch moves."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


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
        if not taken:
            return
        parameters, gradients, means, squares, counts = (list(column) for column in zip(*taken, strict=True))
        adam(
            parameters,
            gradients,
            means,
            squares,
            [],
            counts,
            fused=True,
            amsgrad=False,
            beta1=_BETA1,
            beta2=_BETA2,
            lr=learning_rate,
            weight_decay=0.0,
            eps=_EPSILON,
            maximize=False,
        )
