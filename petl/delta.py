"""save, load, read: one safetensors file per task, with its recipe in the header."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from petl.deltafile import FORMAT, checked_header, opened, read_all, write
from petl.digest import own_tensor, owned, whole
from petl.errors import DeltaError, PetlError, StateError, listing
from petl.frozen import names_of, other_base, prove, refresh
from petl.inside import receiver
from petl.install import Plan, drop_caches, install
from petl.lean import Memory
from petl.method import Method, from_json
from petl.precision import BaseDtype, narrow_dtype
from petl.record import Record, bare, record, refuse_outside, wrapped
from petl.sharded import gathered, is_sharded_model, put
from petl.sites import Sites, all_sites
from petl.survey import Survey, config
from petl.version import __version__
from petl.wrap import look, refuse_narrow, steps_memory, unwrap

Paths = str | os.PathLike[str]
Model = TypeVar("Model", bound=nn.Module)


def save(
    model: nn.Module,
    path: Paths,
    *,
    labels: Sequence[str] | None = None,
    results: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write what was trained, and nothing else, to one ``.safetensors`` file.

    Args:
        model: wrapped; may be compiled, distributed or prepared by accelerate. Where FSDP has sharded it, every rank calls this:
            all gather, and rank 0 writes.
        path: of the file; it appears whole or not at all.
        labels: class names in the order of the outputs. results: anything worth keeping, as JSON values.
        dtype: store floating-point tensors in this type (``torch.bfloat16`` halves the file); reloading is then no longer
            bit-equal.

    Raises:
        StateError: the model isn't wrapped, or a frozen tensor has moved (the error names it); nothing is written.

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
        made = _without(made, also)
        prove(made, "not saved, because the delta would not give this model back")
        header = {**_header(plain, made, also), "dtype": str(dtype).removeprefix("torch.") if dtype else None}
        header["labels"] = list(labels) if labels is not None else made.labels
        header["results"] = dict(results) if results is not None else made.results
        values = {k: _stored(t, dtype) for k, t in tensors.items()}
        return write(Path(path), values, header) if mine else Path(path)


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
) -> Model: ...


def load(
    path: Paths,
    model: nn.Module | None = None,
    *,
    pretrained: bool = True,
    check_base: bool = True,
    fused: bool = True,
    memory: Memory = "lean",
    base_dtype: BaseDtype | Literal["recorded"] | None = "recorded",
) -> nn.Module:
    """A model with the delta on it: the same outputs, bit for bit, as the one that was saved.

    Args:
        path: of a file that ``save`` wrote.
        model: the backbone, not wrapped, or a model that holds it; changed in place. One that was wrapped by the same recipe and
            then sharded by FSDP2 gets the values. Without it, timm builds it by the recorded name.
        pretrained: let timm fetch the pretrained weights for a backbone that it builds.
        check_base: refuse a base whose frozen tensors differ from those that the delta was made on.
        fused, memory: as for ``petl.wrap``: how training goes on from here; they aren't recorded.
        base_dtype: as for ``petl.wrap``; "recorded" is that of the model that was saved, with any other (None: the base as it
            is) outputs differ by the rounding of the base.

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
    header, tensors = read_all(Path(path))
    narrow = narrow_dtype(header.get("base_dtype") if base_dtype == "recorded" else base_dtype)
    whole = _build(header, pretrained) if model is None else model
    if record(whole) is not None and is_sharded_model(whole):
        _refill(Path(path), header, tensors, whole, check_base)
        return whole
    model = receiver(whole, header)
    found = look(model, _option(header["head"]), header["backbone"].get("args", {}).get("img_size"))
    plans = _plans(header, found)
    refuse_narrow(narrow, [method for method, _ in plans])
    asked = Record(
        tuple(m for m, _ in plans),
        header["sites"],
        _option(header["head"]),
        also=list(header.get("also") or []),
        memory=saving,
        base_dtype=narrow,
    )
    try:
        install(found, plans, asked, num_classes=header["backbone"].get("num_classes") if header["head"] else None)
    except PetlError as error:
        raise DeltaError(f"{path} doesn't fit this {type(model).__name__}: {error}") from error
    with _unwrapped_on_error(model):
        _compare(Path(path), header, tensors, model, asked, check_base)
        _fill(model, tensors, as_stored=header.get("dtype") is None and _dtype(header) == asked.backbone["dtype"])
    asked.labels, asked.pipeline, asked.results = header.get("labels"), header.get("pipeline"), header.get("results")
    return whole


def read(path: Paths) -> dict[str, Any]:
    """The header of a delta file: backbone, methods, sites, labels, input pipeline, results; no tensor is read.

    Raises:
        DeltaError: it is no delta of a format that this petl knows.
    """
    with opened(Path(path)) as file:
        return checked_header(Path(path), file.metadata())


def delta_tensors(model: nn.Module, made: Record) -> tuple[dict[str, Tensor], list[str]]:
    """What belongs in the file, by key, and those of the keys that were unfrozen by hand after ``wrap``."""
    mine: dict[str, Tensor] = {}
    planned = made.planned
    for key, owner, leaf in owned(model):
        tensor = own_tensor(owner, leaf)
        if tensor is not None and (key in planned or tensor.requires_grad or _is_new(made, key, owner)):
            mine[key] = tensor.detach()
    return mine, [key for key in mine if key not in {*planned} - {*made.also}]


def _is_new(made: Record, key: str, owner: nn.Module) -> bool:
    """Whether this is a buffer of a layer that came after ``wrap`` and trains: of a new classifier's BatchNorm."""
    then = made.frozen.get(key)
    replaced = then is None or then[0] is not owner
    return replaced and key not in made.planned and any(p.requires_grad for p in owner.parameters(recurse=False))


def _without(made: Record, also: Sequence[str]) -> Record:
    """The record as if ``also`` had been planned: these keys need no proof."""
    return Record(**{**vars(made), "frozen": {k: v for k, v in made.frozen.items() if k not in also}})


def _header(model: nn.Module, made: Record, also: list[str]) -> dict[str, Any]:
    classes = getattr(model, "num_classes", made.backbone["num_classes"])  # timm's, after the user's own reset too
    return {
        "format": FORMAT,
        "version": __version__,
        "backbone": {**made.backbone, "num_classes": classes},
        "digest": made.digest,
        "frozen": names_of(made),
        "methods": [method.to_json() for method in made.methods],
        "sites": made.sites,
        "base_dtype": str(made.base_dtype).removeprefix("torch.") if made.narrow else None,
        "head": made.head_option or classes != made.backbone["num_classes"],  # the user may have given it a new one
        "also": also,
        "pipeline": made.pipeline or _pipeline(model),
    }


def _pipeline(model: nn.Module) -> dict[str, Any] | None:
    """The input pipeline by timm's own word, for models that have one."""
    if not config(model):
        return None
    from timm.data import resolve_model_data_config

    return resolve_model_data_config(model)


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = whole(tensor)
    kept = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
    return kept.cpu().contiguous().clone()


def _option(head: Any) -> bool | str | tuple[str, ...]:
    return tuple(head) if isinstance(head, list) else head


def _plans(header: Mapping[str, Any], found: Survey) -> list[Plan]:
    """The recorded methods at the recorded sites."""
    places = {site.name: site for site in all_sites(found)}
    try:
        methods: list[Method] = [from_json(values) for values in header["methods"]]
        listed = zip(methods, header["sites"], strict=True)
        return [(m, m.recalled(found, Sites(places[name] for name in names))) for m, names in listed]
    except KeyError as error:
        raise DeltaError(
            f"the delta was made on {header['backbone'].get('name')} and adapts {error.args[0]}, which this "
            f"{type(found.model).__name__} lacks; load it onto the backbone that it was made on"
        ) from None
    except PetlError as error:
        raise DeltaError(f"the delta's recipe can't be repeated: {error}") from error


def _build(header: Mapping[str, Any], pretrained: bool) -> nn.Module:
    import timm

    base = header["backbone"]
    if not base.get("name"):
        raise DeltaError("the delta's backbone has no timm name; build it yourself and pass it: petl.load(path, model)")
    args = {k: v for k, v in {"num_classes": base["num_classes"], **base.get("args", {})}.items() if v is not None}
    try:
        model = timm.create_model(base["name"], pretrained=pretrained, **args)
        return model.to(getattr(torch, base.get("dtype", "float32")))
    except Exception as error:  # timm raises whatever the hub client, the network or the file system raise
        raise DeltaError(
            f"timm can't build the backbone {base['name']} ({error}); build it yourself and pass it: petl.load(path, model)"
        ) from error


@contextlib.contextmanager
def _unwrapped_on_error(model: nn.Module) -> Iterator[None]:
    try:
        yield
    except BaseException:
        unwrap(model)
        raise


def _compare(
    path: Path,
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    made: Record,
    check_base: bool,
) -> None:
    """Every name, shape and type, and the base's fingerprint, before a byte is used."""
    wanted, _ = delta_tensors(model, made)
    missing, extra = [k for k in wanted if k not in tensors], [k for k in tensors if k not in wanted]
    if missing or extra:
        raise DeltaError(
            f"{path} doesn't fit: missing {listing(missing) or 'nothing'}; unexpected {listing(extra) or 'nothing'}"
        )
    for key, tensor in tensors.items():
        if tensor.shape != wanted[key].shape or tensor.is_floating_point() != wanted[key].is_floating_point():
            raise DeltaError(
                f"{path}: {key} is {tensor.dtype} {tuple(tensor.shape)}, the model's is {wanted[key].dtype} "
                f"{tuple(wanted[key].shape)}; load it onto the backbone that it was made on"
            )
    if check_base and made.digest != header["digest"]:
        raise DeltaError(
            f"{path} was made on {header['backbone'].get('name')} with base digest {header['digest'][:12]}, but this "
            f"{made.backbone['name'] or type(model).__name__} has {made.digest[:12]}: {other_base(header, made)}, or pass "
            f"check_base=False"
        )


def _dtype(header: Mapping[str, Any]) -> str:
    return header["backbone"].get("dtype", "float32")


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], *, as_stored: bool) -> None:
    """Write the values in; ``as_stored``: in the file's types, which a cast after ``wrap`` has changed."""
    for key, owner, leaf in owned(model):
        if key in tensors and (own := own_tensor(owner, leaf)) is not None:
            if as_stored and own.dtype != tensors[key].dtype:
                own.data = own.detach().to(tensors[key].dtype)
            put(own, tensors[key])
    drop_caches(model)


def _refill(
    path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor], model: nn.Module, check_base: bool
) -> None:
    """Give a model that was wrapped by the same recipe, and sharded then, the delta's values; every rank has to come here."""
    plain, made = wrapped(model)
    if [m.to_json() for m in made.methods] != [
        from_json(v).to_json() for v in header["methods"]
    ] or made.sites != header["sites"]:
        raise StateError(
            f"{path} holds {listing(m['name'] for m in header['methods'])} at other places than this sharded model was wrapped "
            f"for; petl.load it onto the plain backbone, and shard after that"
        )
    with gathered(bare(model)):
        _compare(path, header, tensors, plain, made, check_base)
        _fill(plain, tensors, as_stored=False)
    made.labels, made.pipeline, made.results = header.get("labels"), header.get("pipeline"), header.get("results")
