"""Whether a delta fits a model, found out before the model is touched: its recipe, its names and shapes, the base's structure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import DeltaError, PetlError, listing
from petl.graft.computed_weights import has_weight_hooks
from petl.methods.foreign import ForeignMethod
from petl.methods.method import Method
from petl.methods.registry import method_from_json
from petl.sites.meta import on_meta
from petl.sites.roles import all_sites
from petl.sites.sites import Sites
from petl.sites.survey import Survey
from petl.wrapping.fingerprints import own_tensor, owned
from petl.wrapping.install import Plan, install
from petl.wrapping.record import Record
from petl.wrapping.structure import differences, structure, volatile


def delta_tensors(model: nn.Module, made: Record) -> tuple[dict[str, Tensor], list[str]]:
    """What belongs in the file, by key, and those of the keys that were unfrozen by hand after ``wrap``."""
    mine: dict[str, Tensor] = {}
    planned = made.planned
    for key, owner, leaf in owned(model):
        tensor = own_tensor(owner, leaf)
        if tensor is not None and (key in planned or tensor.requires_grad or _is_new(made, key, owner)):
            mine[key] = tensor.detach()
    return mine, [key for key in mine if key not in {*planned} - {*made.also}]


def _is_new(made: Record, key: str, owner: nn.Module) -> bool:
    """Whether this is a buffer of a layer that came after ``wrap`` and trains: of a new classifier's BatchNorm."""
    then = made.frozen.get(key)
    replaced = then is None or then[0] is not owner
    return replaced and key not in made.planned and any(p.requires_grad for p in owner.parameters(recurse=False))


def record_of(header: Mapping[str, Any], plans: Sequence[Plan], **options: Any) -> Record:
    also = list(header.get("also") or [])
    return Record(tuple(m for m, _ in plans), header["sites"], head_option(header["head"]), also=also, **options)


def classes_of(header: Mapping[str, Any]) -> int | None:
    """How many classes the classifier is to have; None where the base's own is left alone."""
    return header["backbone"].get("num_classes") if header["head"] else None


def head_option(head: Any) -> bool | str | tuple[str, ...]:
    return tuple(head) if isinstance(head, list) else head


def plans_of(header: Mapping[str, Any], found: Survey) -> list[Plan]:
    """The recorded methods at the recorded sites."""
    places = {site.name: site for site in all_sites(found)}
    try:
        methods: list[Method] = [method_from_json(values) for values in header["methods"]]
        listed = zip(methods, header["sites"], strict=True)
        return [(m, m.restore_sites(found, Sites(places[name] for name in names))) for m, names in listed]
    except KeyError as error:
        raise DeltaError(
            f"the delta was made on {header['backbone'].get('name')} and adapts {error.args[0]}, which this "
            f"{type(found.model).__name__} lacks; load it onto the backbone that it was made on"
        ) from None
    except PetlError as error:
        raise DeltaError(f"the delta's recipe can't be repeated: {error}") from error
    except Exception as error:  # methods of others may raise anything at values that aren't theirs
        raise DeltaError(f"the delta's recipe can't be repeated: {type(error).__name__}: {error}") from error


def rehearse(
    path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor], found: Survey, plans: Sequence[Plan]
) -> None:
    """Carry the recipe out on a copy without memory, and compare names and shapes with the file's.

    So no size in a header takes memory that the file's own tensors don't bear out.

    Raises:
        DeltaError: the recipe can't be carried out on this model, or they differ.
    """
    if has_weight_hooks(found.model):
        return
    try:
        twin = dataclasses.replace(found, model=on_meta(found.model))
    except Exception:  # a model that can't be copied: the comparison on the model itself has to do
        return
    trial = record_of(header, plans, memory=None)
    try:
        with torch.device("meta"):
            install(twin, plans, trial, num_classes=classes_of(header))
    except PetlError as error:
        raise DeltaError(f"{path} doesn't fit this {type(found.model).__name__}: {error}") from error
    except Exception as error:
        if any(
            isinstance(method, ForeignMethod) for method, _ in plans
        ):  # another library's code needn't know the meta device
            return
        raise DeltaError(
            f"{path} doesn't fit this {type(found.model).__name__}: {type(error).__name__}: {error}"
        ) from error
    compare(path, delta_tensors(twin.model, trial)[0], tensors)


def compare(path: Path, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Every name, shape and kind of number, before a byte is used."""
    missing, extra = [k for k in wanted if k not in tensors], [k for k in tensors if k not in wanted]
    if missing or extra:
        raise DeltaError(
            f"{path} doesn't fit: missing {listing(missing) or 'nothing'}; unexpected {listing(extra) or 'nothing'}"
        )
    for key, tensor in tensors.items():
        like = wanted[key]
        alike = tensor.is_floating_point() if like.is_floating_point() else tensor.dtype == like.dtype
        if tensor.shape != like.shape or not alike:
            raise DeltaError(
                f"{path}: {key} is {tensor.dtype} {tuple(tensor.shape)}, the model's is {like.dtype} "
                f"{tuple(like.shape)}; load it onto the backbone that it was made on"
            )


def refuse_other_structure(path: Path, header: Mapping[str, Any], found: Survey) -> None:
    """A DeltaError where the base's modules or their attributes are others than those that the delta was made on."""
    other = differences(header.get("structure") or {}, structure(found.model, found.head or ()))
    if other:
        passing = volatile(found.model)
        other = [key for key in other if key not in passing]
    if other:
        made = listing(f"{key}={value!r}" for key, value in header["backbone"].get("args", {}).items())
        raise DeltaError(
            f"{path} was made on another {header['backbone'].get('name') or type(found.model).__name__}: {listing(other)} differ "
            f"in its modules, so that equal weights give other outputs; build it as it was "
            f"({made or 'no arguments'}; changes by hand aren't recorded) and pass it, or pass check_base=False"
        )
