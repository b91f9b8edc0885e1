"""Adam for parameters that every batch moves, and for a table of which a batch uses few rows."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.adam import adam

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
#: What is left of a row's momentum a batch later, over the root of what is left of its second moment.
_FADING = _BETA1 / _BETA2**0.5
#: Batches after which nothing of it is left: 2e-12.
_WINDOW = 256
#: Numbers that are brought up to date at a time.
_PART = 2**19


def _fused_step(
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
        beta1=_BETA1,
        beta2=_BETA2,
        lr=learning_rate,
        weight_decay=0.0,
        eps=_EPSILON,
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
            _fused_step(parameters, gradients, means, squares, counts, learning_rate)


class RowAdam:
    """Adam whose step costs what the rows of a batch cost, and leaves the table where a dense step would.

    Adam (arXiv 1412.6980) moves a row without a gradient, too: by its momentum, which fades. These moves are
    left out and made up for when a row is next used, or read: with the moments m, v that a row had after
    step s, they are Σ_j lr_j √c2_j / c1_j · (β1 / √β2)^(j - s) · m / (√v + e_j) over the steps j since, where
    c1 and c2 correct the bias of the moments and e_j is ε √c2_j β2^(-(j - s) / 2). With the mean of e_j in
    its place, which hardly moves while the momentum lasts, the sum is the same for all rows of one s. So
    this is dense Adam, and not the lazy one of other packages, which leaves these moves out for good.

    Args:
        weight: The table, shape (num_rows, width), float32; changed in place.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._mean, self._square = weight, torch.zeros_like(weight), torch.zeros_like(weight)
        self._num_steps = 0
        # The step that each row has been brought to, and that of its last gradient.
        self._at = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
        self._used = torch.zeros_like(self._at)
        # By step s, of the steps since: the sum of what is above, and of the same times e_j.
        self._moves: NDArray[np.float64] = np.zeros(1)
        self._moves_epsilon: NDArray[np.float64] = np.zeros(1)

    def rows(self, rows: Tensor) -> Tensor:
        """Copies of rows as dense Adam would have them by now, a leaf that takes a gradient.

        Args:
            rows: Row numbers, each once, shape (n,), int64.
        """
        self._rows = rows
        wholes = self._weight.detach(), self._mean, self._square
        self._taken = tuple(whole.index_select(0, rows) for whole in wholes)
        self._make_up(self._taken, self._at.index_select(0, rows))
        return self._taken[0].requires_grad_()

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """A step of the rows that :meth:`rows` gave, with the gradient that they have by now."""
        weight, mean, square = self._taken
        grad = weight.grad
        steps = torch.tensor(float(self._num_steps), device=weight.device)
        gradient = torch.zeros_like(weight) if grad is None else grad
        _fused_step([weight], [gradient], [mean], [square], [steps], learning_rate)
        self._count(learning_rate)
        for whole, part in zip((self._weight, self._mean, self._square), self._taken, strict=True):
            whole.index_copy_(0, self._rows, part.detach())
        self._at.index_fill_(0, self._rows, self._num_steps)
        self._used.index_fill_(0, self._rows, self._num_steps)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring the whole table to where dense Adam would have it by now."""
        is_behind = (self._at < self._num_steps) & (self._num_steps - self._used <= _WINDOW)
        behind = is_behind.nonzero().squeeze(1)
        wholes = self._weight, self._mean, self._square
        for rows in torch.split(behind, max(_PART // self._weight.shape[1], 1)):
            parts = tuple(whole.index_select(0, rows) for whole in wholes)
            self._make_up(parts, self._at.index_select(0, rows))
            for whole, part in zip(wholes, parts, strict=True):
                whole.index_copy_(0, rows, part)
        self._at.index_fill_(0, behind, self._num_steps)

    def _count(self, learning_rate: float) -> None:
        """Add a step to the sums of the rows that had their last gradient up to a window before it."""
        self._num_steps += 1
        step = self._num_steps
        if step == len(self._moves):
            self._moves = np.pad(self._moves, (0, step))
            self._moves_epsilon = np.pad(self._moves_epsilon, (0, step))
        begin = max(step - _WINDOW, 0)
        age = np.arange(step - begin, 0, -1)
        root = (1 - _BETA2**step) ** 0.5
        move = learning_rate * root / (1 - _BETA1**step) * _FADING**age
        self._moves[begin:step] += move
        self._moves_epsilon[begin:step] += move * _EPSILON * root * _BETA2 ** (-age / 2)

    @torch.no_grad()
    def _make_up(self, parts: tuple[Tensor, ...], at: Tensor) -> None:
        """Bring copies of rows, with their moments, from the steps that they are at to the last one."""
        weight, mean, square = parts
        steps = at.cpu().numpy()
        moves = self._moves[steps]
        epsilon = self._moves_epsilon[steps] / np.maximum(moves, 1e-30)
        missed = self._num_steps - steps

        def column(values: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values.astype(np.float32)).to(weight.device)[:, None]

        # A row that never had a gradient has neither moment, and no e_j.
        scale = square.sqrt().add_(column(np.maximum(epsilon, 1e-30)))
        weight.sub_(torch.div(mean, scale, out=scale).mul_(column(moves)))
        mean.mul_(column(_BETA1**missed))
        square.mul_(column(_BETA2**missed))
