"""All architectures of the installed timm: family, parameters, and the signature that says which are built alike."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
from timm.models import _registry
from torch import nn

PROJECTIONS = ("qkv", "kv", "q", "k", "v", "q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Architecture:
    """One of ``timm.list_models()``; architectures of one signature differ in sizes alone."""

    name: str
    parameters: int
    signature: str

    @property
    def family(self) -> str:
        return family(self.name)


def family(architecture: str) -> str:
    """timm's own file that the architecture lives in."""
    return _registry._model_to_module.get(architecture, "?")


def load(path: Path) -> list[Architecture]:
    """The index in the file; made, and written there, where it lacks an architecture of the installed timm."""
    there = [Architecture(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
    known, wanted = {one.name: one for one in there}, timm.list_models()
    if set(wanted) <= set(known):
        return [known[name] for name in wanted]
    found = [known[name] if name in known else look(name) for name in wanted]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in found))
    return found


def look(name: str) -> Architecture:
    """Build it on the meta device, where that takes a tenth of a second and no memory."""
    with torch.device("meta"):
        model = timm.create_model(name)
    return Architecture(name, sum(p.numel() for p in model.parameters()), signature(model))


def signature(model: nn.Module) -> str:
    """Model class, the set of layer classes, and the kind of attention: its classes and how it names its projections."""
    layers = {type(m).__name__ for m in model.modules() if m._parameters}
    attention = {type(m).__name__ for m in model.modules() if "att" in type(m).__name__.lower()}
    named = {name.rpartition(".")[2] for name, _ in model.named_modules()} & {*PROJECTIONS}
    parts = [type(model).__name__, *sorted(layers), *sorted(attention), *sorted(named)]
    return f"{parts[0]} {hashlib.sha256(' '.join(parts).encode()).hexdigest()[:8]}"
