"""Carries out the plans of methods on a model, all or nothing."""

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
    """Surveys a model, plans on the survey, and carries the plans out: `wrap` and `load` pass different functions ``plan``.

    Args:
        model: not wrapped; changed in place.
        plan: takes the survey and returns (method, sites) for each method; may raise an error, which leaves the model unchanged.
        image_size: the size of images that the model was created for, where that isn't the usual one.
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
    """Carries plans out, stores the record on the model and returns the record; after any error the model is unchanged.

    Args:
        memory: how training steps save memory; None: the plain layers run.
        unfrozen_by_hand: keys that train although neither a method nor the head owns them.
        changing: a context around the changes to the model, which may turn their errors into others.
        finish: called with the record at the end; an error in this function undoes everything, too.
    """
    model, methods = survey.model, tuple(method for method, _ in plans)
    refuse_unrecordable(methods)
    sites = [[site.name for site in sites] for _, sites in plans]
    record = Record(methods, sites, head, memory=memory, base_dtype=base_dtype, create_args=create_args)
    record.unfrozen_by_hand = [*unfrozen_by_hand]
    record.requires_grad = {name: p.requires_grad for name, p in model.named_parameters()}
    record.training_modes = {name: module.training for name, module in model.named_modules()}
    record.on_meta = any(p.is_meta for p in model.parameters())
    base_ids = {id(tensor) for *_, tensor in state_tensors(model)}  # stable: the snapshot keeps the tensors alive
    with undone_on_error(model, record) as snapshot:
        with unguarded(), changing or contextlib.nullcontext():
            _prepare_base(survey, record, num_classes)
            _apply_methods(survey, plans, record, base_ids)
            record.changes = [*snapshot.children(), *snapshot.changes()]
            _add_fast_paths(survey, record)
            vars(model)[RECORD] = record
        if finish is not None:
            finish(record)
    return record


def _prepare_base(survey: Survey, record: Record, num_classes: int | None) -> None:
    """Prepares the classifier, and describes the base before the methods change the model."""
    record.head = tuple(prepare_head(survey, record.head_option, num_classes))
    record.backbone = describe_backbone(survey, num_classes, record.create_args)
    record.classifier = tuple(dict.fromkeys((*(survey.head or ()), *record.head)))
    record.structure = structure(survey.model, record.classifier)


def _apply_methods(survey: Survey, plans: Sequence[Plan], record: Record, base_ids: set[int]) -> None:
    """Applies the methods, records which method owns which tensors, and freezes all other tensors."""
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
    """Adds the classes for training steps and for guarding the base to the model."""
    if record.memory is not None:
        apply_memory_mode(survey, record.memory)
    if record.low_precision_keys:
        ensure_recompute_scope(survey.model)
    fold_before_fusing(survey.model)
    guard_base(survey.model, record)


def _in_place(model: nn.Module, method: Method, sites: Sites) -> list[Tensor]:
    """Returns the base tensors that the method trains in place."""
    pairs = [(model.get_submodule(site.name), site) for site in sites]
    return [cast(Tensor, own_tensor(module, leaf)) for module, site in pairs for leaf in method.trains(module, site)]


def _lower_base(survey: Survey, owned: Sequence[list[Tensor]], record: Record) -> None:
    """Casts frozen matrices and kernels to ``base_dtype``, and keeps the originals in main memory."""
    if record.base_dtype is None:
        return
    if record.on_meta:
        raise StateError(
            f"base_dtype={record.base_dtype} needs the base's values, and {type(survey.model).__name__} is on the meta device; "
            f"give it its values before petl.wrap"
        )
    training_ids = {id(tensor) for tensors in owned for tensor in tensors}
    by_hand = {*record.unfrozen_by_hand}
    training_ids |= {id(tensor) for key, _, _, tensor in state_tensors(survey.model) if key in by_hand}
    references, record.full_precision_reasons = split_by_dtype(
        survey.model, record.base_dtype, training_ids, [*record.head, *head_names(survey)]
    )
    for reference in references:
        record.originals[reference.key] = reference.own.detach().to("cpu")  # first, so that Ctrl-C loses nothing
        record.low_precision_keys.append(reference.key)
        store_low(reference, record.base_dtype)


def _remember_base(model: nn.Module, owned: Sequence[list[Tensor]], record: Record, base_ids: set[int]) -> None:
    """Copies base tensors that will train in place, and records the checksums of all others."""
    training_ids = {id(tensor) for tensors in owned for tensor in tensors}
    by_hand = {*record.unfrozen_by_hand}
    training, frozen = [], []
    for entry in state_tensors(model):
        key, _, _, tensor = entry
        trains = id(tensor) in training_ids or within(key, record.head) or key in by_hand
        (training if trains else frozen).append(entry)
    record.originals |= {key: _copied(tensor) for key, _, _, tensor in training if id(tensor) in base_ids}
    sums = checksums(tensor for *_, tensor in frozen)
    record.frozen = {key: (owner, leaf, checksum) for (key, owner, leaf, _), checksum in zip(frozen, sums, strict=True)}


def _copied(tensor: Tensor) -> Tensor:
    """Returns a copy in main memory; of a tensor on the meta device, which has no values, the tensor itself."""
    return tensor.detach() if tensor.is_meta else tensor.detach().to("cpu", copy=True)


def _grown(model: nn.Module, method: Method, sites: Sites) -> list[Tensor]:
    """Lets the method add its grafts, and returns their tensors."""
    old_ids = {id(tensor) for *_, tensor in state_tensors(model)}
    method.apply(model, sites)
    return [tensor for *_, tensor in state_tensors(model) if id(tensor) not in old_ids]


def _name_tensors(model: nn.Module, owned: Sequence[list[Tensor]], record: Record) -> None:
    """Records the keys of the tensors that each method and the head own, after all grafts were added."""
    names = {id(tensor): key for key, _, _, tensor in state_tensors(model)}
    record.tensors = [[names[id(tensor)] for tensor in tensors] for tensors in owned]
    record.head_tensors = [key for key in names.values() if within(key, record.head)]
    _remember_new_head(model, record)


def _remember_new_head(model: nn.Module, record: Record) -> None:
    """Records the checksums of a classifier that ``wrap`` made: a training finds by them that nobody has changed it."""
    made = {key for key in record.head_tensors if key not in record.originals and not record.on_meta}
    new = {key: tensor for key, _, _, tensor in state_tensors(model) if key in made}
    record.new_head = dict(zip(new, checksums(new.values()), strict=True))
