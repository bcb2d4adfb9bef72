"""Sorts the tensors of a peft adapter by what they are for: layers of the tuner, whole modules, biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from petl.errors import DeltaError, listing
from petl.exchange.adapter_reading import AdapterConfig
from petl.exchange.peft_names import module_names, saved_whole
from petl.sites.names import joined, within
from petl.wrapping.own_tensors import state_entries


@dataclass
class AdapterTensors:
    """The tensors of an adapter: of the tuner by layer and peft's name, and the base's own by key.

    ``whole`` are the modules that the file holds whole, ``biases`` the layers of which it holds the bias alone.
    """

    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    biases: list[str] = field(default_factory=list)


def sorted_tensors(config: AdapterConfig, model: nn.Module, tensors: Mapping[str, Tensor]) -> AdapterTensors:
    """Returns the tensors by what they are for, or raises a DeltaError that names those left over or missing."""
    names, state = module_names(model), {*model.state_dict()}
    known = {*names}
    found = AdapterTensors(whole=saved_whole(names, config.saved))
    if unknown := [entry for entry in config.saved if not saved_whole(names, [entry])]:
        raise DeltaError(
            f"{config.path}: its modules_to_save names {listing(unknown)}, which {type(model).__name__} lacks"
        )
    left = []
    for key, tensor in tensors.items():
        base_key = key.replace(".base_layer.", ".") if key.endswith(".base_layer.bias") else key
        owner, _, leaf = base_key.rpartition(".")
        if base_key in state and within(owner, found.whole):
            found.own[base_key] = tensor
        elif base_key in state and leaf == "bias" and config.bias != "none":
            found.own[base_key] = tensor
            found.biases.append(owner)
        elif (layer := _layer_of(key, known)) and not within(layer, found.whole):
            found.layers.setdefault(layer, {})[key.removeprefix(f"{layer}.")] = tensor
        elif not _is_repeated(key, found.whole, config.bias):
            left.append(key)
    _refuse_left(config, model, left)
    _refuse_missing(config, model, found)
    _join_shared(config, model, found)
    return found


def _refuse_left(config: AdapterConfig, model: nn.Module, left: list[str]) -> None:
    if left:
        raise DeltaError(
            f"{config.path}: nothing in its config or in this {type(model).__name__} takes {listing(left)}; it belongs to "
            f"another model, or is damaged"
        )


def _layer_of(key: str, known: set[str]) -> str:
    """Returns the longest name of a module that the key begins with, "" where there is none."""
    name = key.rpartition(".")[0]
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def _is_repeated(key: str, whole: list[str], bias: str) -> bool:
    """Returns whether peft with ``bias="all"`` has written this bias of a whole module a second time."""
    parts = key.split(".")
    words = {"original_module", "modules_to_save"} & {*parts}
    return bias != "none" and len(words) == 1 and within(key.split(f".{next(iter(words))}")[0], whole)


def _refuse_missing(config: AdapterConfig, model: nn.Module, found: AdapterTensors) -> None:
    wanted = {key for key in model.state_dict() if within(key.rpartition(".")[0], found.whole)}
    if config.bias == "all":
        wanted |= {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    elif config.bias != "none":
        wanted |= {
            f"{name}.bias" for name in found.layers if getattr(model.get_submodule(name), "bias", None) is not None
        }
    if missing := sorted(wanted - {*found.own}):
        raise DeltaError(
            f"{config.path} lacks {listing(missing)}, which its config says it holds; it is damaged, or belongs to another model"
        )


def _join_shared(config: AdapterConfig, model: nn.Module, found: AdapterTensors) -> None:
    """Keeps tensors that the model has under several names under the first alone, where the file has one value for all."""
    first = {key for key, _, _ in state_entries(model)}
    places = {
        id(owner._parameters.get(leaf, owner._buffers.get(leaf))): key for key, owner, leaf in state_entries(model)
    }
    for name, module in model.named_modules(remove_duplicate=False):
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            key = joined(name, leaf)
            if key in first or key not in found.own or id(tensor) not in places:
                continue
            value, other = found.own.pop(key), places[id(tensor)]
            if not torch.equal(value, found.own.setdefault(other, value)):
                raise DeltaError(
                    f"{config.path}: {key} and {other} are one tensor in this {type(model).__name__}, and the file has two values"
                )
    found.biases = [name for name in found.biases if joined(name, "bias") in found.own]
