"""Cheaper training steps with the same numbers: ways to run layers that keep less for the backward.

``memory="fast"`` trains low-rank changes through ``kernels`` and folds frozen norms into the convolution before them, where
the forward shows that it may (``deferred``). ``"lean"`` also recomputes outputs of norms and activations (``remake``).
``"min"`` also runs whole blocks a second time in the backward (activation checkpointing, Chen et al. 2016, arXiv:1604.06174).
Evaluation always runs the plain layers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal, cast, get_args

import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, Mlp, activations, pad_same
from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.classes import base_class, fast_paths, is_held_in_eval
from petl.graft.graft import add_fast_paths
from petl.graft.kinds import PAIRED_NORM, FastPath, OutputGraft, WeightGraft, grafts
from petl.kernels import low_rank
from petl.kernels.chunked_mlp import LARGE, Layer, mlp
from petl.memory import recompute
from petl.memory.base_dtype import Upcast, is_narrow
from petl.memory.block_state import GONE
from petl.memory.checkpointed_blocks import Segment, call, is_watched, segments
from petl.memory.deferred_conv import Convolution, Partner, Scope, deferred, may_defer, settled, waiting
from petl.memory.recompute import recording
from petl.sites.layers import has_running_statistics, layer_roles, weight_names
from petl.sites.names import ancestors
from petl.sites.survey import Survey

Memory = Literal["fast", "lean", "min"]
MEMORY: tuple[Memory, ...] = get_args(Memory)
ACTIVATIONS = (
    *(nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish),
    *(activations.Swish, activations.Mish, activations.HardSwish),
    *(activations.GELU, activations.GELUTanh, activations.QuickGELU),
)


def cheapen(found: Survey, memory: str) -> None:
    """Give the modules of an adapted model these ways to run; ``found`` is the survey of the model before."""
    model = found.model
    for conv, partner in _pairs(found):
        vars(conv)[PAIRED_NORM] = partner
        add_fast_paths(partner.scope, Scope)
    keeping = {name for name, module in model.named_modules() if _keeps_input(module)}
    for name, module in model.named_modules():
        takers = found.consumers.get(name, [])
        give_ways(module, lean=memory != "fast", kept=bool(takers) and all(taker & keeping for taker in takers))
    if memory == "min":
        for name in segments(found):
            add_fast_paths(model.get_submodule(name), Segment)
    if memory != "fast":
        watch(model)


def watch(model: nn.Module) -> None:
    """Let the model note what can be made again during its forward, if it doesn't yet."""
    if Root not in fast_paths(model):
        add_fast_paths(model, Root)


def give_ways(module: nn.Module, *, lean: bool, kept: bool) -> None:
    """The way for this kind of layer, where there is one; ``kept``: somebody keeps what it returns, as ReLU does."""
    if base_class(module) is nn.Linear and (_change(module) is not None or is_narrow(module)):
        add_fast_paths(module, Linear)
    elif _is_plain_conv(module):
        add_fast_paths(module, Conv)
    elif _is_plain_norm(module) and is_held_in_eval(module):
        add_fast_paths(module, StillNorm)
    elif lean and base_class(module) in (nn.ReLU, nn.ReLU6):
        add_fast_paths(module, KeptGate if kept else Gate)
    elif lean and base_class(module) is nn.MaxPool2d:
        add_fast_paths(module, Pool)
    elif lean and _is_perceptron(module):
        add_fast_paths(module, InParts)
    elif lean and _is_cheap(module):
        add_fast_paths(module, Again)


def steps(model: nn.Module, memory: str | None) -> dict[str, str]:
    """For each layer that a training step treats in a way of its own, or could: which way, and if it's plain, why."""
    inside = {id(part) for module in model.modules() for _, graft in grafts(module) for part in graft.modules()}
    layers = {n: m for n, m in model.named_modules() if id(m) not in inside and weight_names(m)}
    there = {id(module) for module in model.modules()}
    said = {name: _way(module, memory, there) for name, module in layers.items()}
    return {name: words for name, words in said.items() if words}


def _way(layer: nn.Module, memory: str | None, there: set[int]) -> str:
    changes, given = _on_weight(layer), {Linear, Conv} & {*fast_paths(layer)}
    if _weight_trains(layer):
        computed = layer._parameters.get("weight") is None
        return "plain: its weight is computed" if computed else "plain: the weight itself trains"
    if memory is None:
        return "plain: fused=False" if changes else ""
    if changes and _change(layer) is None:
        return f"plain: {type(changes[0]).__name__} is not one low-rank change"
    if changes and not given:
        return f"plain: {type(changes[0]).__name__} on {base_class(layer).__name__}, which no kernel knows"
    partner: Partner | None = getattr(layer, PAIRED_NORM, None)
    norm = None if partner is None or not _takes(layer, partner.norm) else partner.norm
    if norm is not None and (id(norm) not in there or StillNorm not in fast_paths(norm) or norm.training):
        return f"{'fused' if changes else 'frozen'}; plain norm: the one after it was replaced or set free since wrap"
    if norm is not None and _scale_trains(norm):
        return "frozen, with the norm after it: keeps what lies between"
    with_norm = "" if norm is None else ", the norm after it multiplied in"
    return f"fused{with_norm}" if changes else f"frozen{with_norm}, keeps nothing" if given else ""


class Linear(FastPath):
    """A linear layer with a low-rank change, or one whose weight is kept in low precision."""

    def forward(self, input: Tensor) -> Tensor:  # named as torch's own layers name it
        layer = cast(nn.Linear, self)
        change = _change(layer)
        if not recording(input) or not _is_frozen(layer) or input.dim() < 2:  # a single row may come without a batch
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        return call(low_rank.linear, _converted(input), _weight(layer), layer.bias, change)


class Conv(FastPath):
    """A 2d convolution whose weight is frozen, with a low-rank change or without; a norm may take its output uncomputed."""

    def forward(self, input: Tensor) -> Tensor:
        layer = cast(nn.Conv2d, self)
        if not recording(input) or not _is_frozen(layer) or input.dim() != 4:  # a single image may come without a batch
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        x, geometry = _padded(layer, _converted(input))
        weight, bias, change = _weight(layer), layer.bias, _change(layer)
        norm = may_defer(layer)
        if norm is not None and type(x) is Tensor and _takes(layer, norm):
            return deferred(Convolution(x, weight, bias, change, geometry))
        return call(low_rank.conv, x, weight, bias, change, None, geometry)


class StillNorm(FastPath):
    """A norm in evaluation mode: computed with the convolution before it, or keeping its input only where its scale trains."""

    def forward(self, x: Tensor) -> Tensor:
        norm = cast(nn.BatchNorm2d, self)
        if not recording(x) or norm.training or norm.running_mean is None:
            return super().forward(x)  # type: ignore[misc]  # the base class's forward comes next in the order
        held, work = _norm(norm), waiting(x)
        if work is not None and (work.change is None or not _scale_trains(norm)):
            return _after_norm(norm, _together(work, held))
        if not _scale_trains(norm):
            return _after_norm(norm, low_rank.still_norm(settled(x), held))
        x = settled(x)
        out = low_rank.normed(x, held)
        _note_norm(out, x, held)
        return _after_norm(norm, out)


class Gate(FastPath):
    """ReLU and ReLU6: one bit a number for the backward, where nobody else keeps the output."""

    keeps_output = False

    def forward(self, input: Tensor) -> Tensor:
        kept = recompute.now()
        if kept is None or not recording(input) or not input.requires_grad:
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        input = settled(input)
        high = 6.0 if isinstance(self, nn.ReLU6) else float("inf")
        if self.keeps_output and high == float("inf") and kept.way_to(input) is None:
            return super().forward(input)  # type: ignore[misc]  # torch's own ReLU keeps its output alone
        return _gated(kept, input, high, inplace=bool(getattr(self, "inplace", False)), keep=self.keeps_output)


class KeptGate(Gate):
    """ReLU and ReLU6 whose output a layer keeps, or makes again: no bits (torch's in-place ReLU6 would keep its input too)."""

    keeps_output = True


class Pool(FastPath):
    """Maximum pooling that keeps the places of the maxima, in half the bytes, and not its input."""

    def forward(self, input: Tensor) -> Tensor:
        pool = cast(nn.MaxPool2d, self)
        if recompute.now() is None or not recording(input) or not input.requires_grad or pool.return_indices:
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        window = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        return low_rank.max_pool(input, window)


class Again(FastPath):
    """A norm or activation whose output is computed again in the backward, from the input, which is kept anyway."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kept = recompute.now()
        if kept is None or args or kwargs or not recording(x) or not x.requires_grad:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]  # the base class's forward comes next
        x = settled(x)
        out, first = self._anew(x), kept.way_to(x)
        if first is None:
            kept.note(out, self._anew, x)
        else:
            kept.note_next(out, self._anew, first)
        return out

    def _anew(self, x: Tensor) -> Tensor:
        """The plain forward into a new tensor, also where the layer would overwrite its input."""
        if not isinstance(self, Again):  # a class that a module has lost since the forward
            kind = type(self).__name__
            raise StateError(f"{kind} can't run again for this backward: {GONE}; run the backward first")
        before = getattr(self, "inplace", None)
        if before:
            self.inplace = False
        try:
            return super().forward(x)  # type: ignore[misc]  # as above
        finally:
            if before:
                self.inplace = before


class InParts(FastPath):
    """timm's multilayer perceptron, in parts where what lies between its layers is large."""

    def forward(self, x: Tensor) -> Tensor:
        block = cast(Mlp, self)
        if recompute.now() is None or not recording(x) or not _goes_in_parts(block, x):
            return super().forward(x)  # type: ignore[misc]  # the base class's forward comes next in the order
        return mlp(_converted(x), _as_layer(block.fc1), _as_layer(block.fc2), cast(Again, block.act)._anew)


class Root(FastPath):
    """The whole model: what can be made again is noted during its forward."""

    around_grafts = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = super().forward  # type: ignore[misc]  # the base class's forward comes next in the order
        if not recording(*args, kwargs) or not recompute.possible():
            return plain(*args, **kwargs)
        with recompute.Remakes():
            return plain(*args, **kwargs)


def _together(work: Convolution, norm: low_rank.Norm) -> Tensor:
    """The norm of the convolution's output; where the norm's scale trains, what lies between is kept, what it returns isn't."""
    if norm.weight is not None and norm.weight.requires_grad:
        out, between = low_rank.conv_norm(work.x, work.weight, work.bias, work.geometry, norm)
        _note_norm(out, between, norm)
        return out
    rows, shift = low_rank.affine(norm)
    bias = shift if work.bias is None else shift + rows * work.bias
    return call(low_rank.conv, work.x, work.weight, bias, work.change, rows, work.geometry)


def _note_norm(out: Tensor, x: Tensor, norm: low_rank.Norm) -> None:
    kept = recompute.now()
    if kept is not None and out.requires_grad:
        kept.note(out, functools.partial(low_rank.normed, norm=norm), x)


def _gated(kept: recompute.Remakes, x: Tensor, high: float, *, inplace: bool, keep: bool = False) -> Tensor:
    first = kept.way_to(x)
    out, slot = low_rank.gate(x, high, inplace, keep, None if first is None else first.again)
    if first is not None:
        kept.note_next(out, lambda x: x.clamp(0, high), first)
    elif slot is not None and not keep:
        kept.note_gate(out, slot)
    return out


def _converted(x: Tensor) -> Tensor:
    """The input in the type that the layer computes in: made again from what ``x`` is made of, where it is."""
    kept = recompute.now()
    return x if kept is None else kept.cast(x, low_rank.computed_in(x))


def _goes_in_parts(block: Mlp, x: Tensor) -> bool:
    """Whether what lies between the layers is large, and nothing there trains but their changes and biases, or is watched."""
    size = x.shape[:-1].numel() * cast(nn.Linear, block.fc1).out_features * low_rank.computed_in(x).itemsize
    if x.device.type != "cpu" or size < LARGE:
        return False
    between = [part for part in (block.drop1, block.norm, block.drop2) if type(part) is not nn.Identity]
    dropped = any(type(part) is not nn.Dropout or (part.training and part.p > 0) for part in between)
    plain = base_class(block.act) in ACTIVATIONS and Again in fast_paths(block.act) and not grafts(block.act)
    return plain and not dropped and all(_is_low_rank(fc) for fc in (block.fc1, block.fc2)) and not is_watched(block)


def _is_frozen(layer: nn.Module) -> bool:
    """Whether the layer's weight is its own and frozen, with a low-rank change that kernels know, or with none."""
    own = layer._parameters.get("weight")  # torch's pruning and parametrizations take it away
    return own is not None and not own.requires_grad and (_change(layer) is not None or not _on_weight(layer))


def _is_low_rank(layer: nn.Module) -> bool:
    """Whether the layer is ``kernels.linear`` and nothing else, and keeps its input if anything of its weight trains."""
    around = any(not isinstance(graft, WeightGraft) for _, graft in grafts(layer))
    if Linear not in fast_paths(layer) or around or _weight_trains(layer):
        return False
    change = _change(layer)
    return not _on_weight(layer) if change is None else change.down.requires_grad


def _as_layer(layer: nn.Module) -> Layer:
    """What ``mlp`` reads of a linear layer."""
    change, bias = _change(layer), cast("Tensor | None", layer.bias)
    return Layer(_weight(layer), bias) if change is None else Layer(_weight(layer), bias, *change)


def _weight(layer: nn.Module) -> Tensor:
    """The layer's own weight, without what has grown on it."""
    return cast(Tensor, layer._parameters["weight"])


def _takes(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether kernels know the two together: not where the norm's scale and the convolution's weight change both."""
    known = not _on_weight(conv) or (_change(conv) is not None and not _scale_trains(norm))
    return known and not _weight_trains(conv)


def _pairs(found: Survey) -> Iterator[tuple[nn.Module, Partner]]:
    """Each convolution with the frozen norm that alone takes what it returns, and the module inside which both run."""
    for name, taker in found.sole_consumer.items():
        conv, norm = (_submodule(found.model, n) for n in (name, taker))
        fits = _is_plain_conv(conv) and _is_plain_norm(norm) and is_held_in_eval(norm)
        if fits and not any(isinstance(graft, OutputGraft) for _, graft in (*grafts(conv), *grafts(norm))):
            around = {*ancestors(taker)}
            scope = next((above for above in ancestors(name) if above in around and above in found.calls), "")
            yield conv, Partner(_submodule(found.model, scope), norm)


def _submodule(model: nn.Module, name: str) -> nn.Module:
    """The module of that name, or an empty one: a classifier may have been replaced since."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        return nn.Module()


def _is_plain_conv(module: nn.Module) -> bool:
    return base_class(module) in (nn.Conv2d, Conv2dSame)


def _is_plain_norm(module: nn.Module) -> bool:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNormAct2d)
    return base_class(module) in kinds and has_running_statistics(module)


def _is_perceptron(module: nn.Module) -> bool:
    """timm's two linear layers with an activation between them; its variant with 1x1 convolutions isn't one."""
    block = cast(Any, module)
    return base_class(module) is Mlp and all(base_class(fc) is nn.Linear for fc in (block.fc1, block.fc2))


def _is_cheap(module: nn.Module) -> bool:
    """Norms without statistics, and activations that are a function of their input alone."""
    norm = "norm" in layer_roles(module) and not has_running_statistics(module)
    return base_class(module) in ACTIVATIONS or norm


def _keeps_input(module: nn.Module) -> bool:
    """Whether a linear layer or convolution needs its input for the backward."""
    if base_class(module) is not nn.Linear and not _is_plain_conv(module):
        return False
    change = _change(module)
    return _weight_trains(module) or (change is not None and change.down.requires_grad)


def _on_weight(module: nn.Module) -> list[WeightGraft]:
    """What changes the numbers of the module's weight."""
    found = [graft for graft in module._modules.values() if isinstance(graft, WeightGraft) and graft.param == "weight"]
    return [graft for graft in found if not isinstance(graft, Upcast)]


def _change(module: nn.Module) -> low_rank.Change | None:
    """The only change of the module's weight, where it is a low-rank one."""
    found = _on_weight(module)
    return found[0].low_rank() if len(found) == 1 else None


def _weight_trains(module: nn.Module) -> bool:
    """Whether the module's own weight trains, whatever has grown on it, or is computed (pruned), perhaps of what trains."""
    weight = module._parameters.get("weight")
    return weight.requires_grad if weight is not None else "weight" in vars(module)


def _scale_trains(norm: nn.Module) -> bool:
    """Whether the norm's scale, with whatever has grown on it, trains."""
    return norm.weight is not None and bool(norm.weight.requires_grad)


def _norm(module: nn.Module) -> low_rank.Norm:
    norm = cast(nn.BatchNorm2d, module)
    return low_rank.Norm(
        cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var), norm.weight, norm.bias, norm.eps
    )


def _after_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """What timm's BatchNormAct2d does after normalising: the activation."""
    for part in ("drop", "act"):
        x = getattr(norm, part)(x) if part in norm._modules else x
    return x


def _padded(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, low_rank.Geometry]:
    """The input with the padding that the convolution's kernel can't do by itself, and what is left to do."""
    stride, dilation = cast("tuple[int, int]", conv.stride), cast("tuple[int, int]", conv.dilation)
    rest = low_rank.Geometry(stride, (0, 0), dilation, conv.groups)
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
