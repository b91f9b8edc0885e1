"""Tables whose rows have sizes of their own, as they lie on disk and in memory."""
