"""Communities of users and items that go together."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from envs.errors import EmbeddingSizeError
from envs.placed_sizes import COLUMN_TYPE
from envs.recommenders.propagation import symmetric_weights


def find_communities(train: csr_array, num_communities: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Communities of users and of items that go together, by spectral co-clustering.

    Dhillon (KDD 2001): k-means among the leading singular vectors of the normalised interactions, here as
    many as there are communities, weighed by their singular values, each row of unit length.

    Args:
        train: Training interactions, shape (num_users, num_items).
        num_communities: How many; 2 to 256, and below the number of users and that of items.
        rng: Draws where both iterations begin.

    Returns:
        The community of each row, users first, shape (num_users + num_items,), from 0; some may have nobody.

    Raises:
        EmbeddingSizeError: There are too few users or items for as many.
    """
    most = min(*train.shape, np.iinfo(COLUMN_TYPE).max + 2) - 1
    if not 2 <= num_communities <= most:
        raise EmbeddingSizeError(
            f"{num_communities} communities of {train.shape[0]:,} users and {train.shape[1]:,} items: ask "
            f"for 2 to {most}."
        )
    normalised = symmetric_weights(train).astype(np.float64)
    start = rng.uniform(-1.0, 1.0, min(train.shape))
    user, scale, item = svds(normalised, k=num_communities, v0=start)
    points = np.concatenate([user * scale, item.T * scale])
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        _, communities = kmeans2(points, num_communities, minit="++", seed=rng)
    found: NDArray[np.uint8] = communities.astype(COLUMN_TYPE)
    return found
