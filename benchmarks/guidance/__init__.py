"""What guidance is worth: its verbs on real images and real backbones. `python -m benchmarks.guidance.shift --help`."""
