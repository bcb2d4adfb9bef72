"""The learning rates that tensors train with where nobody says one: the only place of these numbers.

They are rates of AdamW at the top of a schedule with warm-up, for batches of about 32 images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from petl.sites.family import Family


class Rate(NamedTuple):
    """A learning rate for convolutional nets, and one for transformers."""

    cnn: float
    transformer: float


RATES = {
    "adapter": Rate(5e-3, 1.5e-3),
    "bias": Rate(3e-3, 1e-3),
    "full": Rate(3e-4, 3e-5),  # the base's own tensors: full, partial, and what was unfrozen by hand
    "head": Rate(5e-3, 5e-3),
    "input": Rate(5e-3, 1.5e-3),
    "lora": Rate(5e-3, 1.5e-3),
    "lora depthwise": Rate(2e-3, 1e-3),
    "new": Rate(2e-3, 2e-3),  # what a method grows that declares no rate
    "norm": Rate(3e-3, 3e-3),
    "peft": Rate(2e-3, 2e-3),
    "peft low rank": Rate(5e-3, 1.5e-3),
    "partial": Rate(1e-3, 3e-4),
    "peft scale": Rate(5e-3, 5e-3),  # IA3 and its like: one factor per channel
    "started head": Rate(5e-4, 5e-4),  # a classifier that was computed before the first update
}
LOW_RANK_STRENGTH = 8.0  # rank * scale up to which the rate of a low-rank change is the one above
LOW_RANK_POWER = 1.0  # for larger ones it falls as (LOW_RANK_STRENGTH / strength) ** LOW_RANK_POWER


@dataclass(frozen=True, kw_only=True)
class TrainedTensor:
    """A tensor that a method trains, as `Method.rate` is asked about it.

    Attributes:
        key: its name in the state dict.
        value: the tensor.
        module: the module that owns it; ``parent``: the module around that one (of a graft: the layer that it is on).
        in_place: whether it is the base's own; otherwise the method grew it.
        family: of the model, "cnn" or "transformer".
    """

    key: str
    value: Tensor
    module: nn.Module
    parent: nn.Module
    in_place: bool
    family: Family


def rate_for(kind: str, tensor: TrainedTensor) -> float:
    """Returns the rate of the table for this kind of tensor, in the family of the tensor's model."""
    return getattr(RATES[kind], tensor.family)


def low_rank_rate(kind: str, tensor: TrainedTensor, *, rank: int, scale: float) -> float:
    """Returns the rate of the factors of ``scale * up @ down``.

    A step of Adam moves the layer's output by about rate * scale * rank, whatever the size of the gradient: where rank and
    scale are large, the rate is lower in proportion, so that no choice of ``rank`` and ``alpha`` diverges.
    """
    strength = max(abs(scale) * rank, LOW_RANK_STRENGTH)
    return rate_for(kind, tensor) * (LOW_RANK_STRENGTH / strength) ** LOW_RANK_POWER
