"""peft's own LoRA, with the layers, rank, rates and start that petl's `lora` has by default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

import petl
from petl.methods.rates import RATES
from petl.sites.family import family_of


def peft_lora(model: nn.Module, classes: int, data: Dataset[Any], *, still: bool, precision: Any) -> nn.Module:
    """A model that peft wrapped, whose classifier was computed by the formula with which petl's own training starts.

    peft leaves BatchNorm in training mode: its statistics move, and its file doesn't have them. With ``still`` they don't.
    """
    import peft

    layers = [site.name for site in petl.find(model, petl.LoRA().where)]
    probe = petl.wrap(model, "probe", num_classes=classes)
    petl.fit(probe, data, precision=precision, progress=False)
    started: Any = petl.merge(probe)
    head = next(name for name, module in started.named_modules() if module is started.get_classifier())
    own = petl.LoRA()
    config = peft.LoraConfig(r=own.rank, lora_alpha=int(own.alpha), target_modules=layers, modules_to_save=[head])
    wrapped: Any = peft.get_peft_model(started, config)
    return held_still(wrapped) if still else wrapped


def optimizer(model: nn.Module, groups: Iterable[Mapping[str, Any]]) -> torch.optim.Optimizer:
    """AdamW with the rates of petl's LoRA and of a started classifier: `petl.fit` can't know them for a model of peft's.

    ``lr_scale`` is what timm's schedule multiplies by, ``peak_lr`` what the history shows.
    """
    family = family_of(model)
    rates = {name: getattr(RATES[name], family) for name in ("lora", "started head")}
    top = max(rates.values())
    cut = []
    for group in groups:
        rate = rates["started head" if group["name"] == "head" else "lora"]
        name = "head" if group["name"] == "head" else "lora"
        cut.append({**group, "name": name, "lr": top, "lr_scale": rate / top, "peak_lr": rate})
    return torch.optim.AdamW(cut)


def held_still(model: nn.Module) -> nn.Module:
    """Keep BatchNorm in evaluation mode, also under ``model.train()``."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
    return model
