"""The header of a delta."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import DeltaError, MethodError, listing
from petl.format.backbone_values import FLOAT_TYPES, backbone_fault, is_backbone
from petl.format.method_values import are_methods, oversized
from petl.format.outputs import label_texts, task_name
from petl.format.pipeline_values import pipeline_fault
from petl.format.texts import are_texts, is_table_of_texts, is_text
from petl.graft.sharded import is_sharded_model
from petl.methods.method import examine
from petl.sites.survey import classifier_names, config
from petl.version import __version__
from petl.wrapping.backbone import as_python_number, create_arguments
from petl.wrapping.fingerprints import combined_fingerprint
from petl.wrapping.head import classes_now
from petl.wrapping.record import Record
from petl.wrapping.structure import changed_by_forward, structure


def reset_classifier_names(model: nn.Module, made: Record) -> list[str]:
    """The classifier of timm's that a reset after ``wrap`` has made, and that ``load`` makes again by the number of classes."""
    was_reset = getattr(model, "num_classes", None) != made.backbone["num_classes"]
    return (classifier_names(model) or []) if was_reset else []


def build_header(
    model: nn.Module,
    made: Record,
    also: list[str],
    *,
    labels: Iterable[Any] | None = None,
    task: str | None = None,
    results: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    said = as_python_number(
        getattr(model, "num_classes", made.backbone["num_classes"])
    )  # timm's, after the user's own reset too
    outputs = classes_now(model, made.head) or said  # after a classifier that was put in by hand too
    classes = None if said is None else as_python_number(outputs)
    names = label_texts(labels if labels is not None else made.labels)
    if names is not None and outputs is not None and len(names) != outputs:
        raise DeltaError(f"labels ({len(names)} for {outputs} classes): expected one for each output, in their order")
    return {
        "format": FORMAT,
        "version": __version__,
        "backbone": {**made.backbone, **_arguments(model, made), "num_classes": classes},
        "digest": made.digest,
        "structure": _structure(model, made),
        "frozen": frozen_names(made),
        "methods": [method.to_json() for method in made.methods],
        "sites": made.sites,
        "base_dtype": str(made.base_dtype).removeprefix("torch.") if made.narrow else None,
        "head": made.head_option or classes != made.backbone["num_classes"],  # the user may have given it a new one
        "also": also,
        "dtype": _dtype_name(dtype),
        "labels": names,
        "task": task_name(task) or made.task or (None if (classes or len(names or ())) == 1 else "classification"),
        "pipeline": made.pipeline or _pipeline(model),
        "results": _results(results, made),
    }


def _arguments(model: nn.Module, made: Record) -> dict[str, Any]:
    """The backbone's arguments as they are now: another pooling may have come with a new classifier after ``wrap``."""
    args, unrecorded = create_arguments(model, made.backbone["in_chans"], made.create_args)
    return {"args": {**made.backbone["args"], **args}, **({"unrecorded": unrecorded} if unrecorded else {})}


def _structure(model: nn.Module, made: Record) -> dict[str, str]:
    """The base's structure now; where another library put layers of its own in place of the base's, that before it did."""
    if any(method.reads_base for method in made.methods) or is_sharded_model(model):
        return made.structure
    heads = [*made.classifier, *(reset_classifier_names(model, made) if not made.classifier else [])]
    now = structure(model, heads, grafted=False)
    passing = changed_by_forward(model) if now != made.structure else set()
    return {key: value for key, value in now.items() if key not in passing}


def _pipeline(model: nn.Module) -> dict[str, Any] | None:
    """The input pipeline by timm's own word, for models that have one."""
    if not config(model):
        return None
    from timm.data import resolve_model_data_config

    return resolve_model_data_config(model)


def _dtype_name(dtype: torch.dtype | None) -> str | None:
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and (not isinstance(dtype, torch.dtype) or name not in FLOAT_TYPES):
        raise DeltaError(
            f"dtype={dtype!r}; expected a floating-point type: {', '.join(f'torch.{name}' for name in FLOAT_TYPES)}"
        )
    return name if dtype is not None else None


def _results(results: Mapping[str, Any] | None, made: Record) -> dict[str, Any] | None:
    if results is not None and not isinstance(results, Mapping):
        raise DeltaError(f"results={str(results)[:60]}; expected a dict, such as {{'accuracy': 0.9}}")
    return dict(results) if results is not None else made.results


FORMAT = 1
KEY = "petl"
SEAL = "petl_sha256"  # of the text under KEY, so that damage to the recipe is seen too


def checked_text(path: Path | str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """The header as JSON, after the reader's own look at it."""
    try:
        text = json.dumps(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise DeltaError(f"can't write {path}: labels, results and create_args must be JSON values ({error})") from None
    wrong = faults(json.loads(text), {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    if wrong:
        raise DeltaError(
            f"can't write {path}: {listing(wrong)} can't stand in a delta's header, and no petl could load it"
        )
    return text


def checked_header(path: Path, metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    text = metadata.get(KEY)
    if text is None:
        raise DeltaError(f"{path} is a safetensors file, but no petl delta: its header has no {KEY!r} entry")
    if metadata.get(SEAL, seal := seal_of(text)) != seal:
        raise DeltaError(
            f"{path}: the {KEY!r} entry of its header doesn't have its checksum; the file is damaged: copy it again"
        )
    try:
        header = json.loads(text)
        number = header["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        shown = f"{type(error).__name__}: {str(error)[:100]}"
        raise DeltaError(
            f"{path}: the {KEY!r} entry of its header can't be read ({shown}); the file is damaged"
        ) from None
    if type(number) is int and number > FORMAT:
        raise DeltaError(
            f"{path} has format {number}, and petl {__version__} reads up to {FORMAT}; upgrade petl-vision"
        )
    wrong = faults(header, shapes)
    if wrong:
        raise DeltaError(
            f"{path}: its header lacks or misstates {listing(wrong)}; the file is damaged, or not to be trusted"
        )
    try:
        for values in header["methods"]:
            examine(values)
    except MethodError as error:
        raise DeltaError(f"{path}: its recipe asks for what petl doesn't do: {error}") from None
    return {**header, **{key: None for key in SCHEMA if key not in header}}  # what older files lack


def seal_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def faults(header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is wrong with a header, in a few words each; ``shapes`` are those of the tensors beside it.

    >>> faults({"format": 1}, {})[:3]
    ['version', 'backbone', 'digest']
    """
    wrong = [key for key, fits in SCHEMA.items() if not fits(header.get(key))]
    number = header.get("format")
    wrong += ["format"] if type(number) is not int or number < 1 else []
    if wrong:
        return [_explained(key, header.get(key)) for key in wrong]
    if len(header["methods"]) != len(header["sites"]):
        return ["sites (as many lists as methods)"]
    return [*_lost(header, shapes), *_labels_off(header, shapes), *oversized(header["methods"], shapes)]


def _explained(key: str, value: Any) -> str:
    """The key, with the reason where there is one to give."""
    if key == "backbone" and isinstance(value, dict):
        return f"backbone ({backbone_fault(value)})"
    if key == "pipeline" and isinstance(value, dict):
        return f"pipeline ({pipeline_fault(value)})"
    return key


def _unique(names: list[str]) -> bool:
    return len({*names}) == len(names)


SCHEMA: dict[str, Callable[[Any], bool]] = {
    "version": is_text,
    "backbone": is_backbone,
    "digest": is_text,
    "frozen": lambda value: (
        value is None or (isinstance(value, dict) and type(value.get("tensors")) is int and is_text(value.get("names")))
    ),
    "methods": are_methods,
    "sites": lambda value: isinstance(value, list) and all(are_texts(names) and _unique(names) for names in value),
    "head": lambda value: isinstance(value, bool) or is_text(value) or are_texts(value),
    "also": lambda value: value is None or are_texts(value),
    "base_dtype": lambda value: value is None or value in ("bfloat16", "float16"),
    "dtype": lambda value: value is None or value in FLOAT_TYPES,
    "labels": lambda value: value is None or are_texts(value),
    "task": lambda value: value is None or is_text(value),
    "pipeline": lambda value: value is None or (isinstance(value, dict) and not pipeline_fault(value)),
    "results": lambda value: value is None or isinstance(value, dict),
    "structure": lambda value: value is None or is_table_of_texts(value),
    "checksum": lambda value: value is None or is_text(value),
}


def _lost(header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Keys that the header speaks of and the file doesn't hold."""
    lost = [key for key in header.get("also") or () if key not in shapes]
    return [f"also ({lost[0]}, which isn't in the file)"] if lost else []


def _labels_off(header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Too many or too few labels: for the classes by timm's word, or the outputs of the classifier in the file."""
    labels, classes = header.get("labels"), header["backbone"].get("num_classes")
    if labels is None or classes is None or len(labels) == classes:
        return []
    rows = {shape[0] for shape in shapes.values() if shape}
    if header["head"] and len(labels) in rows and classes not in rows:  # a classifier that was put in by hand
        return []
    return [f"labels ({len(labels)} for {classes} classes)"]


def frozen_names(made: Record) -> dict[str, Any]:
    """How many frozen tensors there are, and one fingerprint of their names: for the header."""
    return {"tensors": len(made.frozen), "names": combined_fingerprint(dict.fromkeys(made.frozen, ""))}
