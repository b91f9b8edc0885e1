"""One embedding size for every user and item, and how far two such tables are apart."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from envs.budget import packed_bytes
from envs.errors import EmbeddingSizeError
from envs.sizes.projection import check_bounds, project_sizes


@dataclass(frozen=True, eq=False)
class EmbeddingSizes:
    """One embedding size for every user and item.

    Attributes:
        user: Sizes of the users, shape (num_users,), int32.
        item: Sizes of the items, shape (num_items,), int32.
        min_embedding_size: d_min, the least a row keeps.
        max_embedding_size: d_max, the width of the full table.
        num_tables: Tables in which every row has its size; NCF has one for each of its two branches.

    Raises:
        EmbeddingSizeError: d_max is below d_min or d_min below 1; a size is no integer or outside the bounds.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    min_embedding_size: int = 1
    max_embedding_size: int = 128
    num_tables: int = 1

    def __post_init__(self) -> None:
        check_bounds(self.min_embedding_size, self.max_embedding_size)
        for kind in ("user", "item"):
            sizes = np.asarray(getattr(self, kind))
            if sizes.ndim != 1 or not np.issubdtype(sizes.dtype, np.integer):
                raise EmbeddingSizeError(
                    f"{kind} sizes must be a one-dimensional array of integers, "
                    f"not {sizes.dtype} of shape {sizes.shape}."
                )
            outside = np.flatnonzero((sizes < self.min_embedding_size) | (sizes > self.max_embedding_size))
            if outside.size:
                raise EmbeddingSizeError(
                    f"the size {sizes[outside[0]]} of {kind} {outside[0]} lies outside "
                    f"[{self.min_embedding_size}, {self.max_embedding_size}]; project sizes first."
                )
            sizes = sizes.astype(np.int32)
            sizes.flags.writeable = False
            object.__setattr__(self, kind, sizes)

    @classmethod
    def full(
        cls,
        num_users: int,
        num_items: int,
        max_embedding_size: int,
        min_embedding_size: int = 1,
        num_tables: int = 1,
    ) -> "EmbeddingSizes":
        """Every entity at d_max."""
        return cls(
            np.full(num_users, max_embedding_size, np.int32),
            np.full(num_items, max_embedding_size, np.int32),
            min_embedding_size,
            max_embedding_size,
            num_tables,
        )

    @classmethod
    def from_proposal(
        cls,
        user: NDArray[np.floating] | NDArray[np.integer],
        item: NDArray[np.floating] | NDArray[np.integer],
        cap_params: int,
        min_embedding_size: int,
        max_embedding_size: int,
        rng: np.random.Generator,
        *,
        fill: bool = False,
        num_tables: int = 1,
    ) -> "EmbeddingSizes":
        """The sizes nearest to a proposal that keep at most ``cap_params`` parameters, or with ``fill`` all.

        Users and items share the one cap: what users do not take is free for items. It caps the parameters
        of all tables together, so that the sizes themselves sum to at most ``cap_params // num_tables``.
        """
        proposal = np.concatenate([np.asarray(user, np.float64), np.asarray(item, np.float64)])
        bounds = min_embedding_size, max_embedding_size
        sizes = project_sizes(proposal, cap_params // num_tables, *bounds, rng, fill=fill)
        return cls(sizes[: len(user)], sizes[len(user) :], *bounds, num_tables)

    @classmethod
    def equal(
        cls,
        num_users: int,
        num_items: int,
        cap_params: int,
        min_embedding_size: int,
        max_embedding_size: int,
        rng: np.random.Generator,
        *,
        num_tables: int = 1,
    ) -> "EmbeddingSizes":
        """The same size for everyone; a cap that does not divide evenly gives two neighbouring sizes.

        Which entities get the larger one is drawn from ``rng``.
        """
        full = cls.full(num_users, num_items, max_embedding_size, min_embedding_size)
        return cls.from_proposal(
            full.user,
            full.item,
            cap_params,
            min_embedding_size,
            max_embedding_size,
            rng,
            num_tables=num_tables,
        )

    @property
    def num_rows(self) -> int:
        """Users and items together."""
        return len(self.user) + len(self.item)

    @cached_property
    def num_params(self) -> int:
        """Parameters kept, in all tables together."""
        return self.num_tables * int(self.user.sum(dtype=np.int64) + self.item.sum(dtype=np.int64))

    @property
    def kept_ratio(self) -> float:
        """Parameters kept as a share of the full table."""
        return self.num_params / (self.num_rows * self.max_embedding_size * self.num_tables)

    @property
    def packed_bytes(self) -> int:
        """Upper bound of the packed file's bytes."""
        return packed_bytes(self.num_params, self.num_rows, self.max_embedding_size)

    @property
    def widths(self) -> tuple[int, int]:
        """Columns up to the last that users have in use, and items."""
        return int(self.user.max(initial=1)), int(self.item.max(initial=1))

    @property
    def width(self) -> int:
        """Columns up to the last in use: no table need be wider."""
        return max(self.widths)

    def mask(self, width: int | None = None) -> NDArray[np.bool_]:
        """Which numbers of the table are kept, shape (num_rows, num_tables * width), users first.

        Args:
            width: Columns of one table; by default up to the last in use.
        """
        row_sizes = np.concatenate([self.user, self.item])
        mask = np.arange(width or self.width) < row_sizes[:, None]
        return np.tile(mask, (1, self.num_tables))


def is_plain_split(sizes: EmbeddingSizes) -> bool:
    """Whether users have one size and items have one, but for what rounding leaves."""
    return all(np.ptp(one) <= 1 for one in (sizes.user, sizes.item))


def distance(first: EmbeddingSizes, second: EmbeddingSizes) -> float:
    """How far two tables are apart: the numbers that change hands, as a share of the smaller one."""
    one, other = (np.concatenate([sizes.user, sizes.item]).astype(np.int64) for sizes in (first, second))
    return float(np.abs(one - other).sum() / (2 * min(one.sum(), other.sum())))
