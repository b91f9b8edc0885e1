"""Sizes as SCALL (arXiv 2407.15411) draws them: three numbers say what share users get, and two shapes.

An action is ``(w, alpha_user, alpha_item)``, each in [0, 1]: the share of the parameters that users get, and
for users and for items the shape of a power law, of which the k-th largest of n draws belongs to the k-th
most popular. What the formulas miss of the budget is put right by
:meth:`envs.sizes.embedding_sizes.EmbeddingSizes.from_proposal`; :func:`reference_sizes` leaves it as the
released code does.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Array = NDArray[np.float64]

#: The exponent a of the law with density a x^(a-1) at shapes 0 and 1.
_EXPONENTS = (0.1, 30.0)
_MAX_ROUNDS = 10_000


def exponent(alpha: float | Array) -> Array:
    """The exponent a of the power law of a shape: small where few entities take nearly all."""
    low, high = _EXPONENTS
    return np.asarray(low + (high - low) * np.asarray(alpha, np.float64))


def fractions(num_entities: int, a: float) -> Array:
    """What averaging many draws estimates: the expected order statistics of the power law, descending.

    The k-th smallest of n draws has the mean Γ(k + 1/a) Γ(n + 1) / (Γ(k) Γ(n + 1 + 1/a)).

    Args:
        num_entities: n, at least 1.
        a: See :func:`exponent`.

    Returns:
        Shape (num_entities,), with the sum 1.
    """
    rank = np.arange(num_entities, 0, -1, dtype=np.float64)
    # The factors that do not depend on k go with the normalisation.
    logarithm = gammaln(rank + 1 / a) - gammaln(rank)
    weight = np.exp(logarithm - logarithm[0])
    return np.asarray(weight / weight.sum())


def drawn_fractions(uniforms: Array, a: float) -> Array:
    """The released sampler's own estimate, from its draws.

    Args:
        uniforms: In (0, 1), shape (num_draws, num_entities); 100 draws there.
        a: See :func:`exponent`.

    Returns:
        Shape (num_entities,), descending, with the sum 1.
    """
    draws = -np.sort(-(uniforms ** (1 / a)), axis=1)
    mean = (draws / draws.sum(axis=1, keepdims=True)).mean(axis=0)
    return np.asarray(mean / mean.sum())


def by_popularity(values: NDArray[np.generic], popularity: NDArray[np.generic]) -> NDArray[np.generic]:
    """Descending values as those of entities: the first for the most popular, the later arrival among equals.

    Args:
        values: Descending, shape (n,).
        popularity: Of each entity in order of arrival, shape (n,).

    Returns:
        Shape (n,), in order of arrival.
    """
    order = np.lexsort((-np.arange(len(popularity)), -popularity.astype(np.float64)))
    of_entity = np.empty_like(values)
    of_entity[order] = values
    return of_entity


def proposal(
    action: Array, user_popularity: NDArray[np.generic], item_popularity: NDArray[np.generic], cap_params: int
) -> tuple[Array, Array]:
    """Real numbers of parameters that an action asks for, to be projected onto the budget.

    Args:
        action: Shape (3,), each in [0, 1].
        user_popularity: Shape (num_users,).
        item_popularity: Shape (num_items,).
        cap_params: Parameters that there are.

    Returns:
        Of users, shape (num_users,), and of items, shape (num_items,).
    """
    user_share, *alphas = np.asarray(action, np.float64).tolist()
    sides = zip((user_popularity, item_popularity), alphas, (user_share, 1 - user_share), strict=True)
    user, item = (
        by_popularity(fractions(len(popularity), float(exponent(alpha))) * share * cap_params, popularity)
        for popularity, alpha, share in sides
    )
    return np.asarray(user, np.float64), np.asarray(item, np.float64)


def released_sizes(
    user: Array, item: Array, min_embedding_size: int, max_embedding_size: int, *, explores: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What the released code makes of a :func:`proposal`, in the place of a projection onto the budget.

    Its mask shows nothing beyond the largest size, where those of an action that was drawn therefore end; and
    d_min is put in the place of 0, as no row may be without a number here.

    Args:
        user: Parameters that each user is to get, shape (num_users,).
        item: The same of items, shape (num_items,).
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        explores: See :func:`reference_sizes`.

    Returns:
        Sizes of users and of items, whose sum may be beyond what there is.
    """
    bounds = min_embedding_size, max_embedding_size

    def sizes_of(side: Array) -> NDArray[np.int32]:
        params = float(side.sum())
        # A side that is to get nothing has shares of 0.
        shares = side / params if params > 0 else side
        return np.clip(reference_sizes(shares, params, *bounds, explores=explores), *bounds).astype(np.int32)

    return sizes_of(user), sizes_of(item)


def reference_sizes(
    shares: Array, params: float, min_embedding_size: int, max_embedding_size: int, *, explores: bool
) -> NDArray[np.int64]:
    """Sizes of the released code, which keep to no budget: the floor comes after the scaling.

    Where the policy exploits and a size is above the largest, sizes are clipped and scaled in turn until none
    is outside; a floor above what there is ends in zeros there.

    Args:
        shares: Of each entity, descending, shape (n,).
        params: What they are shares of.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        explores: Whether the action was drawn, whose sizes are not corrected.
    """
    sizes = shares * params
    if not explores and sizes.max() > max_embedding_size:
        for _ in range(_MAX_ROUNDS):
            sizes = np.clip(sizes, min_embedding_size, max_embedding_size)
            sizes = sizes * (params / sizes.sum())
            if min_embedding_size <= sizes.min() and sizes.max() <= max_embedding_size:
                break
        return np.asarray(np.round(sizes), np.int64)
    return np.asarray(np.round(np.maximum(sizes, min_embedding_size)), np.int64)
