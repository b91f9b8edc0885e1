"""One page on searches, sweeps and comparisons, out of their folders alone; without Ray and MLflow."""

from ciess_ray.report.page import Report, write_report

__all__ = ["Report", "write_report"]
