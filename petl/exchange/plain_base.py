"""A copy of the base that a delta goes onto, as timm builds it with the delta's classes and image channels."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from petl.delta.description import reset_classifier_names
from petl.graft.kinds import grafts
from petl.graft.values import adapted_value
from petl.sites.names import joined
from petl.wrapping.backbone import set_in_chans
from petl.wrapping.lookup import in_chans
from petl.wrapping.own_tensors import own_tensor
from petl.wrapping.record import Record
from petl.wrapping.snapshot import RECORD
from petl.wrapping.unwrap import unwrap


def plain_base(model: nn.Module) -> nn.Module:
    """Returns what ``timm.create_model(name, num_classes=..., in_chans=...)`` gives for this wrapped model's base.

    All modules have their plain classes and the shapes of the trained model; values are the base's where the base has such
    a tensor. ``model`` is not changed.
    """
    channels = in_chans(model)
    base = copy.deepcopy(model)
    record: Record = vars(base)[RECORD]
    heads = {name: base.get_submodule(name) for name in dict.fromkeys(trained_classifier(base, record))}
    shapes = _changed_shapes(base)
    classes = vars(base).get("num_classes")
    unwrap(base)
    for name, module in heads.items():
        parent, _, leaf = name.rpartition(".")
        setattr(base.get_submodule(parent), leaf, module)
    if classes is not None:
        base.num_classes = classes
    for name, shape in shapes.items():
        owner, _, leaf = name.rpartition(".")
        layer = base.get_submodule(owner)
        layer._parameters[leaf] = nn.Parameter(cast(Tensor, layer._parameters[leaf]).new_zeros(shape))
        if isinstance(layer, nn.modules.conv._ConvNd):
            layer.in_channels = shape[1] * layer.groups
    if channels != record.backbone["in_chans"]:
        set_in_chans(base, channels)
    return base.requires_grad_(False).eval()


def trained_classifier(model: nn.Module, record: Record) -> list[str]:
    """Returns the names of the classifier's modules that train, also of one that was exchanged after ``wrap``."""
    names = [*record.head, *reset_classifier_names(model, record)]
    known = dict(model.named_modules())
    return [name for name in names if name in known]


def _changed_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Returns the shapes of the parameters whose adapted value has another shape than their own: a stem with an input mix."""
    shapes = {}
    for name, module in model.named_modules():
        for param in {graft.param for _, graft in grafts(module) if hasattr(graft, "param")}:
            own = own_tensor(module, cast(str, param))
            value = adapted_value(module, cast(str, param)).detach()
            if own is not None and own.shape != value.shape:
                shapes[joined(name, cast(str, param))] = value.shape
    return shapes
