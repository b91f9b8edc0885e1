"""What answers requests, and other forms of it."""

from ciess_ray.serving.recommender import ServedRecommender

__all__ = ["ServedRecommender"]
