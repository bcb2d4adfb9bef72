"""Whether a delta fits a model, found out before the model is touched: its recipe, its names and shapes, the base's structure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petl.delta.header import frozen_names
from petl.delta.tensors import delta_tensors, refuse_mismatch
from petl.errors import DeltaError, PetlError, listing
from petl.graft.computed_weights import by_hooks
from petl.methods.method import Method, from_json
from petl.sites.sites import Sites, all_sites
from petl.sites.survey import Survey, on_meta
from petl.wrapping.install import Plan, install
from petl.wrapping.record import Record
from petl.wrapping.structure import changed_by_forward, differences, structure


def record_of(header: Mapping[str, Any], plans: Sequence[Plan], **options: Any) -> Record:
    also = list(header.get("also") or [])
    return Record(tuple(m for m, _ in plans), header["sites"], recorded_head(header["head"]), also=also, **options)


def recorded_classes(header: Mapping[str, Any]) -> int | None:
    """How many classes the classifier is to have; None where the base's own is left alone."""
    return header["backbone"].get("num_classes") if header["head"] else None


def recorded_head(head: Any) -> bool | str | tuple[str, ...]:
    return tuple(head) if isinstance(head, list) else head


def recorded_plans(header: Mapping[str, Any], found: Survey) -> list[Plan]:
    """The recorded methods at the recorded sites."""
    places = {site.name: site for site in all_sites(found)}
    try:
        methods: list[Method] = [from_json(values) for values in header["methods"]]
        listed = zip(methods, header["sites"], strict=True)
        return [(m, m.recalled(found, Sites(places[name] for name in names))) for m, names in listed]
    except KeyError as error:
        raise DeltaError(
            f"the delta was made on {header['backbone'].get('name')} and adapts {error.args[0]}, which this "
            f"{type(found.model).__name__} lacks; load it onto the backbone that it was made on"
        ) from None
    except PetlError as error:
        raise DeltaError(f"the delta's recipe can't be repeated: {error}") from error
    except Exception as error:  # methods of others may raise anything at values that aren't theirs
        raise DeltaError(f"the delta's recipe can't be repeated: {type(error).__name__}: {error}") from error


def try_on_meta(
    path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor], found: Survey, plans: Sequence[Plan]
) -> None:
    """Carry the recipe out on a copy without memory, and compare names and shapes with the file's.

    So no size in a header takes memory that the file's own tensors don't bear out.

    Raises:
        DeltaError: the recipe can't be carried out on this model, or they differ.
    """
    if by_hooks(found.model):
        return
    try:
        twin = dataclasses.replace(found, model=on_meta(found.model))
    except Exception:  # a model that can't be copied: the comparison on the model itself has to do
        return
    trial = record_of(header, plans, memory=None)
    try:
        with torch.device("meta"):
            install(twin, plans, trial, num_classes=recorded_classes(header))
    except PetlError as error:
        raise DeltaError(f"{path} doesn't fit this {type(found.model).__name__}: {error}") from error
    except Exception as error:
        if any(method.reads_base for method, _ in plans):  # another library's code needn't know the meta device
            return
        raise DeltaError(
            f"{path} doesn't fit this {type(found.model).__name__}: {type(error).__name__}: {error}"
        ) from error
    refuse_mismatch(path, delta_tensors(twin.model, trial)[0], tensors)


def refuse_other_structure(path: Path, header: Mapping[str, Any], found: Survey) -> None:
    """A DeltaError where the base's modules or their attributes are others than those that the delta was made on."""
    other = differences(header.get("structure") or {}, structure(found.model, found.head or ()))
    if other:
        passing = changed_by_forward(found.model)
        other = [key for key in other if key not in passing]
    if other:
        made = listing(f"{key}={value!r}" for key, value in header["backbone"].get("args", {}).items())
        raise DeltaError(
            f"{path} was made on another {header['backbone'].get('name') or type(found.model).__name__}: {listing(other)} differ "
            f"in its modules, so that equal weights give other outputs; build it as it was "
            f"({made or 'no arguments'}; changes by hand aren't recorded) and pass it, or pass check_base=False"
        )


def why_other_base(header: Mapping[str, Any], made: Record) -> str:
    """Why a base isn't the one that a delta was made on, and what to do."""
    then, now = header["backbone"].get("dtype", "float32"), made.backbone["dtype"]
    if then != now:
        return f"the delta's base was in torch.{then}, this one is in torch.{now}. Before petl.load, call model.to(torch.{then})"
    known = header.get("frozen") or frozen_names(made)
    if known["names"] != frozen_names(made)["names"]:
        return (
            f"it has other frozen tensors ({len(made.frozen)}, not {known['tensors']}), as after timm.utils.freeze, which "
            f"exchanges norms. Load onto the model as it was built"
        )
    return "other weights. Load the weights that it was made on"
