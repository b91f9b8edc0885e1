"""Scores of single pairs of rows and their gradients, without a copy of a row for every pair."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

#: Numbers that are gathered at once: 2 MiB, about a core's second-level cache.
_PART = 2**19


def sparse_tensor(indptr: Tensor, indices: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A sparse CSR tensor of these parts, unchecked."""
    with warnings.catch_warnings():
        # PyTorch's own plans for CSR tensors, of support and of checks; nothing follows from them here.
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
        return torch.sparse_csr_tensor(indptr, indices, values, size=shape, check_invariants=False)


class Pairs:
    """Pairs of a row of one table and a row of another as the entries of a sparse matrix, by row.

    A row's part of a gradient is then one weighted sum over its pairs, by a fused kernel, and no pair waits
    for another that adds to the same row.

    Args:
        left: Row of the first table of each pair, shape (n,), int64; quickest in ascending order.
        right: Row of the second table of each pair, shape (n,), int64.
        num_left: Rows of the first table.
        num_right: Rows of the second table.
    """

    def __init__(self, left: Tensor, right: Tensor, num_left: int, num_right: int) -> None:
        is_sorted = bool((left[1:] >= left[:-1]).all())
        self.order = None if is_sorted else torch.argsort(left, stable=True)
        self.left, self.right = self.sorted(left), self.sorted(right)
        self.shape = num_left, num_right
        counts = torch.bincount(left, minlength=num_left)
        self.ends = F.pad(torch.cumsum(counts, 0), (1, 0))

    def sorted(self, values: Tensor) -> Tensor:
        """Values of the pairs, shape (n, ·), in the order of the matrix's entries."""
        return values if self.order is None else values.index_select(0, self.order)

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Inner product of each pair's rows, in the order that the pairs were given in, shape (n,)."""
        if len(self.left) > len(left) * len(right):
            # A sparse matrix of more entries than it has places is refused, and all products are fewer.
            scores: Tensor = (left @ right.T)[self.left, self.right]
        else:
            pattern = sparse_tensor(self.ends, self.right, left.new_zeros(len(self.left)), self.shape)
            scores = torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()
        return scores if self.order is None else torch.empty_like(scores).index_copy_(0, self.order, scores)

    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """By rows of the second table: each entry's place here, its row of the first table, and the ends."""
        places = np.arange(len(self.left), dtype=np.int32)
        parts = (places, self.right.numpy().astype(np.int32), self.ends.numpy().astype(np.int32))
        matrix = csr_array(parts, shape=self.shape).tocsc()
        place, left, ends = (
            torch.from_numpy(part.astype(np.int64)) for part in (matrix.data, matrix.indices, matrix.indptr)
        )
        return place, left, ends


def _weighed_sums(rows: Tensor, indices: Tensor, ends: Tensor, weights: Tensor) -> Tensor:
    """For each n the sum of rows[indices[k]] * weights[k] over ends[n] <= k < ends[n + 1]."""
    return F.embedding_bag(indices, rows, ends[:-1], mode="sum", per_sample_weights=weights)


class _PairedProducts(torch.autograd.Function):
    """Inner products of pairs on a CPU; see :class:`Pairs`."""

    @staticmethod
    def forward(ctx: Any, user: Tensor, item: Tensor, users: Tensor, items: Tensor) -> Tensor:
        ctx.pairs = Pairs(users, items, len(user), len(item))
        ctx.save_for_backward(user, item)
        return ctx.pairs.products(user, item)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (user, item), pairs = ctx.saved_tensors, ctx.pairs
        grad = pairs.sorted(grads[0])
        place, left, ends = pairs.transposed()
        return (
            _weighed_sums(item, pairs.right, pairs.ends, grad),
            _weighed_sums(user, left, ends, grad.index_select(0, place)),
            None,
            None,
        )


def paired_products(user: Tensor, item: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """Inner products of rows of two tables, differentiable in both.

    Args:
        user: The first table, shape (num_users, width).
        item: The second one, shape (num_items, width).
        users: A row of the first table a pair, shape (n,), int64; quickest in ascending order.
        items: A row of the second table a pair, shape (n,), int64.

    Returns:
        Shape (n,).
    """
    if user.device.type != "cpu":
        return (user.index_select(0, users) * item.index_select(0, items)).sum(dim=1)
    scores: Tensor = _PairedProducts.apply(user, item, users, items)  # type: ignore[no-untyped-call]
    return scores


class _HiddenPairs(torch.autograd.Function):
    """Σ_h w_h · relu(a_uh + b_ih) of pairs, some of them at a time, so that what is gathered stays cached.

    The weight and its gradient are applied to sums over the pairs of a row, as the layer is linear beyond
    which of its units are active.
    """

    @staticmethod
    def forward(ctx: Any, user: Tensor, item: Tensor, weight: Tensor, users: Tensor, items: Tensor) -> Tensor:
        ctx.save_for_backward(user, item, weight, users, items)
        scores = user.new_empty(len(users))
        for total, rows, others in _in_parts(user.shape[1], scores, users, items):
            hidden = user.index_select(0, rows).add_(item.index_select(0, others)).relu_()
            torch.mv(hidden, weight, out=total)
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        user, item, weight, users, items = ctx.saved_tensors
        user_grad, item_grad = torch.zeros_like(user), torch.zeros_like(item)
        for grad, rows, others in _in_parts(user.shape[1], grads[0][:, None], users, items):
            hidden = user.index_select(0, rows).add_(item.index_select(0, others))
            active = hidden.gt_(0).mul_(grad)
            user_grad.index_add_(0, rows, active)
            item_grad.index_add_(0, others, active)
        weight_grad = (user * user_grad).sum(dim=0) + (item * item_grad).sum(dim=0)
        return user_grad.mul_(weight), item_grad.mul_(weight), weight_grad, None, None


def hidden_scores(user: Tensor, item: Tensor, weight: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """Σ_h w_h · relu(a_uh + b_ih) of rows a of one table and b of another, differentiable in all three.

    Args:
        user: The first table, shape (num_users, num_units).
        item: The second one, shape (num_items, num_units).
        weight: w, shape (num_units,).
        users: A row of the first table a pair, shape (n,), int64.
        items: A row of the second table a pair, shape (n,), int64.

    Returns:
        Shape (n,).
    """
    scores: Tensor = _HiddenPairs.apply(user, item, weight, users, items)  # type: ignore[no-untyped-call]
    return scores


def _in_parts(width: int, *columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Columns of a batch, on a CPU so many rows at a time as make a part of this width."""
    num_rows = max(_PART // width, 1) if columns[0].device.type == "cpu" else len(columns[0])
    return zip(*(torch.split(column, num_rows) for column in columns), strict=True)


class _SquaredNorms(torch.autograd.Function):
    """Σ_n c_n ‖row_n‖², whose gradient in a row is that row 2 c_n times."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(rows, counts)
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
        return norms.square_() @ counts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        rows, counts = ctx.saved_tensors
        return rows * (counts * (2.0 * grads[0]))[:, None], None


def squared_norms(rows: Tensor, used: Tensor) -> Tensor:
    """Sum of the squared norms of the rows used, each as often as it is, one number.

    Args:
        rows: Shape (num_rows, width).
        used: Row numbers, of any length, int64.
    """
    counts = torch.bincount(used, minlength=len(rows)).to(rows.dtype)
    total: Tensor = _SquaredNorms.apply(rows, counts)  # type: ignore[no-untyped-call]
    return total
