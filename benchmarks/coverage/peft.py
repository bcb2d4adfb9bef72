"""peft's own LoRA on the same models, judged by the same promises: what the table compares petl with."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage.heads import is_head
from benchmarks.coverage.models import images, lively, sizes
from benchmarks.coverage.plan import CLASSES, Pair
from benchmarks.coverage.verdict import judged, short

STEPS = 3
TOLERANCE = 1e-3  # of a merged model's output, in units of the output's standard deviation


def rival(pair: Pair) -> dict[str, Any]:
    """Inject rank 4, train three steps, save, load onto a fresh base, merge; each promise that failed, with the reason."""
    import peft

    side, arguments = sizes(pair.architecture, pair.arguments)[0]
    base = copy.deepcopy(lively(pair.architecture, arguments, side))
    torch.manual_seed(0)
    if hasattr(base, "reset_classifier"):
        base.reset_classifier(CLASSES)  # type: ignore[operator]
    layers = [name for name, m in base.named_modules() if _wanted(m, pair.column) and not is_head(base, name)]
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=layers)
    batch, plain = images(side, 3), copy.deepcopy(base)
    line: dict[str, Any] = {"size": side, "sites": len(layers), "points": {}}
    try:
        model = peft.get_peft_model(base, config)
    except Exception as error:  # peft raises what its layers raise
        return {**line, "status": "fail", "reason": f"injection: {short(f'{type(error).__name__}: {error}')}"}
    line["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return judged(line, _points(model, plain, config, batch))


def _points(model: nn.Module, plain: nn.Module, config: Any, batch: Tensor) -> dict[str, str]:
    """What is wrong at each point of the contract, in the order of a training."""
    points = {"injection": _gap("differs from the base", output(model, batch), output(plain, batch))}
    before = {name: t.detach().clone() for name, t in (*model.named_parameters(), *model.named_buffers())}
    points["gradients"] = _trained(model, batch)
    points["drift"] = _moved(model, before)
    for name, buffer in model.named_buffers():  # moved statistics count once, as drift
        buffer.copy_(before[name])
    out = output(model, batch)
    points["reload"] = _attempt(lambda: _gap("differs", output(_reloaded(model, plain, config), batch), out))
    points["merge"] = _attempt(lambda: _merged(model, plain, batch, out))
    return points


def _wanted(module: nn.Module, column: str) -> bool:
    """All linear layers and convolutions, or the ungrouped ones."""
    if not isinstance(module, (nn.Linear, nn.Conv2d)):
        return False
    return column == "peft-all" or getattr(module, "groups", 1) == 1


def output(model: nn.Module, batch: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        out = model(batch)
    return out if isinstance(out, Tensor) else out[0]


def _trained(model: nn.Module, batch: Tensor) -> str:
    """Three steps; which of peft's tensors no gradient reaches."""
    trains = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer, reached = torch.optim.Adam(trains.values(), lr=1e-3), set()
    model.train()
    for module in model.modules():
        if type(module).__name__.startswith("Drop"):
            module.eval()
    for _ in range(STEPS):
        optimizer.zero_grad()
        out = model(batch)
        leaves = [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)]
        sum(((t - torch.linspace(-1, 2, t.numel()).view(t.shape).cos()) ** 2).mean() for t in leaves).backward()  # type: ignore[union-attr]
        reached |= {name for name, p in trains.items() if p.grad is not None and bool((p.grad != 0).any())}
        optimizer.step()
    dead = sorted({*trains} - reached)
    return f"no gradient reaches {len(dead)} of {len(trains)}: {dead[:2]}" if dead else ""


def _moved(model: nn.Module, before: dict[str, Tensor]) -> str:
    """Frozen tensors and buffers that training moved: what peft's file doesn't hold."""
    frozen = [(n, p) for n, p in model.named_parameters() if not p.requires_grad] + list(model.named_buffers())
    moved = [name for name, t in frozen if not torch.equal(t, before[name])]
    return f"{len(moved)} frozen tensors moved: {moved[:2]}" if moved else ""


def _reloaded(model: nn.Module, plain: nn.Module, config: Any) -> nn.Module:
    """What peft's file gives on a fresh base."""
    import peft

    again = peft.get_peft_model(copy.deepcopy(plain), copy.deepcopy(config))
    peft.set_peft_model_state_dict(again, peft.get_peft_model_state_dict(model))  # type: ignore[arg-type]
    return again


def _merged(model: Any, plain: nn.Module, batch: Tensor, out: Tensor) -> str:
    merged = copy.deepcopy(model).merge_and_unload()
    keys = {*merged.state_dict()} ^ {*plain.state_dict()}
    off = float((output(merged, batch) - out).abs().max() / out.std())
    if keys:
        return f"other keys than timm's: {sorted(keys)[:2]}"
    return f"differs by {off:.3g} standard deviations" if not off <= TOLERANCE else ""


def _gap(text: str, one: Tensor, other: Tensor) -> str:
    return "" if torch.equal(one, other) else f"{text} by {float((one - other).abs().max()):.3g}"


def _attempt(point: Any) -> str:
    try:
        return point()
    except Exception as error:  # peft raises what its layers raise
        return f"{type(error).__name__}: {short(str(error), 160)}"
