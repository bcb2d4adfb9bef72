"""Shows by running a backbone which of its layers keep the rows of a batch apart, and whether it runs in two parts.

A layer can compute each row under its own task only where its input has the rows one after the other in its first dimension. That
isn't read off the code: two images run together and one by one, and each layer's inputs and outputs are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petl.graft.graft import add_fast_paths
from petl.sites.names import ancestors
from petl.tasks.row_layers import LAYER, RowLayer
from petl.tasks.sketches import SKETCH_TOLERANCE, Sketch
from petl.tasks.twins import with_same_tensors


@dataclass
class RowProof:
    """What a run has shown.

    Attributes:
        fault: why the backbone can't run in two parts, ``forward_features`` and ``forward_head``; "" where it can.
        apart: layers before the classifier that keep the rows apart.
        in_features, in_head: the modules that run in the two parts.
    """

    fault: str = ""
    apart: set[str] = field(default_factory=set)
    in_features: set[str] = field(default_factory=set)
    in_head: set[str] = field(default_factory=set)

    def is_head(self, name: str) -> bool:
        """Returns whether the module runs in the second part alone, or is inside one that does."""
        return any(n in self.in_head and n not in self.in_features for n in (name, *ancestors(name)) if n)


def row_layers(backbone: nn.Module) -> nn.Module:
    """Returns a copy of the modules, on the same tensors, whose layers can compute each row under its own task."""
    model = with_same_tensors(backbone)
    for name, module in model.named_modules():
        if name and is_row_layer(module):
            vars(module)[LAYER] = name
            add_fast_paths(module, RowLayer)
    return model


def is_row_layer(module: nn.Module) -> bool:
    """Returns whether the module has tensors of its own, and modules inside have none (a norm with an activation)."""
    own = [tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None]
    return bool(own) and sum(1 for _ in (*module.parameters(), *module.buffers())) == len({*map(id, own)})


@torch.no_grad()
def prove_rows(backbone: nn.Module, shape: Sequence[int], like: Tensor) -> RowProof:
    """Runs two random images [C, H, W] of this shape together and one by one; ``like`` has their type and device."""
    model: Any = with_same_tensors(backbone)
    if not callable(getattr(model, "forward_features", None)) or not callable(getattr(model, "forward_head", None)):
        return RowProof("it has no forward_features and forward_head")
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(2, *shape, generator=chance).to(like)
    try:
        return _compare(model, images)
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError, AttributeError) as error:
        return RowProof(
            f"it doesn't run on {tuple(images.shape)} ({str(error).splitlines()[0] if str(error) else error!r})"
        )


def _compare(model: Any, images: Tensor) -> RowProof:
    whole = model(images)
    watch = _Watch(model)
    features = watch.run(lambda: model.forward_features(images))
    calls = watch.calls
    leaves = tree_leaves(features)
    if not all(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == len(images) for leaf in leaves):
        return RowProof("what its forward_features returns isn't tensors with a row for each image")
    singles = []
    for row, image in enumerate(images.split(1)):
        alone = tree_leaves(watch.run(lambda image=image: model.forward_features(image)))
        if not all(_close(one, all_rows[row : row + 1]) for one, all_rows in zip(alone, leaves, strict=True)):
            return RowProof("its rows depend on each other")
        singles.append(watch.calls)
    in_features = {*calls}
    parts = watch.run(lambda: model.forward_head(features))
    if not isinstance(whole, Tensor) or not isinstance(parts, Tensor) or not torch.equal(whole, parts):
        return RowProof("its forward isn't forward_head(forward_features(x))")
    apart = {name for name in calls if _is_apart(calls[name], [single.get(name, []) for single in singles])}
    return RowProof("", apart, in_features, {*watch.calls})


# input and output, where the call had one of each; whole they'd be all activations
_Call = tuple[Sketch | None, Sketch | None]


class _Watch:
    """Notes the calls of all modules while a function runs; for modules with others inside only that they ran."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.calls = model, cast("dict[str, list[_Call]]", {})

    def run(self, function: Callable[[], Any]) -> Any:
        self.calls = {}
        named = [(name, module) for name, module in self.model.named_modules() if name]
        handles = [m.register_forward_hook(self._noting(name), with_kwargs=True) for name, m in named]
        try:
            return function()
        finally:
            for handle in handles:
                handle.remove()

    def _noting(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            single = is_row_layer(module) and len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            call = (Sketch.of(args[0]), Sketch.of(out)) if single and isinstance(out, Tensor) else (None, None)
            self.calls.setdefault(name, []).append(call)

        return hook


def _is_apart(together: Sequence[_Call], singles: Sequence[Sequence[_Call]]) -> bool:
    """Returns whether each call's input and output are those of the single images, one after the other."""
    if any(len(single) != len(together) for single in singles):
        return False
    for number, (x, out) in enumerate(together):
        parts = [single[number] for single in singles]
        if x is None or out is None or any(a is None or b is None for a, b in parts):
            return False
        inputs, outputs = (cast("list[Sketch]", [part[side] for part in parts]) for side in (0, 1))
        if not x.is_stack_of(inputs) or not out.is_stack_of(outputs):
            return False
    return True


def _close(one: Any, other: Tensor) -> bool:
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    one, other = one.double(), other.double()
    return bool((one - other).abs().max() <= SKETCH_TOLERANCE * other.abs().max().clamp_min(1e-30))
