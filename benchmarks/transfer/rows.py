"""The benchmark's rows: petl's methods, Hugging Face peft's LoRA on the same layers, and the pixels without a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

import petl

FULL, PROBE, PIXELS = "full", "probe", "raw pixels"


@dataclass(frozen=True)
class Row:
    """One line of the table: what goes onto the model.

    ``peft`` says that peft wraps the model itself, with BatchNorm held still or "loose"; ``closed``, that a formula computes
    the classifier, which has no epochs.
    """

    name: str
    methods: tuple[Any, ...] = ()
    closed: bool = False
    peft: str = ""

    def apply(self, model: nn.Module, classes: int) -> nn.Module:
        """The wrapped model. Without methods it is the best recipe that petl knows."""
        return petl.wrap(model, list(self.methods) or None, num_classes=classes)


def rows(model: nn.Module, *, gray: bool) -> list[Row]:
    """The rows that make sense for this backbone (BatchNorm or not, attention or not) and these images (gray or RGB)."""
    batchnorm, attention = bool(petl.find(model, "batchnorm")), bool(petl.find(model, "branch"))
    found = [
        Row(PIXELS, closed=True),
        Row(PROBE, ("probe",), closed=True),
        Row(FULL, ("full",)),
        Row("best"),
        Row("lora", ("lora",)),
        Row("peft LoRA", peft="still"),
        *(Row(name, (name,)) for name in ("norm", "adapter", "partial", "bias")),
    ]
    if batchnorm:
        found += [Row("bn", ("bn",)), Row("peft LoRA, BatchNorm not held", peft="loose")]
    if attention:
        found.append(Row('lora, slices="qv"', (petl.LoRA(slices="qv"),)))
    if gray:
        found.append(Row("input + best", (petl.Input(in_chans=1), "best")))
    return found
