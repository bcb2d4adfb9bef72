"""Cross-entropy with class weights, label smoothing, mixup and cutmix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.loaders import Loader
from petl.data.pairs import Batch
from petl.errors import PetlError
from petl.objectives.protocol import LossOptions
from petl.objectives.targets import read_targets


def create_criterion(settings: LossOptions, train: Loader, classes: int) -> nn.Module:
    """Returns the cross-entropy of a training. Mixes bring soft targets, which are smoothed already."""
    weights = class_weights(settings.class_weights, train, classes)
    smoothing = 0.0 if settings.mixes else settings.label_smoothing
    return nn.CrossEntropyLoss(weights, label_smoothing=smoothing)


def create_mix(settings: LossOptions, classes: int) -> Callable[[Tensor, Tensor], Batch] | None:
    """Returns timm's mixup and cutmix, or None where both are off.

    timm mixes even batches only: an odd one gets soft targets without a mix.
    """
    if not settings.mixes:
        return None
    from timm.data.mixup import Mixup, mixup_target

    smoothing = settings.label_smoothing
    mixed = Mixup(settings.mixup, settings.cutmix, label_smoothing=smoothing, num_classes=classes)

    def mix(images: Tensor, targets: Tensor) -> Batch:
        if len(images) % 2:
            return images, mixup_target(targets, classes, smoothing=smoothing)
        return mixed(images, targets)

    return mix


def class_weights(wish: Any, loader: Loader, classes: int) -> Tensor | None:
    """Returns one weight per class, or None: ``wish`` itself, or for "balanced" images / (classes * images of the class).

       scikit-learn defines "balanced" in the same way.
    Where the dataset has no ``targets``, it is read once. A class without images gets weight 0.
    """
    if wish is None:
        return None
    if isinstance(wish, str):
        if wish != "balanced":
            raise PetlError(f"class_weights={wish!r}; expected 'balanced', or one number per class")
        counts = torch.bincount(read_targets(loader), minlength=classes)
        return torch.where(counts > 0, counts.sum() / (classes * counts.clamp(min=1)), 0.0).float()
    try:
        weights = torch.as_tensor(wish, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PetlError(f"class_weights={wish!r} ({error}); expected 'balanced', or one number per class") from error
    if weights.shape != (classes,) or not ((weights >= 0) & weights.isfinite()).all() or not weights.any():
        raise PetlError(
            f"class_weights of shape {tuple(weights.shape)}; expected {classes} numbers of 0 or more, finite and not all 0"
        )
    return weights
