"""Finds the smallest tail of a model that can be trained alone, by trying cut points on images."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.logits import logits, require_logits
from petl.extraction.cut_points import CutPoint
from petl.extraction.tail import MODEL_ERRORS, Tail, captured_inputs
from petl.wrapping.modes import in_eval

MAX_TRIALS = 128  # points that are tried, from the deepest on; a trial costs little more than what runs above the point


def find_tail(model: nn.Module, points: list[CutPoint], images: Tensor) -> Tail | None:
    """The smallest upper part that gives the whole model's answer on these images, bit for bit, and trains as it does."""
    points = points[:MAX_TRIALS]
    given, answer = _inputs(model, points, images)
    nets = (Tail(model, cut, images) for cut in points)
    fit = (net for net, x in zip(nets, given, strict=True) if _same_output(net, x, answer))
    whole = _training_step(model, model, images) if points else None
    return next((net for net in fit if _trains_alike(net, images, whole)), None)


@torch.no_grad()
def _inputs(model: nn.Module, points: list[CutPoint], images: Tensor) -> tuple[list[Tensor], Any]:
    """What goes into each of the points, and the model's answer, in evaluation mode."""
    with in_eval(model), contextlib.ExitStack() as taps:
        seen = [taps.enter_context(captured_inputs(cut.module)) for cut in points]
        answer = logits(model(images))
    return [each[0] for each in seen], answer


@torch.no_grad()
def _same_output(net: Tail, x: Tensor, answer: Any) -> bool:
    """Whether the net makes the model's answer of ``x`` alone, bit for bit, in evaluation mode."""
    net.dtype, net.per_image = x.dtype, x.numel() * x.element_size() // max(len(x), 1)
    with contextlib.suppress(*MODEL_ERRORS), in_eval(net), net.skipping():
        found = logits(net(x.clone()))
        return found is not None and answer is not None and torch.equal(found, answer)
    return False


def _trains_alike(net: Tail, images: Tensor, whole: Any) -> bool:
    """Whether a training step of the net has answer and gradients of one of the whole model, up to rounding.

    In training, norms of the frozen part may be folded into its convolutions, so here the last bits may differ.
    """
    given, _ = _inputs(net.model, [net.cut], images)
    with contextlib.suppress(*MODEL_ERRORS), net.skipping():
        answer, grads = _training_step(net.model, net, given[0])
        return _close(answer, whole[0]) and all(map(_close, grads, whole[1]))
    return False


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    """Equal up to rounding; NaN is equal to nothing."""
    if one is None or other is None:
        return one is other
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def _training_step(model: nn.Module, net: nn.Module, x: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Answer and gradients of one training step that changes nothing: not the statistics, not the random numbers."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    with in_eval(model), torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model.train()
        answer = require_logits(net(x))
        loss = (answer.float() * torch.randn(answer.shape, device=answer.device)).sum()
        grads = list(torch.autograd.grad(loss, trainable, allow_unused=True))
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
    return answer.detach(), grads
