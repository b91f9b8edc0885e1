"""Whether one method beats another: a paired bootstrap over users."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Numbers of a block of resamples; 64 MB.
_BLOCK = 16_000_000


@dataclass(frozen=True)
class Difference:
    """One method against another in one metric.

    Attributes:
        mean: Mean difference over users, first less second.
        low: Lower end of its 95 % interval (percentiles of the resampled means).
        high: Upper end.
        p: Two-sided: twice the smaller share of resampled means on either side of 0.
        relative: The mean difference as a share of the second's mean.
        relative_low: ``low`` as such a share.
        relative_high: ``high`` as such a share.
    """

    mean: float
    low: float
    high: float
    p: float
    relative: float
    relative_low: float
    relative_high: float


def paired_bootstrap(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    num_resamples: int,
    rng: np.random.Generator,
) -> list[Difference]:
    """Compare two methods on the same users, in several metrics at once.

    The percentile bootstrap (Efron and Tibshirani 1993, chapter 13) of the mean of paired differences: users
    are drawn with replacement, a resample being the same users in all metrics.

    Args:
        first: Metrics of each user, shape (num_users, num_metrics); a user of whom one is NaN is left out.
        second: The same of the other method.
        num_resamples: Resamples.
        rng: Draws the users.

    Returns:
        One a metric.
    """
    present = ~np.isnan(first + second).any(axis=1)
    first, second = np.asarray(first[present], np.float64), np.asarray(second[present], np.float64)
    differences = first - second
    num_users = len(differences)
    block = max(1, _BLOCK // num_users)
    means = np.concatenate(
        [
            _resampled_means(differences, min(block, num_resamples - start), rng)
            for start in range(0, num_resamples, block)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    below, above = (means <= 0).sum(axis=0), (means >= 0).sum(axis=0)
    # One more of each: no number of resamples shows a p of 0.
    p = np.minimum(1.0, 2.0 * (np.minimum(below, above) + 1) / (num_resamples + 1))
    mean, base = differences.mean(axis=0), second.mean(axis=0)
    return [
        Difference(
            float(mean[i]),
            float(low[i]),
            float(high[i]),
            float(p[i]),
            *(_share(value, float(base[i])) for value in (mean[i], low[i], high[i])),
        )
        for i in range(differences.shape[1])
    ]


def _resampled_means(
    values: NDArray[np.float64], num_resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Means of so many resamples of the rows, shape (num_resamples, num_metrics)."""
    num_rows = len(values)
    drawn = rng.integers(num_rows, size=(num_resamples, num_rows))
    drawn += np.arange(num_resamples)[:, None] * num_rows
    # How often each row was drawn: one matrix product takes the place of a gather a metric.
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_rows).reshape(num_resamples, num_rows)
    means: NDArray[np.float64] = counts.astype(np.float64) @ values / num_rows
    return means


def _share(value: float, base: float) -> float:
    return float(value) / base if base else 0.0
