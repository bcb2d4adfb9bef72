"""Run a model once with shapes only: which modules run, in which order, on what, and which parameters are used.

The forward runs on a deep copy whose tensors live on the meta device, so the user's model, its hooks, its mode and its
memory are left alone, and a ViT-B takes milliseconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from petl.graft.kinds import Graft
from petl.sites.dataflow import Dataflow
from petl.sites.image_sizes import candidate_channels, candidate_sizes
from petl.sites.meta import blank_images, on_meta
from petl.sites.names import topmost


@dataclass
class Call:
    """The first call of a module: its number in the order of execution, and the shapes of what went in and came out."""

    order: int
    inputs: list[tuple[int, ...]]
    outputs: list[tuple[int, ...]] = field(default_factory=list)
    takes_image: bool = False


@dataclass
class Survey:
    """What one shapes-only forward showed.

    ``calls`` maps module names to their first call, ``used`` holds the parameters that any operation read (also without
    their layer being called, as BEiT does), ``image`` is the input's (channels, height, width), ``head`` the classifier's
    modules ([] where there is none yet, None where the model has no ``reset_classifier`` to ask). Where the model could
    not run, ``failed`` says why and everything counts as used. ``feeds`` maps modules to the one module that alone takes
    what they return, ``takers`` to the modules that take it, for each of their calls. ``overwriting`` are the modules that
    write to what they are given.
    """

    model: nn.Module
    image: tuple[int, int, int]
    calls: dict[str, Call] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    head: list[str] | None = None
    failed: str = ""
    feeds: dict[str, str] = field(default_factory=dict)
    takers: dict[str, list[set[str]]] = field(default_factory=dict)
    overwriting: set[str] = field(default_factory=set)

    def runs(self, name: str) -> bool:
        """Whether the module of this name is called, or one of its own parameters is read."""
        own = self.modules[name]._parameters
        return bool(self.failed) or name in self.calls or any(f"{name}.{leaf}" in self.used for leaf in own)

    def order(self, name: str) -> float:
        """The module's place in the order of execution; modules that are read but not called count as their parent."""
        while name not in self.calls and name:
            name = name.rpartition(".")[0]
        return self.calls[name].order if name in self.calls else float("inf")

    @functools.cached_property
    def modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())


def survey_model(model: nn.Module, size: int | Sequence[int] | None = None) -> Survey:
    """Look at ``model`` in one shapes-only forward, at a non-square input first (it tells height from width).

    ``size`` is the side, or height and width, of the images that the model was built for, where the caller knows.
    """
    images = [
        (c, h, w)
        for h, width in candidate_sizes(model, size)
        for c in candidate_channels(model)
        for w in (width + 64, width)
    ]
    found = Survey(model, images[0])
    try:
        clone = on_meta(model)
        _try_each(found, clone, images)
        found.head = _replaced_by_reset(clone)
    except Exception as error:  # any model code may run here, and may raise anything at all
        found.failed = f"{type(error).__name__}: {error}"
    return found


def _try_each(found: Survey, clone: nn.Module, images: list[tuple[int, int, int]]) -> None:
    """Fill ``found`` from the first image size that the model takes."""
    reasons = []
    for image in images:
        found.calls, found.used = {}, set()
        try:
            _record_forward(found, clone, image)
            found.image = image
            return
        except Exception as error:  # as above
            reasons.append(f"{type(error).__name__}: {error}")
    found.calls, found.used, found.failed = {}, set(), reasons[0]


def classifier_names(model: nn.Module) -> list[str] | None:
    """The classifier's modules, by timm's own word: what ``reset_classifier`` puts aside; None without that call."""
    return _replaced_by_reset(on_meta(model))


def _replaced_by_reset(clone: nn.Module) -> list[str] | None:
    if not hasattr(clone, "reset_classifier"):
        return None
    before = dict(clone.named_modules())
    with torch.device("meta"):
        clone.reset_classifier(getattr(clone, "num_classes", 0) + 1)  # type: ignore[operator]  # timm's contract
    after = {id(module) for module in clone.modules()}
    return topmost(n for n, m in before.items() if id(m) not in after and any(True for _ in m.parameters()))


def _record_forward(found: Survey, clone: nn.Module, image: tuple[int, int, int]) -> None:
    clone.train().eval()  # forget what some models compute from parameters and keep in eval mode
    x = blank_images(clone, image)
    hooks, flow = [], Dataflow()
    grown = {id(part) for module in clone.modules() if isinstance(module, Graft) for part in module.modules()}
    for name, module in clone.named_modules():
        if id(module) in grown:
            continue
        hooks.append(module.register_forward_pre_hook(_entering(found, flow, name, x), with_kwargs=True))
        hooks.append(module.register_forward_hook(_leaving(found, flow, name)))
    try:
        reads = _Reads({id(p): n for n, p in clone.named_parameters()}, found.used)
        with torch.no_grad(), torch.device("meta"), flow, reads:
            flow.end(clone(x))
        found.feeds, found.takers = dict(flow.sole_takers()), flow.all_takers()
        found.overwriting = flow.overwriting()
    finally:
        for hook in hooks:
            hook.remove()


def _entering(found: Survey, flow: Dataflow, name: str, image: Tensor) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        flow.enter(name, tensors)
        if name not in found.calls:
            found.calls[name] = Call(len(found.calls), [tuple(t.shape) for t in tensors])
            found.calls[name].takes_image = any(t is image for t in tensors)

    return hook


def _leaving(found: Survey, flow: Dataflow, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        flow.leave(name, output)
        call = found.calls[name]
        call.outputs = call.outputs or [tuple(t.shape) for t in tree_leaves(output) if isinstance(t, Tensor)]

    return hook


class _Reads(TorchDispatchMode):
    """Notes which of the given tensors any operation reads."""

    def __init__(self, names: dict[int, str], seen: set[str]):
        super().__init__()
        self.names, self.seen = names, seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.update(self.names[id(t)] for t in tree_leaves((args, kwargs or {})) if id(t) in self.names)
        return func(*args, **(kwargs or {}))
