"""The kinds of graft: what a method can put onto a module, and the fast paths beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import StateError
from petl.kernels.autocast import without_autocast
from petl.kernels.low_rank import LowRankChange
from petl.kernels.memory_layout import in_memory_format_of

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
PAIRED_NORM = "_petl_paired_norm"  # attribute of a convolution: the module around it, and the norm after it


class Graft(nn.Module):
    """A child module that changes what its parent computes: one of the three kinds below.

    ``in_chans`` is the number of channels that the parent takes with the graft on, where the graft changes that;
    ``why_stuck`` says why a graft that isn't a weight graft can't be folded. ``reads_beyond`` is True for a graft that needs more
    than what its parent receives, so that the parent can't run without the rest of the model.
    """

    in_chans: int | None = None
    reads_beyond: bool = False
    why_stuck: str = "it is a layer of its own"


class WeightGraft(Graft):
    """A function from a parameter's value to its adapted value; foldable by construction.

    ``param`` names the parent's parameter; ``change(weight) -> weight`` may also change its shape. It is computed in the
    graft's own precision and outside autocast, and rounded to the weight's dtype once, so a float32 delta on a
    half-precision or autocast layer isn't rounded before it is added.

    ``dtype`` is the weight's type with the graft on it, where the graft changes that.
    """

    param: str = "weight"
    dtype: torch.dtype | None = None

    def low_rank(self) -> LowRankChange | None:
        """Returns the factors of a change that is low-rank over the weight as a matrix, and nothing else; None for others."""
        return None

    def change(self, weight: Tensor) -> Tensor:
        """Returns the adapted weight: this is the method."""
        raise NotImplementedError

    def forward(self, weight: Tensor, parent: nn.Module) -> Tensor:
        own = next(self.parameters(), weight).dtype  # FSDP1 puts tensors in the place of parameters
        with without_autocast(weight.device):
            return in_memory_format_of(weight, self.change(weight.to(own)).to(weight.dtype))

    def register_forward_hook(self, hook: Callable[..., Any], **kwargs: Any) -> Any:
        """Refuses hooks that take the input for a batch of samples, as Opacus's do: here the input is a weight."""
        if (getattr(hook, "__module__", None) or type(hook).__module__).partition(".")[0] == "opacus":
            raise StateError(
                f"gradients of single samples by Opacus's module hooks can't be had of {type(self).__name__}, which changes a "
                f"weight; torch.func gives them, as docs/pipelines.md shows, and Opacus takes the "
                f"methods 'probe', 'norm', 'bias' and 'adapter'"
            )
        return super().register_forward_hook(hook, **kwargs)

    def folded(self, parent: nn.Module) -> None:
        """Called on the parent when the adapted value has been written into it for good."""


class InputGraft(Graft):
    """``forward(x) -> x`` on the first positional argument of the parent's ``forward``."""


class OutputGraft(Graft):
    """``forward(output, *inputs) -> output`` on what the parent's ``forward`` returns."""


def grafts(module: nn.Module) -> list[tuple[str, Graft]]:
    """Returns the grafts on ``module`` with their names, in the order in which they work."""
    return [(name, child) for name, child in module.named_children() if isinstance(child, Graft)]


class FastPath:
    """A mixin with another forward for a module, with the same result: around its grafts (``around_grafts``) or inside them."""

    around_grafts: bool = False
