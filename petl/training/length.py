"""How long a training is where nobody says it: epochs and warm-up. The only place of these numbers."""

from __future__ import annotations

import math
from typing import Any

from petl.training.optimizer_settings import OptimizerSettings

LEAST_EPOCHS, MOST_EPOCHS = 10, 60
LEAST_UPDATES = 300  # a set so small that ten epochs have fewer is trained on for more epochs
WARMUP_SHARE = 0.1  # of the training
LEAST_WARMUP, MOST_WARMUP_SHARE = 30, 0.3  # updates, with default rates; but no more than this share of the training


def default_epochs(updates: int) -> int:
    """Returns the number of epochs for a set that has so many updates in an epoch.

    >>> [default_epochs(updates) for updates in (1, 10, 100)]
    [60, 30, 10]
    """
    return min(MOST_EPOCHS, max(LEAST_EPOCHS, math.ceil(LEAST_UPDATES / max(updates, 1))))


def updates_per_epoch(loader: Any, settings: OptimizerSettings) -> int:
    """Returns how many updates an epoch has: one for each ``accumulate`` batches of this process, and one for the rest."""
    return -(-len(loader) // settings.accumulate)


def warmup(settings: OptimizerSettings, epochs: int, updates: int) -> float:
    """Returns the epochs of warm-up, which may be parts of one: a tenth; with default rates no fewer than 30 updates."""
    if settings.warmup_epochs is not None:
        return settings.warmup_epochs
    if not settings.has_default_rates:
        return epochs / 10
    return min(max(epochs * WARMUP_SHARE, LEAST_WARMUP / max(updates, 1)), epochs * MOST_WARMUP_SHARE)


def epochs_within(seconds: float, one_epoch: float) -> int:
    """Returns how many epochs fit into the seconds: at least one, and no more than petl chooses by itself."""
    return max(1, min(MOST_EPOCHS, math.floor(seconds / max(one_epoch, 1e-9))))
