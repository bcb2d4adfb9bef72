"""Sketches of large tensors: a number for each 64, which differ where the tensors do, in a sixty-fourth of the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SKETCH_TOLERANCE = 1e-3  # of the largest number: rounding of another batch size, not another row
BLOCK = 64


@dataclass(frozen=True)
class Sketch:
    """Sums with random signs over blocks of each row of a tensor [rows, blocks], its shape, and its largest number."""

    sums: Tensor
    shape: torch.Size
    largest: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> Sketch | None:
        """Returns the sketch of a tensor with rows; None for one without numbers."""
        if not tensor.ndim or not tensor.numel():
            return None
        numbers = tensor.detach() if tensor.is_floating_point() else tensor.detach().float()
        flat = numbers.reshape(len(tensor), -1)
        flat = F.pad(flat, (0, -flat.shape[1] % BLOCK)) if flat.shape[1] > BLOCK else flat
        chance = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (BLOCK,), generator=chance).to(flat) * 2 - 1
        sums = flat.view(len(flat), -1, BLOCK) @ signs if flat.shape[1] > BLOCK else flat.clone()
        return cls(sums.double(), tensor.shape, numbers.abs().amax().double())

    def is_stack_of(self, parts: Sequence[Sketch]) -> bool:
        """Returns whether the tensor is, up to rounding, that of the parts, whose shapes are equal, one after the other."""
        first = parts[0].shape
        whole = torch.Size([sum(part.shape[0] for part in parts), *first[1:]])
        if any(part.shape != first for part in parts) or self.shape != whole:
            return False
        apart = (torch.cat([part.sums for part in parts]) - self.sums).abs().max()
        return bool(apart <= SKETCH_TOLERANCE * self.largest.clamp_min(1e-30))
