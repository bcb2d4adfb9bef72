"""Carries out what methods planned on a model, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.adapted_weight import unguarded
from petl.graft.graft import guard
from petl.memory.base_dtype import lower, sorted_out
from petl.memory.modes import cheapen, watch
from petl.methods.method import Method
from petl.sites.sites import Sites, head_names, within
from petl.sites.survey import Survey
from petl.wrapping.backbone import describe_backbone
from petl.wrapping.fingerprints import checksums
from petl.wrapping.freezing import hold_untuned, set_requires_grad
from petl.wrapping.guarded_model import guard_base
from petl.wrapping.head import prepare_head
from petl.wrapping.own_tensors import own_tensor, state_tensors
from petl.wrapping.preconditions import refuse_unrecordable
from petl.wrapping.record import Record
from petl.wrapping.snapshot import RECORD
from petl.wrapping.structure import structure
from petl.wrapping.undo import undone_on_error

Plan = tuple[Method, Sites]


def install(
    found: Survey,
    plans: Sequence[Plan],
    made: Record,
    *,
    num_classes: int | None = None,
    create_args: dict[str, Any] | None = None,
) -> nn.Module:
    """Carry out plans and keep the record; on any error the model is as it was."""
    model = found.model
    made.flags = {name: p.requires_grad for name, p in model.named_parameters()}
    made.modes = {name: module.training for name, module in model.named_modules()}
    refuse_unrecordable([method for method, _ in plans])
    made.create_args = create_args
    made.hollow = any(p.is_meta for p in model.parameters())
    originals = {id(tensor) for _, _, _, tensor in state_tensors(model)}
    with undone_on_error(model, made) as before, unguarded():
        made.head = tuple(prepare_head(found, made.head_option, num_classes))
        made.backbone = describe_backbone(found, num_classes, create_args)
        made.classifier = tuple(dict.fromkeys((*(found.head or ()), *made.head)))
        made.structure = structure(model, made.classifier)
        mine = [_in_place(model, method, sites) for method, sites in plans]
        _lower(found, mine, made)
        _remember(model, mine, made, originals)
        for (method, sites), tensors in zip(plans, mine, strict=True):
            tensors += _adapted(model, method, sites)
        _name_tensors(model, mine, made)
        set_requires_grad(model, made, originals)
        hold_untuned(model, made)
        made.changes = [*before.children(), *before.changes()]
        if made.memory is not None:
            cheapen(found, made.memory)
        if made.narrow:
            watch(model)
        guard(model)
        guard_base(model, made)
        vars(model)[RECORD] = made
    return model


def _in_place(model: nn.Module, method: Method, sites: Sites) -> list[Tensor]:
    """The base tensors that the method trains in place."""
    places = [(model.get_submodule(site.name), site) for site in sites]
    return [cast(Tensor, own_tensor(m, leaf)) for m, site in places for leaf in method.trains(m, site)]


def _lower(found: Survey, mine: Sequence[list[Tensor]], made: Record) -> None:
    """Keep frozen matrices and kernels in the type that was asked for, and the originals in main memory."""
    if made.base_dtype is None:
        return
    if made.hollow:
        raise StateError(
            f"base_dtype={made.base_dtype} needs the base's values, and {type(found.model).__name__} is on the meta device; "
            f"give it its values before petl.wrap"
        )
    trains = {id(tensor) for tensors in mine for tensor in tensors}
    trains |= {id(tensor) for key, _, _, tensor in state_tensors(found.model) if key in made.also}
    places, made.wide = sorted_out(found.model, made.base_dtype, trains, [*made.head, *head_names(found)])
    for place in places:
        made.backup[place.key] = place.own.detach().to("cpu")  # first, so that Ctrl-C loses nothing
        made.narrow.append(place.key)
        lower(place, made.base_dtype)


def _remember(model: nn.Module, mine: Sequence[list[Tensor]], made: Record, originals: set[int]) -> None:
    """Copy base tensors that will train in place, and mark what all others are."""
    training = {id(tensor) for tensors in mine for tensor in tensors}
    entries = state_tensors(model)
    moves = {key for key, _, _, t in entries if id(t) in training or within(key, made.head) or key in made.also}
    made.backup |= {k: _kept(t) for k, _, _, t in entries if k in moves and id(t) in originals}
    still = [entry for entry in entries if entry[0] not in moves]
    seen = checksums(tensor for *_, tensor in still)
    made.frozen = {key: (owner, leaf, found) for (key, owner, leaf, _), found in zip(still, seen, strict=True)}


def _kept(tensor: Tensor) -> Tensor:
    """A copy in main memory; on the meta device there are no values to keep."""
    return tensor.detach() if tensor.is_meta else tensor.detach().to("cpu", copy=True)


def _adapted(model: nn.Module, method: Method, sites: Sites) -> list[Tensor]:
    """Let the method grow its grafts; the tensors that they brought."""
    known = {id(tensor) for *_, tensor in state_tensors(model)}
    method.apply(model, sites)
    return [tensor for *_, tensor in state_tensors(model) if id(tensor) not in known]


def _name_tensors(model: nn.Module, mine: Sequence[list[Tensor]], made: Record) -> None:
    """Note whose is which tensor, by the names that they have now that all grafts have grown."""
    names = {id(tensor): key for key, _, _, tensor in state_tensors(model)}
    made.tensors = [[names[id(tensor)] for tensor in tensors] for tensors in mine]
    made.head_tensors = [key for key in names.values() if within(key, made.head)]
