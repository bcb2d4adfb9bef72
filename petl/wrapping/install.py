"""Carry out what methods planned on a model, all or nothing, and take it back."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from petl.errors import DeltaError, MethodError, SiteError, StateError, listing
from petl.format.header import oversized, refuse_unwritable
from petl.graft.computed_weights import spectral_norm_keys
from petl.graft.folding import prune
from petl.graft.graft import fold_before_fusing, hold_in_eval
from petl.graft.guarded_parameters import unguarded
from petl.memory.base_dtype import lower, sorted_out
from petl.memory.modes import cheapen, watch
from petl.methods.method import Method
from petl.sites.blocks import head_names
from petl.sites.layers import has_running_statistics
from petl.sites.names import within
from petl.sites.sites import Sites
from petl.sites.survey import Survey
from petl.wrapping.backbone import describe
from petl.wrapping.fingerprints import marks, own_tensor, owned
from petl.wrapping.head import prepare_head
from petl.wrapping.interrupts import uninterrupted
from petl.wrapping.outside_changes import follow
from petl.wrapping.record import RECORD, Record, Snapshot
from petl.wrapping.structure import structure

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
    originals = {id(tensor) for _, _, _, tensor in _tensors(model)}
    with _undone_on_error(model, made) as before, unguarded():
        made.head = tuple(prepare_head(found, made.head_option, num_classes))
        made.backbone = describe(found, num_classes, create_args)
        made.classifier = tuple(dict.fromkeys((*(found.head or ()), *made.head)))
        made.structure = structure(model, made.classifier)
        mine = [_in_place(model, method, sites) for method, sites in plans]
        _lower(found, mine, made)
        _remember(model, mine, made, originals)
        for (method, sites), tensors in zip(plans, mine, strict=True):
            tensors += _adapted(model, method, sites)
        _name_tensors(model, mine, made)
        _set_flags(model, made, originals)
        _hold_still(model, made)
        made.changes = [*before.children(), *before.changes()]
        if made.memory is not None:
            cheapen(found, made.memory)
        if made.narrow:
            watch(model)
        fold_before_fusing(model)
        follow(model, made)
        vars(model)[RECORD] = made
    return model


def refuse_unrecordable(methods: Sequence[Method]) -> None:
    """A MethodError where a method's values couldn't stand in a delta's header."""
    values = [method.to_json() for method in methods]
    try:
        refuse_unwritable(values, "the values of methods")
    except DeltaError as error:
        raise MethodError(str(error)) from None
    if wrong := oversized(values):
        raise MethodError(f"{listing(wrong)}: out of all proportion, and in no delta")


@contextlib.contextmanager
def _undone_on_error(model: nn.Module, made: Record) -> Iterator[Snapshot]:
    before = Snapshot(model)
    try:
        yield before
    except BaseException:
        with uninterrupted():
            undo(model, made, before.changes())
            vars(model).pop(RECORD, None)
        raise


def undo(model: nn.Module, made: Record, changes: Sequence[Any]) -> None:
    """Put structure, values, flags and modes back; a classifier that was set aside comes back to the model's device."""
    place = next(model.parameters(), torch.empty(0)).device
    if made.hollow and (made.backup or made.head) and place.type != "meta":
        raise StateError(
            f"{type(model).__name__} was wrapped on the meta device, so what trains in place and the classifier had no values to "
            f"give back; build the backbone anew, or give it its values before petl.wrap"
        )
    for module in list(model.modules()):
        prune(module)
    for change in changes:
        change.undo()
    for key, _, _, tensor in _tensors(model):
        if key in made.narrow:
            tensor.data = torch.empty_like(tensor, dtype=made.backup[key].dtype)
        if key in made.backup and not made.backup[key].is_meta:
            tensor.detach().copy_(made.backup[key])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(made.flags.get(name, True))
        parameter.grad = None
    drop_caches(model)
    for name, module in model.named_modules():
        module.training = made.modes.get(name, module.training)
    if any(p.device != place for p in model.parameters()):
        model.to(place)
    if made.cast is not None:
        model.to(made.cast)


def drop_caches(model: nn.Module) -> None:
    """Forget what some models compute from parameters and keep in eval mode (levit's attention biases); modes stay."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()  # at which they forget it, by timm's own habit
    for module, mode in modes:
        module.training = mode


def _tensors(model: nn.Module) -> list[tuple[str, nn.Module, str, Tensor]]:
    """(key, owner, leaf, tensor) of every parameter and persistent buffer."""
    return [(key, owner, leaf, cast(Tensor, own_tensor(owner, leaf))) for key, owner, leaf in owned(model)]


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
    trains |= {id(tensor) for key, _, _, tensor in _tensors(found.model) if key in made.also}
    places, made.wide = sorted_out(found.model, made.base_dtype, trains, [*made.head, *head_names(found)])
    for place in places:
        made.backup[place.key] = place.own.detach().to("cpu")  # first, so that Ctrl-C loses nothing
        made.narrow.append(place.key)
        lower(place, made.base_dtype)


def _remember(model: nn.Module, mine: Sequence[list[Tensor]], made: Record, originals: set[int]) -> None:
    """Copy base tensors that will train in place, and mark what all others are."""
    training = {id(tensor) for tensors in mine for tensor in tensors}
    entries = _tensors(model)
    moves = {key for key, _, _, t in entries if id(t) in training or within(key, made.head) or key in made.also}
    made.backup |= {k: _kept(t) for k, _, _, t in entries if k in moves and id(t) in originals}
    still = [entry for entry in entries if entry[0] not in moves]
    seen = marks(tensor for *_, tensor in still)
    made.frozen = {key: (owner, leaf, found) for (key, owner, leaf, _), found in zip(still, seen, strict=True)}


def _kept(tensor: Tensor) -> Tensor:
    """A copy in main memory; on the meta device there are no values to keep."""
    return tensor.detach() if tensor.is_meta else tensor.detach().to("cpu", copy=True)


def _adapted(model: nn.Module, method: Method, sites: Sites) -> list[Tensor]:
    """Let the method grow its grafts; the tensors that they brought."""
    known = {id(tensor) for *_, tensor in _tensors(model)}
    method.apply(model, sites)
    return [tensor for *_, tensor in _tensors(model) if id(tensor) not in known]


def _name_tensors(model: nn.Module, mine: Sequence[list[Tensor]], made: Record) -> None:
    """Note whose is which tensor, by the names that they have now that all grafts have grown."""
    names = {id(tensor): key for key, _, _, tensor in _tensors(model)}
    made.tensors = [[names[id(tensor)] for tensor in tensors] for tensors in mine]
    made.head_tensors = [key for key in names.values() if within(key, made.head)]


def _set_flags(model: nn.Module, made: Record, originals: set[int]) -> None:
    """Train exactly what methods and head own; a method's own new tensors keep the flag that it gave them."""
    planned = made.planned
    for name, parameter in model.named_parameters():
        meant = id(parameter) in originals or parameter.requires_grad
        parameter.requires_grad_(name in planned and parameter.is_floating_point() and meant)
    if not planned:
        raise SiteError(
            f"{', '.join(m.name for m in made.methods)} with head={made.head_option} leaves nothing to train on "
            f"{type(model).__name__}; give num_classes= for a new classifier, or another method"
        )


def _hold_still(model: nn.Module, made: Record) -> None:
    """Keep norms with running statistics that nobody tunes in evaluation mode; where the head alone trains, all but it."""
    planned = made.planned
    if all(within(key, made.head) for key in planned):
        return _hold_all_but(model, "", made.head)
    for name, module in model.named_modules():
        moving = any(f"{name}.{leaf}".lstrip(".") in planned for leaf in ("running_mean", "running_var"))
        if has_running_statistics(module) and not moving:
            hold_in_eval(module)
        if any(vector not in planned for _, vector in spectral_norm_keys(module, name)):
            _hold_norm(module, name, planned)


def _hold_norm(module: nn.Module, name: str, planned: Collection[str]) -> None:
    """A spectral norm that nobody tunes stays as it is, if its weight does."""
    trains = [original for original, _ in spectral_norm_keys(module, name) if original in planned]
    if trains:
        raise SiteError(
            f"{trains[0]} would train under a spectral norm, whose vectors follow it and would not be saved; take the norm off "
            f"first (torch.nn.utils.parametrize.remove_parametrizations, remove_spectral_norm), or choose a method such as 'lora'"
        )
    hold_in_eval(module)


def _hold_all_but(module: nn.Module, name: str, head: Sequence[str]) -> None:
    for leaf, child in module.named_children():
        path = f"{name}.{leaf}".lstrip(".")
        if any(within(top, [path]) for top in head) and not within(path, head):
            _hold_all_but(child, path, head)
        elif not within(path, head):
            hold_in_eval(child)
