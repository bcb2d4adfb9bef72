"""The classifier of a model: which modules it is, and giving it another number of classes."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from petl.errors import MethodError, SiteError, near
from petl.sites.names import ancestors, topmost, within
from petl.sites.survey import Survey

HeadOption = bool | str | tuple[str, ...]


def head_option(head: Any) -> HeadOption:
    """Checks ``head=`` and returns it as it is kept: True, False, a name, or names, whose order is that of the user."""
    if isinstance(head, (bool, str)):
        return head
    if isinstance(head, Sequence) and all(isinstance(name, str) for name in head):
        return tuple(head)
    raise MethodError(f"head={head!r:.60}; expected True, False, the classifier's name, or a list of names")


def prepare_head(survey: Survey, option: HeadOption, num_classes: int | None) -> list[str]:
    """Gives the model ``num_classes`` classes if it has another number; returns the names of the modules that are to train.

    None at all is how timm takes a classifier away: a delta of a model from which that was done has to do it again.
    """
    model = survey.model
    if option is False:
        _refuse_new_head(num_classes)
        return []
    names, num_classes = _named(survey, option), class_count(num_classes)
    if num_classes is None or num_classes == getattr(model, "num_classes", None):
        return names
    if num_classes < 0 or (num_classes == 0 and not hasattr(model, "reset_classifier")):
        raise MethodError(f"num_classes={num_classes}; a classifier has at least one class")
    fresh = _replace(model, names, num_classes)
    return fresh or names if option is True else names


def class_count(num_classes: Any) -> int | None:
    """Returns ``num_classes`` as Python's own integer, which a delta can hold: ``labels.max() + 1`` is numpy's or torch's."""
    if num_classes is None:
        return None
    if isinstance(num_classes, bool) or not hasattr(num_classes, "__index__"):
        raise MethodError(f"num_classes={num_classes!r}; expected a whole number, such as 10")
    try:
        return operator.index(num_classes)
    except (TypeError, ValueError):  # a tensor of several numbers, or of fractions
        raise MethodError(f"num_classes={num_classes!r:.60}; expected a whole number, such as 10") from None


def _refuse_new_head(num_classes: int | None) -> None:
    if num_classes is not None:
        raise MethodError(
            f"num_classes={num_classes} with head=False would leave a new, random classifier frozen; leave out one of them"
        )


def _named(survey: Survey, option: HeadOption) -> list[str]:
    """The classifier's modules as the user or timm names them."""
    if option is True and survey.head is None and hasattr(survey.model, "reset_classifier"):
        raise SiteError(
            f"can't look at this {type(survey.model).__name__}, which does not run on shapes: {survey.failed}"
        )
    if option is True and survey.head is None:
        raise SiteError(
            f"{type(survey.model).__name__} has no classifier (no reset_classifier to ask); pass head=False to adapt the "
            f"encoder alone, or name the classifier: head={_last(survey)!r}"
        )
    names = list(survey.head or []) if option is True else [option] if isinstance(option, str) else list(option)  # type: ignore[arg-type]
    for name in names:
        if name not in survey.modules:
            raise SiteError(
                f"head={name!r}: {type(survey.model).__name__} has no such module{near(name, survey.modules)}"
            )
    return names


def _last(survey: Survey) -> str:
    """Guesses the classifier's name: the last layer, or what holds it and little else."""
    layers = sorted((n for n, m in survey.modules.items() if isinstance(m, (nn.Linear, nn.Conv2d))), key=survey.order)
    around = [name for name in ancestors(layers[-1]) if name] if layers else []
    small = [name for name in around if sum(within(layer, [name]) for layer in layers) <= 3]
    return small[0] if small else layers[-1] if layers else "fc"


def _replace(model: nn.Module, names: Sequence[str], num_classes: int) -> list[str]:
    """Makes a new classifier, and returns the names of its modules."""
    before = {
        id(module): module for module in model.modules()
    }  # kept alive, so that no new module gets an old one's id
    if not hasattr(model, "reset_classifier"):
        _replace_last_layer(model, names, num_classes)
        return list(names)
    like = next(model.parameters())
    model.reset_classifier(num_classes)  # type: ignore[operator]  # timm's contract
    for module in [m for m in model.modules() if id(m) not in before]:
        module.to(device=like.device, dtype=like.dtype).train(model.training)
    return topmost(n for n, m in model.named_modules() if id(m) not in before and any(True for _ in m.parameters()))


def _replace_last_layer(model: nn.Module, names: Sequence[str], num_classes: int) -> None:
    """Without timm's contract: a new last linear layer or 1x1 convolution in each of the named modules."""
    for top in names:
        layers = [n for n, m in model.named_modules() if within(n, [top]) and isinstance(m, (nn.Linear, nn.Conv2d))]
        if not layers:
            raise SiteError(
                f"head={top!r} holds no linear layer or convolution to replace for num_classes={num_classes}"
            )
        old = _outputs(model.get_submodule(layers[-1]))
        parent, _, leaf = layers[-1].rpartition(".")
        setattr(model.get_submodule(parent), leaf, _resized(model.get_submodule(layers[-1]), num_classes))
        _update_class_counts(model, layers[-1], old, num_classes)


def classes_now(model: nn.Module, names: Sequence[str]) -> int | None:
    """Returns how many outputs the classifier's layers have, where they are plain layers that agree; else None."""
    modules = dict(model.named_modules())
    sizes = {_outputs(modules[n]) for n in names if isinstance(modules.get(n), (nn.Linear, nn.Conv2d))}
    return sizes.pop() if len(sizes) == 1 else None


def _outputs(layer: nn.Module) -> int:
    return cast(int, layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features)


def _update_class_counts(model: nn.Module, layer: str, old: int, num_classes: int) -> None:
    """Writes the new number of classes wherever the modules around the new layer keep it.

    torchvision's transformers keep it, timm's models inside others do, and transformers' models in their configuration, which
    is exchanged for a copy: the old one comes back with ``unwrap``.
    """
    for name in ("", *ancestors(layer)):
        around = cast(Any, model.get_submodule(name))
        for attribute in ("num_classes", "num_labels"):
            if vars(around).get(attribute) == old:
                setattr(around, attribute, num_classes)
        settings = vars(around).get("config")
        if getattr(settings, "num_labels", None) == old:
            around.config = copy.deepcopy(settings)
            around.config.num_labels = num_classes


def _resized(layer: nn.Module, num_classes: int) -> nn.Module:
    like, bias = next(layer.parameters()), getattr(layer, "bias", None) is not None
    place = {"device": like.device, "dtype": like.dtype}
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(layer.in_channels, num_classes, cast(Any, layer.kernel_size), bias=bias, **place)
    return nn.Linear(cast(nn.Linear, layer).in_features, num_classes, bias, **place)
