"""Looks up facts about a model: the model inside wrappers, its record, its trainable parameters, its image channels."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from petl.errors import StateError, listing
from petl.graft.kinds import grafts
from petl.sites.survey import survey_model
from petl.wrapping.record import Record
from petl.wrapping.snapshot import RECORD

SHARED = "_petl_shared"  # the attribute of a model that shares its frozen tensors with others
Model = TypeVar("Model", bound=nn.Module)


def record(model: nn.Module) -> Record | None:
    """Returns the record of this model, or of the only wrapped model inside this model; None where nothing is wrapped."""
    wrapped = list(wrapped_inside(model).values())
    return vars(wrapped[0])[RECORD] if len(wrapped) == 1 else None


def require_record(model: nn.Module) -> tuple[nn.Module, Record]:
    """Returns the wrapped model, without wrappers such as DDP, and its record, or raises a StateError.

    ``model`` may hold the wrapped model (an average of weights, a detector).
    """
    wrapped = wrapped_inside(model)
    if not wrapped:
        raise StateError(
            f"this {type(bare(model)).__name__} is not wrapped, nor is a model inside it; call petl.wrap(model, 'lora') or "
            f"petl.load(path, model)"
        )
    if len(wrapped) > 1:
        raise StateError(
            f"this {type(bare(model)).__name__} holds {len(wrapped)} wrapped models: {listing(wrapped)}; pass one of them, "
            f"such as model.{next(iter(wrapped))}"
        )
    (inner,) = wrapped.values()
    return inner, vars(inner)[RECORD]


def wrapped_inside(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the wrapped models by their names in ``model``: the model itself under "", or those inside."""
    plain = bare(model)
    if RECORD in vars(plain):
        return {"": plain}
    return {name: module for name, module in plain.named_modules() if RECORD in vars(module)}


def refuse_training_outside(model: nn.Module) -> None:
    """Raises a StateError where parameters outside of the wrapped model train, which no delta would hold."""
    wrapped = wrapped_inside(model)
    inside = {parameter for module in wrapped.values() for parameter in module.parameters()}
    others = [name for name, p in bare(model).named_parameters() if p.requires_grad and p not in inside]
    if others and wrapped:
        name = next(iter(wrapped))
        raise StateError(
            f"this {type(bare(model)).__name__} also trains {listing(others)} outside of the wrapped model {name!r}, which alone "
            f"a delta holds; save that one, petl.save(model.{name}, path), and keep the others yourself"
        )


def refuse_shared(model: nn.Module, verb: str) -> None:
    """Raises a StateError for a model of `petl.Tasks`, whose frozen tensors are those of other models too."""
    if SHARED in vars(model):
        raise StateError(
            f"petl.{verb} on a model of petl.Tasks, whose backbone other tasks use too; put the delta onto a backbone of its "
            f"own: petl.{verb}(petl.load(path, model))"
        )


def bare(model: nn.Module) -> nn.Module:
    """Returns the model itself, under DistributedDataParallel, DataParallel, torch.compile and accelerate's wrappers."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(inner := vars(model).get("_modules", {}).get("_orig_mod"), nn.Module):  # torch.compile
            model = inner
        else:
            return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that train, by name: those with ``requires_grad=True``.

    >>> import petl, timm
    >>> len(petl.trainable(petl.wrap(timm.create_model("test_vit"), "probe")))
    2
    """
    return {name: p for name, p in bare(model).named_parameters() if p.requires_grad}


def in_chans(model: nn.Module) -> int:
    """Returns the number of channels of this model's images: that of an input adapter, else that of the backbone.

    >>> import petl, timm
    >>> petl.in_chans(petl.wrap(timm.create_model("test_resnet"), "input", in_chans=4))
    4
    """
    plain = bare(model)
    adapted = [graft.in_chans for module in plain.modules() for _, graft in grafts(module) if graft.in_chans]
    wrap_record = record(plain)
    return adapted[0] if adapted else wrap_record.backbone["in_chans"] if wrap_record else survey_model(plain).image[0]
