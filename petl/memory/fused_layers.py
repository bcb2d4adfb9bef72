"""Layers of ``memory="fast"``, each computed by one kernel: low-rank changed linear layers and convolutions, frozen norms."""

from __future__ import annotations

import functools
from typing import cast

import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn

from petl.graft.kinds import FastPath
from petl.kernels import low_rank_conv, low_rank_linear
from petl.kernels.convolution import ConvGeometry
from petl.kernels.frozen_norm import BatchNormStats, batch_norm_eval, conv_frozen_norm, frozen_norm, scale_and_shift
from petl.memory.deferral_scope import norm_to_defer_for
from petl.memory.deferred_conv import DeferredConv, computed, defer, pending_conv
from petl.memory.observers import is_recorded
from petl.memory.recompute import active_tape, in_compute_dtype
from petl.memory.skip_plan import run_kernel
from petl.memory.weight_changes import fuses_with_norm, is_frozen_or_low_rank, low_rank_change, own_weight, scale_trains


class FusedLinear(FastPath):
    """A linear layer with a low-rank change, or one whose weight is stored in low precision."""

    def forward(self, input: Tensor) -> Tensor:  # named as torch's own layers name it
        layer = cast(nn.Linear, self)
        has_batch = input.dim() >= 2  # a single row may come without a batch
        if not is_recorded(input) or not is_frozen_or_low_rank(layer) or not has_batch:
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        change = low_rank_change(layer)
        return run_kernel(low_rank_linear.linear, in_compute_dtype(input), own_weight(layer), layer.bias, change)


class FusedConv(FastPath):
    """A 2d convolution whose weight is frozen, with a low-rank change or none; a frozen norm may compute it instead."""

    def forward(self, input: Tensor) -> Tensor:
        layer = cast(nn.Conv2d, self)
        has_batch = input.dim() == 4  # a single image may come without a batch
        if not is_recorded(input) or not is_frozen_or_low_rank(layer) or not has_batch:
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        x, geometry = _padded(layer, in_compute_dtype(input))
        weight, bias, change = own_weight(layer), layer.bias, low_rank_change(layer)
        norm = norm_to_defer_for(layer)
        if norm is not None and type(x) is Tensor and fuses_with_norm(layer, norm):
            return defer(DeferredConv(x, weight, bias, change, geometry))
        return run_kernel(low_rank_conv.conv2d, x, weight, bias, change, None, geometry)


class FrozenNorm(FastPath):
    """A norm in evaluation mode: computed together with the convolution before it, or alone.

    Alone, it keeps its input only where its scale trains.
    """

    def forward(self, x: Tensor) -> Tensor:
        norm = cast(nn.BatchNorm2d, self)
        if not is_recorded(x) or norm.training or norm.running_mean is None:
            return super().forward(x)  # type: ignore[misc]  # the base class's forward comes next in the order
        stats, conv = _stats_of(norm), pending_conv(x)
        if conv is not None and (conv.change is None or not scale_trains(norm)):
            return _activated(norm, _conv_and_norm(conv, stats))
        if not scale_trains(norm):
            return _activated(norm, frozen_norm(computed(x), stats))
        x = computed(x)
        out = batch_norm_eval(x, stats)
        _record_norm(out, x, stats)
        return _activated(norm, out)


def _conv_and_norm(conv: DeferredConv, norm: BatchNormStats) -> Tensor:
    """Computes the norm of the convolution's output: as one convolution, or, where the norm's scale trains, in two steps.

    In two steps, the convolution's output is kept and the norm's is recomputed.
    """
    if norm.weight is not None and norm.weight.requires_grad:
        out, conv_out = conv_frozen_norm(conv.x, conv.weight, conv.bias, conv.geometry, norm)
        _record_norm(out, conv_out, norm)
        return out
    scale, shift = scale_and_shift(norm)
    bias = shift if conv.bias is None else shift + scale * conv.bias
    return run_kernel(low_rank_conv.conv2d, conv.x, conv.weight, bias, conv.change, scale, conv.geometry)


def _record_norm(out: Tensor, x: Tensor, norm: BatchNormStats) -> None:
    """Records on the tape that ``out`` is the norm of ``x``."""
    tape = active_tape()
    if tape is not None and out.requires_grad:
        tape.record(out, functools.partial(batch_norm_eval, norm=norm), x)


def _stats_of(module: nn.Module) -> BatchNormStats:
    norm = cast(nn.BatchNorm2d, module)
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    return BatchNormStats(mean, var, norm.weight, norm.bias, norm.eps)


def _activated(norm: nn.Module, x: Tensor) -> Tensor:
    """Applies the dropout and the activation inside timm's BatchNormAct2d; other norms have none."""
    for part in ("drop", "act"):
        x = getattr(norm, part)(x) if part in norm._modules else x
    return x


def _padded(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, ConvGeometry]:
    """Applies the padding that the kernel can't apply itself; returns the input and the geometry with the rest."""
    stride, dilation = cast("tuple[int, int]", conv.stride), cast("tuple[int, int]", conv.dilation)
    unpadded = ConvGeometry(stride, (0, 0), dilation, conv.groups)
    if isinstance(conv, Conv2dSame):
        return pad_same(x, list(conv.kernel_size), list(stride), list(dilation)), unpadded
    sides = conv._reversed_padding_repeated_twice  # left, right, top, bottom
    if conv.padding_mode != "zeros":
        return F.pad(x, sides, mode=conv.padding_mode), unpadded
    if not isinstance(conv.padding, str):
        return x, unpadded._replace(padding=cast("tuple[int, int]", conv.padding))
    if sides[0] == sides[1] and sides[2] == sides[3]:
        return x, unpadded._replace(padding=(sides[2], sides[0]))
    return F.pad(x, sides), unpadded
