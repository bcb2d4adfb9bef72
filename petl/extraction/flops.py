"""Counts multiplications, to tell which share of a forward lies below a cut point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from petl.extraction.cut_points import CutPoint
from petl.wrapping.eval_mode import in_eval


def share_of_flops(model: nn.Module, cut: CutPoint, images: Tensor) -> float:
    """Returns the share of a forward's multiplications that lies below the cut point, 0 to 1."""
    below: list[int] = []
    with in_eval(model), torch.no_grad(), FlopCounter() as counter:
        handle = cut.module.register_forward_pre_hook(lambda *_: below.append(counter.total))
        try:
            model(images)
        finally:
            handle.remove()
    return below[0] / max(counter.total, 1)


class FlopCounter(TorchDispatchMode):
    """Counts multiplications and additions by torch's own formulas.

    torch's own counter also puts hooks on modules, which some models refuse.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out
