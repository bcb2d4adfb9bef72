"""Describes a wrapped model as it is now, for the header: its backbone, what that is beside its tensors, and its images."""

from __future__ import annotations

from typing import Any

from torch import nn

from petl.graft.sharded import is_sharded_model
from petl.methods.foreign import ForeignMethod
from petl.sites.meta import pretrained_cfg
from petl.sites.survey import classifier_names
from petl.wrapping.backbone import as_python_number, create_arguments
from petl.wrapping.fingerprints import combined_fingerprint
from petl.wrapping.head import classes_now
from petl.wrapping.record import Record
from petl.wrapping.structure import changed_by_forward, structure


def header_classes(model: nn.Module, record: Record) -> tuple[int | None, int | None]:
    """(classes for the header, outputs of the classifier): also after a reset by timm's call, or a layer put in by hand."""
    declared = as_python_number(getattr(model, "num_classes", record.backbone["num_classes"]))
    outputs = classes_now(model, record.head) or declared
    return None if declared is None else as_python_number(outputs), outputs


def reset_classifier_names(model: nn.Module, record: Record) -> list[str]:
    """Returns the names of a classifier that timm's reset made after ``wrap``; ``load`` makes it by the number of classes."""
    was_reset = getattr(model, "num_classes", None) != record.backbone["num_classes"]
    return (classifier_names(model) or []) if was_reset else []


def backbone_now(model: nn.Module, record: Record, classes: int | None) -> dict[str, Any]:
    """The backbone with its arguments as they are now: another pooling may have come with a new classifier after ``wrap``."""
    args, unrecorded = create_arguments(model, record.backbone["in_chans"], record.create_args)
    changed = {"args": {**record.backbone["args"], **args}, **({"unrecorded": unrecorded} if unrecorded else {})}
    return {**record.backbone, **changed, "num_classes": classes}


def structure_now(model: nn.Module, record: Record) -> dict[str, str]:
    """The base's structure now; where another library put layers of its own in place of the base's, that before it did."""
    if any(isinstance(method, ForeignMethod) for method in record.methods) or is_sharded_model(model):
        return record.structure
    heads = [*record.classifier, *(reset_classifier_names(model, record) if not record.classifier else [])]
    now = structure(model, heads, grafted=False)
    passing = changed_by_forward(model) if now != record.structure else set()
    return {key: value for key, value in now.items() if key not in passing}


def pipeline_by_timm(model: nn.Module) -> dict[str, Any] | None:
    """The input pipeline that timm's configuration of the model names; None for models that have no such configuration."""
    if not pretrained_cfg(model):
        return None
    from timm.data import resolve_model_data_config

    return resolve_model_data_config(model)


def frozen_names(record: Record) -> dict[str, Any]:
    """How many frozen tensors there are, and one fingerprint of their names."""
    return {"tensors": len(record.frozen), "names": combined_fingerprint(dict.fromkeys(record.frozen, ""))}
