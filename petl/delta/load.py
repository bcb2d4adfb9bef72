"""load and read: a model with a delta on it, and the header alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from petl.delta.file import Paths, as_path, read_delta, read_recipe
from petl.delta.fitting import (
    record_of,
    recorded_classes,
    recorded_head,
    recorded_plans,
    refuse_other_structure,
    try_on_meta,
    why_other_base,
)
from petl.delta.receiver import receiving_module
from petl.delta.tensors import delta_tensors, fill, refuse_mismatch
from petl.errors import DeltaError, StateError, listing
from petl.graft.sharded import gathered, is_sharded_model
from petl.memory.base_dtype import BaseDtype, narrow_dtype
from petl.memory.modes import Memory
from petl.methods.method import from_json
from petl.sites.survey import Survey
from petl.wrapping.backbone import build_backbone, outline_backbone
from petl.wrapping.install import install
from petl.wrapping.interrupts import uninterrupted
from petl.wrapping.lookup import bare, record, require_record
from petl.wrapping.preconditions import memory_setting, refuse_low_precision, survey_unwrapped
from petl.wrapping.record import Record
from petl.wrapping.unwrap import unwrap

Model = TypeVar("Model", bound=nn.Module)


@overload
def load(
    path: Paths,
    model: None = None,
    *,
    pretrained: bool = True,
    check_base: bool = True,
    fused: bool = True,
    memory: Memory = "lean",
    base_dtype: BaseDtype | Literal["recorded"] | None = "recorded",
    trust_remote: bool = False,
) -> nn.Module: ...


@overload
def load(
    path: Paths,
    model: Model,
    *,
    pretrained: bool = True,
    check_base: bool = True,
    fused: bool = True,
    memory: Memory = "lean",
    base_dtype: BaseDtype | Literal["recorded"] | None = "recorded",
    trust_remote: bool = False,
) -> Model: ...


@torch.inference_mode(False)
def load(
    path: Paths,
    model: nn.Module | None = None,
    *,
    pretrained: bool = True,
    check_base: bool = True,
    fused: bool = True,
    memory: Memory = "lean",
    base_dtype: BaseDtype | Literal["recorded"] | None = "recorded",
    trust_remote: bool = False,
) -> nn.Module:
    """A model with the delta on it: the same outputs, bit for bit, as the one that was saved.

    Nothing in a file is believed: names, shapes and sizes are compared with the file's own tensors on a copy without memory
    before the model is touched, and no file, folder, address or Python object that a header names is opened.

    Args:
        path: of a file that ``save`` wrote.
        model: the backbone, not wrapped, or a model that holds it; changed in place. One that was wrapped by the same recipe and
            then sharded by FSDP2 gets the values. Without it, timm builds it by the recorded name and arguments.
        pretrained: let timm fetch the pretrained weights for a backbone that it builds.
        check_base: refuse a base whose frozen tensors or structure (heads, pooling, activations ...) differ from those that the
            delta was made on.
        fused, memory: as for ``petl.wrap``: how training goes on from here; they aren't recorded.
        base_dtype: as for ``petl.wrap``; "recorded" is that of the model that was saved, with any other (None: the base as it
            is) outputs differ by the rounding of the base.
        trust_remote: let a recorded name such as ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER`` send timm there.

    Raises:
        DeltaError: the file is damaged, from a newer petl, or doesn't fit the model; the model is as it was.
        MethodError: there is no such ``memory`` or ``base_dtype``.
        StateError: the model is wrapped already.

    >>> import petl, timm, tempfile, os, copy
    >>> base = timm.create_model("test_vit")
    >>> model = petl.wrap(copy.deepcopy(base), "lora", num_classes=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = petl.save(model, os.path.join(folder, "pets.safetensors"))
    ...     again = petl.load(path, base)
    >>> again.num_classes
    3
    """
    saving = memory_setting(memory, fused)
    path = as_path(path)
    header, tensors = read_delta(path)
    narrow = narrow_dtype(header.get("base_dtype") if base_dtype == "recorded" else base_dtype)
    options: dict[str, Any] = {"trust_remote": trust_remote, "held": sum(tensor.numel() for tensor in tensors.values())}
    sketch = outline_backbone(header, **options) if model is None else None
    if sketch is not None:  # whether the recipe fits is known before the backbone takes memory
        found = _surveyed(path, header, receiving_module(sketch, header), check_base)
        try_on_meta(path, header, tensors, found, recorded_plans(header, found))
    outer = build_backbone(header, pretrained=pretrained, **options) if model is None else model
    if record(outer) is not None and is_sharded_model(outer):
        _refill(path, header, tensors, outer, check_base)
        return outer
    model = receiving_module(outer, header)
    found = _surveyed(path, header, model, check_base)
    plans = recorded_plans(header, found)
    refuse_low_precision(narrow, [method for method, _ in plans])
    if sketch is None:
        try_on_meta(path, header, tensors, found, plans)
    asked = record_of(header, plans, memory=saving, base_dtype=narrow)
    with _unwrapped_on_error(model):
        try:
            install(found, plans, asked, num_classes=recorded_classes(header))
        except Exception as error:  # another library's layers may raise anything
            raise DeltaError(f"{path} doesn't fit this {type(model).__name__}: {error}") from error
        refuse_mismatch(path, delta_tensors(model, asked)[0], tensors)
        if check_base:
            _refuse_other_base(path, header, model, asked)
        exact = header.get("dtype") is None and header.get("base_dtype") is None
        fill(model, tensors, as_stored=exact and _dtype(header) == asked.backbone["dtype"])
        _note(asked, header)
    return outer


def read(path: Paths) -> dict[str, Any]:
    """The header of a delta file: backbone, methods, sites, labels, input pipeline, results; no tensor is read.

    Texts in it are whoever's who wrote the file: `petl.errors.printable` makes them safe to print.

    Raises:
        DeltaError: it is no delta of a format that this petl knows, or its header says what no delta can.
    """
    return read_recipe(as_path(path))


@contextlib.contextmanager
def _unwrapped_on_error(model: nn.Module) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with uninterrupted():
            if record(model) is not None:
                unwrap(model)
        raise


def _refuse_other_base(path: Path, header: Mapping[str, Any], model: nn.Module, made: Record) -> None:
    mine = made.digest
    if mine != header["digest"]:
        raise DeltaError(
            f"{path} was made on {header['backbone'].get('name')} with base digest {header['digest'][:12]}, but this "
            f"{made.backbone['name'] or type(model).__name__} has {mine[:12]}: {why_other_base(header, made)}, or pass "
            f"check_base=False"
        )


def _surveyed(path: Path, header: Mapping[str, Any], model: nn.Module, check_base: bool) -> Survey:
    """A survey of the backbone, whose structure is the recorded one."""
    found = survey_unwrapped(model, recorded_head(header["head"]), header["backbone"].get("args", {}).get("img_size"))
    if check_base:
        refuse_other_structure(path, header, found)
    return found


def _dtype(header: Mapping[str, Any]) -> str:
    return header["backbone"].get("dtype", "float32")


def _refill(
    path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor], model: nn.Module, check_base: bool
) -> None:
    """Give a model that was wrapped by the same recipe, and sharded then, the delta's values; every rank has to come here."""
    plain, made = require_record(model)
    if [m.to_json() for m in made.methods] != [
        from_json(v).to_json() for v in header["methods"]
    ] or made.sites != header["sites"]:
        raise StateError(
            f"{path} holds {listing(m['name'] for m in header['methods'])} at other places than this sharded model was wrapped "
            f"for; petl.load it onto the plain backbone, and shard after that"
        )
    with gathered(bare(model)):
        refuse_mismatch(path, delta_tensors(plain, made)[0], tensors)
        if check_base:
            _refuse_other_base(path, header, plain, made)
        fill(plain, tensors, as_stored=False)
    _note(made, header)


def _note(made: Record, header: Mapping[str, Any]) -> None:
    """Keep on the record what the header knows beside the recipe."""
    made.labels, made.pipeline, made.results = header.get("labels"), header.get("pipeline"), header.get("results")
    made.task = header.get("task")
