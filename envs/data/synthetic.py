"""Made-up interactions of any size, with popularity, activity and tastes that a recommender can find."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from envs.data.interactions import InteractionLog, check_rows
from envs.errors import ConfigError, DataError

#: Rounds of drawing by taste; what is still missing then is drawn uniformly from the items not yet taken.
_NUM_TASTE_ROUNDS = 10
_MIN_ACTIVITY = 3
#: Of the power laws.
_POPULARITY_EXPONENT = 0.8
_ACTIVITY_EXPONENT = 0.5
#: Of the Dirichlet draw of a user's tastes; so small that most users have one.
_TASTE_CONCENTRATION = 0.1


def _power_law(size: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights (rank + 1)^-exponent in random order, shape (size,), summing to 1."""
    weights = rng.permutation((np.arange(size) + 1.0) ** -exponent)
    return np.asarray(weights / weights.sum())


def _activity(num_users: int, total: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Interactions of each user, shape (num_users,): sums to the total, none above ``most``."""
    fewest = min(_MIN_ACTIVITY, most) if total >= _MIN_ACTIVITY * num_users else 0
    counts = fewest + rng.multinomial(
        total - fewest * num_users, _power_law(num_users, _ACTIVITY_EXPONENT, rng)
    )
    while (excess := int(np.maximum(counts - most, 0).sum())) > 0:
        counts = np.minimum(counts, most)
        room = most - counts
        counts += rng.multinomial(excess, room / room.sum())
    return np.asarray(counts, np.int64)


def _tastes(
    num_users: int, num_items: int, rank: int, rng: np.random.Generator
) -> Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.int64]]:
    """Draws items by P(user, item) = sum over tastes of P(taste | user) · P(item | taste), of this rank.

    Returns:
        Of the number of items of each user it draws them for each in turn; repeats are possible.
    """
    num_tastes = min(rank, num_items)
    shares = rng.standard_gamma(_TASTE_CONCENTRATION, (num_users, num_tastes)) + 1e-12
    shares /= shares.sum(axis=1, keepdims=True)
    taste_of_item = rng.permutation(np.arange(num_items) % num_tastes)
    items = np.argsort(taste_of_item, kind="stable")
    ends = np.cumsum(np.bincount(taste_of_item, minlength=num_tastes))
    cumulative = np.cumsum(_power_law(num_items, _POPULARITY_EXPONENT, rng)[items])
    high = cumulative[ends - 1]
    # Rounding may carry a point over the border of its taste.
    low, first = np.append(0.0, high[:-1]), np.append(0, ends[:-1])

    def draw(counts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        taste = np.repeat(np.tile(np.arange(num_tastes), num_users), rng.multinomial(counts, shares).ravel())
        point = low[taste] + rng.random(len(taste)) * (high - low)[taste]
        place = np.searchsorted(cumulative, point, side="right")
        return np.asarray(items[np.clip(place, first[taste], ends[taste] - 1)])

    return draw


def generate_interactions(
    num_users: int,
    num_items: int,
    num_interactions: int,
    *,
    seed: int,
    rank: int = 8,
) -> InteractionLog:
    """Random interactions with power-law popularity and activity and a low-rank structure.

    Each item belongs to one of ``rank`` tastes and each user mixes them by a Dirichlet draw. A user's
    activity follows a power law; each of its interactions draws a taste, then one of that taste's items by
    popularity. Pairs drawn twice are drawn anew, so that the counts are exact.

    Args:
        num_users: Users; the ids are 0 to num_users - 1, those without interactions included.
        num_items: Items, likewise.
        num_interactions: Pairs, all different. Every user gets at least three where there are that many.
        seed: Seed of every draw.
        rank: Number of tastes.

    Returns:
        A log without ratings and timestamps, ordered by user and item.

    Raises:
        ConfigError: A number is not positive.
        DataError: More interactions than half of the pairs there are, or more than memory can hold.
    """
    for name, value in (
        ("num_users", num_users),
        ("num_items", num_items),
        ("num_interactions", num_interactions),
        ("rank", rank),
    ):
        if value <= 0:
            raise ConfigError(f"{name} is {value}; choose a number above 0")
    for num_rows, num_columns in ((num_users, 4 * rank), (num_items, 8), (num_interactions, 8)):
        check_rows(num_rows, num_columns, "synthetic data")
    most = max(num_items // 2, min(_MIN_ACTIVITY, num_items))
    if num_interactions > num_users * most:
        raise DataError(
            f"synthetic data: {num_interactions} interactions are more than {num_users} users can have with "
            f"{num_items} items, of which each takes at most {most}; ask for fewer interactions or more items"
        )
    rng = np.random.default_rng(seed)
    activity = _activity(num_users, num_interactions, most, rng)
    draw_items = _tastes(num_users, num_items, rank, rng)
    keys = np.empty(0, np.int64)
    missing = activity
    num_rounds = 0
    while len(keys) < num_interactions:
        user = np.repeat(np.arange(num_users, dtype=np.int64), missing)
        draws_by_taste = num_rounds < _NUM_TASTE_ROUNDS
        item = draw_items(missing, rng) if draws_by_taste else rng.integers(num_items, size=len(user))
        keys = np.sort(np.concatenate([keys, user * num_items + item]))
        keys = keys[np.append(True, keys[1:] != keys[:-1])]
        missing = activity - np.bincount(keys // num_items, minlength=num_users)
        num_rounds += 1
    user, item = np.divmod(keys, num_items)
    return InteractionLog(
        user_ids=np.arange(num_users, dtype=np.int64),
        item_ids=np.arange(num_items, dtype=np.int64),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=None,
        timestamp=None,
        num_duplicates=0,
        source=f"synthetic data (seed {seed})",
    )
