"""What a run is asked for: its fields, their files, grids of runs, and keys of what is kept."""
