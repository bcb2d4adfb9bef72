"""save, load, read: one safetensors file per task, with its recipe in the header."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from petl.delta.file import FORMAT, read_all, read_recipe, write
from petl.delta.fitting import (
    classes_of,
    compare,
    delta_tensors,
    head_option,
    plans_of,
    record_of,
    refuse_other_structure,
    rehearse,
)
from petl.delta.receiver import receiver
from petl.errors import DeltaError, StateError, listing
from petl.format.header import DTYPES, class_names, task_name
from petl.graft.sharded import gathered, is_sharded_model, write_whole
from petl.memory.base_dtype import BaseDtype, narrow_dtype
from petl.memory.modes import Memory
from petl.methods.foreign import ForeignMethod
from petl.methods.registry import method_from_json
from petl.sites.meta import pretrained_cfg
from petl.sites.names import within
from petl.sites.survey import Survey, classifier_names
from petl.version import __version__
from petl.wrapping.backbone import arguments, build, outline, unboxed
from petl.wrapping.fingerprints import own_tensor, owned, whole
from petl.wrapping.frozen_base import names_of, other_base, prove, refresh
from petl.wrapping.head import classes_now
from petl.wrapping.install import drop_caches, install
from petl.wrapping.interrupts import uninterrupted
from petl.wrapping.record import Record, bare, record, refuse_outside, wrapped
from petl.wrapping.structure import structure, volatile
from petl.wrapping.wrap import look, refuse_narrow, steps_memory, unwrap

Paths = str | os.PathLike[str]
Model = TypeVar("Model", bound=nn.Module)


def save(
    model: nn.Module,
    path: Paths,
    *,
    labels: Iterable[Any] | None = None,
    task: str | None = None,
    results: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write what was trained, and nothing else, to one ``.safetensors`` file.

    Args:
        model: wrapped; may be compiled, distributed or prepared by accelerate. Where FSDP has sharded it, every rank calls this:
            all gather, and rank 0 writes.
        path: of the file; it appears whole or not at all. A file that is replaced keeps its permissions.
        labels: class names in the order of the outputs, one for each; whole numbers become texts.
        task: what the outputs mean: "classification" (a softmax over them; what it is unless said otherwise, but for a model
            with one output), "multilabel" (a sigmoid of each), or "regression" (numbers as they are).
        results: anything worth keeping, as JSON values.
        dtype: store floating-point tensors in this type (``torch.bfloat16`` halves the file); reloading is then no longer
            bit-equal.

    Raises:
        StateError: the model isn't wrapped, or a frozen tensor has moved (the error names it).
        DeltaError: labels, task, results or dtype that no delta can have, or a path that can't be written. Nothing is written.

    >>> import petl, timm, tempfile, os
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = petl.save(model, os.path.join(folder, "pets.safetensors"), labels=["cat", "dog", "eel"])
    ...     petl.read(path)["labels"]
    ['cat', 'dog', 'eel']
    """
    plain, made = wrapped(model)
    refuse_outside(model)
    with gathered(bare(model)) as mine:
        refresh(plain, made)
        tensors, also = delta_tensors(plain, made)
        _refuse_strangers(plain, made, also)
        made = _without(made, also)
        prove(made, "not saved, because the delta would not give this model back")
        header = _header(plain, made, also, labels=labels, task=task, results=results, dtype=dtype)
        values = {key: stored(key, tensor, dtype) for key, tensor in tensors.items()}
        return write(as_path(path), values, header) if mine else as_path(path)


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
    saving = steps_memory(memory, fused)
    path = as_path(path)
    header, tensors = read_all(path)
    narrow = narrow_dtype(header.get("base_dtype") if base_dtype == "recorded" else base_dtype)
    options: dict[str, Any] = {"trust_remote": trust_remote, "held": sum(tensor.numel() for tensor in tensors.values())}
    sketch = outline(header, **options) if model is None else None
    if sketch is not None:  # whether the recipe fits is known before the backbone takes memory
        found = _surveyed(path, header, receiver(sketch, header), check_base)
        rehearse(path, header, tensors, found, plans_of(header, found))
    outer = build(header, pretrained=pretrained, **options) if model is None else model
    if record(outer) is not None and is_sharded_model(outer):
        _refill(path, header, tensors, outer, check_base)
        return outer
    model = receiver(outer, header)
    found = _surveyed(path, header, model, check_base)
    plans = plans_of(header, found)
    refuse_narrow(narrow, [method for method, _ in plans])
    if sketch is None:
        rehearse(path, header, tensors, found, plans)
    asked = record_of(header, plans, memory=saving, base_dtype=narrow)
    with _unwrapped_on_error(model):
        try:
            install(found, plans, asked, num_classes=classes_of(header))
        except Exception as error:  # another library's layers may raise anything
            raise DeltaError(f"{path} doesn't fit this {type(model).__name__}: {error}") from error
        compare(path, delta_tensors(model, asked)[0], tensors)
        if check_base:
            _refuse_other_base(path, header, model, asked)
        exact = header.get("dtype") is None and header.get("base_dtype") is None
        _fill(model, tensors, as_stored=exact and _dtype(header) == asked.backbone["dtype"])
        _note(asked, header)
    return outer


def read(path: Paths) -> dict[str, Any]:
    """The header of a delta file: backbone, methods, sites, labels, input pipeline, results; no tensor is read.

    Texts in it are whoever's who wrote the file: `petl.errors.printable` makes them safe to print.

    Raises:
        DeltaError: it is no delta of a format that this petl knows, or its header says what no delta can.
    """
    return read_recipe(as_path(path))


def as_path(path: Paths) -> Path:
    """The path, or a DeltaError where it is none."""
    try:
        text = os.fspath(path)
    except TypeError:
        raise DeltaError(
            f"got {str(path)[:60]!r} ({type(path).__name__}) as a path; expected a text or a Path"
        ) from None
    if not isinstance(text, str) or not text or "\0" in text:
        raise DeltaError(f"{text!r} is no path; give that of a .safetensors file")
    return Path(text)


def _without(made: Record, also: Sequence[str]) -> Record:
    """The record as if ``also`` had been planned: these keys need no proof."""
    return Record(**{**vars(made), "frozen": {k: v for k, v in made.frozen.items() if k not in also}})


def _refuse_strangers(model: nn.Module, made: Record, also: Sequence[str]) -> None:
    """A StateError for parameters that came after ``wrap`` and that ``load`` couldn't make again."""
    known = {*made.frozen, *made.planned}
    strange = [key for key in also if key not in known]
    if strange:
        heads = _heads(model, made)
        strange = [key for key in strange if not within(key, heads)]
    if strange:
        raise StateError(
            f"not saved: {listing(strange)} came to this {type(model).__name__} after petl.wrap (another library's layers, or "
            f"modules put in by hand), and petl.load couldn't make them again; change the model before petl.wrap, or name the "
            f"other library's method there: petl.wrap(model, ['lora', 'peft:LoHa'])"
        )


def _heads(model: nn.Module, made: Record) -> list[str]:
    """The classifier of timm's that a reset after ``wrap`` has made, and that ``load`` makes again by the number of classes."""
    was_reset = getattr(model, "num_classes", None) != made.backbone["num_classes"]
    return (classifier_names(model) or []) if was_reset else []


def _header(
    model: nn.Module,
    made: Record,
    also: list[str],
    *,
    labels: Iterable[Any] | None = None,
    task: str | None = None,
    results: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    said = unboxed(
        getattr(model, "num_classes", made.backbone["num_classes"])
    )  # timm's, after the user's own reset too
    outputs = classes_now(model, made.head) or said  # after a classifier that was put in by hand too
    classes = None if said is None else unboxed(outputs)
    names = class_names(labels if labels is not None else made.labels)
    if names is not None and outputs is not None and len(names) != outputs:
        raise DeltaError(f"labels ({len(names)} for {outputs} classes): expected one for each output, in their order")
    return {
        "format": FORMAT,
        "version": __version__,
        "backbone": {**made.backbone, **_arguments(model, made), "num_classes": classes},
        "digest": made.digest,
        "structure": _structure(model, made),
        "frozen": names_of(made),
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
    args, unrecorded = arguments(model, made.backbone["in_chans"], made.create_args)
    return {"args": {**made.backbone["args"], **args}, **({"unrecorded": unrecorded} if unrecorded else {})}


def _structure(model: nn.Module, made: Record) -> dict[str, str]:
    """The base's structure now; where another library put layers of its own in place of the base's, that before it did."""
    if any(isinstance(method, ForeignMethod) for method in made.methods) or is_sharded_model(model):
        return made.structure
    heads = [*made.classifier, *(_heads(model, made) if not made.classifier else [])]
    now = structure(model, heads, grafted=False)
    passing = volatile(model) if now != made.structure else set()
    return {key: value for key, value in now.items() if key not in passing}


def _pipeline(model: nn.Module) -> dict[str, Any] | None:
    """The input pipeline by timm's own word, for models that have one."""
    if not pretrained_cfg(model):
        return None
    from timm.data import resolve_model_data_config

    return resolve_model_data_config(model)


def stored(key: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor as it goes into the file, or a DeltaError where the type that was asked for can't hold its numbers."""
    tensor = whole(tensor)
    kept = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
    if dtype is not None and bool((tensor.isfinite() & ~kept.isfinite()).any()):
        largest = float(tensor.abs().nan_to_num(posinf=0).max())
        raise DeltaError(
            f"not saved: {key} reaches {largest:.4g}, and {dtype} ends at {torch.finfo(dtype).max:.4g}; use "
            f"dtype=torch.bfloat16, or leave it out"
        )
    return kept.cpu().contiguous()


def _dtype_name(dtype: torch.dtype | None) -> str | None:
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and (not isinstance(dtype, torch.dtype) or name not in DTYPES):
        raise DeltaError(
            f"dtype={dtype!r}; expected a floating-point type: {', '.join(f'torch.{name}' for name in DTYPES)}"
        )
    return name if dtype is not None else None


def _results(results: Mapping[str, Any] | None, made: Record) -> dict[str, Any] | None:
    if results is not None and not isinstance(results, Mapping):
        raise DeltaError(f"results={str(results)[:60]}; expected a dict, such as {{'accuracy': 0.9}}")
    return dict(results) if results is not None else made.results


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
            f"{made.backbone['name'] or type(model).__name__} has {mine[:12]}: {other_base(header, made)}, or pass "
            f"check_base=False"
        )


def _surveyed(path: Path, header: Mapping[str, Any], model: nn.Module, check_base: bool) -> Survey:
    """A survey of the backbone, whose structure is the recorded one."""
    found = look(model, head_option(header["head"]), header["backbone"].get("args", {}).get("img_size"))
    if check_base:
        refuse_other_structure(path, header, found)
    return found


def _dtype(header: Mapping[str, Any]) -> str:
    return header["backbone"].get("dtype", "float32")


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], *, as_stored: bool) -> None:
    """Write the values in; ``as_stored``: in the file's types, which a cast after ``wrap`` has changed."""
    for key, owner, leaf in owned(model):
        if key in tensors and (own := own_tensor(owner, leaf)) is not None:
            if as_stored and own.dtype != tensors[key].dtype:
                own.data = own.detach().to(tensors[key].dtype)
            write_whole(own, tensors[key])
    drop_caches(model)


def _refill(
    path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor], model: nn.Module, check_base: bool
) -> None:
    """Give a model that was wrapped by the same recipe, and sharded then, the delta's values; every rank has to come here."""
    plain, made = wrapped(model)
    if [m.to_json() for m in made.methods] != [
        method_from_json(v).to_json() for v in header["methods"]
    ] or made.sites != header["sites"]:
        raise StateError(
            f"{path} holds {listing(m['name'] for m in header['methods'])} at other places than this sharded model was wrapped "
            f"for; petl.load it onto the plain backbone, and shard after that"
        )
    with gathered(bare(model)):
        compare(path, delta_tensors(plain, made)[0], tensors)
        if check_base:
            _refuse_other_base(path, header, plain, made)
        _fill(plain, tensors, as_stored=False)
    _note(made, header)


def _note(made: Record, header: Mapping[str, Any]) -> None:
    """Keep on the record what the header knows beside the recipe."""
    made.labels, made.pipeline, made.results = header.get("labels"), header.get("pipeline"), header.get("results")
    made.task = header.get("task")
