"""Guidance, measured: what each verb says of real backbones and images, against what trainings on them reach."""

"""What the verbs of guidance say of real images and real backbones, and synthetic tasks with a known right answer."""
"""What petl's guidance is worth, measured: one file for each verb, ``python -m benchmarks.guidance.<verb> --data FOLDER``."""
"""Benchmarks of guidance: whether what its verbs say is right, and what saying it costs."""
"""What guidance is worth: its verbs on real images and real backbones. `python -m benchmarks.guidance.shift --help`."""
"""What the verbs of guidance say of real images and real backbones, and synthetic tasks with a known right answer."""
