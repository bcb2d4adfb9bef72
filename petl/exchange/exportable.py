"""The copy of a model that is exported: changes folded in, float32 on the CPU, answers as the user wants them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.folding import fold
from petl.graft.kinds import WeightGraft, grafts
from petl.prediction.meaning import DECODINGS
from petl.wrapping.eval_mode import drop_eval_caches
from petl.wrapping.lookup import bare, wrapped_inside
from petl.wrapping.merge import merge, unfoldable

OUTPUT_NAMES = {"regression": "values", "metric": "embedding"}  # by task; others give logits


class AnsweringModel(nn.Module):
    """A model whose answers are probabilities, or its outputs as they are (``decoding=None``)."""

    def __init__(self, model: nn.Module, decoding: str | None, temperature: float | None):
        super().__init__()
        self.model, self.decoding, self.temperature = model, decoding, temperature

    def forward(self, images: Tensor) -> Any:
        outputs = self.model(images)
        if self.decoding is None:
            return outputs
        scores = outputs if self.temperature is None else outputs / self.temperature
        return DECODINGS[self.decoding](scores)


def exportable_copy(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """Returns a copy in evaluation mode, float32 on the CPU, and the names of what could not be folded into weights.

    Raises:
        StateError: the model has no values.
    """
    plain = bare(model)
    if any(tensor.is_meta for tensor in (*plain.parameters(), *plain.buffers())):
        raise StateError(f"this {type(plain).__name__} is on the meta device and has no values; load them first")
    clone = copy.deepcopy(plain)
    kept = [name for inner in wrapped_inside(clone).values() for name in _folded(inner)]
    clone.to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    for module in clone.modules():
        _forget_hooks(module)
    drop_eval_caches(clone)
    return clone, kept


def _folded(model: nn.Module) -> list[str]:
    """Folds all that can be folded; returns the names of the rest, which stays as layers of its own."""
    stuck = unfoldable(model)
    try:
        if not stuck:
            merge(model)
            return []
    except StateError:  # a tuner of another library that can't be merged stays on the model, as it was
        return [name for name, module in model.named_modules() if hasattr(module, "get_base_layer")]
    for module in list(model.modules()):
        present = [graft for _, graft in grafts(module)]
        if present and all(isinstance(graft, WeightGraft) for graft in present):
            fold(module)
    return list(stuck)


def _forget_hooks(module: nn.Module) -> None:
    """Takes the hooks off that watch a model in training; those that compute weights come before the forward and stay."""
    module._forward_hooks.clear()
    module._backward_hooks.clear()


def answering(model: nn.Module, task: str | None, temperature: float | None, *, probabilities: bool) -> AnsweringModel:
    """Returns the module to export; raises a StateError where probabilities are asked for and the outputs are none."""
    kind = task or "classification"
    if probabilities and kind not in ("classification", "ordinal", "multilabel"):
        raise StateError(
            f"probabilities=True, and the outputs are those of a {kind}, which are none; leave it out, and they are exported as "
            f"they are"
        )
    return AnsweringModel(model, kind if probabilities else None, temperature if probabilities else None)
