"""The points of petl's contract, tried on copies of a model. Benchmarks use them one by one."""

from __future__ import annotations

import copy
import gc
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from petl.delta.load import load
from petl.delta.save import save
from petl.errors import StateError
from petl.graft.classes import is_grafted
from petl.graft.folding import prune
from petl.inspection.comparison import (
    copy_requires_grad,
    keys_of_one_only,
    max_difference,
    named_tensors,
    outputs,
    same_values,
)
from petl.inspection.training_steps import take_steps
from petl.memory.base_dtype import restore_dtype
from petl.methods.foreign import ForeignMethod
from petl.wrapping.lookup import record
from petl.wrapping.merge import merge, unfoldable
from petl.wrapping.unwrap import unwrap

ROUNDING = 1e-4  # of an output, in units of its largest number, that a tensor without influence may change


@dataclass(frozen=True)
class Finding:
    """The result of one point: ``status`` is "pass", "fail" or "n/a", ``detail`` what was seen or why it doesn't apply."""

    point: str
    status: str
    detail: str = ""


class Trial:
    """Tries the points of the contract one after the other on a model, in the order of the methods below.

    `injection` looks at the model as it is. `train` takes a few steps, and `gradients`, `drift`, `copies`, `reload`, `merge`
    and `unwrap` look at the trained model.
    """

    def __init__(self, base: nn.Module, adapted: nn.Module, batch: Tensor):
        self.base, self.adapted, self.batch = base, adapted, batch
        self.read: set[str] = set()  # tensors that the forward reads: they got a gradient, which may be all zeros
        self.reached: set[str] = set()  # tensors that got a gradient which isn't all zeros
        self.before: dict[str, Tensor] = {}  # copies of all tensors from before the training
        self.trained: list[Tensor] = []  # the outputs after the training

    def injection(self) -> Finding:
        """Compares the fresh adapted model with the same model, new head included, without its grafts."""
        stripped = copy.deepcopy(self.adapted)
        restore_dtype(stripped)
        for module in stripped.modules():
            prune(module)
        try:
            plain = outputs(stripped, self.batch)
        except Exception as error:  # such as a batch of other channels
            return Finding("injection", "n/a", f"the base doesn't take this batch: {error}")
        if _has_trained(self.adapted):
            return Finding("injection", "n/a", "already trained")
        gap = max_difference(outputs(self.adapted, self.batch), plain)
        return Finding("injection", "fail" if gap else "pass", f"differs from the base by {gap:.3g}" if gap else "")

    def train(self) -> None:
        """Takes a few training steps, and notes which tensors get a gradient and what the model returns afterwards."""
        outputs(
            self.adapted, self.batch
        )  # some models keep what they compute in their first forward (convit's indices)
        self.before = {name: t.detach().clone() for name, t in named_tensors(self.adapted)}
        self.read, self.reached = take_steps(self.adapted, self.batch)
        self.trained = outputs(self.adapted, self.batch)

    def gradients(self) -> Finding:
        """Asks whether a gradient reached every trainable tensor that has an influence on the output, and no frozen one."""
        names = [name for name, p in self.adapted.named_parameters() if p.requires_grad]
        missed = [name for name in names if name not in self.reached]
        idle = [name for name in missed if self.has_no_influence(name)]
        dead = [name for name in missed if name not in idle]
        wrong = [name for name in self.reached if name not in names]
        detail = f"{len(names)} tensors" if not dead else f"no gradient reaches {len(dead)} of {len(names)}: {dead[:5]}"
        detail += f"; frozen, but with gradient: {wrong[:5]}" if wrong else ""
        detail += f"; without influence on the output, whatever their values: {idle[:5]}" if idle else ""
        return Finding("gradients", "fail" if dead or wrong else "pass", detail)

    def has_no_influence(self, name: str) -> bool:
        """Returns whether a tensor that the forward reads never changes the output, whatever its value and the others' are.

        A softmax cancels such tensors: the bias of keys, or of an attention map. Behind a zero gain a tensor has influence.
        """
        return name in self.read and all(self._changes_nothing(name, seed) for seed in range(3))

    def _changes_nothing(self, name: str, seed: int) -> bool:
        gc.collect()  # the copy of the call before this one
        noisy, rng = copy.deepcopy(self.adapted), torch.Generator().manual_seed(seed)
        parameters = dict(noisy.named_parameters())
        for p in parameters.values():
            _add_noise(p, 0.1, rng)
        before = outputs(noisy.train(), self.batch)  # train: some models keep what they compute from parameters
        _add_noise(parameters[name], 1.0, rng)
        largest = max(float(t.abs().max()) for t in before)
        gap = max_difference(outputs(noisy.train(), self.batch), before)
        return largest < float("inf") and gap <= ROUNDING * largest

    def drift(self) -> Finding:
        """Compares every tensor with its copy from before training: only trained ones and tuned statistics may differ."""
        trained = {name for name, p in self.adapted.named_parameters() if p.requires_grad}
        tuned = _tuned_statistics(self.adapted)
        moved = [name for name, t in named_tensors(self.adapted) if not same_values(t, self.before[name])]
        self.before = {}  # they are as large as the model
        wrong = [name for name in moved if name not in trained | tuned]
        counts = f"{len(moved)} moved, {len({*moved} & tuned)} of them statistics"
        return Finding("drift", "fail" if wrong else "pass", f"frozen, but moved: {wrong[:5]}" if wrong else counts)

    def copies(self) -> Finding:
        """Compares the outputs of a deep copy and of an unpickled model with the model's own."""
        gaps = {"deepcopy": max_difference(outputs(copy.deepcopy(self.adapted), self.batch), self.trained)}
        gc.collect()
        gaps["pickle"] = max_difference(outputs(_pickled(self.adapted), self.batch), self.trained)
        wrong = {name: gap for name, gap in gaps.items() if gap}
        return Finding("copies", "fail" if wrong else "pass", f"differ: {wrong}" if wrong else "")

    def reload(self) -> Finding:
        """Saves the delta, loads it onto a copy of the base, and compares the outputs."""
        with tempfile.TemporaryDirectory() as folder:
            path = save(self.adapted, Path(folder) / "delta.safetensors")
            reloaded = load(path, copy.deepcopy(self.base))
            size = path.stat().st_size
        gap = max_difference(outputs(reloaded, self.batch), self.trained)
        return Finding("reload", "fail" if gap else "pass", f"differs by {gap:.3g}" if gap else f"{size:,} bytes")

    def merge(self) -> Finding:
        """Merges a copy and compares its outputs and keys: no graft and no key of one may be left."""
        unmergeable, merged = unfoldable(self.adapted), copy.deepcopy(self.adapted)
        try:
            merge(merged)
        except StateError as error:
            return Finding("merge", "n/a" if unmergeable else "fail", str(error))
        copy_requires_grad(merged, self.adapted)
        gap = max_difference(outputs(merged, self.batch), self.trained)
        left = [name for name, module in merged.named_modules() if is_grafted(module)]
        strange = sorted(keys_of_one_only(merged, self.base))
        wrong = gap > self._merge_tolerance() or left or strange
        detail = f"differs by {gap:.3g}" if gap else ""
        return Finding("merge", "fail" if wrong else "pass", f"{detail} {left[:3]} {strange[:3]}" if wrong else detail)

    def _merge_tolerance(self) -> float:
        """Zero for petl's own methods; for others, rounding of float32 in units of the largest output."""
        wrapped = record(self.adapted)
        exact = wrapped is None or not any(isinstance(method, ForeignMethod) for method in wrapped.methods)
        return 0.0 if exact else ROUNDING * max(float(t.abs().max()) for t in self.trained)

    def unwrap(self) -> Finding:
        """Unwraps a copy and compares its tensors, keys and classes of modules with the base's."""
        plain = unwrap(copy.deepcopy(self.adapted))
        then, now = self.base.state_dict(), plain.state_dict()
        keys = sorted(then.keys() ^ now.keys())
        moved = [key for key in then if key in now and not same_values(then[key], now[key])]
        modules = zip(self.base.named_modules(), plain.named_modules(), strict=True)
        classes = [name for (name, before), (_, after) in modules if type(before) is not type(after)]
        wrong = [*keys, *moved, *classes]
        return Finding("unwrap", "fail" if wrong else "pass", f"not as before: {wrong[:5]}" if wrong else "")


def _pickled(model: nn.Module) -> nn.Module:
    with tempfile.TemporaryFile() as file:  # in memory, it would be there twice
        pickle.dump(model, file)
        file.seek(0)
        return cast(nn.Module, pickle.load(file))


def _add_noise(p: Tensor, by: float, rng: torch.Generator) -> None:
    with torch.no_grad():
        p.add_(torch.randn(p.shape, generator=rng).to(p), alpha=by if p.is_floating_point() else 0)


def _has_trained(model: nn.Module) -> bool:
    """Returns whether some graft has left its start: LoRA's and adapters' last layers start at zero."""
    last = [p for name, p in model.named_parameters() if name.endswith((".up", ".up.weight"))]
    return any(bool((p != 0).any()) for p in last)


def _tuned_statistics(model: nn.Module) -> set[str]:
    """Returns the names of the running statistics that a method tunes: they are meant to move."""
    wrapped, buffers = record(model), dict(model.named_buffers())
    return {name for name in (wrapped.owned_keys if wrapped else ()) if name in buffers}
