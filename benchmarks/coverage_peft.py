"""peft's own LoRA on the same models, judged as ``petl.check`` judges: on the tensors themselves."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from coverage_models import images, lively, sizes
from coverage_plan import Pair
from coverage_trials import is_head, judged, some
from torch import Tensor, nn

from petl.check import STEPS, _apart, _leave_nothing_out, _loss, _output, _same, _tensors

TOLERANCE = 1e-3  # of a merged output, in standard deviations of the output: rounding of float32 stays below it
POINTS = ("injection", "gradients", "drift", "reload", "merge")


def rival(pair: Pair) -> dict[str, Any]:
    """The line of this pair: peft's LoRA of rank 4, the classifier left alone."""
    side, arguments = sizes(pair.architecture, pair.arguments)[0]
    base = lively(pair.architecture, arguments, side)
    names = targets(base, grouped=pair.column == "peft-all")
    line: dict[str, Any] = {"size": side, "sites": len(names)}
    try:
        trial = _Trial(base, names, images(side, 3))
    except Exception as error:  # peft raises many kinds; that it can't be injected is the result
        return {**line, "status": "fail", "points": {"injection": f"raised {type(error).__name__}: {error}"[:240]}}
    line["trainable"] = sum(p.numel() for p in trial.model.parameters() if p.requires_grad)
    return judged(line, {point: seen(getattr(trial, point)) for point in POINTS})


def targets(model: nn.Module, *, grouped: bool) -> list[str]:
    """Full names of the linear and convolution layers outside the classifier; with ``grouped``, grouped ones too."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    return [n for n, m in layers.items() if not is_head(model, n) and (grouped or getattr(m, "groups", 1) == 1)]


def seen(point: Callable[[], str]) -> str:
    """What was wrong, empty where nothing was; whatever peft or the model raises is wrong."""
    try:
        return point()
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"


class _Trial:
    """Runs the points in order: the first looks at the model before, the second trains it."""

    def __init__(self, base: nn.Module, names: list[str], batch: Tensor):
        self.base, self.names, self.batch = base, names, batch
        self.model = self.adapted()
        self.before = {name: t.detach().clone() for name, t in _tensors(self.model)}

    def adapted(self) -> nn.Module:
        """peft's model on a fresh copy of the base."""
        import peft

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=self.names)
            return peft.get_peft_model(copy.deepcopy(self.base), config)  # type: ignore[arg-type]

    def injection(self) -> str:
        off = _apart(_output(self.model, self.batch), _output(self.base, self.batch))
        return f"differs from the base by {off:.3g}" if off else ""

    def gradients(self) -> str:
        """Train a few steps; every tensor of LoRA gets a gradient that isn't zero."""
        self.model.train()
        _leave_nothing_out(self.model)
        lora = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        optimizer, reached = torch.optim.Adam(lora.values(), lr=1e-2), set[str]()
        for _ in range(STEPS):
            optimizer.zero_grad()
            _loss(self.model(self.batch)).backward()
            reached |= {name for name, p in lora.items() if p.grad is not None and bool((p.grad != 0).any())}
            optimizer.step()
        dead = lora.keys() - reached
        return f"no gradient reaches {len(dead)} of {len(lora)}: {some(dead)}" if dead else ""

    def drift(self) -> str:
        trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
        moved = {name for name, t in _tensors(self.model) if name not in trained and not _same(t, self.before[name])}
        return f"frozen, but moved: {some(moved)}" if moved else ""

    def reload(self) -> str:
        import peft

        again = self.adapted()
        peft.set_peft_model_state_dict(again, peft.get_peft_model_state_dict(self.model))
        off = _apart(_output(again, self.batch), _output(self.model, self.batch))
        return f"differs by {off:.3g}" if off else ""

    def merge(self) -> str:
        out = _output(self.model, self.batch)
        merged = copy.deepcopy(self.model).merge_and_unload()  # type: ignore[operator]
        strange = merged.state_dict().keys() ^ self.base.state_dict().keys()
        off = _apart(_output(merged, self.batch), out) / max(float(t.double().std()) for t in out)
        apart = f"differs by {off:.3g} standard deviations" if not off <= TOLERANCE else ""
        return apart or (f"keys that aren't timm's: {some(strange)}" if strange else "")
