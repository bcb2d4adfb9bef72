"""Opens what is to be combined: delta files, wrapped models and the base; finds the base, and refuses what has no place."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.delta.file import as_path, read_delta, shapes_of
from petl.delta.header import Header
from petl.delta.save import delta_of
from petl.delta.tensors import delta_checksum
from petl.errors import StateError, listing
from petl.graft.sharded import is_sharded_model
from petl.wrapping.backbone import build_backbone
from petl.wrapping.lookup import bare, refuse_shared, require_record, wrapped_inside
from petl.wrapping.preconditions import survey_unwrapped
from petl.wrapping.unwrap import unwrap

BASE = "base"  # where a delta is named: the backbone as it is, which changes nothing


@dataclass(frozen=True)
class NamedDelta:
    """A delta to combine: its name, a path for errors, header and tensors; ``mark`` is equal for equal deltas."""

    name: str
    path: Path
    header: Header
    tensors: Mapping[str, Tensor]
    mark: str


@dataclass(frozen=True)
class Contents:
    """What was given: ``deltas`` in the order given, None in place of the base; and the base, if a model says what it is."""

    deltas: list[NamedDelta | None]
    base: nn.Module | None


def open_deltas(deltas: Any) -> Contents:
    """Opens deltas: a list of paths, wrapped models and the base (``"base"``, or a model without a delta), or a dict by names.

    Raises:
        StateError: there are none, or one is no delta. DeltaError: a file can't be read.
    """
    items = _items(deltas)
    names = _item_names(items)
    bases = [item for _, item in items if isinstance(item, nn.Module) and not wrapped_inside(item)]
    found = [None if _is_base(item) else _opened(name, item) for name, (_, item) in zip(names, items, strict=True)]
    if not any(found):
        raise StateError(
            "there is no delta among what is to be combined, only the base; name a file or a wrapped model"
        )
    return Contents(found, bases[0] if bases else None)


def _items(deltas: Any) -> list[tuple[str | None, Any]]:
    if isinstance(deltas, Mapping):
        odd = [name for name in deltas if not isinstance(name, str) or not name]
        if odd:
            raise StateError(f"got {odd[0]!r:.60} as a delta's name; expected a text, such as 'pets'")
        items: list[tuple[str | None, Any]] = [*deltas.items()]
    elif isinstance(deltas, Sequence) and not isinstance(deltas, (str, bytes)):
        items = [(None, item) for item in deltas]
    else:
        raise StateError(f"got {deltas!r:.60}; expected a list of delta files and wrapped models: petl.combine([a, b])")
    if not items:
        raise StateError("got no delta to combine; expected files or wrapped models: petl.combine([a, b])")
    return items


def _is_base(item: Any) -> bool:
    if isinstance(item, nn.Module):
        return not wrapped_inside(item)
    return item is None or (item == BASE and not Path(BASE).exists())


def _item_names(items: Sequence[tuple[str | None, Any]]) -> list[str]:
    """Returns a name for each item: the user's, a file's without its ending, or its number; none twice."""
    names = [name or _own_name(item, number) for number, (name, item) in enumerate(items, 1)]
    for number, (name, (_, item)) in enumerate(zip(names, items, strict=True)):
        if names.count(name) > 1 and isinstance(item, (str, Path)):
            names[number] = f"{Path(item).resolve().parent.name}/{name}"
    return [name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names, 1)]


def _own_name(item: Any, number: int) -> str:
    if isinstance(item, (str, Path)):
        return Path(item).stem
    return str(number)


def _opened(name: str, item: Any) -> NamedDelta:
    if isinstance(item, nn.Module):
        plain, _ = require_record(item)
        if bare(item) is not plain:
            raise StateError(
                f"the delta {name!r} is on a model inside another {type(bare(item)).__name__}; pass that model itself"
            )
        if is_sharded_model(plain):
            raise StateError(f"the model {name!r} is sharded; petl.save it, and name the file")
        path = Path(f"the model {name!r}")
        header, tensors = delta_of(item)
        shapes = shapes_of(tensors)
        header = Header.from_metadata(path, header.to_metadata(path, shapes), shapes)
        tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    else:
        path = as_path(item)
        header, tensors = read_delta(path)
    return NamedDelta(name, path, header, tensors, _mark(header, tensors))


def _mark(header: Header, tensors: Mapping[str, Tensor]) -> str:
    """Returns a checksum of all that makes the outputs: recipe, sites, classifier and numbers."""
    keys = ("digest", "methods", "sites", "base_dtype", "head", "also", "labels", "task")
    recipe = json.dumps([getattr(header, key) for key in keys], sort_keys=True)
    return hashlib.sha256(f"{recipe}{delta_checksum(tensors)}".encode()).hexdigest()


def base_of(
    contents: Contents, items: Any, model: nn.Module | None, *, pretrained: bool, trust_remote: bool
) -> nn.Module:
    """Returns a copy of the base, without a delta: of ``model``, of a model among the items, or as timm builds it by a header.

    Raises:
        StateError: ``model`` is wrapped. DeltaError: timm can't build the base.
    """
    given = model if model is not None else contents.base
    if given is not None:
        survey_unwrapped(given)  # refuses what no delta can be put on
        return copy.deepcopy(given)
    values = items.values() if isinstance(items, Mapping) else items
    wrapped = next((item for item in values if isinstance(item, nn.Module)), None)
    if wrapped is not None:
        return unwrapped_copy(wrapped)
    first = next(delta for delta in contents.deltas if delta)
    numbers = sum(tensor.numel() for tensor in first.tensors.values())
    backbone = dict(first.header.backbone)
    if first.header.head:  # the delta brings its own classifier, and the base keeps timm's
        backbone["num_classes"] = None
    return build_backbone(backbone, pretrained=pretrained, trust_remote=trust_remote, file_numbers=numbers)


@torch.inference_mode(False)
def unwrapped_copy(model: nn.Module) -> nn.Module:
    """Returns a copy of a wrapped model's base; the model isn't changed."""
    plain, _ = require_record(model)
    refuse_shared(plain, "combine")
    return unwrap(copy.deepcopy(plain))


def refuse_other_bases(deltas: Sequence[NamedDelta]) -> None:
    """Raises a StateError where headers alone show that two deltas were made on different backbones."""
    first = deltas[0]
    for other in deltas[1:]:
        one, two = first.header.backbone, other.header.backbone
        for key in ("name", "in_chans", "dtype"):
            if one.get(key) != two.get(key):
                raise StateError(
                    f"{first.path} was made on a backbone with {key}={one.get(key)!r} and {other.path} on one with "
                    f"{key}={two.get(key)!r}; only deltas on one and the same backbone can be combined"
                )
        same_tensors = first.header.frozen and first.header.frozen == other.header.frozen
        if same_tensors and first.header.digest != other.header.digest:
            raise StateError(
                f"{first.path} and {other.path} were made on {one.get('name') or 'backbones'} with other weights (digests "
                f"{first.header.digest[:12]} and {other.header.digest[:12]}); only deltas on one and the same backbone can be "
                f"combined"
            )


def refuse_unknown(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raises a StateError where a name isn't that of a delta."""
    strange = [name for name in names if name not in known]
    if strange:
        raise StateError(f"{what}: there is no delta {listing(strange)}; the names are {listing(known)}")
