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
from petl.wrapping.eval_mode import in_eval

MAX_TRIALS = 128  # cut points that are tried, the deepest first; a trial costs little more than a forward of the tail


def find_tail(model: nn.Module, points: list[CutPoint], images: Tensor) -> Tail | None:
    """Returns the smallest tail that gives the model's output on these images, bit for bit, and trains as the model does."""
    points = points[:MAX_TRIALS]
    features, output = _features_at(model, points, images)
    tails = (Tail(model, cut, images) for cut in points)
    exact = (tail for tail, x in zip(tails, features, strict=True) if _same_output(tail, x, output))
    step = _training_step(model, model, images) if points else None
    return next((tail for tail in exact if _trains_alike(tail, images, step)), None)


@torch.no_grad()
def _features_at(model: nn.Module, points: list[CutPoint], images: Tensor) -> tuple[list[Tensor], Any]:
    """Returns the features at each cut point, and the model's logits, in evaluation mode."""
    with in_eval(model), contextlib.ExitStack() as stack:
        inputs = [stack.enter_context(captured_inputs(cut.module)) for cut in points]
        output = logits(model(images))
    return [calls[0] for calls in inputs], output


@torch.no_grad()
def _same_output(tail: Tail, features: Tensor, expected: Any) -> bool:
    """Returns whether the tail computes the model's logits from the features alone, bit for bit, in evaluation mode."""
    tail.dtype, tail.per_image = features.dtype, features.numel() * features.element_size() // max(len(features), 1)
    with contextlib.suppress(*MODEL_ERRORS), in_eval(tail), tail.skipping():
        output = logits(tail(features.clone()))
        return output is not None and expected is not None and torch.equal(output, expected)
    return False


def _trains_alike(tail: Tail, images: Tensor, expected: Any) -> bool:
    """Returns whether a training step of the tail has the logits and gradients of a step of the whole model, up to rounding.

    In training, norms of the frozen part may be folded into its convolutions, so the last bits may differ here.
    """
    features, _ = _features_at(tail.model, [tail.cut], images)
    with contextlib.suppress(*MODEL_ERRORS), tail.skipping():
        output, grads = _training_step(tail.model, tail, features[0])
        return _close(output, expected[0]) and all(map(_close, grads, expected[1]))
    return False


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    """Returns whether two tensors, or two absent ones, are equal up to rounding; NaN is equal to nothing."""
    if one is None or other is None:
        return one is other
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def _training_step(model: nn.Module, net: nn.Module, x: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Returns logits and gradients of one training step; statistics and random generators are then as before."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    with in_eval(model), torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model.train()
        output = require_logits(net(x))
        loss = (output.float() * torch.randn(output.shape, device=output.device)).sum()
        grads = list(torch.autograd.grad(loss, trainable, allow_unused=True))
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
    return output.detach(), grads
