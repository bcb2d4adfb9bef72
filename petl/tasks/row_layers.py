"""Layers that compute several tasks at once: one product of the backbone's layer for all rows, and each task's change on its own.

A low-rank change of a weight is linear: ``(W + s B A) x = W x + s B (A x)``, for a convolution too, where ``A`` convolves as the
layer does and ``B`` is 1x1 (Punica, Chen et al. 2023, arXiv:2310.18547, for linear layers). Where all rows have a change
and each task has many pixels, a convolution with the change in its weight takes fewer products, and no second pass.
Other changes of a single layer run the task's own layer on its rows.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.graft.kinds import FastPath
from petl.kernels.low_rank import LowRankChange, merged_weight

LAYER = "_petl_layer"  # attribute of a layer: its name in the backbone
_RUNNING = threading.local()  # batch: the batch whose rows this thread computes now


@dataclass(frozen=True)
class BesideBase:
    """A change that is added to the output of the backbone's layer: a low-rank change of the weight, another bias, or both."""

    layer: nn.Module
    low_rank: LowRankChange | None
    bias: Tensor | None  # the task's bias minus the backbone's

    def add_to(self, out: Tensor, x: Tensor) -> None:
        """Adds the change to a slice of the layer's output, in place."""
        if self.low_rank is not None and isinstance(self.layer, nn.Conv2d):
            self._add_conv(out, x, self.low_rank, self.layer)
        elif self.low_rank is not None:
            up, down, scale = self.low_rank
            flat = out.view(-1, out.shape[-1])
            flat.addmm_(x.reshape(-1, x.shape[-1]) @ down.t(), up.t(), alpha=scale)
        if self.bias is not None:
            out += self.bias.view(-1, 1, 1) if isinstance(self.layer, nn.Conv2d) else self.bias

    def is_cheaper_merged(self, x: Tensor) -> bool:
        """Returns whether a weight with the change in it takes less time than the change beside the base's: for convolutions
        of many places; for linear layers it was measured to take as much."""
        if self.low_rank is None or not isinstance(self.layer, nn.Conv2d):
            return False
        layer = self.layer
        rows, fan_in = len(layer.weight), layer.weight[0].numel()
        places = x[:, 0].numel() // (layer.stride[0] * layer.stride[1])
        return places * (rows + fan_in) > rows * fan_in

    def merged(self, x: Tensor) -> Tensor:
        """Returns the task's own output of a convolution: that of the backbone's layer, with the change in its weight."""
        assert self.low_rank is not None
        layer = cast(Any, self.layer)
        weight = merged_weight(layer.weight.detach(), *self.low_rank)
        bias = layer.bias if self.bias is None else layer.bias + self.bias
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    def _add_conv(self, out: Tensor, x: Tensor, change: LowRankChange, layer: nn.Conv2d) -> None:
        kernel = change.down.view(-1, *layer.weight.shape[1:])
        kernel = kernel.repeat(layer.groups, 1, 1, 1) if layer.groups > 1 else kernel
        narrow = F.conv2d(x, kernel, None, layer.stride, cast(Any, layer.padding), layer.dilation, layer.groups)
        out.add_(F.conv2d(narrow, change.up[:, :, None, None], groups=layer.groups), alpha=change.scale)


@dataclass(frozen=True)
class OwnLayer:
    """A change that needs the task's own layer, with whatever is on it."""

    layer: nn.Module


LayerChange = BesideBase | OwnLayer


class RowSegment(NamedTuple):
    """The rows from ``start`` to ``end`` of a sorted batch, and the changes that their task makes, by the layers' names."""

    start: int
    end: int
    changes: Mapping[str, LayerChange]


class _Batch(NamedTuple):
    """A batch's number of rows, and what changes where, by the layers' names."""

    rows: int
    work: Mapping[str, list[tuple[int, int, LayerChange]]]


@contextlib.contextmanager
def segments_running(segments: Sequence[RowSegment]) -> Iterator[None]:
    """A context in which this thread's forwards of layers with `RowLayer` compute these segments."""
    work: dict[str, list[tuple[int, int, LayerChange]]] = {}
    for start, end, changes in segments:
        for name, change in changes.items():
            work.setdefault(name, []).append((start, end, change))
    _RUNNING.batch = _Batch(segments[-1].end, work)
    try:
        yield
    finally:
        _RUNNING.batch = None


class RowLayer(FastPath):
    """A layer of the backbone that computes each segment of the batch under its own task."""

    around_grafts = True

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        batch: _Batch | None = getattr(_RUNNING, "batch", None)
        work = batch.work.get(vars(self)[LAYER]) if batch is not None else None
        base: Callable[..., Tensor] = super().forward  # type: ignore[misc]  # the class's own comes later in the MRO
        return base(x, *args) if batch is None or work is None else _segmented(base, x, batch.rows, work)


def _segmented(
    base: Callable[[Tensor], Tensor], x: Tensor, rows: int, work: Sequence[tuple[int, int, LayerChange]]
) -> Tensor:
    """Returns the outputs of one layer; each row of the batch has as many entries of ``x``'s first dimension as any other."""
    each = len(x) // rows
    parts = [(x[start * each : end * each], start * each, end * each, change) for start, end, change in work]
    if sum(len(part) for part, *_ in parts) == len(x) and all(
        _needs_no_base(change, part) for part, *_, change in parts
    ):
        return torch.cat([_own_output(change, part) for part, *_, change in parts])
    own = [_own_output(change, part) for part, *_, change in parts if isinstance(change, OwnLayer)]
    out, own_outputs = base(x), iter(own)
    for part, start, end, change in parts:
        if isinstance(change, BesideBase):
            change.add_to(out[start:end], part)
        else:
            out[start:end] = next(own_outputs)
    return out


def _needs_no_base(change: LayerChange, x: Tensor) -> bool:
    return isinstance(change, OwnLayer) or change.is_cheaper_merged(x)


def _own_output(change: LayerChange, x: Tensor) -> Tensor:
    return change.merged(x) if isinstance(change, BesideBase) else cast(Any, change.layer).forward(x)
