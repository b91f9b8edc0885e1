"""Normalised adjacency of the user-item graph and its product with an embedding table."""

import warnings
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor


def normalised_adjacency(train: csr_array) -> csr_array:
    """D^-1/2 A D^-1/2 of the bipartite graph, users first, then items.

    LightGCN (arXiv 2002.02126) equation 8. A row without interactions stays zero.

    Args:
        train: Training interactions, ones, shape (num_users, num_items), sorted indices.

    Returns:
        Symmetric, shape (num_users + num_items,) squared, float32, int32 indices.
    """
    num_users, num_items = train.shape
    user_degree = np.diff(train.indptr)
    item_degree = np.bincount(train.indices, minlength=num_items)
    user_scale = 1.0 / np.sqrt(np.maximum(user_degree, 1))
    item_scale = 1.0 / np.sqrt(np.maximum(item_degree, 1))
    weights = (np.repeat(user_scale, user_degree) * item_scale[train.indices]).astype(np.float32)
    upper = csr_array((weights, train.indices, train.indptr), shape=train.shape)
    lower = upper.T.tocsr()
    # Users' rows point at items and items' rows at users, so the two halves only need their offsets.
    indptr = np.concatenate([upper.indptr, upper.indptr[-1] + lower.indptr[1:]]).astype(np.int32)
    indices = np.concatenate([upper.indices + num_users, lower.indices]).astype(np.int32)
    num_entities = num_users + num_items
    return csr_array((np.concatenate([upper.data, lower.data]), indices, indptr), shape=(num_entities,) * 2)


def to_torch(matrix: csr_array, device: torch.device) -> Tensor:
    """A sparse CSR tensor of the matrix; on the CPU it shares its memory."""
    with warnings.catch_warnings():
        # Both warnings tell of PyTorch's own plans for CSR tensors; nothing follows from them here.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr),
            torch.from_numpy(matrix.indices),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
            device=device,
            check_invariants=False,
        )


class _SymmetricProduct(torch.autograd.Function):
    """A @ x for a symmetric A, whose gradient in x is the same product again."""

    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, x: Tensor) -> Tensor:
        ctx.adjacency = adjacency
        return adjacency @ x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, ctx.adjacency @ grads[0].contiguous()


def propagate(adjacency: Tensor, x: Tensor) -> Tensor:
    """The product of a symmetric adjacency and a table, differentiable in the table.

    Args:
        adjacency: Sparse CSR, symmetric, shape (n, n).
        x: Shape (n, width).

    Returns:
        Shape (n, width).
    """
    product: Tensor = _SymmetricProduct.apply(adjacency, x)  # type: ignore[no-untyped-call]
    return product
