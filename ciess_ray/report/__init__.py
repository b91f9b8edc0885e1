"""One page on searches, sweeps and comparisons, or on a stream, from folders; without Ray and MLflow."""

from ciess_ray.report.page import Report, write_report

__all__ = ["Report", "write_report"]
