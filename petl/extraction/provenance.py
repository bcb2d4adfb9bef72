"""All that features of a frozen part depend on beside the images: tensors, attributes and code of the model, and releases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import numpy as np
import PIL
import timm
import torch
import torchvision
from torch import Tensor, nn

from petl.graft.classes import base_class
from petl.version import __version__
from petl.wrapping.fingerprints import combined, fingerprint
from petl.wrapping.record import record
from petl.wrapping.structure import identity


def provenance(accelerator: Any, model: nn.Module, start: str, needs: Callable[[str], bool]) -> dict[str, Any]:
    """What the values that go into the module ``start`` depend on, as JSON values that are the same in every process.

    ``needs`` tells by a tensor's name whether they may depend on it.
    """
    tensors = {
        name: t for name, t in (*model.named_parameters(), *model.named_buffers(), *_loose(model)) if needs(name)
    }
    made = record(model)
    return {
        "base": combined({name: fingerprint(tensor) for name, tensor in tensors.items()}),
        "structure": identity(model),
        "modules": hashlib.sha256(str(model).encode("utf-8", "backslashreplace")).hexdigest(),
        "code": code(model),
        "backbone": made.backbone.get("name") if made else None,
        "from": start,
        "precision": str(accelerator.mixed_precision),
        "device": accelerator.device.type,
        "releases": [
            __version__,
            *(library.__version__ for library in (torch, timm, torchvision, PIL, np)),
        ],
    }


def _loose(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that are plain attributes of modules, neither parameters nor buffers."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, (Tensor, np.ndarray)) and not key.startswith("_petl"):
                yield f"{name}.{key}".lstrip("."), torch.as_tensor(value)


def code(model: nn.Module) -> str:
    """A fingerprint of the functions of the modules' own classes, and of functions that were put onto single modules."""
    kinds = {base_class(module) for module in model.modules()}
    classes = {cls for kind in kinds for cls in kind.__mro__ if issubclass(cls, nn.Module) and cls is not nn.Module}
    lines = [f"{cls.__module__}.{cls.__qualname__} {_functions(vars(cls))}" for cls in classes]
    lines += [f"{name} {_functions(vars(module))}" for name, module in model.named_modules()]
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "backslashreplace")).hexdigest()


def _functions(members: Any) -> str:
    found = {key: getattr(getattr(value, "__func__", value), "__code__", None) for key, value in members.items()}
    return " ".join(f"{key} {_code(value)}" for key, value in sorted(found.items()) if isinstance(value, CodeType))


def _code(value: CodeType) -> str:
    """A fingerprint of what a function does: its operations, names and constants, and those of the functions in it."""
    constants = [_code(item) if isinstance(item, CodeType) else _plain(item) for item in value.co_consts]
    text = f"{value.co_code.hex()} {value.co_names} {value.co_varnames} {constants}"
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _plain(value: Any) -> str:
    """A constant's text; that of a set has no order of its own."""
    if isinstance(value, (tuple, frozenset)):
        items = [_plain(item) for item in value]
        return str(items if isinstance(value, tuple) else sorted(items))
    return repr(value)
