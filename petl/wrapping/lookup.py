"""Answers questions about models: the model inside wrappers, its record, what trains, which images it takes."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from petl.errors import StateError, listing
from petl.graft.graft import grafts
from petl.sites.survey import survey
from petl.wrapping.record import Record
from petl.wrapping.snapshot import RECORD


def record(model: nn.Module) -> Record | None:
    """The record of what ``wrap`` did to this model, or to the one model inside it that is wrapped; None where none is."""
    found = list(wrapped_inside(model).values())
    return vars(found[0])[RECORD] if len(found) == 1 else None


def require_record(model: nn.Module) -> tuple[nn.Module, Record]:
    """The wrapped model, bare, and its record, or a StateError; ``model`` may hold it (an average, a detector)."""
    found = wrapped_inside(model)
    if not found:
        raise StateError(
            f"this {type(bare(model)).__name__} is not wrapped, nor is a model inside it; call petl.wrap(model, 'lora') or "
            f"petl.load(path, model)"
        )
    if len(found) > 1:
        raise StateError(
            f"this {type(bare(model)).__name__} holds {len(found)} wrapped models: {listing(found)}; pass one of them, such as "
            f"model.{next(iter(found))}"
        )
    (inner,) = found.values()
    return inner, vars(inner)[RECORD]


def wrapped_inside(model: nn.Module) -> dict[str, nn.Module]:
    """The wrapped models by their names in ``model``: itself under "", or those inside it."""
    plain = bare(model)
    if RECORD in vars(plain):
        return {"": plain}
    return {name: module for name, module in plain.named_modules() if RECORD in vars(module)}


def refuse_training_outside(model: nn.Module) -> None:
    """A StateError where a model that holds a wrapped one trains more than that one, which no delta would have."""
    found = wrapped_inside(model)
    inside = {parameter for module in found.values() for parameter in module.parameters()}
    others = [name for name, p in bare(model).named_parameters() if p.requires_grad and p not in inside]
    if others and found:
        name = next(iter(found))
        raise StateError(
            f"this {type(bare(model)).__name__} also trains {listing(others)} outside of the wrapped model {name!r}, which alone "
            f"a delta holds; save that one, petl.save(model.{name}, path), and keep the others yourself"
        )


def bare(model: nn.Module) -> nn.Module:
    """The model itself, under DistributedDataParallel, DataParallel, torch.compile and accelerate's wrappers."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(inner := vars(model).get("_modules", {}).get("_orig_mod"), nn.Module):  # torch.compile
            model = inner
        else:
            return model


Model = TypeVar("Model", bound=nn.Module)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name: those with ``requires_grad``, which is the only truth.

    >>> import petl, timm
    >>> len(petl.trainable(petl.wrap(timm.create_model("test_vit"), "probe")))
    2
    """
    return {name: p for name, p in bare(model).named_parameters() if p.requires_grad}


def in_chans(model: nn.Module) -> int:
    """How many channels the images for this model have: what an input adapter takes, else what the model was built for.

    >>> import petl, timm
    >>> petl.in_chans(petl.wrap(timm.create_model("test_resnet"), "input", in_chans=4))
    4
    """
    plain = bare(model)
    taken = [graft.in_chans for module in plain.modules() for _, graft in grafts(module) if graft.in_chans]
    made = record(plain)
    return taken[0] if taken else made.backbone["in_chans"] if made else survey(plain).image[0]
