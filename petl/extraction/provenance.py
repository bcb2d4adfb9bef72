"""What features depend on besides the images: tensors, attributes and code of the model, and the releases of libraries."""

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
from petl.sites.names import joined
from petl.version import __version__
from petl.wrapping.fingerprints import combined_fingerprint, fingerprint
from petl.wrapping.lookup import record
from petl.wrapping.structure import structure_fingerprint


def provenance(accelerator: Any, model: nn.Module, start: str, needs: Callable[[str], bool]) -> dict[str, Any]:
    """Returns what the inputs of the module ``start`` depend on, as JSON values that are the same in every process.

    ``needs`` tells by a tensor's name whether they may depend on it.
    """
    tensors = {
        name: t
        for name, t in (*model.named_parameters(), *model.named_buffers(), *_plain_tensors(model))
        if needs(name)
    }
    known = record(model)
    return {
        "base": combined_fingerprint({name: fingerprint(tensor) for name, tensor in tensors.items()}),
        "structure": structure_fingerprint(model),
        "modules": hashlib.sha256(str(model).encode("utf-8", "backslashreplace")).hexdigest(),
        "code": code_fingerprint(model),
        "backbone": known.backbone.get("name") if known else None,
        "from": start,
        "precision": str(accelerator.mixed_precision),
        "device": accelerator.device.type,
        "releases": [
            __version__,
            *(library.__version__ for library in (torch, timm, torchvision, PIL, np)),
        ],
    }


def _plain_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields tensors that are plain attributes of modules, neither parameters nor buffers."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, (Tensor, np.ndarray)) and not key.startswith("_petl"):
                yield joined(name, key), torch.as_tensor(value)


def code_fingerprint(model: nn.Module) -> str:
    """Returns a fingerprint of the code of the modules' classes, and of functions that were put onto single modules."""
    kinds = {base_class(module) for module in model.modules()}
    classes = {cls for kind in kinds for cls in kind.__mro__ if issubclass(cls, nn.Module) and cls is not nn.Module}
    lines = [f"{cls.__module__}.{cls.__qualname__} {_function_codes(vars(cls))}" for cls in classes]
    lines += [f"{name} {_function_codes(vars(module))}" for name, module in model.named_modules()]
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "backslashreplace")).hexdigest()


def _function_codes(members: Any) -> str:
    """Returns the fingerprints of the functions among the attributes of a class or module."""
    codes = {key: getattr(getattr(value, "__func__", value), "__code__", None) for key, value in members.items()}
    return " ".join(
        f"{key} {function_fingerprint(value)}" for key, value in sorted(codes.items()) if isinstance(value, CodeType)
    )


def function_fingerprint(value: CodeType) -> str:
    """Returns a fingerprint of a function's operations, names and constants, and of those of the functions inside it."""
    constants = [
        function_fingerprint(item) if isinstance(item, CodeType) else _constant_text(item) for item in value.co_consts
    ]
    text = f"{value.co_code.hex()} {value.co_names} {value.co_varnames} {constants}"
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _constant_text(value: Any) -> str:
    """Returns a constant as text; the items of a set are sorted, as they have no order."""
    if isinstance(value, (tuple, frozenset)):
        items = [_constant_text(item) for item in value]
        return str(items if isinstance(value, tuple) else sorted(items))
    return repr(value)
