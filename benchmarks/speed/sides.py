"""The sides of the speed benchmark: each one a way to fine-tune the same model.

Low-rank sides have rank 8 and alpha 8 on the same layers, all linear layers and ungrouped convolutions but the classifier,
by full names. The classifier trains on every side.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import petl
from petl.sites.layers import has_running_statistics
from petl.sites.survey import classifier_names

RANK = 8
MEMORY = ("fast", "lean", "min")


@dataclass(frozen=True)
class Side:
    """A way to fine-tune: what it is called, how a fresh model becomes it, and a word on it for the report."""

    name: str
    build: Callable[[nn.Module], nn.Module]
    note: str

    def model(self, name: str) -> nn.Module:
        """A fresh model of this side, ready for its steps."""
        made = self.build(fresh(name))
        fill(p for p in made.parameters() if p.requires_grad)
        return made


def fresh(name: str) -> nn.Module:
    """The model at random weights, the same each time, in training mode."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    fill(model.parameters())
    return model.train()


@torch.no_grad()
def fill(parameters: Iterable[Tensor]) -> None:
    """Small random values for parameters that start at zero, so that no side computes with zeros."""
    chance = torch.Generator().manual_seed(1)
    for parameter in parameters:
        if parameter.ndim > 0 and not parameter.any():
            parameter.copy_(torch.randn(parameter.shape, generator=chance) * 0.01)


def layers(model: nn.Module) -> list[str]:
    """Full names of the linear layers and ungrouped convolutions but the classifier, in the order of execution."""
    found = petl.find(model, ["linear", "conv"])
    return [site.name for site in found if getattr(model.get_submodule(site.name), "groups", 1) == 1]


def sides(model: nn.Module) -> dict[str, Side]:
    """The sides that this model can have, by name."""
    norms = any(has_running_statistics(module) for module in model.modules())
    moving, still = ("; BatchNorm in training mode", "; BatchNorm in evaluation mode") if norms else ("", "")
    found = [
        Side("full", _full, f"all parameters{moving}"),
        Side("peft", _peft, f"peft's LoRA as peft leaves it{moving}"),
        *([Side("peft, norms still", _peft_still, f"the same by hand{still}")] if norms else []),
        Side("parametrize", _parametrize, f"torch.nn.utils.parametrize with W + up @ down{still}"),
        *_petl_lora(),
    ]
    if norms:
        found.append(Side("bn", _with("bn", stats="keep"), "BN tuning, statistics kept"))
    found += [
        Side("bias", _with("bias"), "BitFit"),
        Side("adapter", _with("adapter"), "adapters"),
        Side("probe", _with("probe"), "the classifier alone"),
    ]
    return {side.name: side for side in found}


def _petl_lora() -> list[Side]:
    """petl's LoRA in each setting that this release of petl knows."""
    if "memory" not in inspect.signature(petl.wrap).parameters:
        made = [Side("petl", _lora(), "petl's LoRA")]
    else:
        made = [Side(f"petl {m}", _lora(memory=m), f"petl's LoRA, memory={m!r}") for m in MEMORY]
    return [*made, Side("petl unfused", _lora(fused=False), "petl's LoRA, the reference path: fused=False")]


def _with(method: str, **options: Any) -> Callable[[nn.Module], nn.Module]:
    return lambda model: petl.wrap(model, method, **options)


def _lora(**options: Any) -> Callable[[nn.Module], nn.Module]:
    return lambda model: petl.wrap(model, petl.LoRA(rank=RANK, alpha=RANK, where=layers(model)), **options)


def _full(model: nn.Module) -> nn.Module:
    return model.requires_grad_(True)


def _peft(model: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    names = "|".join(name.replace(".", r"\.") for name in layers(model))
    config = LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=f"({names})", modules_to_save=classifier_names(model) or None
    )
    return get_peft_model(model, config)  # type: ignore[arg-type]  # peft says PreTrainedModel and takes any module


def _peft_still(model: nn.Module) -> nn.Module:
    return _still(_peft(model))


def _still(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if has_running_statistics(module):
            module.eval()
    return model


class LowRank(nn.Module):
    """The plain way: a parametrization that adds ``up @ down`` to the weight."""

    def __init__(self, weight: Tensor):
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.up = nn.Parameter(torch.zeros(rows, RANK))
        self.down = nn.Parameter(torch.randn(RANK, columns) * columns**-0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def _parametrize(model: nn.Module) -> nn.Module:
    names, heads = layers(model), classifier_names(model) or []
    model.requires_grad_(False)
    for name in names:
        module = model.get_submodule(name)
        parametrize.register_parametrization(module, "weight", LowRank(module.weight))  # type: ignore[arg-type]
    for name in heads:
        model.get_submodule(name).requires_grad_(True)
    return _still(model)
