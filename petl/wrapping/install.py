"""Carries out what methods planned on a model, all or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.graft import fold_before_fusing
from petl.graft.guarded_parameters import unguarded
from petl.memory.base_dtype import split_by_dtype, store_low
from petl.memory.modes import apply_memory_mode, ensure_recompute_scope
from petl.methods.method import Method
from petl.sites.blocks import head_names
from petl.sites.names import within
from petl.sites.sites import Sites
from petl.sites.survey import Survey
from petl.wrapping.backbone import describe_backbone
from petl.wrapping.fingerprints import checksums
from petl.wrapping.freezing import hold_untuned, set_requires_grad
from petl.wrapping.guarded_model import guard_base
from petl.wrapping.head import HeadOption, prepare_head
from petl.wrapping.own_tensors import own_tensor, state_tensors
from petl.wrapping.preconditions import refuse_low_precision, refuse_unrecordable, survey_unwrapped
from petl.wrapping.record import Record
from petl.wrapping.snapshot import RECORD
from petl.wrapping.structure import structure
from petl.wrapping.undo import undone_on_error

Plan = tuple[Method, Sites]


def carry_out(
    model: nn.Module,
    plan: Callable[[Survey], Sequence[Plan]],
    *,
    image_size: Any = None,
    head: HeadOption = True,
    base_dtype: torch.dtype | None = None,
    **options: Any,
) -> Record:
    """Surveys a model, plans on the survey, and carries the plans out: `wrap` and `load` differ in ``plan`` alone.

    Args:
        model: not wrapped; changed in place.
        plan: from the survey to (method, sites), one for each method; it may refuse the model, which is as it was then.
        image_size: of the images that the model was created for, where it isn't the usual one.
        head, base_dtype, options: as for ``install``.
    """
    survey = survey_unwrapped(model, head, image_size)
    plans = plan(survey)
    refuse_low_precision(base_dtype, [method for method, _ in plans])
    return install(survey, plans, head=head, base_dtype=base_dtype, **options)


def install(
    survey: Survey,
    plans: Sequence[Plan],
    *,
    head: HeadOption = True,
    num_classes: int | None = None,
    create_args: dict[str, Any] | None = None,
    memory: str | None = "lean",
    base_dtype: torch.dtype | None = None,
    unfrozen_by_hand: Sequence[str] = (),
    changing: contextlib.AbstractContextManager[None] | None = None,
    finish: Callable[[Record], None] | None = None,
) -> Record:
    """Carries plans out, keeps the record on the model and returns it; on any error the model is as it was.

    Args:
        memory: how training steps save memory; None: the plain layers run.
        unfrozen_by_hand: keys that train although no method and no head has them.
        changing: a context around the changes to the model, which may say their errors in other words.
        finish: called with the record when all is in place, and part of all or nothing.
    """
    model, methods = survey.model, tuple(method for method, _ in plans)
    refuse_unrecordable(methods)
    sites = [[site.name for site in sites] for _, sites in plans]
    record = Record(methods, sites, head, memory=memory, base_dtype=base_dtype, create_args=create_args)
    record.unfrozen_by_hand = [*unfrozen_by_hand]
    record.requires_grad = {name: p.requires_grad for name, p in model.named_parameters()}
    record.training_modes = {name: module.training for name, module in model.named_modules()}
    record.on_meta = any(p.is_meta for p in model.parameters())
    base_ids = {id(tensor) for *_, tensor in state_tensors(model)}  # of tensors that the snapshot keeps alive
    with undone_on_error(model, record) as before:
        with unguarded(), changing or contextlib.nullcontext():
            _prepare_base(survey, record, num_classes)
            _apply_methods(survey, plans, record, base_ids)
            record.changes = [*before.children(), *before.changes()]
            _add_fast_paths(survey, record)
            vars(model)[RECORD] = record
        if finish is not None:
            finish(record)
    return record


def _prepare_base(survey: Survey, record: Record, num_classes: int | None) -> None:
    """Give the model its classifier, and describe what it is before the methods change it."""
    record.head = tuple(prepare_head(survey, record.head_option, num_classes))
    record.backbone = describe_backbone(survey, num_classes, record.create_args)
    record.classifier = tuple(dict.fromkeys((*(survey.head or ()), *record.head)))
    record.structure = structure(survey.model, record.classifier)


def _apply_methods(survey: Survey, plans: Sequence[Plan], record: Record, base_ids: set[int]) -> None:
    """Let the methods change the model, note whose tensors are whose, and freeze all others."""
    model = survey.model
    owned = [_in_place(model, method, sites) for method, sites in plans]
    _lower_base(survey, owned, record)
    _remember_base(model, owned, record, base_ids)
    for (method, sites), tensors in zip(plans, owned, strict=True):
        tensors += _grown(model, method, sites)
    _name_tensors(model, owned, record)
    set_requires_grad(model, record, base_ids)
    hold_untuned(model, record)


def _add_fast_paths(survey: Survey, record: Record) -> None:
    """Set up how training steps run, and let the model notice what other code does to it."""
    if record.memory is not None:
        apply_memory_mode(survey, record.memory)
    if record.low_precision_keys:
        ensure_recompute_scope(survey.model)
    fold_before_fusing(survey.model)
    guard_base(survey.model, record)


def _in_place(model: nn.Module, method: Method, sites: Sites) -> list[Tensor]:
    """The base tensors that the method trains in place."""
    places = [(model.get_submodule(site.name), site) for site in sites]
    return [cast(Tensor, own_tensor(m, leaf)) for m, site in places for leaf in method.trains(m, site)]


def _lower_base(survey: Survey, owned: Sequence[list[Tensor]], record: Record) -> None:
    """Keep frozen matrices and kernels in the type that was asked for, and the originals in main memory."""
    if record.base_dtype is None:
        return
    if record.on_meta:
        raise StateError(
            f"base_dtype={record.base_dtype} needs the base's values, and {type(survey.model).__name__} is on the meta device; "
            f"give it its values before petl.wrap"
        )
    trains = {id(tensor) for tensors in owned for tensor in tensors}
    trains |= {id(tensor) for key, _, _, tensor in state_tensors(survey.model) if key in record.unfrozen_by_hand}
    places, record.full_precision_reasons = split_by_dtype(
        survey.model, record.base_dtype, trains, [*record.head, *head_names(survey)]
    )
    for place in places:
        record.originals[place.key] = place.own.detach().to("cpu")  # first, so that Ctrl-C loses nothing
        record.low_precision_keys.append(place.key)
        store_low(place, record.base_dtype)


def _remember_base(model: nn.Module, owned: Sequence[list[Tensor]], record: Record, base_ids: set[int]) -> None:
    """Copy base tensors that will train in place, and keep the checksums of all others."""
    training = {id(tensor) for tensors in owned for tensor in tensors}
    by_hand = {*record.unfrozen_by_hand}
    moving, frozen = [], []
    for entry in state_tensors(model):
        key, _, _, tensor = entry
        trains = id(tensor) in training or within(key, record.head) or key in by_hand
        (moving if trains else frozen).append(entry)
    record.originals |= {key: _copied(tensor) for key, _, _, tensor in moving if id(tensor) in base_ids}
    sums = checksums(tensor for *_, tensor in frozen)
    record.frozen = {key: (owner, leaf, then) for (key, owner, leaf, _), then in zip(frozen, sums, strict=True)}


def _copied(tensor: Tensor) -> Tensor:
    """A copy in main memory; on the meta device there are no values to keep."""
    return tensor.detach() if tensor.is_meta else tensor.detach().to("cpu", copy=True)


def _grown(model: nn.Module, method: Method, sites: Sites) -> list[Tensor]:
    """Let the method grow its grafts; the tensors that they brought."""
    known = {id(tensor) for *_, tensor in state_tensors(model)}
    method.apply(model, sites)
    return [tensor for *_, tensor in state_tensors(model) if id(tensor) not in known]


def _name_tensors(model: nn.Module, owned: Sequence[list[Tensor]], record: Record) -> None:
    """Note whose is which tensor, by the names that they have now that all grafts have grown."""
    names = {id(tensor): key for key, _, _, tensor in state_tensors(model)}
    record.tensors = [[names[id(tensor)] for tensor in tensors] for tensors in owned]
    record.head_tensors = [key for key in names.values() if within(key, record.head)]
