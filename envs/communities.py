"""Communities of users, in an order in which neighbours have much in common."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from envs.errors import EmbeddingSizeError
from envs.recommenders.propagation import symmetric_weights
from envs.sizes.embedding_sizes import COLUMN_TYPE

#: One less than the columns at which a row may begin: the first is left to the items.
MAX_COMMUNITIES = int(np.iinfo(COLUMN_TYPE).max)


def most_communities(num_users: int, num_items: int) -> int:
    """The most communities that so many users and items can be parted into; below 2 they cannot."""
    return min(num_users, num_items, MAX_COMMUNITIES + 1) - 1


def find_communities(train: csr_array, num_communities: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Communities of users with like interactions, numbered so that neighbours are alike too.

    k-means among the leading left singular vectors of the normalised interactions, as many as there are
    communities, weighed by their singular values, each row of unit length (the users' half of spectral
    co-clustering, Dhillon, KDD 2001). The order is that of the leaves of the centres' dendrogram, optimal in
    the sense of Bar-Joseph et al. (Bioinformatics 2001).

    Args:
        train: Training interactions, shape (num_users, num_items).
        num_communities: How many; 2 to 255, and below the number of users and that of items.
        rng: Draws where both iterations begin.

    Returns:
        The community of each user, shape (num_users,), from 0; they are fewer where some would have nobody.

    Raises:
        EmbeddingSizeError: There are too few users or items for as many.
    """
    most = most_communities(*train.shape)
    if not 2 <= num_communities <= most:
        raise EmbeddingSizeError(
            f"{num_communities} communities of {train.shape[0]:,} users and {train.shape[1]:,} items: ask "
            f"for 2 to {most}."
        )
    # They take a while to import, and most processes find no communities.
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.cluster.vq import kmeans2

    normalised = symmetric_weights(train).astype(np.float64)
    user, scale, _ = svds(normalised, k=num_communities, v0=rng.uniform(-1.0, 1.0, min(train.shape)))
    points = user * scale
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, labels = kmeans2(points, num_communities, minit="++", seed=rng)
    present, members = np.unique(labels, return_inverse=True)
    order = np.zeros(1, np.intp)
    if len(present) > 1:
        order = leaves_list(linkage(centres[present], "average", optimal_ordering=True))
    numbers = np.empty(len(present), COLUMN_TYPE)
    numbers[order] = np.arange(len(present), dtype=COLUMN_TYPE)
    return np.asarray(numbers[members])
