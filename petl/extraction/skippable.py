"""Which modules must run in every training step: those with hooks, and those that compute something else in training mode."""

from __future__ import annotations

from torch import nn

from petl.wrapping.eval_mode import in_eval


def hooked_modules(model: nn.Module) -> set[nn.Module]:
    """Returns the modules with forward hooks: in a skipped module, a hook would see tensors without values, or nothing."""
    return {m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks}


def changes_in_training(model: nn.Module) -> set[nn.Module]:
    """Returns the modules that drop values or update statistics when the model is in training mode."""
    with in_eval(model):
        model.train()
        return {m for m in model.modules() if m.training and (_drops_values(m) or "running_mean" in m._buffers)}


def _drops_values(module: nn.Module) -> bool:
    rates = [getattr(module, name, 0.0) for name in ("drop_prob", "drop_rate", "prob")]  # timm's names
    rates += [module.p] if isinstance(module, nn.modules.dropout._DropoutNd) else []
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)
