"""Mean and spread over seeds; whether one method beats another: a paired bootstrap over users and splits."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: Numbers of a block of resamples; 64 MB.
_BLOCK = 16_000_000


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the latter None for a single one."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of at least one value."""
        numbers = list(values)
        return cls(statistics.mean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.sd is None else f"±{self.sd:.4f}")


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
        by_split: The relative difference on each split of the data.
    """

    mean: float
    low: float
    high: float
    p: float
    relative: float
    relative_low: float
    relative_high: float
    by_split: list[float]


def paired_bootstrap(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    num_resamples: int,
    rng: np.random.Generator,
) -> list[Difference]:
    """Compare two methods on the same users and splits of the data, in several metrics at once.

    The percentile bootstrap (Efron and Tibshirani 1993, chapter 13) of the mean of paired differences: users
    are drawn with replacement, a resample being the same users in all metrics. Of several splits, one fewer
    than there are is drawn with replacement too, which makes the variance of few an unbiased one (Rao and Wu
    1988), and every split drawn counts with the same users, who are the same people on each (Owen 2007). Of a
    single split nothing is known of others, and the interval is over its users alone.

    Args:
        first: Metrics of each user on each split, shape (num_splits, num_users, num_metrics); what is NaN in
            either method is left out.
        second: The same of the other method.
        num_resamples: Resamples.
        rng: Draws users and splits.

    Returns:
        One a metric.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    present = np.asarray(np.isfinite(first + second).all(axis=2))
    is_measured = present.any(axis=0)
    first, second, present = first[:, is_measured], second[:, is_measured], present[:, is_measured]
    differences = np.where(present[:, :, None], first - second, 0.0)
    block = max(1, _BLOCK // present.shape[1])
    means = np.concatenate(
        [
            _resampled_means(differences, present, min(block, num_resamples - start), rng)
            for start in range(0, num_resamples, block)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    below, above = (means <= 0).sum(axis=0), (means >= 0).sum(axis=0)
    # One more of each: no number of resamples shows a p of 0.
    p = np.minimum(1.0, 2.0 * (np.minimum(below, above) + 1) / (num_resamples + 1))
    of_splits = differences.sum(axis=1) / present.sum(axis=1)[:, None]
    bases = np.where(present[:, :, None], second, 0.0).sum(axis=1) / present.sum(axis=1)[:, None]
    mean, base = of_splits.mean(axis=0), bases.mean(axis=0)
    return [
        Difference(
            float(mean[i]),
            float(low[i]),
            float(high[i]),
            float(p[i]),
            _share(mean[i], base[i]),
            _share(low[i], base[i]),
            _share(high[i], base[i]),
            [_share(*pair) for pair in zip(of_splits[:, i], bases[:, i], strict=True)],
        )
        for i in range(differences.shape[2])
    ]


def _resampled_means(
    values: NDArray[np.float64], present: NDArray[np.bool_], num_resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Means over splits of means over users, shape (num_resamples, num_metrics)."""
    num_splits, num_users, num_metrics = values.shape
    users = _drawn(num_users, num_users, num_resamples, rng)
    # How often each was drawn: one matrix product takes the place of a gather a metric.
    sums = users @ values.transpose(1, 0, 2).reshape(num_users, -1)
    # A resample may miss all users of a split of a few.
    num_present = np.maximum(users @ present.T.astype(np.float64), 1.0)
    means = sums.reshape(num_resamples, num_splits, num_metrics) / num_present[:, :, None]
    if num_splits == 1:
        return np.asarray(means[:, 0])
    splits = _drawn(num_splits, num_splits - 1, num_resamples, rng) / (num_splits - 1)
    of_splits: NDArray[np.float64] = np.einsum("rs,rsm->rm", splits, means)
    return of_splits


def _drawn(
    num_rows: int, num_draws: int, num_resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """How often each row is among those that a resample draws, shape (num_resamples, num_rows)."""
    drawn = rng.integers(num_rows, size=(num_resamples, num_draws))
    drawn += np.arange(num_resamples)[:, None] * num_rows
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_rows)
    return counts.reshape(num_resamples, num_rows).astype(np.float64)


def _share(value: float, base: float) -> float:
    return float(value) / float(base) if base else 0.0


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A column a name, NULL where a row lacks it; text where values are of several kinds, or no scalars."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {str, bool}):
        numbers = [
            None if isinstance(value, float) and not math.isfinite(value) else value for value in values
        ]
        return pa.array(numbers, pa.float64()) if kinds == {int, float} else pa.array(numbers)
    return pa.array(
        [None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values], pa.string()
    )
