"""Loads a written adapter by peft onto the plain base, and compares its outputs and merged weights with the model's."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petl.errors import StateError, listing
from petl.exchange.peft_layers import effective_value
from petl.exchange.peft_parts import KEEP_THE_DELTA, base_layer
from petl.extraction.undisturbed import undisturbed
from petl.graft.values import input_dtype
from petl.sites.survey import Survey

# of the largest output, where the model computes in float32: peft adds up @ (down @ x) to a layer's output, petl computes with
# the changed weight, and both round
TOLERANCE = 1e-4
EXACT_TOLERANCE = (
    1e-3  # in float64, where the weights that are kept whole are still rounded to float32; weights are compared too
)


def outputs_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Returns the tensors that the model gives for these images in evaluation mode; the model is afterwards as it was."""
    with undisturbed(model, None), torch.no_grad():
        return [
            leaf.cpu() if leaf.dtype == torch.float64 else leaf.float().cpu()
            for leaf in tree_leaves(model(images))
            if isinstance(leaf, Tensor)
        ]


def trial_images(model: nn.Module, survey: Survey, batch: int = 2) -> Tensor:
    """Returns random images of the survey's size, always the same, as the model takes them: [batch, channels, height, width]."""
    like = next(model.parameters())
    images = torch.randn(batch, *survey.image, generator=torch.Generator().manual_seed(0))
    return images.to(like.device, input_dtype(model))


def largest_difference(ones: list[Tensor], others: list[Tensor]) -> tuple[float, float]:
    """Returns the largest difference, infinite where shapes or non-finite numbers differ, and the largest value."""
    if [one.shape for one in ones] != [other.shape for other in others]:
        return float("inf"), 0.0
    worst, scale = 0.0, 0.0
    for one, other in zip(ones, others, strict=True):
        equal = (one == other) | (one.isnan() & other.isnan())
        gaps = torch.where(equal, torch.zeros_like(one), (one - other).abs())
        worst = max(worst, float(gaps.nan_to_num(nan=float("inf")).max()) if gaps.numel() else 0.0)
        scale = max(scale, float(one.abs().nan_to_num(posinf=0.0).max()) if one.numel() else 0.0)
    return worst, scale


def tolerance(dtype: torch.dtype) -> float:
    """Returns the difference, relative to the largest output, that rounding in this type explains."""
    return max(TOLERANCE, 8 * torch.finfo(dtype).eps)


def try_adapter(folder: Path, model: nn.Module, base: nn.Module, survey: Survey, *, weights: bool) -> float | None:
    """Loads the folder onto ``base`` by peft, and returns the largest difference of outputs; ``base`` is used up.

    Args:
        weights: also compare the merged weights, layer by layer.

    Returns:
        The difference of logits (or whatever the model returns); None for a model that doesn't run on images.

    Raises:
        StateError: peft computes something else, or can't load the folder.
    """
    from peft import PeftModel

    images = None if survey.failed else trial_images(model, survey)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            tuned = PeftModel.from_pretrained(base, str(folder))
            lost = [str(warning.message) for warning in said if "missing adapter keys" in str(warning.message)]
            gap = None if images is None or lost else _compare_outputs(model, tuned, images)
            merged = tuned.merge_and_unload() if weights and not lost else None
    except StateError:
        raise
    except Exception as error:  # peft raises whatever its tuners raise
        raise StateError(
            f"peft can't load what petl would write ({error!r:.300}); nothing was written: {KEEP_THE_DELTA}"
        ) from error
    if lost:
        raise StateError(f"peft would miss tensors ({lost[0][:300]}); nothing was written: {KEEP_THE_DELTA}")
    if merged is not None:
        _compare_weights(model, merged)
    return gap


def _compare_outputs(model: nn.Module, tuned: nn.Module, images: Tensor) -> float:
    """Returns the largest difference, or raises a StateError where it is more than rounding explains.

    Some nets make much of little: what is off in float32 is computed once more in float64, in copies.
    """
    gap, scale = largest_difference(outputs_of(model, images), outputs_of(tuned, images))
    if gap <= tolerance(images.dtype) * max(scale, 1e-6):
        return gap
    ones, others = (outputs_of(copy.deepcopy(net).double(), images.double()) for net in (model, tuned))
    exact, scale = largest_difference(ones, others)
    if not exact <= EXACT_TOLERANCE * max(scale, 1e-6):
        raise StateError(
            f"peft would compute other outputs than this model (off by {gap:.2g} where they reach {scale:.2g}), so nothing was "
            f"written: {KEEP_THE_DELTA}"
        )
    return gap


def _compare_weights(model: nn.Module, merged: nn.Module) -> None:
    """Raises a StateError where a merged weight isn't the one that the model computes with."""
    own = {name: base_layer(module) for name, module in model.named_modules(remove_duplicate=False)}
    wrong = []
    for key, value in merged.state_dict().items():
        name, _, leaf = key.rpartition(".")
        mine = effective_value(own[name], leaf)
        worst, scale = largest_difference([mine.float().cpu()], [value.float().cpu()])
        if not worst <= tolerance(value.dtype if value.is_floating_point() else torch.float32) * max(scale, 1e-6):
            wrong.append(key)
    if wrong:
        raise StateError(f"peft would merge {listing(wrong)} to other numbers; nothing was written: {KEEP_THE_DELTA}")
