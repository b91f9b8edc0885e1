"""What ``import ciess_ray`` offers, without the command line."""
