"""`check`: whether petl keeps its promises on one model. The tests use it as their oracle."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from petl.errors import StateError
from petl.inspection.trial import Finding, Trial
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.lookup import bare, record, require_record
from petl.wrapping.unwrap import unwrap
from petl.wrapping.wrap import wrap


class CheckReport(tuple[Finding, ...]):
    """Findings in the order of the contract; ``ok`` where none failed; prints as a table."""

    @property
    def ok(self) -> bool:
        return all(finding.status != "fail" for finding in self)

    def __repr__(self) -> str:
        return "\n".join(f"{f.status:4}  {f.point:12} {f.detail}".rstrip() for f in self)


def check(model: nn.Module, batch: Tensor, methods: Any = None, **options: Any) -> CheckReport:
    """Tries the whole contract on copies of ``model`` and reports each point; the model itself is not touched.

    Args:
        model: wrapped; or plain, then ``methods`` and ``options`` say how to wrap its copy, as for ``petl.wrap``.
        batch: images [n, channels, h, w] as the wrapped model takes them, three or more.

    Points: the output at injection is the base's; every trainable tensor gets a gradient, but for those that can have none
    (what a softmax cancels, such as the bias of keys), which the detail names; nothing else moves in three
    training steps; a saved delta reloads bit-equal onto a fresh base; merging and unwrapping are bit-exact; copies agree.
    Dead tensors are often the untrained model's: zero gains and layer scales pass no gradient.

    >>> import petl, timm, torch
    >>> report = petl.check(timm.create_model("test_vit"), torch.randn(3, 3, 160, 160), "lora", num_classes=5)
    >>> report.ok
    True
    """
    held = record(model) is not None and methods is None
    base, adapted = _base_and_adapted(require_record(model)[0] if held else bare(model), methods, options)
    trial = Trial(base, adapted, batch)
    after_training: dict[str, Callable[[], Finding]] = {
        "gradients": trial.gradients,
        "drift": trial.drift,
        "copies": trial.copies,
        "reload": trial.reload,
        "merge": trial.merge,
    }
    findings = [_try_point("injection", trial.injection)]
    failure = _train(trial)
    findings += [
        Finding(name, "fail", failure) if failure else _try_point(name, point) for name, point in after_training.items()
    ]
    return CheckReport([*findings, _try_point("unwrap", trial.unwrap)])


def _base_and_adapted(model: nn.Module, methods: Any, options: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Returns an untouched base and an adapted copy."""
    if methods is None and record(model) is None:
        raise StateError("check got a plain model; wrap it first, or say how: petl.check(model, batch, 'lora')")
    if methods is None:
        adapted = copy.deepcopy(model)
        prove_frozen(adapted, "nothing to compare with")
        return unwrap(copy.deepcopy(adapted)), adapted
    return model, wrap(copy.deepcopy(model), methods, **options)


def _train(trial: Trial) -> str:
    """Trains the trial's model; why that failed, or ""."""
    try:
        trial.train()
    except Exception as error:  # the model's own code runs here
        return _describe(error)
    finally:
        gc.collect()
    return ""


def _try_point(name: str, point: Callable[[], Finding]) -> Finding:
    try:
        return point()
    except Exception as error:  # the model's own code runs here; whatever it raises is the finding
        return Finding(name, "fail", _describe(error))
    finally:
        gc.collect()  # copies of the model, whose modules refer to each other


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
