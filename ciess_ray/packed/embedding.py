"""The packed table in PyTorch: rows on demand, and recommenders taken apart and put together again."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from ciess_ray.packed.codes import MOST_BITS
from ciess_ray.packed.file import DAMAGED
from ciess_ray.packed.table import PackedTable
from envs.errors import ResultError
from envs.recommenders import BaseRecommender, build_recommender
from envs.recommenders.base import PACKED

#: By the type of a table's values, the same to PyTorch, and integers of as many bits.
_TYPES = {
    "float32": (torch.float32, torch.int32),
    "float16": (torch.float16, torch.int16),
    "bfloat16": (torch.bfloat16, torch.int16),
    "int8": (torch.int8, torch.int8),
}
_CODES = torch.uint8, torch.uint8
_WORD_BYTES = 8
#: Up to this width the bits that each size keeps stand in a table, which is square.
_MAX_PREFIX = 512
#: Where a row begins in its block is kept as a signed number of 16 bits.
_BIAS = 2**15


class PackedEmbedding(nn.Module):
    """Looks rows of a packed table up, as ``nn.Embedding`` does those of a dense one.

    A row is one copy of neighbouring values, of which those beyond its size are cleared; where rows do not
    all begin at the first column, a second copy puts it there. On the CPU the values stay where the table has
    them, in a mapped file; ``to`` moves all to another device.

    Args:
        table: The packed table.
        width: Columns of one table, by default up to the last in use; a row that is longer is cut.

    Attributes:
        embedding_dim: Numbers a row, ``num_tables * width``.
    """

    def __init__(self, table: PackedTable, width: int | None = None) -> None:
        super().__init__()
        self.width = table.width if width is None else width
        if self.width < 1:
            raise ValueError(f"a width of {self.width}: ask for at least one column")
        dtype, self.bits = _TYPES[table.dtype] if table.row_bits is None else _CODES
        self.num_tables, self.block_bits = table.num_tables, table.layout.block_bits
        self.num_embeddings, self.embedding_dim = table.num_rows, table.num_tables * self.width
        #: Numbers that are copied of a row.
        self.num_copied = self.width if table.first_columns is None else table.largest_size
        self.num_scattered = max(self.width, table.width + self.num_copied)
        values = _tensor(table.values).view(dtype)
        if table.row_bits is None and len(values) < self.num_copied:
            values = torch.cat([values, values.new_zeros(self.num_copied)])
        # PyTorch indexes with no unsigned numbers of more than 8 bits.
        sizes = table.row_sizes if table.row_sizes.itemsize == 1 else table.row_sizes.astype(np.int32)
        block_starts, in_block = table.layout.starts
        self.values = nn.Buffer(values, persistent=False)
        self.row_sizes = nn.Buffer(_tensor(sizes), persistent=False)
        self.block_starts = nn.Buffer(torch.from_numpy(block_starts + _BIAS), persistent=False)
        biased = (in_block.astype(np.int32) - _BIAS).astype(np.int16)
        self.in_block = nn.Buffer(torch.from_numpy(biased), persistent=False)
        self.num_users, self.min_embedding_size = table.num_users, table.min_embedding_size
        shared = table.layout.shared_rows
        self.shared_rows = None if shared is None else nn.Buffer(_tensor(shared), persistent=False)
        self.scales = None if table.scales is None else nn.Buffer(_tensor(table.scales), persistent=False)
        bits = np.zeros(1, np.uint8) if table.row_bits is None else table.row_bits
        self.is_coded, self.most_bits = table.row_bits is not None, int(bits.max())
        is_one = int(bits.min()) == self.most_bits
        self.row_bits = None if is_one else nn.Buffer(_tensor(bits), persistent=False)
        self.num_params, self.is_signed = table.num_params, table.is_signed
        num_prefixes = self.num_copied + 1 if self.num_copied <= _MAX_PREFIX else 0
        is_kept = torch.arange(self.num_copied) < torch.arange(num_prefixes)[:, None]
        self.prefix = nn.Buffer(-is_kept.to(self.bits), persistent=False)
        columns = table.first_columns
        self.first_columns = None if columns is None else nn.Buffer(_tensor(columns), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of the masked table, zeros where they keep nothing.

        Args:
            rows: Row numbers, users first, any shape, int64.

        Returns:
            Shape (*rows.shape, num_tables * width), float32.

        Raises:
            ResultError: On the CPU, that a row holds NaN or infinity.
        """
        flat, num_copied = rows.reshape(-1), self.num_copied
        sizes = self.row_sizes.index_select(0, flat).long()
        if self.shared_rows is not None:
            shown = self.shared_rows.index_select(0, (flat >= self.num_users).long())
            flat = torch.where(sizes == 0, shown, flat)
            sizes = sizes.clamp(min=self.min_embedding_size)
        starts = self.block_starts.index_select(0, flat >> self.block_bits)
        starts += self.in_block.index_select(0, flat)
        numbers = (self._decoded if self.is_coded else self._copied)(flat, sizes, starts)
        # Elsewhere than on the CPU a look at the numbers would wait for the device.
        if numbers.device.type == "cpu" and not torch.compiler.is_compiling():
            if not torch.isfinite(numbers).all():
                raise ResultError(f"a row holds what is no finite number: {DAMAGED}.")
        if self.first_columns is not None:
            first = self.first_columns.index_select(0, flat).long().repeat_interleave(self.num_tables)
            columns = first[:, None] + torch.arange(num_copied, device=first.device)
            # What a row keeps lies within the table's columns; the zeros after it need not.
            placed = numbers.new_zeros(len(numbers), self.num_scattered)
            numbers = placed.scatter_(1, columns, numbers)[:, : self.width].contiguous()
        return numbers.view(*rows.shape, self.embedding_dim)

    def _copied(self, flat: Tensor, sizes: Tensor, starts: Tensor) -> Tensor:
        """What rows keep whose values begin there, shape (n * num_tables, num_copied)."""
        num_copied = self.num_copied
        if self.num_tables > 1:
            each = torch.arange(self.num_tables, device=starts.device)
            starts = (starts[:, None] + each * sizes[:, None]).reshape(-1)
            sizes = sizes.repeat_interleave(self.num_tables)
        last = len(self.values) - num_copied
        window = self.values.as_strided((last + 1, num_copied), (1, 1))
        stored = window.index_select(0, starts.clamp(max=last))
        late = torch.nonzero(starts > last).squeeze(1)
        if len(late):
            tail = torch.cat([self.values[last:], self.values.new_zeros(num_copied)])
            stored[late] = tail.unfold(0, num_copied, 1)[starts[late] - last]
        # Bits are cleared, not numbers multiplied: what lies beyond a row may be NaN.
        if num_copied <= _MAX_PREFIX:
            kept = self.prefix.index_select(0, sizes.clamp(max=num_copied))
        else:
            kept = -(torch.arange(num_copied, device=stored.device) < sizes[:, None]).to(self.bits)
        stored.view(self.bits).bitwise_and_(kept)
        numbers = stored.float()
        if self.scales is not None:
            scales = self.scales.index_select(0, flat).float()
            numbers.mul_(scales.repeat_interleave(self.num_tables)[:, None])
        return numbers

    def _decoded(self, flat: Tensor, sizes: Tensor, starts: Tensor) -> Tensor:
        """The same of codes, which begin at these bits."""
        assert self.scales is not None
        scales = self.scales.index_select(0, flat).float()
        # Bits of all rows, or of each.
        bits = self.most_bits if self.row_bits is None else self.row_bits.index_select(0, flat).long()
        if self.num_tables > 1:
            each = torch.arange(self.num_tables, device=starts.device)
            starts = (starts[:, None] + each * (sizes * bits)[:, None]).reshape(-1)
            sizes, scales = (one.repeat_interleave(self.num_tables) for one in (sizes, scales))
            if isinstance(bits, Tensor):
                bits = bits.repeat_interleave(self.num_tables)
        values: Tensor = self.values
        if len(values) < _WORD_BYTES:
            values = torch.cat([values, values.new_zeros(_WORD_BYTES)])
        # Many neighbouring codes are taken from one word.
        last, num_each = len(values) - _WORD_BYTES, (8 * _WORD_BYTES - 7) // self.most_bits
        words = values.as_strided((last + 1, _WORD_BYTES), (1, 1))
        shifts = bits[:, None] if isinstance(bits, Tensor) else bits
        parts = []
        for first in range(0, self.num_copied, num_each):
            places = starts + first * bits
            at = (places >> 3).clamp(max=last)
            taken = words.index_select(0, at).view(torch.int64)
            taken = taken >> (places - 8 * at).clamp(max=8 * _WORD_BYTES - 1)[:, None]
            columns = torch.arange(min(num_each, self.num_copied - first), device=at.device)
            parts.append((taken >> columns * shifts).to(torch.uint8))
        codes = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        unused = MOST_BITS - shifts
        # Shifted back, signed numbers take their first bit along.
        if isinstance(unused, Tensor):
            codes <<= unused.to(torch.uint8)
            codes = codes.view(torch.int8) >> unused.to(torch.int8) if self.is_signed else codes >> unused
        else:
            codes <<= unused
            codes = codes.view(torch.int8) >> unused if self.is_signed else codes >> unused
        numbers = codes.float()
        if self.is_signed:
            numbers += 0.5 * (shifts < MOST_BITS)
        numbers *= scales[:, None]
        is_beyond = torch.arange(self.num_copied, device=sizes.device) >= sizes[:, None]
        return numbers.masked_fill_(is_beyond, 0.0)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.num_embeddings}, {self.embedding_dim}, num_params={self.num_params}"


def _tensor(array: NDArray[Any]) -> Tensor:
    """A tensor on the array's memory, which nothing here writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def pack_recommender(recommender: BaseRecommender, name: str | None = None) -> PackedTable:
    """The packed table of a trained recommender.

    Args:
        recommender: Trained.
        name: What its configuration calls it.
    """
    table = recommender.table
    ids = table.packed_ids()
    return PackedTable.of(
        table.packed_values().numpy(),
        recommender.sizes,
        recommender=name,
        neighbours=None if ids is None else ids.numpy(),
    )


def unpack_recommender(
    table: PackedTable,
    train: csr_array,
    name: str | type[BaseRecommender],
    options: dict[str, Any],
    scorer_state: dict[str, NDArray[Any]],
) -> BaseRecommender:
    """A recommender that scores as the one that was packed, on the CPU.

    Args:
        table: Its packed table.
        train: The interactions that it was trained on, shape (num_users, num_items).
        name: Its name in ``envs.recommenders.RECOMMENDERS``, or its class.
        options: Its options.
        scorer_state: Its other parameters, by name.

    Raises:
        ResultError: The parameters are not those of this recommender.
    """
    recommender = build_recommender(name, train, table.sizes, generator=torch.Generator(), options=options)
    label = name if isinstance(name, str) else name.__name__
    if (table.neighbours is not None) != recommender.has_ids:
        what = "no neighbours" if recommender.has_ids else "neighbours"
        raise ResultError(f"the table has {what}, unlike those of {label}.")
    ids = None if table.neighbours is None else torch.from_numpy(table.neighbours.astype(np.int32))
    recommender.table.load_packed_values(torch.from_numpy(table.decoded()), ids)
    state = {key: torch.from_numpy(value) for key, value in scorer_state.items()}
    packed = {key: value for key, value in recommender.state_dict().items() if key in PACKED}
    try:
        recommender.load_state_dict(state | packed)
    except RuntimeError as error:
        faults = " ".join(str(error).split())
        raise ResultError(f"the scorer's weights are not those of {label}: {faults}.") from error
    return recommender.eval()
