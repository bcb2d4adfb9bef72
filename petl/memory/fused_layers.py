"""Layers that train through one kernel: low-rank changed linear layers and convolutions, and frozen norms."""

from __future__ import annotations

import functools
from typing import cast

import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn

from petl.graft.graft import Way
from petl.kernels import convolution, frozen_norm, low_rank_conv, low_rank_linear
from petl.memory import recompute
from petl.memory.deferral_scope import norm_to_defer_for
from petl.memory.deferred_conv import DeferredConv, computed, defer, pending_conv
from petl.memory.observers import is_recorded
from petl.memory.recompute import in_compute_dtype
from petl.memory.skip_plan import run_kernel
from petl.memory.weight_changes import fuses_with_norm, is_frozen_or_low_rank, low_rank_change, own_weight, scale_trains


class FusedLinear(Way):
    """A linear layer with a low-rank change, or one whose weight is kept in low precision."""

    def forward(self, input: Tensor) -> Tensor:  # named as torch's own layers name it
        layer = cast(nn.Linear, self)
        change = low_rank_change(layer)
        if (
            not is_recorded(input) or not is_frozen_or_low_rank(layer) or input.dim() < 2
        ):  # a single row may come without a batch
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        return run_kernel(low_rank_linear.linear, in_compute_dtype(input), own_weight(layer), layer.bias, change)


class FusedConv(Way):
    """A 2d convolution whose weight is frozen, with a low-rank change or without; a norm may take its output uncomputed."""

    def forward(self, input: Tensor) -> Tensor:
        layer = cast(nn.Conv2d, self)
        if (
            not is_recorded(input) or not is_frozen_or_low_rank(layer) or input.dim() != 4
        ):  # a single image may come without a batch
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        x, geometry = _padded(layer, in_compute_dtype(input))
        weight, bias, change = own_weight(layer), layer.bias, low_rank_change(layer)
        norm = norm_to_defer_for(layer)
        if norm is not None and type(x) is Tensor and fuses_with_norm(layer, norm):
            return defer(DeferredConv(x, weight, bias, change, geometry))
        return run_kernel(low_rank_conv.conv2d, x, weight, bias, change, None, geometry)


class FrozenNorm(Way):
    """A norm in evaluation mode: computed with the convolution before it, or keeping its input only where its scale trains."""

    def forward(self, x: Tensor) -> Tensor:
        norm = cast(nn.BatchNorm2d, self)
        if not is_recorded(x) or norm.training or norm.running_mean is None:
            return super().forward(x)  # type: ignore[misc]  # the base class's forward comes next in the order
        held, work = _stats_of(norm), pending_conv(x)
        if work is not None and (work.change is None or not scale_trains(norm)):
            return _activated(norm, _conv_and_norm(work, held))
        if not scale_trains(norm):
            return _activated(norm, frozen_norm.frozen_norm(computed(x), held))
        x = computed(x)
        out = frozen_norm.batch_norm_eval(x, held)
        _record_norm(out, x, held)
        return _activated(norm, out)


def _conv_and_norm(work: DeferredConv, norm: frozen_norm.BatchNormStats) -> Tensor:
    """The norm of the convolution's output; where the norm's scale trains, what lies between is kept, what it returns isn't."""
    if norm.weight is not None and norm.weight.requires_grad:
        out, between = frozen_norm.conv_frozen_norm(work.x, work.weight, work.bias, work.geometry, norm)
        _record_norm(out, between, norm)
        return out
    rows, shift = frozen_norm.scale_and_shift(norm)
    bias = shift if work.bias is None else shift + rows * work.bias
    return run_kernel(low_rank_conv.conv2d, work.x, work.weight, bias, work.change, rows, work.geometry)


def _record_norm(out: Tensor, x: Tensor, norm: frozen_norm.BatchNormStats) -> None:
    kept = recompute.active_tape()
    if kept is not None and out.requires_grad:
        kept.note(out, functools.partial(frozen_norm.batch_norm_eval, norm=norm), x)


def _stats_of(module: nn.Module) -> frozen_norm.BatchNormStats:
    norm = cast(nn.BatchNorm2d, module)
    return frozen_norm.BatchNormStats(
        cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var), norm.weight, norm.bias, norm.eps
    )


def _activated(norm: nn.Module, x: Tensor) -> Tensor:
    """What timm's BatchNormAct2d does after normalising: the activation."""
    for part in ("drop", "act"):
        x = getattr(norm, part)(x) if part in norm._modules else x
    return x


def _padded(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, convolution.ConvGeometry]:
    """The input with the padding that the convolution's kernel can't do by itself, and what is left to do."""
    stride, dilation = cast("tuple[int, int]", conv.stride), cast("tuple[int, int]", conv.dilation)
    rest = convolution.ConvGeometry(stride, (0, 0), dilation, conv.groups)
    if isinstance(conv, Conv2dSame):
        return pad_same(x, list(conv.kernel_size), list(stride), list(dilation)), rest
    around = conv._reversed_padding_repeated_twice  # left, right, top, bottom
    if conv.padding_mode != "zeros":
        return F.pad(x, around, mode=conv.padding_mode), rest
    if not isinstance(conv.padding, str):
        return x, rest._replace(padding=cast("tuple[int, int]", conv.padding))
    if around[0] == around[1] and around[2] == around[3]:
        return x, rest._replace(padding=(around[2], around[0]))
    return F.pad(x, around), rest
