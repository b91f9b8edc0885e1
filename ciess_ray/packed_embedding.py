"""The former place of :mod:`ciess_ray.packed.embedding`."""

from ciess_ray.packed.embedding import PackedEmbedding

__all__ = ["PackedEmbedding"]
