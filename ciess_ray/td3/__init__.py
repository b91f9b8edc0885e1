"""TD3 for table-level embedding sizes; README.md lists the differences from the papers."""
