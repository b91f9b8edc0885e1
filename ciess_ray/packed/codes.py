"""Numbers of 2 to 8 bits: codes that stand without gaps, and the scale that a row's are multiplied by.

A code of b bits is one of 2**b evenly spaced levels. Of two bits these are -3/2, -1/2, 1/2 and 3/2 times the
scale, and so on up to seven; of eight they are -127 to 127, among which is 0; of numbers that are never
negative they begin at 0. Codes are in two's complement, the first in the lowest bits.

A row of more than one number has a scale of its own, in float16. Rows of one number share one, those of users
and those of items, and those of as many bits: a scale to themselves would cost more than they do.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.errors import ResultError

LEAST_BITS, MOST_BITS = 2, 8
#: Types of values, in falling order of their bits.
FLOATS = "float32", "float16", "bfloat16"
PRECISIONS = *FLOATS, *(f"int{bits}" for bits in range(MOST_BITS, LEAST_BITS - 1, -1))
#: The type of a table whose rows differ in precision.
MIXED = "mixed"
_CODES = re.compile(rf"int([{LEAST_BITS}-{MOST_BITS}])(?:/int([{LEAST_BITS}-{MOST_BITS}]))?", re.ASCII)
#: What of the largest number of a row levels reach to: tried from row to row, for the least squares.
_CLIPS = np.linspace(1.0, 0.3, 15, dtype=np.float32)
#: Numbers that are looked at in one go.
_CHUNK = 2**20
_WORD_BYTES = 8

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Coded:
    """Which of the numbers of neighbouring rows each is, and where its code stands.

    Attributes:
        rows: Which row, counted from the first of these, shape (n,).
        columns: Which number of it, shape (n,).
        bits: Of its code, shape (n,).
        places: Of its code's first bit, shape (n,).
    """

    rows: Ints
    columns: Ints
    bits: Ints
    places: Ints

    @classmethod
    def of(cls, lengths: Ints, bits: Ints, starts: Ints) -> "Coded":
        """Those of rows of so many numbers, of so many bits, whose first bits stand there."""
        rows = np.repeat(np.arange(len(lengths)), lengths)
        columns = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        its = bits[rows]
        return cls(rows, columns, its, starts[rows] + columns * its)


def bits_of(dtype: str) -> tuple[int, int] | None:
    """Bits of the codes of users and of items, of a type like ``int4`` or ``int8/int4``; None of others."""
    match = _CODES.fullmatch(dtype)
    return match and (int(match[1]), int(match[2] or match[1]))


def bits_of_rows(dtype: str, num_users: int, num_rows: int) -> NDArray[np.uint8] | None:
    """The same of every row, shape (num_rows,)."""
    bits = bits_of(dtype)
    return None if bits is None else np.repeat(np.array(bits, np.uint8), [num_users, num_rows - num_users])


def coded_rows(dtype: str | NDArray[np.integer], num_users: int, num_rows: int) -> NDArray[np.uint8] | None:
    """Bits of the codes of every row, shape (num_rows,); None of a type of floating-point numbers.

    Args:
        dtype: A type, or the bits themselves.
        num_users: Rows that are users.
        num_rows: Users and items.

    Raises:
        ResultError: There is no such type, or these are no bits of codes.
    """
    if isinstance(dtype, str):
        if dtype in FLOATS:
            return None
        bits = bits_of_rows(dtype, num_users, num_rows)
        if bits is None:
            raise ResultError(
                f"unknown type of value {dtype!r}; known: {', '.join(PRECISIONS)}, and int8/int4."
            )
        return bits
    if dtype.shape != (num_rows,) or not LEAST_BITS <= dtype.min() <= dtype.max() <= MOST_BITS:
        raise ResultError(f"codes of {num_rows} rows have {LEAST_BITS} to {MOST_BITS} bits each.")
    return dtype.astype(np.uint8)


def type_of_bits(row_bits: NDArray[np.uint8], num_users: int) -> str:
    """What a table calls codes of so many bits a row."""
    kinds = np.split(row_bits, [num_users])
    users, items = (np.flatnonzero(np.bincount(part, minlength=1)).tolist() for part in kinds)
    if len(users) > 1 or len(items) > 1:
        return MIXED
    (of_items,), of_users = items or users, users
    return f"int{of_items}" if of_users in ([], [of_items]) else f"int{of_users[0]}/int{of_items}"


def scale_groups(held: NDArray[np.integer], row_bits: NDArray[np.uint8], num_users: int) -> tuple[Ints, int]:
    """Which scale each row has, shape (num_rows,), -1 for none; and how many scales there are.

    Args:
        held: Numbers that stand at each row, in a table; 0 where it shows another.
        row_bits: Bits of each of its numbers.
        num_users: Rows that are users.
    """
    groups = np.full(len(held), -1, np.int64)
    is_one, has_own = held == 1, held > 1
    kinds = (np.arange(len(held)) >= num_users) * (MOST_BITS + 1) + row_bits
    shared, groups[is_one] = np.unique(kinds[is_one], return_inverse=True)
    num_own = int(has_own.sum())
    groups[has_own] = len(shared) + np.arange(num_own)
    return groups, len(shared) + num_own


def encode_codes(
    values: Floats,
    held: NDArray[np.integer],
    num_tables: int,
    num_users: int,
    row_bits: NDArray[np.uint8],
    *,
    is_signed: bool,
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Codes of numbers, and the scale of each row.

    A scale is the best in the sense of least squares, over how far levels reach; of eight bits they reach to
    the largest number.

    Args:
        values: Row after row, shape (num_params,).
        held: Numbers that stand at each row, in a table, shape (num_rows,); 0 where it shows another.
        num_tables: Tables in which every row has its size.
        num_users: Rows that are users.
        row_bits: Bits of each number of a row, shape (num_rows,), 2 to 8.
        is_signed: Whether numbers may be negative.

    Returns:
        Codes without gaps, uint8, and scales, shape (num_rows,), 0 where a row shows another.

    Raises:
        ResultError: A number is not finite, or too large for a scale, or there are not as many.
    """
    if not np.isfinite(values).all():
        raise ResultError("the table holds numbers that are not finite: retrain it.")
    lengths, bits = held.astype(np.int64) * num_tables, row_bits.astype(np.int64)
    if lengths.sum() != len(values):
        raise ResultError(
            f"sizes of {lengths.sum()} parameters in all cannot hold values of shape {values.shape}"
        )
    groups, num_groups = scale_groups(held, row_bits, num_users)
    scales = np.zeros(num_groups, np.float16)
    codes = np.zeros(-(-int((lengths * bits).sum()) // 8) + 1, np.uint8)
    # What rows of one number share is known before the first of them is encoded.
    ones = held == 1
    is_of_one = np.repeat(ones, lengths)
    its_groups, its_bits = np.repeat(groups[ones], num_tables), np.zeros(num_groups, np.int64)
    its_bits[groups[groups >= 0]] = bits[groups >= 0]
    num_shared = int(its_groups.max(initial=-1)) + 1
    scales[:num_shared] = _fitted(values[is_of_one], its_groups, its_bits[:num_shared], is_signed=is_signed)
    ends, ends_of_bits = np.cumsum(lengths), np.cumsum(lengths * bits)
    for first, last in chunks_of(ends):
        part = slice(int(ends[first - 1]) if first else 0, int(ends[last - 1]))
        coded = Coded.of(lengths[first:last], bits[first:last], (ends_of_bits - lengths * bits)[first:last])
        if not len(coded.rows):
            continue
        its = groups[first:last][coded.rows]
        own = its >= num_shared
        if own.any():
            low, high = int(its[own].min()), int(its[own].max()) + 1
            scales[low:high] = _fitted(
                values[part][own], its[own] - low, its_bits[low:high], is_signed=is_signed
            )
        steps = scales[its].astype(np.float32)
        levels = _rounded(values[part], steps, coded.bits, is_signed=is_signed)
        _put(codes, coded, levels)
    of_rows = np.where(groups >= 0, scales[groups] if num_groups else np.float16(0), np.float16(0))
    return codes[:-1], of_rows.astype(np.float16)


def decode_codes(codes: NDArray[np.uint8], coded: Coded, *, is_signed: bool) -> Floats:
    """Numbers before their scales, shape (n,).

    Args:
        codes: Of the whole table.
        coded: Which.
        is_signed: Whether numbers may be negative.
    """
    at = coded.places >> 3
    # A code of eight bits stands in two bytes where others are before it.
    words = codes[at].astype(np.int32) | codes[np.minimum(at + 1, len(codes) - 1)].astype(np.int32) << 8
    return _numbers(words >> (coded.places & 7), coded.bits, is_signed=is_signed)


def decode_blocks(
    codes: NDArray[np.uint8], starts: Ints, bits: Ints, width: int, *, is_signed: bool
) -> Floats:
    """So many numbers from each start on, before their scales, shape (n, width); any beyond the last.

    Many neighbouring codes are taken from one word, which is faster than one by one where most are wanted.

    Args:
        codes: Of the whole table.
        starts: Where the first code of each begins, in bits, shape (n,).
        bits: Of their codes, shape (n,).
        width: How many.
        is_signed: Whether numbers may be negative.
    """
    if len(codes) < _WORD_BYTES:
        codes = np.concatenate([codes, np.zeros(_WORD_BYTES, np.uint8)])
    last = len(codes) - _WORD_BYTES
    words = np.ndarray((last + 1,), "<u8", codes, 0, codes.strides)
    num_each = (8 * _WORD_BYTES - 7) // int(bits.max(initial=LEAST_BITS))
    found = np.empty((len(starts), width), np.float32)
    each = bits[:1] if len(bits) and (bits == bits[0]).all() else bits
    for first in range(0, width, num_each):
        num = min(num_each, width - first)
        places = starts + first * bits
        at = np.minimum(places >> 3, last)
        taken = words[at] >> np.minimum(places - 8 * at, 8 * _WORD_BYTES - 1).astype(np.uint64)
        shifts = (np.arange(num) * each[:, None]).astype(np.uint64)
        found[:, first : first + num] = _numbers(taken[:, None] >> shifts, each[:, None], is_signed=is_signed)
    return found


def _numbers(words: NDArray[np.integer], bits: Ints, *, is_signed: bool) -> Floats:
    """Levels of the codes that are the lowest bits of words."""
    unused = (MOST_BITS - bits).astype(np.uint8)
    first = words.astype(np.uint8) << unused
    if not is_signed:
        return np.asarray(first >> unused, np.float32)
    # Shifted back they take their first bit along, which is their sign.
    return np.asarray(first.view(np.int8) >> unused.view(np.int8), np.float32) + _half(bits)


def _half(bits: NDArray[np.integer]) -> Floats:
    """By how much the levels of signed numbers are off their codes."""
    half: Floats = np.float32(0.5) * (bits < MOST_BITS)
    return half


def _most(bits: NDArray[np.integer], *, is_signed: bool) -> Floats:
    """The largest level."""
    most: Floats = ((1 << (bits - is_signed)) - 1).astype(np.float32)
    return most + _half(bits) if is_signed else most


def _rounded(values: Floats, steps: Floats, bits: Ints, *, is_signed: bool) -> Ints:
    """Codes of the nearest levels; 0 where levels do not differ."""
    scaled = np.divide(values, steps, out=np.zeros_like(values), where=steps > 0)
    if not is_signed:
        return np.clip(np.rint(scaled), 0, (1 << bits) - 1).astype(np.int64)
    half = 1 << (bits - 1)
    least = np.where(bits < MOST_BITS, -half, 1 - half)
    return np.clip(np.rint(scaled - _half(bits)), least, half - 1).astype(np.int64)


def _fitted(values: Floats, groups: Ints, bits: Ints, *, is_signed: bool) -> NDArray[np.float16]:
    """The scale of each group of numbers that has the least squared error.

    Args:
        values: Shape (n,).
        groups: Which group each is of, from 0.
        bits: Of the numbers of each group.
        is_signed: Whether numbers may be negative.

    Raises:
        ResultError: A number is too large for a scale.
    """
    num_groups = len(bits)
    largest = np.zeros(num_groups, np.float32)
    np.maximum.at(largest, groups, np.abs(values))
    exact = largest / _most(bits, is_signed=is_signed)
    found, best = exact.astype(np.float64), np.full(num_groups, -1.0)
    for clip in _CLIPS if (bits < MOST_BITS).any() else ():
        steps = (clip * exact)[groups]
        levels = _rounded(values, steps, bits[groups], is_signed=is_signed).astype(np.float32)
        if is_signed:
            levels += _half(bits)[groups]
        products = np.bincount(groups, values * levels, num_groups)
        squares = np.bincount(groups, np.square(levels), num_groups)
        gains = np.divide(products**2, squares, out=np.zeros(num_groups), where=squares > 0)
        is_better = (gains > best) & (bits < MOST_BITS) & (squares > 0)
        best[is_better] = gains[is_better]
        found[is_better] = products[is_better] / squares[is_better]
    with np.errstate(over="ignore"):
        scales = found.astype(np.float16)
    # Of eight bits rounded up, so that the largest value still fits; tiny ones are not lost.
    is_short = (scales < found) & ((bits == MOST_BITS) | (scales == 0))
    scales = np.where(is_short, np.nextafter(scales, np.float16(np.inf)), scales)
    if not np.isfinite(scales).all():
        raise ResultError(
            f"the table holds a number of {largest.max():g}, which scales in float16 do not reach: float32, "
            "or retrain it."
        )
    return scales


def chunks_of(ends: Ints) -> list[tuple[int, int]]:
    """Neighbouring rows of about :data:`_CHUNK` numbers."""
    marks = np.arange(_CHUNK, int(ends[-1]) + _CHUNK, _CHUNK)
    bounds = np.unique(np.concatenate([[0], np.searchsorted(ends, marks), [len(ends)]]))
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


def _put(codes: NDArray[np.uint8], coded: Coded, levels: Ints) -> None:
    """Put codes where they belong, among bits that are 0."""
    words = (levels & ((1 << coded.bits) - 1)) << (coded.places & 7)
    at = coded.places >> 3
    first = int(at[0])
    num_bytes = int(at[-1]) - first + 2
    # No two share a bit, so that sums are unions.
    sums = np.bincount(at - first, words & 255, num_bytes)
    sums += np.bincount(at - first + 1, words >> 8, num_bytes)
    codes[first : first + num_bytes] += sums.astype(np.uint8)


def pack_sizes(sizes: NDArray[np.unsignedinteger]) -> tuple[int, int, NDArray[np.uint8]]:
    """Sizes of the rows of a kind in as few bits as their differences take.

    Args:
        sizes: Shape (n,).

    Returns:
        The least, the bits that each takes beyond it, and these, uint8. Where rows show another, whose size
        is 0, one bit at least: a file has no more rows than bits.
    """
    if not len(sizes):
        return 0, 0, np.empty(0, np.uint8)
    least, most = int(sizes.min()), int(sizes.max())
    bits = max((most - least).bit_length(), int(least == 0))
    beyond, spread = sizes - sizes.dtype.type(least), np.empty((len(sizes), bits), np.uint8)
    for bit in range(bits):
        spread[:, bit] = (beyond >> sizes.dtype.type(bit)) & 1
    return least, bits, np.packbits(spread.ravel(), bitorder="little")


def unpack_sizes(packed: NDArray[np.uint8], num_rows: int, least: int, bits: int) -> Ints:
    """What :func:`pack_sizes` packed, shape (num_rows,)."""
    spread = np.unpackbits(packed, count=num_rows * bits, bitorder="little").reshape(num_rows, bits)
    sizes = np.full(num_rows, least, np.int64)
    for bit in range(bits):
        sizes += spread[:, bit].astype(np.int64) << bit
    return sizes
