"""What answers requests, and other forms of it."""
