"""Describes the current state of a wrapped model for the header: its backbone, its structure, and its input pipeline."""

from __future__ import annotations

from typing import Any

from torch import nn

from petl.format.outputs import refuse_description, task_name, threshold_list, unit_texts
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
    """Returns (classes for the header, outputs of the classifier), also where the classifier was exchanged after ``wrap``."""
    declared = as_python_number(getattr(model, "num_classes", record.backbone["num_classes"]))
    outputs = classes_now(model, record.head) or declared
    return None if declared is None else as_python_number(outputs), outputs


def reset_classifier_names(model: nn.Module, record: Record) -> list[str]:
    """Returns the names of a classifier that ``reset_classifier`` built after ``wrap``; ``load`` builds the same."""
    was_reset = getattr(model, "num_classes", None) != record.backbone["num_classes"]
    return (classifier_names(model) or []) if was_reset else []


def backbone_now(model: nn.Module, record: Record, classes: int | None) -> dict[str, Any]:
    """Returns the backbone with its current arguments: a new classifier after ``wrap`` may have changed the pooling, too."""
    args, unrecorded = create_arguments(model, record.backbone["in_chans"], record.create_args)
    changed = {"args": {**record.backbone["args"], **args}, **({"unrecorded": unrecorded} if unrecorded else {})}
    return {**record.backbone, **changed, "num_classes": classes}


def structure_now(model: nn.Module, record: Record) -> dict[str, str]:
    """Returns the base's current structure; the one recorded by ``wrap`` where another library replaced layers of the base."""
    if any(isinstance(method, ForeignMethod) for method in record.methods) or is_sharded_model(model):
        return record.structure
    heads = [*record.classifier, *(reset_classifier_names(model, record) if not record.classifier else [])]
    current = structure(model, heads, grafted=False)
    volatile = changed_by_forward(model) if current != record.structure else set()
    return {key: value for key, value in current.items() if key not in volatile}


def pipeline_by_timm(model: nn.Module) -> dict[str, Any] | None:
    """Returns the input pipeline from timm's configuration of the model; None for models without such a configuration."""
    if not pretrained_cfg(model):
        return None
    from timm.data import resolve_model_data_config

    return resolve_model_data_config(model)


def described_outputs(record: Record, outputs: int, task: str | None, units: Any, thresholds: Any) -> dict[str, Any]:
    """Returns what the header says of the outputs' meaning: task, units, thresholds, quantiles ...

    What the record says holds for its own task only.

    Raises:
        DeltaError: a task that petl doesn't know, or units or thresholds for another task, or not one for each output.
    """
    known = record.task if record.task is not None else None if outputs == 1 else "classification"
    name = task_name(task) or known or None
    same = name == (record.task or None)
    units = unit_texts(units) if units is not None else record.units if same else None
    limits = threshold_list(thresholds) if thresholds is not None else record.thresholds if same else None
    refuse_description(name, outputs, units, limits)
    more: dict[str, Any] = {"quantiles": record.quantiles if same else None}
    more |= {key: getattr(record, key) if name == "classification" else None for key in ("temperature", "correction")}
    return {"task": name, "units": units, "thresholds": limits, **more}


def frozen_names(record: Record) -> dict[str, Any]:
    """Returns the number of frozen tensors, and one fingerprint of their names."""
    return {"tensors": len(record.frozen), "names": combined_fingerprint(dict.fromkeys(record.frozen, ""))}
