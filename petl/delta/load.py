"""load: puts a delta onto a model; read: returns the header of a delta alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from petl.delta.file import Paths, as_path, read_delta, read_recipe
from petl.delta.fitting import (
    base_type,
    recipe_options,
    recorded_image_size,
    recorded_plans,
    refuse_other_base,
    refuse_other_structure,
    rounded_type,
    try_on_meta,
)
from petl.delta.header import Header
from petl.delta.receiver import receiving_module
from petl.delta.tensors import delta_tensors, fill_model, refuse_mismatch
from petl.errors import DeltaError, StateError, listing
from petl.graft.sharded import gathered, is_sharded_model
from petl.memory.base_dtype import BaseDtype, low_precision_dtype
from petl.memory.modes import Memory
from petl.methods.registry import method_from_json
from petl.sites.survey import Survey
from petl.wrapping.backbone import build_backbone, outline_backbone
from petl.wrapping.head import head_option
from petl.wrapping.install import Plan, carry_out
from petl.wrapping.lookup import Model, bare, record, require_record
from petl.wrapping.preconditions import memory_setting, survey_unwrapped
from petl.wrapping.record import Record

Tensors = Mapping[str, Tensor]


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
    """Returns a model with the delta on it: the same outputs, bit for bit, as the one that was saved.

    A file isn't trusted: names, shapes and sizes are compared with the file's own tensors on a copy on the meta device before
    the model is changed, and no file, folder, address or Python object that a header names is opened.

    Args:
        path: of a file that ``save`` wrote, or its address: ``hf://USER/REPO/FILE.safetensors``, ``https://``, ``s3://`` ...
        model: the backbone, not wrapped, or a model that holds the backbone; changed in place. A model that was wrapped by the
            same recipe and then sharded by FSDP2 gets the values. None: timm builds the recorded backbone.
        pretrained: let timm fetch the pretrained weights for a backbone that it builds.
        check_base: refuse a base whose frozen tensors or structure (heads, pooling, activations ...) differ from those of the
            recorded base.
        fused, memory: as for ``petl.wrap``, for further training; a delta doesn't record them.
        base_dtype: as for ``petl.wrap``; "recorded" is that of the saved model. With any other (None: the base keeps its dtype)
            outputs differ by the rounding of the base.
        trust_remote: let a recorded name such as ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER`` send timm there.

    Raises:
        DeltaError: the file is damaged, from a newer petl, can't be fetched, or doesn't fit the model, which is unchanged.
        MethodError: there is no such ``memory`` or ``base_dtype``.
        StateError: the model is wrapped already.

    >>> import petl, timm, tempfile, os, copy
    >>> base = timm.create_model("test_vit")
    >>> model = petl.wrap(copy.deepcopy(base), "lora", num_classes=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = petl.save(model, os.path.join(folder, "pets.safetensors"))
    ...     loaded = petl.load(path, base)
    >>> loaded.num_classes
    3
    """
    memory_mode = memory_setting(memory, fused)
    path = as_path(path)
    header, tensors = read_delta(path)
    low_dtype = low_precision_dtype(header.base_dtype if base_dtype == "recorded" else base_dtype)
    outer, is_tried = model, False
    if outer is None:
        outer, is_tried = _built(path, header, tensors, pretrained, check_base, trust_remote)
    if record(outer) is not None and is_sharded_model(outer):
        _fill_sharded(path, header, tensors, outer, check_base)
    else:
        receiver, training = receiving_module(outer, header), {"memory": memory_mode, "base_dtype": low_dtype}
        wrap_by_recipe(path, header, tensors, receiver, check_base, is_tried, **training)
    return outer


def read(path: Paths) -> dict[str, Any]:
    """Returns the header of a delta file: backbone, methods, sites, labels, input pipeline, results; no tensor is read.

    ``path`` may be an address, as for `petl.load`. Texts in the header come from whoever wrote the file:
    `petl.errors.printable` makes them safe to print.

    Raises:
        DeltaError: the file is no delta of a format that this petl knows, or its header has values that no delta can have.
    """
    return read_recipe(as_path(path)).to_dict()


def _built(
    path: Path, header: Header, tensors: Tensors, pretrained: bool, check_base: bool, trust_remote: bool
) -> tuple[nn.Module, bool]:
    """Builds the recorded backbone; returns it, and whether the recipe has been tried before the backbone took memory."""
    numbers = sum(tensor.numel() for tensor in tensors.values())
    outline = outline_backbone(header.backbone, trust_remote=trust_remote, file_numbers=numbers)
    if outline is not None:
        receiver = receiving_module(outline, header)
        survey = survey_unwrapped(receiver, head_option(header.head), recorded_image_size(header))
        try_on_meta(path, header, tensors, survey, _fitting_plans(path, header, survey, check_base))
    backbone = build_backbone(header.backbone, pretrained=pretrained, trust_remote=trust_remote, file_numbers=numbers)
    return backbone, outline is not None


def wrap_by_recipe(
    path: Path, header: Header, tensors: Tensors, model: nn.Module, check_base: bool, is_tried: bool, **training: Any
) -> None:
    """Wraps a model by the recipe and writes the delta's values into it, all or nothing; ``training``: as for ``install``."""

    def plan(survey: Survey) -> list[Plan]:
        plans = _fitting_plans(path, header, survey, check_base)
        if not is_tried:
            try_on_meta(path, header, tensors, survey, plans)
        return plans

    def finish(record: Record) -> None:
        refuse_mismatch(path, delta_tensors(model, record)[0], tensors)
        if check_base:
            refuse_other_base(path, header, model, record)
        exact = header.dtype is None and header.base_dtype is None
        fill_model(model, tensors, as_stored=exact and base_type(header) == record.backbone["dtype"])
        _note(record, header)

    size, changing = recorded_image_size(header), _misfits_told(path, model)
    carry_out(model, plan, image_size=size, changing=changing, finish=finish, **training, **recipe_options(header))


def _fitting_plans(path: Path, header: Header, survey: Survey, check_base: bool) -> list[Plan]:
    """Returns the recorded plans, or raises a DeltaError where the backbone's structure isn't the recorded one."""
    if check_base:
        refuse_other_structure(path, header, survey)
    return recorded_plans(header, survey)


@contextlib.contextmanager
def _misfits_told(path: Path, model: nn.Module) -> Iterator[None]:
    """A context that turns any error into a DeltaError: the delta doesn't fit the model."""
    try:
        yield
    except Exception as error:  # another library's layers may raise anything
        raise DeltaError(f"{path} doesn't fit this {type(model).__name__}: {error}") from error


def _fill_sharded(path: Path, header: Header, tensors: Tensors, model: nn.Module, check_base: bool) -> None:
    """Writes the delta's values into a model wrapped by the same recipe and then sharded; every rank has to call this."""
    plain, record = require_record(model)
    recipe = [method_from_json(values).to_json() for values in header.methods], header.sites
    if ([method.to_json() for method in record.methods], record.sites) != recipe:
        raise StateError(
            f"{path} holds {listing(m['name'] for m in header.methods)} at other places than this sharded model was wrapped "
            f"for; petl.load it onto the plain backbone, and shard after that"
        )
    with gathered(bare(model)):
        refuse_mismatch(path, delta_tensors(plain, record)[0], tensors)
        if check_base:
            refuse_other_base(path, header, plain, record)
        fill_model(plain, tensors, as_stored=False)
    _note(record, header)


def _note(record: Record, header: Header) -> None:
    """Copies labels, pipeline, results and task from the header to the record."""
    record.labels, record.pipeline, record.results = header.labels, header.pipeline, header.results
    record.task, record.units = header.task, header.units
    record.thresholds, record.quantiles = header.thresholds, header.quantiles
    record.temperature, record.correction = header.temperature, header.correction
    record.approximate = rounded_type(header)
