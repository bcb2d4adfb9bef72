"""Layers whose backward is cheap: a low-rank changed weight, a norm held still, a gate that keeps one bit a number.

The plain way, ``F.linear(x, W + scale * up @ down)``, makes autograd compute the gradient of the whole weight and then
project it. Here the forward is the same and keeps nothing but the layer's input (nothing at all where no weight trains);
the backward makes the merged weight again and computes the gradients of ``up`` and ``down`` through ``rank`` features.
A norm held still is an affine map: ``rows`` multiplies it into the weight before it. Gradients equal those of the plain
way up to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor


class Geometry(NamedTuple):
    """How a 2d convolution goes over its input, padding done already where it isn't symmetric."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


class Layout(NamedTuple):
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Norm(NamedTuple):
    """What a norm held still does on axis 1: ``F.batch_norm`` in evaluation mode."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


class Change(NamedTuple):
    """A weight's low-rank change: ``scale * up @ down``, with ``up`` [out, r] and ``down`` [r, everything else]."""

    up: Tensor
    down: Tensor
    scale: float


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, change: Change | None, unread: Layout | None = None
) -> Tensor:
    """``F.linear`` of x [..., in] with the merged weight [out, in]; where ``down`` is frozen, keeps r numbers a row of x.

    A ``weight`` of lower precision than x is widened in the forward and again in the backward, and kept as it is.
    ``unread`` is the result's layout where nobody will read its numbers: they are not computed.
    """
    x, bias = as_autocast_would(x, bias)
    flat = (
        x.flatten(0, -2) if x.ndim != 2 else x
    )  # outside: what a function returns may be written to, a view of it not
    with without_autocast(x.device):
        features = None
        if change is not None and not change.down.requires_grad:
            features = features_of(flat, change.down)
        out = cast(Tensor, _Linear.apply(flat, weight, bias, *(change or (None, None, 0.0)), features, unread))
    return out.unflatten(0, x.shape[:-1]) if x.ndim != 2 else out


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    change: Change | None,
    rows: Tensor | None,
    geometry: Geometry,
    unread: Layout | None = None,
) -> Tensor:
    """``F.conv2d`` of x [batch, in, h, w] with ``rows * (weight + change)``; ``rows`` [out] and ``change`` may be None.

    ``unread`` is as for ``linear``.
    """
    x, bias = as_autocast_would(x, bias)
    with without_autocast(x.device):
        features = None
        if change is not None and not change.down.requires_grad and _few_features(weight, change.up, geometry):
            features = _features(x, weight, change.down, geometry)
        args = (x, weight, bias, rows, *(change or (None, None, 0.0)), geometry, features, unread)
        return cast(Tensor, _Conv.apply(*args))


def still_norm(x: Tensor, norm: Norm) -> Tensor:
    """``normed``, for a norm whose weight doesn't train; keeps nothing of the input's size."""
    return cast(Tensor, _StillNorm.apply(x, *norm))


def conv_norm(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, norm: Norm) -> tuple[Tensor, Tensor]:
    """``normed`` of ``F.conv2d`` with a frozen weight, for a norm whose weight trains; and what lies between.

    That is all it keeps. The backward multiplies the norm into the weight, so a step makes no gradient of what lies between.
    """
    x, bias = as_autocast_would(x, bias)
    with without_autocast(x.device):
        return cast("tuple[Tensor, Tensor]", _ConvNorm.apply(x, weight, bias, geometry, *norm))


def normed(x: Tensor, norm: Norm) -> Tensor:
    """What a norm held still returns."""
    return F.batch_norm(x, *norm[:4], False, 0.0, norm.eps)


def affine(norm: Norm) -> tuple[Tensor, Tensor]:
    """(rows, shift), both [channels]: what the norm does, ``rows * x + shift``."""
    rows = torch.rsqrt(norm.var + norm.eps)
    rows = rows if norm.weight is None else rows * norm.weight
    shift = -norm.mean * rows
    return rows, shift if norm.bias is None else shift + norm.bias


def merged(weight: Tensor, up: Tensor | None, down: Tensor | None, scale: float) -> Tensor:
    """``W + scale * up @ down`` in the shape and memory format of ``weight``, in the precision of ``up``."""
    if up is None or down is None:
        return weight
    changed = torch.addmm(weight.to(up.dtype).flatten(1), up, down, alpha=scale).view(weight.shape)
    return laid_out_as(weight, changed)


def laid_out_as(weight: Tensor, adapted: Tensor) -> Tensor:
    """``adapted`` in the memory format of ``weight``: kernels, and so the last bits of results, depend on it.

    Axes of one count as contiguous whatever their stride, which einsum leaves odd. torch reads that as channels last, where
    oneDNN's backward of a strided 1x1 convolution of few channels writes past its memory (uxlfoundation/oneDNN#6035).
    """
    last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    if last:
        return adapted.contiguous(memory_format=torch.channels_last)
    return adapted.contiguous().view(-1).view(adapted.shape)


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for this device; the meta device has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def computed_in(x: Tensor) -> torch.dtype:
    """The type that linear layers and convolutions compute in on this input: autocast's, if that is on, else its own."""
    return torch.get_autocast_dtype(x.device.type) if autocasts(x.device) else x.dtype


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast off inside, where it is on."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else contextlib.nullcontext()


def as_autocast_would(x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Inputs in the type that linear layers and convolutions compute in."""
    dtype = computed_in(x)
    return x.to(dtype), None if bias is None else bias.to(dtype)


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        up: Tensor | None,
        down: Tensor | None,
        scale: float,
        features: Tensor | None,
        unread: Layout | None,
    ) -> Tensor:
        if unread is not None:
            return x.new_empty(x.shape[0], weight.shape[0])
        return F.linear(x, merged(weight, up, down, scale).to(x.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, up, down, ctx.scale, features, _ = inputs
        ctx.dtype = x.dtype
        keep = up is not None and features is None
        ctx.save_for_backward(x if keep else None, weight, up, down, features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (x, weight, up, down, features) = grads, ctx.saved_tensors
        gx = gbias = gup = gdown = None
        if ctx.needs_input_grad[0]:
            gx = out @ merged(weight, up, down, ctx.scale).to(ctx.dtype)
        if ctx.needs_input_grad[2]:
            gbias = out.sum(0)
        if ctx.needs_input_grad[3]:
            gup = up_gradient(out, features_of(x, down) if features is None else features, ctx.scale, up.dtype)
        if ctx.needs_input_grad[4]:
            gdown = down_gradient(out, x, up, ctx.scale, down.dtype)
        return gx, None, gbias, gup, gdown, None, None, None


def features_of(x: Tensor, down: Tensor) -> Tensor:
    """[parts, r, rows]: x [rows, in] seen through ``down`` [r, in]."""
    return _rows_times(down.to(x.dtype), _parts(x).mT)


def up_gradient(out: Tensor, features: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """The gradient of a linear layer's ``up`` [out, r], from that of its result [rows, out]."""
    return _products(features, _parts(out)).sum(0, dtype=dtype).T * scale


def down_gradient(out: Tensor, x: Tensor, up: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """The gradient of a linear layer's ``down`` [r, in], from that of its result [rows, out] and its input."""
    back = _rows_times(up.T.to(x.dtype), _parts(out).mT)  # the gradient of the features: [parts, r, rows]
    return _products(back, _parts(x)).sum(0, dtype=dtype) * scale


class _Conv(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor | None,
        up: Tensor | None,
        down: Tensor | None,
        scale: float,
        geometry: Geometry,
        features: Tensor | None,
        unread: Layout | None,
    ) -> Tensor:
        if unread is not None:
            return torch.empty_strided(*unread, dtype=x.dtype, device=x.device)
        return F.conv2d(x, _whole(weight, rows, up, down, scale).to(x.dtype), bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, rows, up, down, ctx.scale, ctx.geometry, features, _ = inputs
        ctx.shape, ctx.dtype = x.shape, x.dtype
        keep = up is not None and features is None
        ctx.save_for_backward(x if keep else None, weight, rows, up, down, features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (x, weight, rows, up, down, features) = grads, ctx.saved_tensors
        gx = gbias = gup = gdown = None
        if ctx.needs_input_grad[0]:
            whole = _whole(weight, rows, up, down, ctx.scale).to(ctx.dtype)
            unread = out.new_empty(ctx.shape) if x is None else x  # of the input, only its shape is read
            gx = _input_gradient(out, unread, whole, ctx.geometry)
        if ctx.needs_input_grad[2]:
            gbias = out.sum((0, 2, 3))
        if features is not None and ctx.needs_input_grad[4]:
            gup = _up_gradient(out, features, rows).to(up.dtype) * ctx.scale
        elif ctx.needs_input_grad[4] or ctx.needs_input_grad[5]:
            low = _through_features if _few_features(weight, up, ctx.geometry) else _through_weight
            gup, gdown = low(out, cast(Tensor, x), weight, rows, up, down, ctx.geometry)
            gup, gdown = gup.to(up.dtype) * ctx.scale, gdown.to(down.dtype) * ctx.scale
        return gx, None, gbias, None, gup, gdown, None, None, None, None


def _whole(weight: Tensor, rows: Tensor | None, up: Tensor | None, down: Tensor | None, scale: float) -> Tensor:
    """The weight that the convolution applies, the norm's rows multiplied in."""
    if rows is None:
        return merged(weight, up, down, scale)
    scaled = weight * rows.view(-1, 1, 1, 1)
    if up is None or down is None:
        return scaled
    changed = scaled.flatten(1).addmm_((up * rows[:, None]).to(scaled.dtype), down.to(scaled.dtype), alpha=scale)
    return laid_out_as(weight, changed.view(weight.shape))


def _few_features(weight: Tensor, up: Tensor, geometry: Geometry) -> bool:
    """Whether two passes through ``rank`` features are fewer operations a position than the whole weight's gradient."""
    (out, rank), columns = up.shape, weight[0].numel()
    return geometry.groups == 1 and 2 * rank * (columns + out) < out * columns


def _features(x: Tensor, weight: Tensor, down: Tensor, geometry: Geometry) -> Tensor:
    """[batch, r, positions]: the input seen through ``down``."""
    if (pixels := _pixels(x, weight, geometry)) is not None:
        return _rows_times(down.to(x.dtype), pixels)
    kernel = _kernel(weight, down).to(x.dtype)
    if down.requires_grad:
        return F.conv2d(x, kernel, None, *geometry).flatten(2)
    return conv(x, kernel, None, None, None, geometry).flatten(2)  # which keeps nothing


def _pixels(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor | None:
    """[batch, in, positions]: the input as a 1x1 convolution reads it; None for other convolutions.

    Products of a few rows are several times as fast as convolutions to a few channels.
    """
    if weight[0, 0].numel() > 1 or any(geometry.padding) or not x.is_contiguous():
        return None
    down, right = geometry.stride
    return (x if down == right == 1 else x[:, :, ::down, ::right]).flatten(2)


def _parts(x: Tensor) -> Tensor:
    """[parts, rows, features] of x [rows, features]: float32 numbers are multiplied faster in parts, where r is small."""
    parts = next(number for number in (16, 8, 4, 2, 1) if x.shape[0] % number == 0) if x.element_size() > 2 else 1
    return x.unflatten(0, (parts, x.shape[0] // parts))


def _rows_times(rows: Tensor, pixels: Tensor) -> Tensor:
    """[r, c] times [batch, c, positions]; ``torch.matmul`` would copy the larger one."""
    return _products(rows.expand(pixels.shape[0], -1, -1), pixels)


def _products(ones: Tensor, others: Tensor) -> Tensor:
    """``torch.bmm``, which is slower than ``torch.mm`` where there is but one product."""
    return torch.mm(ones[0], others[0])[None] if ones.shape[0] == 1 else torch.bmm(ones, others)


def _kernel(weight: Tensor, down: Tensor) -> Tensor:
    return down.view(down.shape[0], *weight.shape[1:])


def _up_gradient(out: Tensor, features: Tensor, rows: Tensor | None) -> Tensor:
    gup = torch.bmm(features, out.flatten(2).transpose(1, 2)).sum(0).T
    return gup if rows is None else gup * rows[:, None]


def _through_features(
    out: Tensor, x: Tensor, weight: Tensor, rows: Tensor | None, up: Tensor, down: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    gup = _up_gradient(out, _features(x, weight, down, geometry), rows)
    up = up if rows is None else up * rows[:, None]
    back = _rows_times(up.T.to(x.dtype), out.flatten(2))  # the gradient of the features: [batch, r, positions]
    if (pixels := _pixels(x, weight, geometry)) is not None:
        return gup, torch.bmm(back, pixels.transpose(1, 2)).sum(0)
    gdown = _conv_backward(back.unflatten(2, out.shape[2:]), x, _kernel(weight, down).to(x.dtype), geometry, 1)
    return gup, gdown.flatten(1)


def _through_weight(
    out: Tensor, x: Tensor, weight: Tensor, rows: Tensor | None, up: Tensor, down: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    whole = _conv_backward(out, x, weight.to(x.dtype), geometry, 1).flatten(1)
    whole = (whole if rows is None else whole * rows[:, None]).to(up.dtype)
    return whole @ down.T, up.T @ whole


def _input_gradient(out: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of x, of which only the shape is read.

    A 1x1 convolution with strides skips most of its input: computed where it reads, as torch's own kernels for strides
    take up to five times as long.
    """
    if weight[0, 0].numel() > 1 or geometry.stride == (1, 1) or any(geometry.padding):
        return _conv_backward(out, x, weight, geometry, 0)
    down, right = geometry.stride
    read = out.new_empty(x.shape[0], x.shape[1], *out.shape[2:])
    gx = torch.zeros_like(x, dtype=out.dtype)
    gx[:, :, ::down, ::right] = _conv_backward(out, read, weight, geometry._replace(stride=(1, 1)), 0)
    return gx


def _conv_backward(out: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, which: int) -> Tensor:
    """The gradient of a convolution's input (which=0) or weight (which=1)."""
    mask = [which == 0, which == 1, False]
    stride, padding, dilation = (list(pair) for pair in geometry[:3])
    grads = torch.ops.aten.convolution_backward(
        out, x, weight, None, stride, padding, dilation, False, [0, 0], geometry.groups, mask
    )
    return cast(Tensor, grads[which])


class _ConvNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, *norm: Any
    ) -> tuple[Tensor, Tensor]:
        between = F.conv2d(x, weight.to(x.dtype), bias, *geometry)
        return normed(between, Norm(*norm)), between

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, weight, _, ctx.geometry, *norm, ctx.eps = inputs
        ctx.shape = x.shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1], weight, *norm)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (out, second), (between, weight, mean, var, scale, shift) = grads, ctx.saved_tensors
        norm = Norm(mean, var, scale, shift, ctx.eps)
        through, rows = cast(Tensor, out), affine(norm)[0]
        gx = gbias = gscale = gshift = None
        if out is not None:
            gscale, gshift = _norm_gradients(out, between, norm, *ctx.needs_input_grad[6:8])
        if second is not None:  # where ``gscale`` is differentiated, the gradient of ``between`` comes back here
            through = second if out is None else second + out * rows.to(out.dtype).view(-1, 1, 1)
            rows = torch.ones_like(rows)
        if ctx.needs_input_grad[0]:
            whole = _whole(weight, rows, None, None, 0.0).to(through.dtype)
            gx = _input_gradient(through, through.new_empty(ctx.shape), whole, ctx.geometry)
        if ctx.needs_input_grad[2]:
            gbias = through.sum((0, 2, 3)) * rows.to(through.dtype)
        return gx, None, gbias, None, None, None, gscale, gshift, None


def _norm_gradients(
    out: Tensor, x: Tensor, norm: Norm, scale: bool, shift: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the norm's weight and bias, in one pass, from that of its result and its input."""
    unread = norm.mean.new_empty(0)  # the batch's statistics
    backward = torch.ops.aten.native_batch_norm_backward
    args = (out, x, norm.weight, norm.mean, norm.var, unread, unread, False, norm.eps, [False, scale, shift])
    return cast("tuple[Tensor | None, Tensor | None]", backward(*args)[1:])


class _StillNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *norm: Any) -> Tensor:
        return normed(x, Norm(*norm))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(affine(Norm(*inputs[1:]))[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (rows,) = grads, ctx.saved_tensors
        gx = gbias = None
        if ctx.needs_input_grad[0]:
            gx = out * rows.to(out.dtype).view(-1, *[1] * (out.ndim - 2))
        if ctx.needs_input_grad[4]:
            gbias = out.sum([0, *range(2, out.ndim)]).to(rows.dtype)
        return gx, None, None, None, gbias, None


def max_pool(x: Tensor, window: tuple[Any, ...]) -> Tensor:
    """``F.max_pool2d``; ``window`` is (kernel_size, stride, padding, dilation, ceil_mode)."""
    return cast(Tensor, _MaxPool.apply(x, window))


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        out, places = F.max_pool2d(x, *window, return_indices=True)
        ctx.window, ctx.shape, ctx.layout = window, x.shape, x.stride()
        ctx.save_for_backward(places.to(torch.int32))  # an image has fewer than 2**31 pixels
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (places,) = grads, ctx.saved_tensors
        unread = torch.empty_strided(ctx.shape, ctx.layout, dtype=out.dtype, device=out.device)  # its shape is read
        sizes = [[n] * 2 if isinstance(n, int) else list(n) for n in ctx.window[:4]]
        back = torch.ops.aten.max_pool2d_with_indices_backward
        return back(out, unread, *sizes, ctx.window[4], places.to(torch.int64)), None


def unchanged(tensor: Tensor, version: int) -> None:
    """Raise as autograd does where a tensor that the backward needs was written to since its version was ``version``."""
    if tensor._version != version:
        raise RuntimeError(
            f"one of the variables needed for gradient computation has been modified by an inplace operation: a tensor of shape "
            f"{tuple(tensor.shape)} is at version {tensor._version}; expected version {version}. Run the backward before the "
            f"optimizer's step, or write to a copy"
        )


class Slot:
    """Where a gate was open: numbers that tell, the gate's output or its input, or one bit a number.

    The output where somebody keeps that anyway; the input where it can be made again.
    """

    def __init__(self, output: Tensor, high: float, keep: bool, again: Callable[[], Tensor] | None):
        self.shape, self.stride, self.again = output.shape, output.stride(), again
        self.kept, self.version = output if keep and again is None else None, output._version
        self.is_packed = not self.is_told() and _is_dense(output) and output.numel() % 8 == 0
        self.mask = None if self.is_told() else self._bits(_is_open(output, high))

    def _bits(self, mask: Tensor) -> Tensor:
        return _packed(mask.as_strided((mask.numel(),), (1,))) if self.is_packed else mask

    def is_told(self) -> bool:
        """Whether numbers tell, so that no bits are kept."""
        return self.kept is not None or self.again is not None

    def take(self, output: Tensor) -> None:
        """Somebody keeps the output: the bits aren't needed."""
        self.kept, self.version, self.mask = output, output._version, None

    def made(self) -> None:
        """The gate's forward is over: autograd counts a write in place once more when it is."""
        self.version = self.version if self.kept is None else self.kept._version

    def numbers(self) -> Tensor:
        """The gate's output, or its input."""
        if self.kept is None:
            return cast("Callable[[], Tensor]", self.again)()
        unchanged(self.kept, self.version)
        return self.kept

    def open(self) -> Tensor:
        """Bytes in the output's layout, 0 where no gradient passes."""
        mask = cast(Tensor, self.mask)
        return _unpacked(mask).as_strided(self.shape, self.stride) if self.is_packed else mask.view(torch.uint8)


def gate(
    x: Tensor, high: float, inplace: bool, keep: bool = False, again: Callable[[], Tensor] | None = None
) -> tuple[Tensor, Slot | None]:
    """``x`` clamped to [0, high] for a step, and the slot that its backward reads.

    ``keep``: somebody keeps the output; ``again`` makes x again.
    """
    slots: list[Slot] = []
    out = cast(Tensor, _Gate.apply(x, high, inplace and not x._is_view() and not x.is_leaf, keep, again, slots))
    slots[0].made()
    return out, slots[0] if out.requires_grad else None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        high: float,
        inplace: bool,
        keep: bool,
        again: Callable[[], Tensor] | None,
        slots: list[Slot],
    ) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        clamp = torch.clamp_ if inplace else torch.clamp
        out = clamp(x, 0, high) if high < float("inf") else (F.relu_ if inplace else F.relu)(x)
        ctx.slot, ctx.high = Slot(out.detach(), high, keep, again), high
        slots.append(ctx.slot)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), slot, high = grads, ctx.slot, ctx.high
        if not slot.is_told():
            gx = torch.ops.aten.threshold_backward(out, slot.open(), 0)  # several times as fast as torch.where
        elif high == float("inf"):
            gx = torch.ops.aten.threshold_backward(out, slot.numbers(), 0)
        else:
            gx = torch.ops.aten.hardtanh_backward(out, slot.numbers(), 0, high)
        return gx, *[None] * 5


def _is_open(out: Tensor, high: float) -> Tensor:
    return out > 0 if high == float("inf") else (out > 0).bitwise_and_(out < high)


def _is_dense(mask: Tensor) -> bool:
    """Whether the numbers lie side by side in memory, in whatever order."""
    steps = sorted((stride, size) for stride, size in zip(mask.stride(), mask.shape, strict=True) if size > 1)
    expected = 1
    for stride, size in steps:
        if stride != expected:
            return False
        expected *= size
    return True


def _packed(mask: Tensor) -> Tensor:
    """Eight booleans to a byte: as an integer, one multiplication brings their bits together in the highest byte."""
    words = (mask.view(torch.int64) * 0x0102040810204080).bitwise_right_shift_(56)
    return words.bitwise_and_(255).to(torch.uint8)


def _unpacked(packed: Tensor) -> Tensor:
    """A byte for each boolean again, 0 for False: spread each byte over eight, leave one bit in each."""
    words = packed.to(torch.int64).mul_(0x0101010101010101)
    return words.bitwise_and_(0x8040201008040201 - (1 << 64)).view(torch.uint8)
