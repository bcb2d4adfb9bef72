"""Runs a model once with shapes only: which modules run, in which order, on what, and which parameters are read.

The forward runs on a deep copy whose tensors live on the meta device, so the user's model, its hooks, its mode and its
memory are left alone, and a ViT-B takes milliseconds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from petl.graft.kinds import Graft
from petl.sites.calls import ModuleCall
from petl.sites.dataflow import Dataflow, ParameterReads, seen_tensors
from petl.sites.image_sizes import candidate_images
from petl.sites.meta import blank_images, on_meta
from petl.sites.names import joined, topmost


@dataclass
class FirstCall:
    """The first call of a module: its number in the order of execution, and the shapes of its inputs and outputs.

    ``takes_image`` says whether the model's own input is among its inputs, unchanged.
    """

    order: int
    inputs: list[tuple[int, ...]]
    outputs: list[tuple[int, ...]] = field(default_factory=list)
    takes_image: bool = False


@dataclass
class Survey:
    """What a forward on shapes alone shows of a model.

    ``calls`` maps module names to their first call, ``read_parameters`` holds the parameters that any operation read (also
    without their layer being called, as BEiT does), ``image`` is the input's (channels, height, width), ``head`` the
    classifier's modules ([] where there is none yet, None where the model has no ``reset_classifier`` to ask). Where the
    model could not run, ``failed`` says why and every module counts as running. ``sole_consumer`` maps modules to the one
    module that alone consumes what they return, ``consumers`` to the modules that consume it, for each of their calls.
    ``overwriting`` are the modules that write to their inputs.
    """

    model: nn.Module
    image: tuple[int, int, int]
    calls: dict[str, FirstCall] = field(default_factory=dict)
    read_parameters: set[str] = field(default_factory=set)
    head: list[str] | None = None
    failed: str = ""
    sole_consumer: dict[str, str] = field(default_factory=dict)
    consumers: dict[str, list[set[str]]] = field(default_factory=dict)
    overwriting: set[str] = field(default_factory=set)

    def runs(self, name: str) -> bool:
        """Returns whether the module of this name is called, or one of its own parameters is read."""
        return (
            bool(self.failed) or name in self.calls or any(self.reads(name, p) for p in self.modules[name]._parameters)
        )

    def reads(self, name: str, parameter: str) -> bool:
        """Returns whether the forward reads this parameter of the module of this name; true where the model could not run."""
        return bool(self.failed) or joined(name, parameter) in self.read_parameters

    def order(self, name: str) -> float:
        """Returns the module's place in the order of execution; modules that are read but not called count as their parent."""
        while name not in self.calls and name:
            name = name.rpartition(".")[0]
        return self.calls[name].order if name in self.calls else float("inf")

    @functools.cached_property
    def modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())


def survey_model(model: nn.Module, size: int | Sequence[int] | None = None) -> Survey:
    """Surveys ``model`` in one forward on shapes alone, at a non-square input first (it tells height from width).

    ``size`` is the side, or height and width, of the images that the model was built for, where the caller knows.
    """
    images = candidate_images(model, size)
    survey = Survey(model, images[0])
    try:
        clone = on_meta(model)
        _try_each(survey, clone, images)
        survey.head = _replaced_by_reset(clone)
    except Exception as error:  # any model code may run here, and may raise anything at all
        survey.failed = f"{type(error).__name__}: {error}"
    return survey


def _try_each(survey: Survey, clone: nn.Module, images: list[tuple[int, int, int]]) -> None:
    """Fills ``survey`` from the first image size that the model takes."""
    reasons = []
    for image in images:
        try:
            _record_forward(survey, clone, image)
            survey.image = image
            return
        except Exception as error:  # as above
            reasons.append(f"{type(error).__name__}: {error}")
    survey.failed = reasons[0]


def _record_forward(survey: Survey, clone: nn.Module, image: tuple[int, int, int]) -> None:
    """Runs the copy on images of this size; ``survey`` changes only where the forward succeeds."""
    clone.train().eval()  # forget what some models compute from parameters and keep in eval mode
    images = blank_images(clone, image)
    flow, reads = Dataflow(), ParameterReads(clone.named_parameters())
    with flow.recorder.watching(_outside_grafts(clone)), torch.no_grad(), torch.device("meta"), flow, reads:
        flow.end(clone(images))
    calls = _first_calls(flow.recorder.calls, flow.recorder.finished, images)
    sole_consumer, consumers, overwriting = dict(flow.sole_consumers()), flow.consumers(), flow.overwriting()
    survey.calls, survey.read_parameters = calls, reads.read
    survey.sole_consumer, survey.consumers, survey.overwriting = sole_consumer, consumers, overwriting


def _outside_grafts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    grown = {id(part) for module in model.modules() if isinstance(module, Graft) for part in module.modules()}
    return ((name, module) for name, module in model.named_modules() if id(module) not in grown)


def _first_calls(begun: list[ModuleCall], finished: list[ModuleCall], images: Tensor) -> dict[str, FirstCall]:
    """Returns the first call of each module; where it returned no tensor, the outputs are those of a later call."""
    first: dict[str, FirstCall] = {}
    for call in begun:
        if call.name not in first:
            inputs = seen_tensors((call.args, call.kwargs))
            first[call.name] = FirstCall(len(first), [seen.shape for seen in inputs])
            first[call.name].takes_image = any(seen.tensor is images for seen in inputs)
    for call in finished:
        first[call.name].outputs = first[call.name].outputs or [seen.shape for seen in seen_tensors(call.returned)]
    return first


def classifier_names(model: nn.Module) -> list[str] | None:
    """Returns the classifier's modules: those that timm's ``reset_classifier`` replaces; None without that method."""
    return _replaced_by_reset(on_meta(model))


def _replaced_by_reset(clone: nn.Module) -> list[str] | None:
    if not hasattr(clone, "reset_classifier"):
        return None
    before = dict(clone.named_modules())
    with torch.device("meta"):
        clone.reset_classifier(getattr(clone, "num_classes", 0) + 1)  # type: ignore[operator]  # timm's contract
    after = {id(module) for module in clone.modules()}
    return topmost(n for n, m in before.items() if id(m) not in after and any(True for _ in m.parameters()))
