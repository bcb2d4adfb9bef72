"""The tuner of a peft adapter as methods of petl: petl's own LoRA where that computes the same, else peft's layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from petl.errors import DeltaError, listing
from petl.exchange.adapter_keys import AdapterTensors
from petl.exchange.adapter_reading import AdapterConfig, tuner_values
from petl.exchange.peft_layers import why_whole
from petl.exchange.peft_names import module_names
from petl.exchange.peft_tuners import ADAPTER
from petl.methods.lora import LoRA
from petl.methods.method import Method
from petl.methods.peft import Peft
from petl.sites.survey import Survey

LOW_RANK = {"lora_A.weight", "lora_B.weight"}
LENGTHS = "lora_magnitude_vector"
OWN_NAMES = {"lora_A.weight": "down", "lora_B.weight": "up", LENGTHS: "magnitude"}  # peft's names and petl's

Layers = Mapping[str, Mapping[str, Tensor]]


def drop_unread(config: AdapterConfig, survey: Survey, found: AdapterTensors) -> None:
    """Leaves out layers that the model doesn't call: peft trains nothing there. Raises a DeltaError where something changed."""
    unread = [name for name in found.layers if name not in survey.calls and not survey.failed]
    changed = [name for name in unread if not _does_nothing(found.layers[name])]
    if changed:
        raise DeltaError(
            f"{config.path} changes {listing(changed)}, which {type(survey.model).__name__} doesn't call, so that peft's layers "
            f"there do nothing and this adapter can't have been trained; it belongs to another model"
        )
    if unread:
        warnings.warn(
            f"{config.path}: {type(survey.model).__name__} reads {listing(unread)} without calling them, so peft has trained "
            f"nothing there; petl leaves them out",
            stacklevel=4,
        )
        for name in unread:
            del found.layers[name]


def _does_nothing(tensors: Mapping[str, Tensor]) -> bool:
    return "lora_B.weight" in tensors and not bool(tensors["lora_B.weight"].any())


def native_methods(config: AdapterConfig, survey: Survey, layers: Layers) -> list[LoRA] | None:
    """Returns petl's own LoRA for these layers, one for each rank and scale; None where it would compute something else."""
    dora, root = bool(config.values.get("use_dora")), bool(config.values.get("use_rslora"))
    names = module_names(survey.model)
    groups: dict[tuple[int, float], list[str]] = {}
    for name, tensors in layers.items():
        layer = survey.modules.get(name)
        shared = layer is None or sum(survey.model.get_submodule(n) is layer for n in names) > 1
        if layer is None or why_whole(survey, name, layer, shared) or not _fits(layer, tensors, dora):
            return None
        groups.setdefault((config.rank(name), float(config.alpha(name))), []).append(name)
    return [
        LoRA(where=tuple(group), rank=rank, alpha=alpha, rslora=root, dora=dora)
        for (rank, alpha), group in groups.items()
    ]


def _fits(layer: nn.Module, tensors: Mapping[str, Tensor], dora: bool) -> bool:
    """Returns whether petl's LoRA has these tensors for this layer: no bias of the change, and no rank beyond the weight's."""
    weight = cast(Tensor, layer.weight)
    if {*tensors} != (LOW_RANK | {LENGTHS} if dora else LOW_RANK):
        return False
    return tensors["lora_A.weight"].shape[0] <= min(weight.shape[0], weight[0].numel())


def refuse_ranks(config: AdapterConfig, layers: Layers) -> None:
    """Raises a DeltaError where the config's rank isn't that of the tensors: nothing larger than the file is allocated."""
    largest = max([1, *(size for tensors in layers.values() for tensor in tensors.values() for size in tensor.shape)])
    for name, tensors in layers.items():
        rank, down = config.rank(name), tensors.get("lora_A.weight")
        if rank < 1 or (down is not None and down.ndim and down.shape[0] != rank):
            seen = "nothing" if down is None else str(tuple(down.shape))
            raise DeltaError(f"{config.path}: its config gives {name} rank {rank}, and its lora_A.weight is {seen}")
        if "r" in config.values and rank > largest and config.kind != "LOKR":  # LoKr's rank may exceed what it uses
            raise DeltaError(
                f"{config.path}: its config gives {name} rank {rank}, and no tensor in the file has that size"
            )


def native_tensors(layers: Layers) -> dict[str, Tensor]:
    """Returns the tensors of petl's own LoRA, by key."""
    state = {}
    for name, tensors in layers.items():
        for key, tensor in tensors.items():
            own = OWN_NAMES[key]
            shaped = tensor.reshape(-1, 1) if own == "magnitude" else tensor.flatten(1)
            state[f"{name}.lora.{own}"] = shaped
    return state


def bridge_method(config: AdapterConfig, layers: Layers) -> Method:
    """Returns the method that puts peft's own layers there."""
    return Peft(config=tuner_values(config, layers), where=tuple(layers))


def bridge_tensors(keys: list[str], layers: Layers) -> dict[str, Tensor]:
    """Returns the tensors by the model's keys: those of peft's layers have the adapter's name in them, and files don't."""
    by_file_key = {_file_key(key): key for key in keys}
    given = {f"{name}.{key}": tensor for name, tensors in layers.items() for key, tensor in tensors.items()}
    return {by_file_key.get(key, key): tensor for key, tensor in given.items()}


def _file_key(key: str) -> str:
    head, found, tail = key.rpartition(f".{ADAPTER}")
    plain = f"{head}{tail}" if found and (not tail or tail.startswith(".")) else key
    return plain.removesuffix(".weight") if plain.endswith(f"{LENGTHS}.weight") else plain
