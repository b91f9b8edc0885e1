"""Tables whose rows have sizes of their own, as they lie on disk and in memory."""

from ciess_ray.packed.table import PackedTable

__all__ = ["PackedTable"]
