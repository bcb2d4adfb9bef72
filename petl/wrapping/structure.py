"""Computes short fingerprints of a model's structure: of the classes of its modules and of their plain attributes.

Models with equal weights can compute different functions: attention with six heads or with three, average or max pooling,
another epsilon. All of these settings are attributes. There is one fingerprint for each attribute's name, so that two models are
compared by the attributes that both have, and a new attribute in a later timm makes no difference.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from petl.graft.classes import base_class
from petl.graft.kinds import Graft
from petl.sites.meta import blank_images, on_meta
from petl.sites.names import joined, within
from petl.sites.survey import survey_model

# Attributes that never change the output in evaluation: settings of training, speed, memory and the classifier's size.
WITHOUT_EFFECT = frozenset(
    """training num_classes out_features num_features in_features head_hidden_size num_batches_tracked inplace name label
    grad_checkpointing gradient_checkpointing checkpointing fused_attn momentum scale_by_keep process_group memory_efficient
    use_checkpoint requires_grad device pretrained_cfg default_cfg pretrained_model_args feature_info weight_init_mode
    fix_init forward num_labels id2label label2id problem_type""".split()  # noqa: SIM905  # a list literal takes thirty lines
)
# Modules that return their input in evaluation are ignored: whether timm builds them depends on their rate.
IDENTITY_IN_EVAL = frozenset(
    ("Identity", "DropPath", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "DropBlock2d")
)
# Classes that compute the same in evaluation as another one.
SAME_IN_EVAL = {
    "SyncBatchNorm": "BatchNorm2d",
    "FrozenBatchNorm2d": "BatchNorm2d",
    "SyncBatchNormAct": "BatchNormAct2d",
    "FrozenBatchNormAct2d": "BatchNormAct2d",
}
DEEPEST_NESTING = 6  # levels of lists in lists
MOST_ENTRIES = 4096  # entries of one list
_UNKNOWN = object()


def structure(model: nn.Module, head: Collection[str] = (), *, grafted: bool = True) -> dict[str, str]:
    """Returns fingerprints (16 hexadecimal digits) of the modules' classes, and of each attribute's values, by its name.

    ``head`` names modules whose size doesn't count (the classifier). No tensor is read, the device doesn't matter, and two
    models that timm builds in the same way have the same fingerprints. Grafts count like other modules, or with
    ``grafted=False`` not at all.

    >>> import timm
    >>> one, other = timm.create_model("test_vit"), timm.create_model("test_vit", num_heads=4)
    >>> differences(structure(one), structure(other))
    ['head_dim', 'num_heads', 'scale']
    """
    lines: dict[str, list[str]] = {"class": []}
    for name, module in model.named_modules() if grafted else _bare(model, "", set()):
        class_name = base_class(module).__name__
        class_name = SAME_IN_EVAL.get(class_name, class_name)
        if class_name in IDENTITY_IN_EVAL or (within(name, head) and _has_tensors(module)):
            continue
        lines["class"].append(f"{name} {class_name}")
        for key, text in _attributes(module):
            lines.setdefault(key, []).append(f"{name} {text}")
    return {key: _short("\n".join(lines[key])) for key in sorted(lines)}


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Returns the attributes, sorted, that both structures have and that differ; ``class`` means the modules' classes."""
    return sorted(key for key in one if key in other and one[key] != other[key])


def changed_by_forward(model: nn.Module) -> set[str]:
    """Returns the attributes that a forward pass itself changes (counters, sizes of the last image), and that say nothing else.

    The passes run on the meta device, in evaluation and in training mode, at two image sizes; a pass that fails is ignored.
    """
    try:
        clone = on_meta(model)
        before, channels = structure(clone), survey_model(clone).image[0]
    except Exception:  # code of any model may run here
        return set()
    for mode, side in ((False, 224), (True, 224), (True, 160)):
        with contextlib.suppress(Exception), torch.no_grad(), torch.device("meta"):
            clone.train(mode)(blank_images(clone, (channels, side, side)))
    return {*differences(before, structure(clone))}


def structure_fingerprint(model: nn.Module, head: Collection[str] = ()) -> str:
    """Returns one SHA-256 of the whole structure, for uses that need all of it to be equal (a cache of features)."""
    prints = structure(model, head)
    return hashlib.sha256("\n".join(f"{key} {prints[key]}" for key in prints).encode()).hexdigest()


def _bare(module: nn.Module, name: str, visited: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yields (name, module) of all modules but grafts, shared modules once, in the order of ``named_modules``."""
    if module in visited:
        return
    visited.add(module)
    yield name, module
    for leaf, child in module.named_children():
        if not isinstance(child, Graft):
            yield from _bare(child, joined(name, leaf), visited)


def _has_tensors(module: nn.Module) -> bool:
    """Returns whether the module or one inside it has parameters."""
    return any(True for _ in module.parameters())


def _short(text: str) -> str:
    """Returns the first 16 digits of the text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _attributes(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of the module's own attributes that have a plain value."""
    for key, value in vars(module).items():
        if key.startswith("_") or key in WITHOUT_EFFECT or "drop" in key:
            continue
        if (plain := _plain(value)) is not _UNKNOWN:
            yield key, repr(plain)


def _plain(value: Any, depth: int = 0) -> Any:
    """Returns the value in a form whose ``repr`` is the same in every process, or _UNKNOWN where there is none."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return "nan" if math.isnan(value) else float(value)
    if isinstance(value, torch.dtype):
        return _UNKNOWN  # the fingerprints of tensors contain their dtypes
    if isinstance(value, (Tensor, nn.Module, torch.device)) or depth > DEEPEST_NESTING:
        return _UNKNOWN
    if isinstance(value, (list, tuple, set, frozenset, Mapping)):
        return _plain_entries(value, depth)
    return _plain_name(value, depth)


def _plain_entries(value: Any, depth: int) -> Any:
    """Returns the entries of a list, a set or a dict in plain form, or _UNKNOWN."""
    if len(value) > MOST_ENTRIES:
        return _UNKNOWN
    if isinstance(value, Mapping):
        pairs = [(str(key), _plain(item, depth + 1)) for key, item in value.items()]
        return sorted([key, item] for key, item in pairs if item is not _UNKNOWN) if pairs else []
    items = [_plain(item, depth + 1) for item in value]
    if any(item is _UNKNOWN for item in items):
        return _UNKNOWN
    return sorted(map(repr, items)) if isinstance(value, (set, frozenset)) else items


def _plain_name(value: Any, depth: int) -> Any:
    """Returns a class, a function or a partial by its name, a dataclass by its fields; any other value is _UNKNOWN."""
    if isinstance(value, functools.partial):
        inner = _plain([value.func, value.args, value.keywords], depth + 1)
        return _UNKNOWN if inner is _UNKNOWN else ["partial", inner]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"<{value.__qualname__}>"
    if dataclasses.is_dataclass(value):
        public = {key: item for key, item in vars(value).items() if not key.startswith("_")}
        fields = {key: item for key, item in public.items() if key not in WITHOUT_EFFECT}
        return [type(value).__name__, _plain_entries(fields, depth)]
    return _UNKNOWN
