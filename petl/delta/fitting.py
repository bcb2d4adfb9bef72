"""Checks whether a delta fits a model: its recipe, its names and shapes, the base's structure and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.delta.description import frozen_names
from petl.delta.header import Header
from petl.delta.tensors import delta_tensors, refuse_mismatch
from petl.errors import DeltaError, PetlError, listing
from petl.graft.computed_weights import has_weight_hooks
from petl.methods.foreign import ForeignMethod
from petl.methods.method import Method
from petl.methods.registry import method_from_json
from petl.sites.meta import on_meta
from petl.sites.roles import all_sites
from petl.sites.sites import Sites
from petl.sites.survey import Survey
from petl.wrapping.head import head_option
from petl.wrapping.install import Plan, install
from petl.wrapping.record import Record
from petl.wrapping.structure import changed_by_forward, differences, structure


def recipe_options(header: Header) -> dict[str, Any]:
    """Returns the recorded arguments of ``install``: those of the classifier, and the keys that were unfrozen by hand.

    ``num_classes`` is None where the base's own classifier stays.
    """
    return {
        "head": head_option(header.head),
        "num_classes": header.backbone.get("num_classes") if header.head else None,
        "unfrozen_by_hand": header.also or (),
    }


def recorded_plans(header: Header, survey: Survey) -> list[Plan]:
    """Returns the recorded methods at the recorded sites, or raises a DeltaError where this backbone lacks one."""
    known_sites = {site.name: site for site in all_sites(survey)}
    try:
        methods: list[Method] = [method_from_json(values) for values in header.methods]
        pairs = zip(methods, header.sites, strict=True)
        return [(m, m.restore_sites(survey, Sites(known_sites[name] for name in names))) for m, names in pairs]
    except KeyError as error:
        raise DeltaError(
            f"the delta was made on {header.backbone.get('name')} and adapts {error.args[0]}, which this "
            f"{type(survey.model).__name__} lacks; load it onto the backbone that it was made on"
        ) from None
    except PetlError as error:
        raise DeltaError(f"the delta's recipe can't be repeated: {error}") from error
    except Exception as error:  # methods of other libraries may raise anything for values that they don't know
        raise DeltaError(f"the delta's recipe can't be repeated: {type(error).__name__}: {error}") from error


def try_on_meta(
    path: Path, header: Header, tensors: Mapping[str, Tensor], survey: Survey, plans: Sequence[Plan]
) -> None:
    """Carries the recipe out on a copy of the model on the meta device, and compares names and shapes with the file's.

    So a size in a header can't allocate more memory than the file's own tensors take.

    Raises:
        DeltaError: the recipe can't be carried out on this model, or names or shapes differ.
    """
    if has_weight_hooks(survey.model):
        return
    try:
        meta_survey = dataclasses.replace(survey, model=on_meta(survey.model))
    except Exception:  # a model that can't be copied is compared after the recipe was carried out on it
        return
    misfit = f"{path} doesn't fit this {type(survey.model).__name__}"
    try:
        with torch.device("meta"):
            record = install(meta_survey, plans, memory=None, **recipe_options(header))
    except PetlError as error:
        raise DeltaError(f"{misfit}: {error}") from error
    except Exception as error:
        # another library's code may not support the meta device
        if any(isinstance(method, ForeignMethod) for method, _ in plans):
            return
        raise DeltaError(f"{misfit}: {type(error).__name__}: {error}") from error
    refuse_mismatch(path, delta_tensors(meta_survey.model, record)[0], tensors)


def refuse_other_structure(path: Path, header: Header, survey: Survey) -> None:
    """Raises a DeltaError where the base's modules or their attributes differ from those of the recorded base."""
    changed = differences(header.structure or {}, structure(survey.model, survey.head or ()))
    if changed:
        volatile = changed_by_forward(survey.model)
        changed = [key for key in changed if key not in volatile]
    if changed:
        arguments = listing(f"{key}={value!r}" for key, value in header.backbone.get("args", {}).items())
        raise DeltaError(
            f"{path} was made on another {header.backbone.get('name') or type(survey.model).__name__}: {listing(changed)} differ "
            f"in its modules, so that equal weights give other outputs; build it as it was "
            f"({arguments or 'no arguments'}; changes by hand aren't recorded) and pass it, or pass check_base=False"
        )


def refuse_other_base(path: Path, header: Header, model: nn.Module, record: Record) -> None:
    """Raises a DeltaError where the frozen tensors differ from those of the recorded base."""
    digest = record.digest
    if digest != header.digest:
        raise DeltaError(
            f"{path} was made on {header.backbone.get('name')} with base digest {header.digest[:12]}, but this "
            f"{record.backbone['name'] or type(model).__name__} has {digest[:12]}: {_why_other_base(header, record)}, or pass "
            f"check_base=False"
        )


def _why_other_base(header: Header, record: Record) -> str:
    """Says why the base differs from the recorded one, and what to do."""
    recorded, current = base_type(header), record.backbone["dtype"]
    if recorded != current:
        return (
            f"the delta's base was in torch.{recorded}, this one is in torch.{current}. Before petl.load, call "
            f"model.to(torch.{recorded})"
        )
    known = header.frozen or frozen_names(record)
    if known["names"] != frozen_names(record)["names"]:
        return (
            f"it has other frozen tensors ({len(record.frozen)}, not {known['tensors']}), as after timm.utils.freeze, which "
            f"exchanges norms. Load onto the model as it was built"
        )
    return "other weights. Load the weights that it was made on"


def base_type(header: Header) -> str:
    """Returns the name of the base's recorded dtype; float32 for older files, which don't record it."""
    return header.backbone.get("dtype", "float32")


def rounded_type(header: Header) -> str | None:
    """Returns the type that the delta's numbers were rounded to; older files say it under ``dtype`` alone."""
    narrower = header.dtype in ("float16", "bfloat16") and base_type(header) != header.dtype
    return header.approximate or (header.dtype if narrower else None)


def recorded_image_size(header: Header) -> Any:
    """Returns the recorded size of images, where the backbone was built for another than the usual one."""
    size = header.backbone.get("args", {}).get("img_size")
    sides = size if isinstance(size, list) else [size]
    return size if sides and all(type(side) is int and side > 0 for side in sides) else None
