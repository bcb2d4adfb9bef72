"""Whether petl keeps its contract on every architecture of timm with every method: `python -m benchmarks.coverage`."""
