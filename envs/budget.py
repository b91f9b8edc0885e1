"""How much memory an embedding table may take, and the sizes nearest to those asked for that keep to it.

A table of N rows of at most d_max numbers is *full* at N · d_max parameters, and a recommender of several
tables, whose rows share one size, at so many times as many. A budget caps the parameters that are kept, or
the bytes of the packed file (see :mod:`ciess_ray.packed.table`). Of a table that gains rows, as in a stream,
parameters and bytes stay what they are, and of bytes more and more tell the sizes of rows; a ratio and a mean
size allow as much more as there are more rows.
"""

import math
import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from envs.errors import BudgetError, EmbeddingSizeError

BYTES_PER_PARAM = 4
#: What the packed file's header may take; the format keeps within it.
HEADER_BYTES = 1024

BudgetUnit = Literal["ratio", "mean size", "params", "bytes"]

#: What is counted, and how many of it a unit is.
_UNITS: dict[str, tuple[BudgetUnit, int]] = {
    **{name: ("params", 1) for name in ("params", "param", "parameters")},
    "k params": ("params", 10**3),
    "m params": ("params", 10**6),
    "a row": ("mean size", 1),
    "b": ("bytes", 1),
    "kb": ("bytes", 10**3),
    "mb": ("bytes", 10**6),
    "gb": ("bytes", 10**9),
    "tb": ("bytes", 10**12),
    "kib": ("bytes", 2**10),
    "mib": ("bytes", 2**20),
    "gib": ("bytes", 2**30),
    "tib": ("bytes", 2**40),
}
#: As bytes are told: the first of these that tells them exactly.
_BYTE_UNITS = {unit: _UNITS[unit.lower()][1] for unit in ("TB", "GB", "MB", "kB", "TiB", "GiB", "MiB", "KiB")}
#: Commas and underscores part groups of three digits; a point begins the decimals.
_WHOLE = r"[0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]{0,2}(?:_[0-9]{3})+"
_NUMBER = rf"(?:(?:{_WHOLE})(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?"
_BUDGET = re.compile(rf"\s*(?P<number>{_NUMBER})\s*(?P<unit>[a-z% ]*?)\s*", re.I | re.ASCII)
#: 62.000 of something that is counted: 62 to some readers, 62,000 to others.
_AMBIGUOUS = re.compile(r"[1-9][0-9]{0,2}\.[0-9]{3}", re.ASCII)
#: Beyond it float64 no longer tells apart the fractions of a size that rounding looks at.
_MAX_PROPOSAL = 1e9
_EXAMPLES = "write it like 0.1, 10%, '62000 params' or 64MB"


def index_bytes_per_row(max_embedding_size: int) -> int:
    """Bytes in which the packed file writes one row's size."""
    return 1 if max_embedding_size <= 255 else 2 if max_embedding_size <= 65_535 else 4


def bytes_per_id(num_items: int) -> int:
    """Bytes in which the packed file writes which item a number of a neighbour table is the weight of."""
    return 2 if num_items <= 65_536 else 4


def packed_bytes(num_params: int, num_rows: int, max_embedding_size: int, id_bytes: int = 0) -> int:
    """Upper bound of the packed file's bytes: values, ids beside them, one size a row, header."""
    index_bytes = num_rows * index_bytes_per_row(max_embedding_size)
    return num_params * (BYTES_PER_PARAM + id_bytes) + index_bytes + HEADER_BYTES


@dataclass(frozen=True)
class MemoryBudget:
    """A cap on an embedding table.

    Attributes:
        amount: Share of the full table in (0, 1], mean embedding size, parameters, or bytes, by ``unit``.
        unit: A ratio, a mean size or a number of parameters caps parameters, as in the papers; bytes cap the
            packed file with its index and header.
    """

    amount: float
    unit: BudgetUnit = "ratio"

    def __post_init__(self) -> None:
        if not math.isfinite(self.amount) or self.amount <= 0:
            raise BudgetError(f"a memory budget must be above 0, not {self.amount:g}: {_EXAMPLES}.")
        if self.unit == "ratio" and self.amount > 1:
            raise BudgetError(
                f"a memory budget of {self.amount:g}, or {100 * self.amount:g}%, is more than the full "
                f"table: {_EXAMPLES}."
            )

    @classmethod
    def parse(cls, text: "str | float | MemoryBudget") -> "MemoryBudget":
        """Read ``0.1``, ``10%``, ``62,000 params``, ``8 a row`` or ``64MB`` (10⁶ bytes; ``64MiB`` for 2²⁰).

        A comma parts groups of three digits, and a point begins the decimals.

        Raises:
            BudgetError: The text is no budget, an amount is 0 or above the full table, or its number may
                mean two things.
        """
        if isinstance(text, MemoryBudget):
            return text
        match = _BUDGET.fullmatch(str(text))
        if match is None:
            raise BudgetError(
                f"cannot read {text!r} as a memory budget; a comma parts groups of three digits, as in "
                f"62,000, and decimals begin with a point, as in 2.5: {_EXAMPLES}."
            )
        digits = match["number"]
        number = float(re.sub("[_,]", "", digits))
        unit = " ".join(match["unit"].lower().split())
        if unit in ("", "%"):
            return cls(number / 100.0 if unit else number)
        if unit not in _UNITS:
            raise BudgetError(f"unknown unit {match['unit']!r} in the memory budget {text!r}: {_EXAMPLES}.")
        if _AMBIGUOUS.fullmatch(digits):
            raise BudgetError(
                f"the memory budget {text!r} may mean {number:g} or {digits.replace('.', '')}: decimals "
                f"begin with a point and a comma parts groups of three digits, so that {number:g} or "
                f"{digits.replace('.', ',')} is clear: {_EXAMPLES}."
            )
        counted, factor = _UNITS[unit]
        return cls(number * factor, counted)

    def cap_params(
        self,
        num_rows: int,
        min_embedding_size: int,
        max_embedding_size: int,
        num_tables: int = 1,
        *,
        reserve: float = 0.0,
        may_share: bool = False,
        id_bytes: int = 0,
    ) -> int:
        """The most parameters the tables may keep, all of them together.

        Args:
            num_rows: Of items, and of users where they have rows, together.
            min_embedding_size: d_min; every row keeps at least so many in each table.
            max_embedding_size: d_max.
            num_tables: Tables in which every row has its size.
            reserve: Share of the budget that is kept free, in [0, 1), for rows that arrive before sizes are
                decided anew; see :meth:`num_newcomers`.
            may_share: Whether users may share a row, and items another, so that two rows of d_min are enough.
            id_bytes: Bytes that each parameter has beside it, see :func:`bytes_per_id`; 0 for none.

        Returns:
            A multiple of ``num_tables``, at most ``num_rows * max_embedding_size * num_tables``.

        Raises:
            BudgetError: The cap leaves less than d_min a row, or, where rows may be shared, than for two, or
                there can be no such reserve.
            EmbeddingSizeError: The bounds contradict each other.
        """
        check_bounds(min_embedding_size, max_embedding_size)
        used = self._used(reserve)
        full = num_rows * max_embedding_size * num_tables
        if self.unit == "ratio":
            # A share of an integer that should come out whole must not lose a parameter to binary fractions.
            cap = math.floor(self.amount * full + 1e-6)
        elif self.unit == "mean size":
            cap = math.floor(self.amount * num_rows * num_tables + 1e-6)
        elif self.unit == "params":
            cap = math.floor(math.floor(self.amount) * used)
        else:
            fixed = packed_bytes(0, num_rows, max_embedding_size)
            cap = (math.floor(math.floor(self.amount) * used) - fixed) // (BYTES_PER_PARAM + id_bytes)
        # One dimension more of a row costs a parameter in each table: what is left over buys nothing.
        cap -= cap % num_tables
        least_rows = min(num_rows, 2) if may_share else num_rows
        least = least_rows * min_embedding_size * num_tables
        if cap < least:
            need = {
                "ratio": f"{_round_up(least / full)} ({_round_up(100 * least / full)}%)",
                # Three decimals might be thousands.
                "mean size": f"{_round_up(least / (num_rows * num_tables), 3)} a row",
                "params": f"{math.ceil(least / used)} params",
                "bytes": f"{math.ceil(packed_bytes(least, num_rows, max_embedding_size, id_bytes) / used)}B",
            }[self.unit]
            in_tables = "" if num_tables == 1 else f" in {num_tables} tables"
            whose = "for a row that all users share and one that items do" if may_share else "each"
            raise BudgetError(
                f"the memory budget {self}{f', a reserve of {reserve:g} aside,' if reserve else ''} leaves "
                f"{max(cap, 0)} parameters for {num_rows} rows, "
                f"fewer than min_embedding_size={min_embedding_size} {whose}{in_tables}; "
                f"the least that works is {need}."
            )
        return min(cap, full)

    def num_newcomers(
        self,
        num_params: int,
        num_rows: int,
        min_embedding_size: int,
        max_embedding_size: int,
        num_tables: int = 1,
    ) -> int | None:
        """Rows of d_min that can be added to a table before it exceeds the budget.

        Args:
            num_params: Parameters that it keeps, in all tables together.
            num_rows: Rows that it has.
            min_embedding_size: d_min.
            max_embedding_size: d_max.
            num_tables: Tables in which every row has its size.

        Returns:
            None where the budget grows with the rows.
        """
        each = min_embedding_size * num_tables
        if self.unit == "params":
            return max(math.floor(self.amount) - num_params, 0) // each
        if self.unit == "bytes":
            left = math.floor(self.amount) - packed_bytes(num_params, num_rows, max_embedding_size)
            return max(left, 0) // (each * BYTES_PER_PARAM + index_bytes_per_row(max_embedding_size))
        return None

    def _used(self, reserve: float) -> Fraction:
        """What a reserve leaves, exactly: the least budget that an error names must work.

        Raises:
            BudgetError: There can be no such reserve.
        """
        if not 0 <= reserve < 1:
            raise BudgetError(f"a reserve of {reserve:g} is no share of a budget: choose 0 to below 1.")
        if reserve and self.unit in ("ratio", "mean size"):
            raise BudgetError(
                f"the memory budget {self} grows with the rows and needs no reserve: leave the reserve out, "
                "or ask for parameters or bytes."
            )
        return 1 - Fraction(str(float(reserve)))

    def __str__(self) -> str:
        if self.unit == "ratio":
            return f"{100 * self.amount:.6g}%"
        if self.unit == "mean size":
            return f"{self.amount:.6g} a row"
        return f"{int(self.amount)} params" if self.unit == "params" else _told_bytes(int(self.amount))


def _told_bytes(num_bytes: int) -> str:
    """Bytes in the largest unit that tells them exactly, e.g. ``100kB`` or ``64MiB``.

    Two decimals at most: a third would make thousands of them, see :meth:`MemoryBudget.parse`.
    """
    for unit, factor in _BYTE_UNITS.items():
        # Of powers of two whole ones alone: 0.25 MiB is nobody's.
        least = factor // 100 if factor % 1000 == 0 else factor
        if num_bytes >= factor and num_bytes % least == 0:
            return f"{num_bytes / factor:.15g}{unit}"
    return f"{num_bytes}B"


def _round_up(value: float, num_digits: int = 4) -> str:
    """At least the value, in so many significant digits: a budget named as the least must work."""
    return f"{float(Context(prec=num_digits, rounding=ROUND_CEILING).create_decimal_from_float(value)):g}"


def check_bounds(min_embedding_size: int, max_embedding_size: int) -> None:
    """Refuse bounds that no size can meet.

    Raises:
        EmbeddingSizeError: d_min is below 1 or d_max below d_min.
    """
    if not 1 <= min_embedding_size <= max_embedding_size:
        raise EmbeddingSizeError(
            f"min_embedding_size {min_embedding_size} and max_embedding_size {max_embedding_size} bound no "
            "size: the first must be at least 1, for every row keeps one number, and not above the second."
        )


def project_sizes(
    proposal: NDArray[np.floating] | NDArray[np.integer],
    cap_params: int,
    min_embedding_size: int,
    max_embedding_size: int,
    rng: np.random.Generator,
    *,
    fill: bool = False,
) -> NDArray[np.int32]:
    """Euclidean projection of proposed sizes onto a cap, rounded by largest remainder.

    The nearest point of {x : Σx ≤ cap, d_min ≤ x ≤ d_max} is clip(proposal - τ) with the one τ ≥ 0 that
    meets the cap; τ is found exactly, by sorting the 2n values at which an entry meets a bound. Rounding
    keeps the sum, the bounds and the order of the proposal. Where the cap binds, the sizes sum to it.
    With ``fill`` the set is {x : Σx = cap, ...} and τ may be negative: memory that nobody asked for is
    dealt out evenly instead of left unused.

    Args:
        proposal: Sizes asked for, shape (n,), in dimensions.
        cap_params: The most the sizes may sum to.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        rng: Breaks ties between equal proposals when a remainder is dealt out.
        fill: Whether the sizes must use the whole cap.

    Returns:
        Sizes, shape (n,), int32.

    Raises:
        EmbeddingSizeError: A proposal is NaN or beyond ±10⁹, or the bounds contradict each other.
        BudgetError: The cap is below d_min for every entity.
    """
    check_bounds(min_embedding_size, max_embedding_size)
    sizes = np.asarray(proposal, np.float64)
    is_usable = np.abs(sizes) <= _MAX_PROPOSAL
    if not is_usable.all():
        bad = int(np.argmin(is_usable))
        raise EmbeddingSizeError(
            f"the size proposed for entity {bad} is {sizes[bad]:g}: it must be finite, "
            f"and within ±{_MAX_PROPOSAL:g}."
        )
    if cap_params < sizes.size * min_embedding_size:
        raise BudgetError(
            f"a cap of {cap_params} parameters is below min_embedding_size={min_embedding_size} "
            f"for each of {sizes.size} entities."
        )
    projected = np.clip(sizes, min_embedding_size, max_embedding_size)
    if fill or projected.sum() > cap_params:
        total = min(cap_params, sizes.size * max_embedding_size)
        shift = _shift_onto_cap(sizes, total, min_embedding_size, max_embedding_size)
        projected = np.clip(sizes - shift, min_embedding_size, max_embedding_size)
    else:
        total = round(projected.sum())
    rounded = np.floor(projected)
    remainder = projected - rounded
    to_deal = total - int(rounded.sum())
    if to_deal > 0:
        # Last key first: the largest remainder, then the larger proposal, then by lot.
        order = np.lexsort((rng.random(sizes.size), -sizes, -remainder))
        rounded[order[:to_deal]] += 1.0
    return rounded.astype(np.int32)


def _shift_onto_cap(
    sizes: NDArray[np.float64], cap_params: int, min_embedding_size: int, max_embedding_size: int
) -> float:
    """The τ at which Σ clip(sizes - τ, d_min, d_max) equals the cap.

    The sum is piecewise linear and falls in τ. Entry i bends it at sizes[i] - d_max, where it leaves the
    upper bound, and at sizes[i] - d_min, where it reaches the lower one; between bends the slope is minus
    the number of entries strictly inside.
    """
    leaves_upper, meets_lower = sizes - max_embedding_size, sizes - min_embedding_size
    bends = np.concatenate([leaves_upper, meets_lower])
    slope_change = np.concatenate([np.full(sizes.size, -1.0), np.full(sizes.size, 1.0)])
    order = np.argsort(bends, kind="stable")
    bends, slopes = bends[order], np.cumsum(slope_change[order])
    # The sum at each bend: n · d_max before the first, then falling by slope times distance.
    drops = np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(bends))])
    sums = sizes.size * max_embedding_size + drops
    after = int(np.searchsorted(-sums, -cap_params, side="left"))
    if after == 0:
        return float(bends[0])
    segment = after - 1
    if slopes[segment] == 0.0:
        return float(bends[segment])
    return float(bends[segment] + (cap_params - sums[segment]) / slopes[segment])
