"""Many searches at once, on Tune."""
