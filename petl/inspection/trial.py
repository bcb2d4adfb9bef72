"""The points of petl's contract, tried on copies of a model. Benchmarks use them one by one."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petl.delta.delta import load, save
from petl.errors import StateError
from petl.graft.graft import is_grafted, prune
from petl.inspection.comparison import (
    copy_requires_grad,
    keys_of_one_only,
    max_difference,
    named_tensors,
    outputs,
    same_values,
)
from petl.memory.base_dtype import widen
from petl.wrapping.record import record
from petl.wrapping.wrap import merge, unfoldable, unwrap

TRAINING_STEPS = 3
ROUNDING = 1e-4  # of an output, in units of its largest number, that a tensor without influence may change


@dataclass(frozen=True)
class Finding:
    """One point of the contract: ``status`` is "pass", "fail" or "n/a", ``detail`` what was seen or why it doesn't apply."""

    point: str
    status: str
    detail: str = ""


class Trial:
    """Runs the points in order: the first looks at the model before, the others after a few steps of training."""

    def __init__(self, base: nn.Module, adapted: nn.Module, batch: Tensor):
        self.base, self.adapted, self.batch = base, adapted, batch
        self.read: set[str] = set()  # tensors that the forward reads: a gradient came back, though it may be all zeros
        self.fresh = not _has_trained(adapted)

    def injection(self) -> Finding:
        """The fresh adapted model against the same model, new head included, with all grafts taken off."""
        stripped = copy.deepcopy(self.adapted)
        widen(stripped)
        for module in stripped.modules():
            prune(module)
        try:
            plain = outputs(stripped, self.batch)
        except Exception as error:  # such as a batch of other channels
            return Finding("injection", "n/a", f"the base doesn't take this batch: {error}")
        if not self.fresh:
            return Finding("injection", "n/a", "already trained")
        off = max_difference(outputs(self.adapted, self.batch), plain)
        return Finding("injection", "fail" if off else "pass", f"differs from the base by {off:.3g}" if off else "")

    def gradients(self) -> Finding:
        names = [name for name, p in self.adapted.named_parameters() if p.requires_grad]
        still = [name for name in names if name not in self.reached]
        idle = [name for name in still if self._is_idle(name)]
        dead = [name for name in still if name not in idle]
        wrong = [name for name in self.reached if name not in names]
        detail = f"{len(names)} tensors" if not dead else f"no gradient reaches {len(dead)} of {len(names)}: {dead[:5]}"
        detail += f"; frozen, but with gradient: {wrong[:5]}" if wrong else ""
        detail += f"; without influence on the output, whatever their values: {idle[:5]}" if idle else ""
        return Finding("gradients", "fail" if dead or wrong else "pass", detail)

    def _is_idle(self, name: str) -> bool:
        """Whether a tensor that the forward reads has no influence, whatever it and the others are.

        Such is what a softmax subtracts again: the bias of keys, or of a map of attention. Behind a zero gain it would have one.
        """
        return name in self.read and all(self._moves_nothing(name, seed) for seed in range(3))

    def _moves_nothing(self, name: str, seed: int) -> bool:
        gc.collect()  # the trial before this one
        trial, chance = copy.deepcopy(self.adapted), torch.Generator().manual_seed(seed)
        named = dict(trial.named_parameters())
        for p in named.values():
            _add_noise(p, 0.1, chance)
        before = outputs(trial.train(), self.batch)  # train: some models keep what they compute from parameters
        _add_noise(named[name], 1.0, chance)
        most = max(float(t.abs().max()) for t in before)
        return most < float("inf") and max_difference(outputs(trial.train(), self.batch), before) <= ROUNDING * most

    def drift(self) -> Finding:
        """Every tensor after training against its copy from before: only trained ones and tuned statistics may differ."""
        _ = self.reached  # trains
        trained = {name for name, p in self.adapted.named_parameters() if p.requires_grad}
        tuned = _tuned_statistics(self.adapted)
        moved = [name for name, t in named_tensors(self.adapted) if not same_values(t, self.before[name])]
        del self.before  # as large as the model
        wrong = [name for name in moved if name not in trained | tuned]
        counts = f"{len(moved)} moved, {len({*moved} & tuned)} of them statistics"
        return Finding("drift", "fail" if wrong else "pass", f"frozen, but moved: {wrong[:5]}" if wrong else counts)

    @functools.cached_property
    def before(self) -> dict[str, Tensor]:
        """Copies of all tensors before training, but after a forward: some models keep what they compute (convit's indices)."""
        outputs(self.adapted, self.batch)
        return {name: t.detach().clone() for name, t in named_tensors(self.adapted)}

    @functools.cached_property
    def reached(self) -> set[str]:
        """Train a few steps; the names of the tensors that got a gradient."""
        _ = self.before  # that is, before this
        return self._train()

    @functools.cached_property
    def trained(self) -> list[Tensor]:
        """The adapted model's output after training, which copies, reloads and merges must repeat."""
        _ = self.reached
        return outputs(self.adapted, self.batch)

    def copies(self) -> Finding:
        off = {"deepcopy": max_difference(outputs(copy.deepcopy(self.adapted), self.batch), self.trained)}
        gc.collect()
        off["pickle"] = max_difference(outputs(_pickled(self.adapted), self.batch), self.trained)
        wrong = {name: gap for name, gap in off.items() if gap}
        return Finding("copies", "fail" if wrong else "pass", f"differ: {wrong}" if wrong else "")

    def reload(self) -> Finding:
        out = self.trained
        with tempfile.TemporaryDirectory() as folder:
            path = save(self.adapted, Path(folder) / "delta.safetensors")
            again = load(path, copy.deepcopy(self.base))
            size = path.stat().st_size
        off = max_difference(outputs(again, self.batch), out)
        return Finding("reload", "fail" if off else "pass", f"differs by {off:.3g}" if off else f"{size:,} bytes")

    def merge(self) -> Finding:
        stuck, out = unfoldable(self.adapted), self.trained
        folded = copy.deepcopy(self.adapted)
        try:
            merge(folded)
        except StateError as error:
            return Finding("merge", "n/a" if stuck else "fail", str(error))
        copy_requires_grad(folded, self.adapted)
        off = max_difference(outputs(folded, self.batch), out)
        left = [name for name, module in folded.named_modules() if is_grafted(module)]
        strange = sorted(keys_of_one_only(folded, self.base))
        wrong = off > self._merge_tolerance(out) or left or strange
        detail = f"differs by {off:.3g}" if off else ""
        return Finding("merge", "fail" if wrong else "pass", f"{detail} {left[:3]} {strange[:3]}" if wrong else detail)

    def _merge_tolerance(self, out: list[Tensor]) -> float:
        """Zero for petl's own methods; for others, rounding of float32 in units of the output."""
        made = record(self.adapted)
        exact = made is None or all(method.exact for method in made.methods)
        return 0.0 if exact else 1e-4 * max(float(t.abs().max()) for t in out)

    def unwrap(self) -> Finding:
        plain = unwrap(copy.deepcopy(self.adapted))
        then, now = self.base.state_dict(), plain.state_dict()
        keys = sorted(then.keys() ^ now.keys())
        moved = [k for k in then if k in now and not same_values(then[k], now[k])]
        kinds = [
            n
            for (n, a), (_, b) in zip(self.base.named_modules(), plain.named_modules(), strict=True)
            if type(a) is not type(b)
        ]
        wrong = [*keys, *moved, *kinds]
        return Finding("unwrap", "fail" if wrong else "pass", f"not as before: {wrong[:5]}" if wrong else "")

    def _train(self) -> set[str]:
        """A few steps of Adam on a fixed random target; the names of the tensors that got a gradient."""
        reached: set[str] = set()
        self.adapted.train()
        disable_dropout(self.adapted)
        named = dict(self.adapted.named_parameters())
        trained = [p for p in named.values() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=1e-4)  # larger steps blow some untrained nets up (halonet_h1)
        for _ in range(TRAINING_STEPS):
            optimizer.zero_grad()
            projection_loss(self.adapted(self.batch)).backward()
            arrived = {name for name, p in named.items() if p.grad is not None}
            self.read |= arrived
            reached |= {name for name in arrived if bool((cast(Tensor, named[name].grad) != 0).any())}
            optimizer.step()
        optimizer.zero_grad()
        self.adapted.eval()
        return reached


def _pickled(model: nn.Module) -> nn.Module:
    with tempfile.TemporaryFile() as file:  # in memory, it would be there twice
        pickle.dump(model, file)
        file.seek(0)
        return cast(nn.Module, pickle.load(file))


def _add_noise(p: Tensor, by: float, chance: torch.Generator) -> None:
    with torch.no_grad():
        p.add_(torch.randn(p.shape, generator=chance).to(p), alpha=by if p.is_floating_point() else 0)


def disable_dropout(model: nn.Module) -> None:
    """Dropout and stochastic depth off: whether a gradient arrives must not hang on chance."""
    for module in model.modules():
        if isinstance(module, (nn.modules.dropout._DropoutNd, DropPath)):
            module.eval()


def projection_loss(output: Any) -> Tensor:
    """A projection of all outputs onto fixed numbers, squared: no symmetry makes its gradient vanish."""
    leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    weights = [torch.linspace(-1, 2, t.numel(), device=t.device).view(t.shape).cos() for t in leaves]
    return sum(((t - w) ** 2).float().mean() for t, w in zip(leaves, weights, strict=True))  # type: ignore[return-value]


def _has_trained(model: nn.Module) -> bool:
    """Whether some graft has left its start: LoRA's and adapters' last layers start at zero."""
    last = [p for name, p in model.named_parameters() if name.endswith((".up", ".up.weight"))]
    return any(bool((p != 0).any()) for p in last)


def _tuned_statistics(model: nn.Module) -> set[str]:
    """Buffers of modules that stand in training mode after ``model.train()``: their statistics are meant to move."""
    made = record(model)
    return {k for k in (made.planned if made else ()) if k in dict(model.named_buffers())}
