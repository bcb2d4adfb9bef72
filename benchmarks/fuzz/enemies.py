"""What an enemy writes who knows the format: recipes and tensors of another kind, under checksums that are right."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.fuzz.odd_values import BACKBONES, ODD, PEFT, REACHING, SIZED, SIZES


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a nest of tables and lists there is something."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [p for key in keys for p in [(*path, key), *places(value[key], (*path, key))]]


def changed_recipe(recipe: Mapping[str, Any], others: Mapping[str, Any], chance: random.Random) -> dict[str, Any]:
    """The header's values with one to three of them replaced, removed, added, moved, or taken from another delta's header."""
    header = copy.deepcopy(dict(recipe))
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        change = chance.choice([_anywhere, _anywhere, _top, _backbone, _backbone, _method, _sites, _borrowed])
        with contextlib.suppress(TypeError, KeyError, AttributeError):  # of a second change to what the first one left
            change(header, others, chance)
    return header


def _anywhere(header: dict[str, Any], others: Any, chance: random.Random) -> None:
    found = [place for place in places(header) if place[0] != "structure" or chance.random() < 0.02]
    if not found:
        return
    *way, last = chance.choice(found)
    inside: Any = header
    for key in way:
        inside = inside[key]
    kind = chance.choice(["replace", "replace", "number", "remove", "add", "twice"])
    if kind == "replace":
        inside[last] = copy.deepcopy(chance.choice(ODD))
    elif kind == "number":
        inside[last] = chance.choice(SIZES)
    elif kind == "remove":
        del inside[last]
    elif isinstance(inside, dict):
        inside[chance.choice([*REACHING, *SIZED, "new"])] = copy.deepcopy(chance.choice(ODD))
    else:
        inside.append(copy.deepcopy(inside[last] if kind == "twice" else chance.choice(ODD)))


def _top(header: dict[str, Any], others: Any, chance: random.Random) -> None:
    key = chance.choice([*header, "new"])
    if chance.random() < 0.3:
        header.pop(key, None)
    else:
        header[key] = copy.deepcopy(chance.choice(ODD))


def _backbone(header: dict[str, Any], others: Any, chance: random.Random) -> None:
    base = header.get("backbone")
    if not isinstance(base, dict):
        return
    kind = chance.choice(["name", "args", "args", "args", "reach", "size"])
    arguments = base.get("args")
    if kind == "name":
        base["name"] = chance.choice([*BACKBONES, *ODD])
    elif kind == "size":
        base[chance.choice(["num_classes", "in_chans"])] = chance.choice(SIZES)
    elif isinstance(arguments, dict):
        key = chance.choice(REACHING if kind == "reach" else SIZED)
        value = chance.choice(ODD if kind == "reach" or chance.random() < 0.3 else SIZES)
        arguments[key] = copy.deepcopy(chance.choice([value, value, [value], [value] * 4, {key: value}]))


def _method(header: dict[str, Any], others: Any, chance: random.Random) -> None:
    methods = header.get("methods")
    table = methods and isinstance(methods, list) and chance.choice(methods)
    if not isinstance(table, dict):
        return
    config = table.get("config")
    if isinstance(config, dict) and chance.random() < 0.7:
        table = config
        if chance.random() < 0.3:
            table["peft_type"] = chance.choice(PEFT)
    key = chance.choice([*table, *SIZED, "where", "config", "slices"])
    table[key] = copy.deepcopy(chance.choice([chance.choice(ODD), chance.choice(SIZES)]))


def _sites(header: dict[str, Any], others: Any, chance: random.Random) -> None:
    sites = header.get("sites")
    if not isinstance(sites, list) or not sites or not isinstance(sites[0], list):
        return
    names = chance.choice(sites)
    if not isinstance(names, list):
        return
    kind = chance.choice(["gone", "more", "other", "all"])
    if kind == "gone" and names:
        names.pop(chance.randrange(len(names)))
    elif kind == "all":
        sites.append(list(names))
    else:
        names.append(
            chance.choice(
                ["", "conv1", "layer1", "layer4.0.conv2", "blocks", "blocks.1.attn.qkv", "fc", "head", "a.b", "0"]
            )
        )


def _borrowed(header: dict[str, Any], others: Mapping[str, Any], chance: random.Random) -> None:
    key = chance.choice(list(others))
    header[key] = copy.deepcopy(others[key])


def changed_tensors(
    tensors: Mapping[str, Tensor], base: Mapping[str, Tensor], chance: random.Random
) -> dict[str, Tensor]:
    """The tensors with one of them lost, added, cast, reshaped, cut, emptied, exchanged, or made huge in name only."""
    tensors = dict(tensors)
    if not tensors:
        return tensors
    key = chance.choice(list(tensors))
    value = tensors.pop(key)
    kind = chance.choice(list(TENSOR_CHANGES))
    if kind == "a base tensor too":
        name = chance.choice(list(base))
        return {**tensors, key: value, name: base[name].detach().clone().contiguous()}
    if kind == "exchanged":
        other = chance.choice([*tensors, key])
        return {**tensors, key: tensors.get(other, value), other: value}
    changed = TENSOR_CHANGES[kind](value)
    if changed is not None:
        tensors[key if chance.random() < 0.8 else chance.choice([f"{key}.x", "", "\x1b[2J", "x" * 5000])] = changed
    return tensors


TENSOR_CHANGES: dict[str, Any] = {
    "lost": lambda t: None,
    "double": lambda t: t.double(),
    "half": lambda t: t.half(),
    "brain": lambda t: t.bfloat16(),
    "integer": lambda t: t.long(),
    "bytes": lambda t: t.to(torch.int8),
    "unsigned": lambda t: t.abs().clamp(max=200).to(torch.uint8),
    "bool": lambda t: t.bool(),
    "flat": lambda t: t.reshape(-1),
    "turned": lambda t: t.transpose(0, -1).contiguous() if t.ndim else t,
    "scalar": lambda t: torch.tensor(1.0),
    "empty": lambda t: torch.empty(0, 10**9),
    "nothing": lambda t: torch.empty(0),
    "longer": lambda t: torch.cat([t.reshape(-1), t.reshape(-1)]),
    "one axis more": lambda t: t[None],
    "nan": lambda t: t * float("nan"),
    "infinite": lambda t: torch.full_like(t, float("inf")) if t.is_floating_point() else t,
    "a base tensor too": None,
    "exchanged": None,
}


def sealed_text(header: Mapping[str, Any], chance: random.Random) -> str:
    """The header as JSON; now and then as JSON that is none."""
    text = json.dumps(header)
    if chance.random() < 0.03:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(["", "1" * 5000, "[" * 3000, '"', "\\ud800", "NaN", "}"]) + text[at + 1 :]
    return text
