"""What peft's LoRA can say of a layer: the factors of its change, or the reason why the layer goes into the folder whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from petl.graft.kinds import Graft, WeightGraft, grafts
from petl.graft.values import adapted_value
from petl.methods.lora_slices import SlicedLowRank
from petl.methods.lora_weights import LowRank
from petl.sites.survey import Survey


@dataclass(frozen=True)
class PeftFactors:
    """The change of one layer as peft's LoRA keeps it: ``scale * up @ down``, and DoRA's length of each row.

    ``down`` is [r, columns] or [r, in, h, w], ``up`` [rows, r] or [rows, r, 1, 1], ``magnitude`` [rows] or [1, rows, 1, 1].
    """

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def state(self) -> dict[str, Tensor]:
        """Returns the tensors under peft's names."""
        named = {"lora_A.weight": self.down, "lora_B.weight": self.up}
        return named if self.magnitude is None else {**named, "lora_magnitude_vector": self.magnitude}


def low_rank_graft(module: nn.Module) -> LowRank | SlicedLowRank | None:
    """Returns the only graft of the module where it is a low-rank change of ``weight``, else None."""
    present = [graft for _, graft in grafts(module)]
    graft = present[0] if len(present) == 1 else None
    fits = type(graft) in (LowRank, SlicedLowRank) and cast(WeightGraft, graft).param == "weight"
    return cast("LowRank | SlicedLowRank", graft) if fits else None


def why_whole(survey: Survey, name: str, layer: nn.Module, shared: bool) -> str:
    """Says why peft's LoRA of this plain layer would compute something else than the adapted weight does; "" where it doesn't."""
    from timm.layers import Conv2dSame

    if type(layer) not in (nn.Linear, nn.Conv2d, Conv2dSame):
        return f"{type(layer).__name__} uses its weight in a way of its own"
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return "a grouped convolution"
    if isinstance(layer, nn.Conv2d) and (any(d != 1 for d in layer.dilation) or layer.padding_mode != "zeros"):
        return "a dilated convolution" if layer.padding_mode == "zeros" else "a convolution with other padding"
    if shared:
        return "one layer in several places"
    if name not in survey.calls and not survey.failed:
        return "its weight is read without calling the layer"
    return ""


def factors_of(module: nn.Module, graft: LowRank | SlicedLowRank, *, dora: bool) -> PeftFactors | None:
    """Returns the change of the module's weight as factors; None where a row of zeros has no direction for DoRA.

    ``dora``: the folder holds DoRA, so that a plain change gets the lengths that its rows have.
    """
    weight = cast(Tensor, module._parameters["weight"])
    kernel = weight.shape[1:]
    up, down = _unsliced(graft, weight) if isinstance(graft, SlicedLowRank) else (graft.up, graft.down)
    ones = (1,) * (weight.ndim - 2)
    magnitude = None
    if dora:
        lengths = adapted_value(module, "weight").detach().flatten(1).norm(dim=1)
        if not bool(lengths.gt(0).all()):
            return None
        own = getattr(graft, "magnitude", None)
        lengths = lengths.to(up.dtype) if own is None else own.detach().flatten()
        magnitude = lengths.reshape(1, -1, *ones) if ones else lengths
    return PeftFactors(
        down.detach().reshape(-1, *kernel), up.detach().reshape(weight.shape[0], -1, *ones), graft.scale, magnitude
    )


def _unsliced(graft: SlicedLowRank, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns up and down of the same change over all rows: the letters' factors side by side, zeros in the other rows."""
    letters, rank, columns = graft.down.shape
    heads = weight.shape[0] // sum(graft.sizes)
    up = graft.up.new_zeros(heads, sum(graft.sizes), letters * rank)
    parts = graft.up.detach().flatten(0, -2).split(graft.counts)
    for number, (letter, part) in enumerate(zip(graft.changed, parts, strict=True)):
        begin = sum(graft.sizes[:letter])
        end = begin + graft.sizes[letter]
        up[:, begin:end, number * rank : (number + 1) * rank] = part.view(heads, -1, rank)
    return up.flatten(0, 1), graft.down.detach().reshape(letters * rank, columns)


def effective_state(module: nn.Module, plain: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict of the plain module with the values that the grafted one computes with."""
    parts = dict(module.named_modules(remove_duplicate=False))
    state = {}
    for key in plain.state_dict():
        where, _, leaf = key.rpartition(".")
        state[key] = effective_value(parts[where], leaf)
    return state


def effective_value(module: nn.Module, leaf: str) -> Tensor:
    """Returns the value that the module computes with: a parameter after all of its grafts, or a buffer."""
    changed = [graft for _, graft in grafts(module) if isinstance(graft, WeightGraft) and graft.param == leaf]
    if changed:
        return adapted_value(module, leaf).detach().clone()
    return cast(Tensor, {**module._parameters, **module._buffers}[leaf]).detach()


def stuck_grafts(model: nn.Module) -> dict[str, Graft]:
    """Returns the grafts that are no change of a weight, by the names of the modules that they are on."""
    found: dict[str, Graft] = {}
    for name, module in model.named_modules():
        for _, graft in grafts(module):
            if not isinstance(graft, WeightGraft):
                found[name] = graft
    return found


def same_tensors(one: Any, other: Any) -> bool:
    """Returns whether two tensors have the same shape, type and bits."""
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
