"""``layer_decay="gradients"``: the rate of each block in proportion to its relative gradient (arXiv:2210.11466)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from petl.training.loop import batch_loss
from petl.training.rate_groups import multiply_each
from petl.training.run import Run
from petl.training.undone_updates import undone, windows
from petl.wrapping.rates import HEAD, changed_weights

BATCHES = 8  # that the gradients are the mean of


def scale_by_gradients(run: Run) -> str:
    """Multiplies the rates of each block by |gradient| / |weights|, relative to the block where that is largest (Auto-RGN).

    A block is what timm's depth order has as one. Its weights are those that train, and those that its grafts change. The
    classifier, whose new weights would outweigh everything, keeps its rate. Returns a sentence that says the factors.
    """
    changed = changed_weights(run.model)
    ratios: dict[int, float] = {}
    with undone(run):
        _sum_gradients(run)
        for depth, parameters in _blocks(run.optimizer):
            weights = dict.fromkeys([*parameters, *(weight for p in parameters for weight in changed.get(p, ()))])
            size = _norm(run, weights)
            ratios[depth] = _norm(run, [p.grad for p in parameters if p.grad is not None]) / size if size else 0.0
    top = max(ratios.values(), default=0.0)
    if not 0 < top < math.inf:
        return "layer_decay='gradients': no block has a gradient at the start, so all keep their rates"
    factors = {depth: ratio / top for depth, ratio in ratios.items()}
    multiply_each(run.optimizer, lambda g: 1.0 if g["name"] == HEAD else factors[g["depth"]])
    shown = " ".join(f"{factors[depth]:.2g}" for depth in sorted(factors, reverse=True))
    return f"layer_decay='gradients': factors of the rates from the first block to the last: {shown}"


def _sum_gradients(run: Run) -> None:
    """Leaves the mean gradient of the first batches in the parameters."""
    run.optimizer.zero_grad()
    batches = (parts for _, window, _ in windows(run) for parts in window)
    for images, targets, batch in itertools.islice(batches, BATCHES):
        run.accelerator.backward(batch_loss(run, images, targets, batch) / BATCHES)


def _blocks(optimizer: Any) -> Iterator[tuple[int, list[nn.Parameter]]]:
    depths: dict[int, list[nn.Parameter]] = {}
    for group in optimizer.param_groups:
        if group["name"] != HEAD:
            depths.setdefault(group["depth"], []).extend(group["params"])
    yield from depths.items()


def _norm(run: Run, tensors: Any) -> float:
    """Returns the norm of all tensors together; of gradients it is the mean over ranks where these aren't shared."""
    squares = [tensor.detach().double().square().sum() for tensor in tensors]
    total = torch.stack(squares).sum() if squares else torch.zeros((), device=run.accelerator.device)
    return math.sqrt(run.accelerator.reduce(total.float(), reduction="mean").item())  # type: ignore[union-attr]  # a tensor, as it was given
