"""Made-up interactions of any size, with popularity, activity and tastes that a recommender can find."""

import numpy as np
from numpy.typing import NDArray

from envs.data.files import check_rows
from envs.data.interactions import InteractionLog
from envs.errors import ConfigError, DataError

#: Rounds of drawing by taste; what is still missing then is drawn uniformly from the items not yet taken.
_NUM_TASTE_ROUNDS = 10
_MIN_ACTIVITY = 3


def _power_law(size: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights (rank + 1)^-exponent in random order, shape (size,), summing to 1."""
    weights = rng.permutation((np.arange(size) + 1.0) ** -exponent)
    return np.asarray(weights / weights.sum())


def _activity(
    num_users: int, total: int, most: int, exponent: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Interactions of each user, shape (num_users,): sums to the total, none above ``most``."""
    fewest = min(_MIN_ACTIVITY, most) if total >= _MIN_ACTIVITY * num_users else 0
    counts = fewest + rng.multinomial(total - fewest * num_users, _power_law(num_users, exponent, rng))
    while (excess := int(np.maximum(counts - most, 0).sum())) > 0:
        counts = np.minimum(counts, most)
        room = most - counts
        counts += rng.multinomial(excess, room / room.sum())
    return np.asarray(counts, np.int64)


class _Tastes:
    """P(user, item) = sum over tastes of P(taste | user) · P(item | taste): a matrix of the rank given."""

    def __init__(
        self,
        num_users: int,
        num_items: int,
        rank: int,
        concentration: float,
        exponent: float,
        rng: np.random.Generator,
    ) -> None:
        num_tastes = min(rank, num_items)
        shares = rng.standard_gamma(concentration, (num_users, num_tastes)) + 1e-12
        self._shares = shares / shares.sum(axis=1, keepdims=True)
        taste_of_item = rng.permutation(np.arange(num_items) % num_tastes)
        self._items = np.argsort(taste_of_item, kind="stable")
        self._ends = np.cumsum(np.bincount(taste_of_item, minlength=num_tastes))
        self._cumulative = np.cumsum(_power_law(num_items, exponent, rng)[self._items])

    def draw(self, counts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Items for each user in turn, shape (sum of counts,); repeats are possible."""
        num_tastes = len(self._ends)
        by_taste = rng.multinomial(counts, self._shares).ravel()
        taste = np.repeat(np.tile(np.arange(num_tastes), len(counts)), by_taste)
        high = self._cumulative[self._ends - 1]
        low = np.append(0.0, high[:-1])
        point = low[taste] + rng.random(len(taste)) * (high - low)[taste]
        place = np.searchsorted(self._cumulative, point, side="right")
        # Rounding may carry a point over the border of its taste.
        first = np.append(0, self._ends[:-1])
        return np.asarray(self._items[np.clip(place, first[taste], self._ends[taste] - 1)])


def generate_interactions(
    num_users: int,
    num_items: int,
    num_interactions: int,
    *,
    seed: int,
    rank: int = 8,
    popularity_exponent: float = 0.8,
    activity_exponent: float = 0.5,
    taste_concentration: float = 0.1,
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
        popularity_exponent: Of the popularity's power law; 0 makes items of a taste equally popular.
        activity_exponent: Of the activity's power law; 0 makes users equally active.
        taste_concentration: Of the Dirichlet; small values give each user one taste, large ones all tastes
            alike.

    Returns:
        A log without ratings and timestamps, ordered by user and item.

    Raises:
        ConfigError: A size or parameter is not positive.
        DataError: More interactions than half of the pairs there are, or more than memory can hold.
    """
    for name, value in (
        ("num_users", num_users),
        ("num_items", num_items),
        ("num_interactions", num_interactions),
        ("rank", rank),
        ("taste_concentration", taste_concentration),
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
    activity = _activity(num_users, num_interactions, most, activity_exponent, rng)
    tastes = _Tastes(num_users, num_items, rank, taste_concentration, popularity_exponent, rng)
    keys = np.empty(0, np.int64)
    missing = activity
    num_rounds = 0
    while len(keys) < num_interactions:
        user = np.repeat(np.arange(num_users, dtype=np.int64), missing)
        if num_rounds < _NUM_TASTE_ROUNDS:
            item = tastes.draw(missing, rng)
        else:
            item = rng.integers(num_items, size=len(user))
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
