"""The classifier of a model of timm: the new one that it gets, and which keys belong to it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

from benchmarks.coverage.plan import CLASSES


def head(model: nn.Module) -> dict[str, Any]:
    """A new classifier, where the model has one by timm's contract."""
    return {"num_classes": CLASSES} if hasattr(model, "reset_classifier") else {"head": False}


def is_head(model: nn.Module, key: str) -> bool:
    """Whether the key lies in what timm's config or ``get_classifier`` calls the classifier."""
    named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    tops = [named] if isinstance(named, str) else list(named)
    found = {id(m) for m in tree_leaves(model.get_classifier())} if hasattr(model, "get_classifier") else set()  # type: ignore[operator]
    tops += [name for name, module in model.named_modules() if id(module) in found]
    return any(key == top or key.startswith(f"{top}.") for top in [*tops, "head_dist"])
