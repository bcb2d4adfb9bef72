"""check: does petl keep its promises on this very model? The tests' oracle is this public function."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petl.delta.delta import load, save
from petl.errors import StateError
from petl.graft.classes import is_grafted
from petl.graft.folding import prune
from petl.memory.base_dtype import widen
from petl.methods.foreign import ForeignMethod
from petl.sites.names import within
from petl.sites.survey import classifier_names
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.record import bare, record, wrapped
from petl.wrapping.wrap import merge, unfoldable, unwrap, wrap

STEPS = 3
ROUNDING = 1e-4  # of an output, in units of its largest number, that a tensor without influence may change


@dataclass(frozen=True)
class Finding:
    """One point of the contract: ``status`` is "pass", "fail" or "n/a", ``detail`` what was seen or why it doesn't apply."""

    point: str
    status: str
    detail: str = ""


class Report(tuple[Finding, ...]):
    """Findings in the order of the contract; ``ok`` where none failed; prints as a table."""

    @property
    def ok(self) -> bool:
        return all(finding.status != "fail" for finding in self)

    def __repr__(self) -> str:
        return "\n".join(f"{f.status:4}  {f.point:12} {f.detail}".rstrip() for f in self)


def check(model: nn.Module, batch: Tensor, methods: Any = None, **options: Any) -> Report:
    """Try the whole contract on copies of ``model``; the model itself is not touched.

    Args:
        model: wrapped; or plain, then ``methods`` and ``options`` say how to wrap its copy, as for ``petl.wrap``.
        batch: images [n, channels, h, w] as the wrapped model takes them, three or more.

    Points: the output at injection is the base's; every trainable tensor gets a gradient, but for those that can have none
    (what a softmax subtracts again, such as the bias of keys), which the detail names; nothing else moves in three
    training steps; a saved delta reloads bit-equal onto a fresh base; merging and unwrapping are bit-exact; copies agree.
    Dead tensors are often the untrained model's: zero gains and layer scales pass no gradient.

    >>> import petl, timm, torch
    >>> report = petl.check(timm.create_model("test_vit"), torch.randn(3, 3, 160, 160), "lora", num_classes=5)
    >>> report.ok
    True
    """
    held = record(model) is not None and methods is None
    base, adapted = _pair(wrapped(model)[0] if held else bare(model), methods, options)
    trial = _Trial(base, adapted, batch)
    points: dict[str, Callable[[], Finding]] = {
        "injection": trial.injection,
        "gradients": trial.gradients,
        "drift": trial.drift,
        "copies": trial.copies,
        "reload": trial.reload,
        "merge": trial.merge,
        "unwrap": trial.unwrap,
    }
    return Report(_tried(name, point) for name, point in points.items())


def _pair(model: nn.Module, methods: Any, options: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """An untouched base and an adapted copy."""
    if methods is None and record(model) is None:
        raise StateError("check got a plain model; wrap it first, or say how: petl.check(model, batch, 'lora')")
    if methods is None:
        adapted = copy.deepcopy(model)
        prove_frozen(adapted, "nothing to compare with")
        return unwrap(copy.deepcopy(adapted)), adapted
    return model, wrap(copy.deepcopy(model), methods, **options)


def _tried(name: str, point: Callable[[], Finding]) -> Finding:
    try:
        return point()
    except Exception as error:  # the model's own code runs here; whatever it raises is the finding
        return Finding(name, "fail", f"{type(error).__name__}: {error}")
    finally:
        gc.collect()  # copies of the model: modules that know each other would stay


class _Trial:
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
            plain = _output(stripped, self.batch)
        except Exception as error:  # such as a batch of other channels
            return Finding("injection", "n/a", f"the base doesn't take this batch: {error}")
        if not self.fresh:
            return Finding("injection", "n/a", "already trained")
        off = _apart(_output(self.adapted, self.batch), plain)
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
        before = _output(trial.train(), self.batch)  # train: some models keep what they compute from parameters
        _add_noise(named[name], 1.0, chance)
        most = max(float(t.abs().max()) for t in before)
        return most < float("inf") and _apart(_output(trial.train(), self.batch), before) <= ROUNDING * most

    def drift(self) -> Finding:
        """Every tensor after training against its copy from before: only trained ones and tuned statistics may differ."""
        _ = self.reached  # trains
        trained = {name for name, p in self.adapted.named_parameters() if p.requires_grad}
        tuned = _tuned_statistics(self.adapted)
        moved = [name for name, t in _tensors(self.adapted) if not _same(t, self.before[name])]
        del self.before  # as large as the model
        wrong = [name for name in moved if name not in trained | tuned]
        counts = f"{len(moved)} moved, {len({*moved} & tuned)} of them statistics"
        return Finding("drift", "fail" if wrong else "pass", f"frozen, but moved: {wrong[:5]}" if wrong else counts)

    @functools.cached_property
    def before(self) -> dict[str, Tensor]:
        """Copies of all tensors before training, but after a forward: some models keep what they compute (convit's indices)."""
        _output(self.adapted, self.batch)
        return {name: t.detach().clone() for name, t in _tensors(self.adapted)}

    @functools.cached_property
    def reached(self) -> set[str]:
        """Train a few steps; the names of the tensors that got a gradient."""
        _ = self.before  # that is, before this
        return self._train()

    @functools.cached_property
    def trained(self) -> list[Tensor]:
        """The adapted model's output after training, which copies, reloads and merges must repeat."""
        _ = self.reached
        return _output(self.adapted, self.batch)

    def copies(self) -> Finding:
        off = {"deepcopy": _apart(_output(copy.deepcopy(self.adapted), self.batch), self.trained)}
        gc.collect()
        off["pickle"] = _apart(_output(_pickled(self.adapted), self.batch), self.trained)
        wrong = {name: gap for name, gap in off.items() if gap}
        return Finding("copies", "fail" if wrong else "pass", f"differ: {wrong}" if wrong else "")

    def reload(self) -> Finding:
        out = self.trained
        with tempfile.TemporaryDirectory() as folder:
            path = save(self.adapted, Path(folder) / "delta.safetensors")
            again = load(path, copy.deepcopy(self.base))
            size = path.stat().st_size
        off = _apart(_output(again, self.batch), out)
        return Finding("reload", "fail" if off else "pass", f"differs by {off:.3g}" if off else f"{size:,} bytes")

    def merge(self) -> Finding:
        stuck, out = unfoldable(self.adapted), self.trained
        folded = copy.deepcopy(self.adapted)
        try:
            merge(folded)
        except StateError as error:
            return Finding("merge", "n/a" if stuck else "fail", str(error))
        _take_flags(folded, self.adapted)
        off = _apart(_output(folded, self.batch), out)
        left = [name for name, module in folded.named_modules() if is_grafted(module)]
        strange = sorted(_foreign_keys(folded, self.base))
        wrong = off > self._merge_tolerance(out) or left or strange
        detail = f"differs by {off:.3g}" if off else ""
        return Finding("merge", "fail" if wrong else "pass", f"{detail} {left[:3]} {strange[:3]}" if wrong else detail)

    def _merge_tolerance(self, out: list[Tensor]) -> float:
        """Zero for petl's own methods; for others, rounding of float32 in units of the output."""
        made = record(self.adapted)
        exact = made is None or not any(isinstance(method, ForeignMethod) for method in made.methods)
        return 0.0 if exact else 1e-4 * max(float(t.abs().max()) for t in out)

    def unwrap(self) -> Finding:
        plain = unwrap(copy.deepcopy(self.adapted))
        then, now = self.base.state_dict(), plain.state_dict()
        keys = sorted(then.keys() ^ now.keys())
        moved = [k for k in then if k in now and not _same(then[k], now[k])]
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
        _leave_nothing_out(self.adapted)
        named = dict(self.adapted.named_parameters())
        trained = [p for p in named.values() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=1e-4)  # larger steps blow some untrained nets up (halonet_h1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            _loss(self.adapted(self.batch)).backward()
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


def _leave_nothing_out(model: nn.Module) -> None:
    """Dropout and stochastic depth off: whether a gradient arrives must not hang on chance."""
    for module in model.modules():
        if isinstance(module, (nn.modules.dropout._DropoutNd, DropPath)):
            module.eval()


def _loss(output: Any) -> Tensor:
    """A projection of all outputs onto fixed numbers, squared: no symmetry makes its gradient vanish."""
    leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    weights = [torch.linspace(-1, 2, t.numel(), device=t.device).view(t.shape).cos() for t in leaves]
    return sum(((t - w) ** 2).float().mean() for t, w in zip(leaves, weights, strict=True))  # type: ignore[return-value]


def _output(model: nn.Module, batch: Tensor) -> list[Tensor]:
    model.eval()
    with torch.no_grad():
        return [t for t in tree_leaves(model(batch)) if isinstance(t, Tensor)]


def _apart(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest difference; infinite where the shapes differ or something isn't finite."""
    if [t.shape for t in one] != [t.shape for t in other]:
        return float("inf")
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if not torch.equal(a, b)]
    return max(
        (float((a.detach().double() - b.detach().double()).abs().nan_to_num(float("inf")).max()) for a, b in pairs),
        default=0.0,
    )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers with their names, shared ones once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all values are equal, NaN to NaN too."""
    if torch.equal(one, other):
        return True
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def _take_flags(model: nn.Module, like: nn.Module) -> None:
    """The same ``requires_grad`` as the other model's: torch chooses matrix kernels by it, also without gradients (cait)."""
    flags = {name: p.requires_grad for name, p in like.named_parameters()}
    for name, p in model.named_parameters():
        p.requires_grad_(flags.get(name, p.requires_grad))


def _has_trained(model: nn.Module) -> bool:
    """Whether some graft has left its start: LoRA's and adapters' last layers start at zero."""
    last = [p for name, p in model.named_parameters() if name.endswith((".up", ".up.weight"))]
    return any(bool((p != 0).any()) for p in last)


def _tuned_statistics(model: nn.Module) -> set[str]:
    """Buffers of modules that stand in training mode after ``model.train()``: their statistics are meant to move."""
    made = record(model)
    return {k for k in (made.planned if made else ()) if k in dict(model.named_buffers())}


def _foreign_keys(folded: nn.Module, base: nn.Module) -> set[str]:
    """Keys outside the classifier that only one of the two models has."""
    return _keys_outside_head(folded) ^ _keys_outside_head(base)


def _keys_outside_head(model: nn.Module) -> set[str]:
    head = classifier_names(model) or []
    return {key for key in model.state_dict() if not within(key, head)}
