"""Finds the classifier of a model, and replaces it for another number of classes."""

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
    """Checks ``head=`` and returns it as the record keeps it: True, False, a name, or a tuple of names in the user's order."""
    if isinstance(head, (bool, str)):
        return head
    if isinstance(head, Sequence) and all(isinstance(name, str) for name in head):
        return tuple(head)
    raise MethodError(f"head={head!r:.60}; expected True, False, the classifier's name, or a list of names")


def prepare_head(survey: Survey, option: HeadOption, num_classes: int | None) -> list[str]:
    """Replaces the classifier if ``num_classes`` is another number; returns the names of the modules that are to train.

    With ``num_classes=0`` timm removes the classifier: a delta of a model without one has to remove it too.
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
    new_names = _replace(model, names, num_classes)
    return new_names or names if option is True else names


def class_count(num_classes: Any) -> int | None:
    """Returns ``num_classes`` as a Python integer, which a delta can hold: ``labels.max() + 1`` is numpy's or torch's."""
    if num_classes is None:
        return None
    if isinstance(num_classes, bool) or not hasattr(num_classes, "__index__"):
        raise MethodError(f"num_classes={num_classes!r}; expected a whole number, such as 10")
    try:
        return operator.index(num_classes)
    except (TypeError, ValueError):  # a tensor of several numbers, or of fractions
        raise MethodError(f"num_classes={num_classes!r:.60}; expected a whole number, such as 10") from None


def _refuse_new_head(num_classes: int | None) -> None:
    """Raises a MethodError where ``num_classes`` comes with ``head=False``."""
    if num_classes is not None:
        raise MethodError(
            f"num_classes={num_classes} with head=False would leave a new, random classifier frozen; leave out one of them"
        )


def _named(survey: Survey, option: HeadOption) -> list[str]:
    """Returns the names of the classifier's modules, from the user or from timm."""
    if option is True and survey.head is None and hasattr(survey.model, "reset_classifier"):
        raise SiteError(
            f"can't look at this {type(survey.model).__name__}, which does not run on shapes: {survey.failed}"
        )
    if option is True and survey.head is None:
        raise SiteError(
            f"{type(survey.model).__name__} has no classifier (no reset_classifier to ask); pass head=False to adapt the "
            f"encoder alone, or name the classifier: head={probable_classifier(survey)!r}"
        )
    names = list(survey.head or []) if option is True else [option] if isinstance(option, str) else list(option)  # type: ignore[arg-type]
    for name in names:
        if name not in survey.modules:
            raise SiteError(
                f"head={name!r}: {type(survey.model).__name__} has no such module{near(name, survey.modules)}"
            )
    return names


def probable_classifier(survey: Survey) -> str:
    """Guesses the classifier's name: the last layer, or a small module around that layer."""
    layers = sorted((n for n, m in survey.modules.items() if isinstance(m, (nn.Linear, nn.Conv2d))), key=survey.order)
    parents = [name for name in ancestors(layers[-1]) if name] if layers else []
    small = [name for name in parents if sum(within(layer, [name]) for layer in layers) <= 3]
    return small[0] if small else layers[-1] if layers else "fc"


def _replace(model: nn.Module, names: Sequence[str], num_classes: int) -> list[str]:
    """Builds a new classifier, and returns the names of its modules."""
    # the modules stay alive in this dict, so that no new module gets the id of an old one
    before = {id(module): module for module in model.modules()}
    if not hasattr(model, "reset_classifier"):
        _replace_last_layer(model, names, num_classes)
        return list(names)
    weight = next(model.parameters())
    model.reset_classifier(num_classes)  # type: ignore[operator]  # a method of timm's models
    for module in [m for m in model.modules() if id(m) not in before]:
        module.to(device=weight.device, dtype=weight.dtype).train(model.training)
    return topmost(n for n, m in model.named_modules() if id(m) not in before and any(True for _ in m.parameters()))


def _replace_last_layer(model: nn.Module, names: Sequence[str], num_classes: int) -> None:
    """Replaces the last linear layer or 1x1 convolution in each of the named modules, for models that aren't timm's."""
    for top in names:
        layers = [n for n, m in model.named_modules() if within(n, [top]) and isinstance(m, (nn.Linear, nn.Conv2d))]
        if not layers:
            raise SiteError(
                f"head={top!r} holds no linear layer or convolution to replace for num_classes={num_classes}"
            )
        old_layer = model.get_submodule(layers[-1])
        parent, _, leaf = layers[-1].rpartition(".")
        setattr(model.get_submodule(parent), leaf, _resized(old_layer, num_classes))
        _update_class_counts(model, layers[-1], _outputs(old_layer), num_classes)


def classes_now(model: nn.Module, names: Sequence[str]) -> int | None:
    """Returns the number of outputs of the classifier's layers, where they are plain layers with the same number; else None."""
    modules = dict(model.named_modules())
    sizes = {_outputs(modules[n]) for n in names if isinstance(modules.get(n), (nn.Linear, nn.Conv2d))}
    return sizes.pop() if len(sizes) == 1 else None


def _outputs(layer: nn.Module) -> int:
    """Returns the number of outputs of a linear layer or a convolution."""
    return cast(int, layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features)


def _update_class_counts(model: nn.Module, layer: str, old_count: int, num_classes: int) -> None:
    """Writes the new number of classes to every attribute for it of the modules around the new layer.

    torchvision's transformers have such an attribute, and so have timm's models inside other models. Models of the library
    transformers have it in their configuration, which is exchanged for a copy: ``unwrap`` restores the old configuration.
    """
    for name in ("", *ancestors(layer)):
        parent = cast(Any, model.get_submodule(name))
        for attribute in ("num_classes", "num_labels"):
            if vars(parent).get(attribute) == old_count:
                setattr(parent, attribute, num_classes)
        config = vars(parent).get("config")
        if getattr(config, "num_labels", None) == old_count:
            parent.config = copy.deepcopy(config)
            parent.config.num_labels = num_classes


def _resized(layer: nn.Module, num_classes: int) -> nn.Module:
    """Returns a new layer like this one, but with another number of outputs."""
    weight, bias = next(layer.parameters()), getattr(layer, "bias", None) is not None
    options: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(layer.in_channels, num_classes, cast(Any, layer.kernel_size), bias=bias, **options)
    return nn.Linear(cast(nn.Linear, layer).in_features, num_classes, bias, **options)
