"""The benchmark's rows: petl's methods, and Hugging Face peft's LoRA on the same layers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import petl

RANK = 8
# Grids of learning rates: the fewer and the newer the numbers, the faster; transformers want less where all of it moves.
CREEPING, SLOW, MIDDLE = (3e-5, 1e-4, 3e-4), (1e-4, 3e-4, 1e-3), (5e-4, 1.5e-3, 5e-3)
FAST, HEAD = (1e-3, 3e-3, 1e-2), (3e-3, 1e-2, 3e-2)


@dataclass(frozen=True)
class Row:
    """One line of the table: what goes onto the model, the learning rates to choose from, and how often the epochs."""

    name: str
    rates: tuple[float, ...]
    apply: Callable[[nn.Module, int], nn.Module]
    times: int = 1


def rows(model: nn.Module, *, gray: bool) -> list[Row]:
    """The rows that make sense for this backbone (BatchNorm or not, attention or not) and these images (gray or RGB)."""
    batchnorm, attention = bool(petl.find(model, "batchnorm")), bool(petl.find(model, "branch"))
    norm, slow = (petl.BN(), SLOW) if batchnorm else (petl.Norm(), CREEPING)
    found = [
        Row("probe", HEAD, wrapped("probe")),
        Row("probe, 10x the epochs", HEAD, wrapped("probe"), times=10),
        Row("lora", MIDDLE, wrapped(petl.LoRA(rank=RANK))),
        Row("peft LoRA", MIDDLE, peft_lora),
        Row("full", slow, wrapped("full")),
        Row("norm", FAST, wrapped("norm")),
        Row("bias", FAST, wrapped("bias")),
        Row("adapter", MIDDLE, wrapped("adapter")),
        Row("partial", slow, wrapped("partial")),
    ]
    if batchnorm:
        found += [Row("bn", FAST, wrapped("bn")), Row("peft LoRA, BatchNorm not held", MIDDLE, peft_lora_loose)]
    if attention:
        found.append(Row('lora, slices="qv"', MIDDLE, wrapped(petl.LoRA(rank=RANK, slices="qv"))))
    if gray:
        found.append(Row(f"input + {norm.name} + lora", MIDDLE, wrapped("input", norm, petl.LoRA(rank=RANK))))
    return found


def wrapped(*methods: Any) -> Callable[[nn.Module, int], nn.Module]:
    return lambda model, classes: petl.wrap(model, list(methods), num_classes=classes)


def peft_lora(model: nn.Module, classes: int) -> nn.Module:
    """peft's LoRA where petl's `lora` goes, with a trained head, and BatchNorm held still by hand."""
    return held_still(peft_lora_loose(model, classes))


def peft_lora_loose(model: nn.Module, classes: int) -> nn.Module:
    """The same, with BatchNorm as peft leaves it: its statistics move in training, and peft doesn't save them."""
    import peft

    layers = [site.name for site in petl.find(model, ("linear", "conv"))]
    model.reset_classifier(classes)  # type: ignore[operator]  # every timm model has it
    head = next(name for name, module in model.named_modules() if module is model.get_classifier())  # type: ignore[operator]
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers, modules_to_save=[head])
    return peft.get_peft_model(model, config)  # type: ignore[arg-type]  # any nn.Module will do


def held_still(model: nn.Module) -> nn.Module:
    """Keep BatchNorm in evaluation mode, also under ``model.train()``."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
    return model


def saved_bytes(model: nn.Module) -> int:
    """Size of the file that holds what was trained."""
    with tempfile.TemporaryDirectory() as folder:
        if petl.record(model) is not None:
            return petl.save(model, Path(folder) / "delta.safetensors").stat().st_size
        model.save_pretrained(folder)  # type: ignore[operator]  # peft's
        return (Path(folder) / "adapter_model.safetensors").stat().st_size


def reloaded(model: nn.Module, fresh: nn.Module, classes: int) -> nn.Module:
    """What another process gets: the saved file on a fresh backbone."""
    with tempfile.TemporaryDirectory() as folder:
        if petl.record(model) is not None:
            return petl.load(petl.save(model, Path(folder) / "delta.safetensors"), fresh)
        import peft

        model.save_pretrained(folder)  # type: ignore[operator]  # peft's
        fresh.reset_classifier(classes)  # type: ignore[operator]
        return peft.PeftModel.from_pretrained(fresh, folder)  # type: ignore[arg-type]


def trained_numbers(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(images)
