"""Benchmarks of guidance: whether what its verbs say is right, and what saying it costs."""
