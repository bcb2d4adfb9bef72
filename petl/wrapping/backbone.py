"""Describes a backbone when it is wrapped, and rebuilds it from the description when a delta is loaded."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from petl.addresses.hub_access import cache_if_unreachable
from petl.errors import DeltaError, MethodError, listing
from petl.format.backbone_values import TIMM_NAME, is_remote
from petl.format.create_args import fault
from petl.sites.meta import pretrained_cfg
from petl.sites.survey import Survey
from petl.wrapping.backbone_size import refuse_huge

KEPT_ELSEWHERE = ("num_classes", "in_chans")  # arguments that have keys of their own in the description


def describe_backbone(survey: Survey, num_classes: int | None, create_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describes how to rebuild the base: timm's name with tag, classes, channels, dtype, and further arguments.

    ``unrecorded`` names arguments that are no numbers or words (a class, a partial): such a base can't be built by its name.
    """
    model, cfg = survey.model, pretrained_cfg(survey.model)
    name = ".".join(part for part in (cfg.get("architecture"), cfg.get("tag")) if part) or None
    args, unrecorded = create_arguments(model, survey.image[0], create_args)
    known = name is not None and TIMM_NAME.fullmatch(name)
    return {
        "name": name if known else None,
        "num_classes": as_python_number(getattr(model, "num_classes", num_classes)),
        "in_chans": survey.image[0],
        "dtype": str(next((p.dtype for p in model.parameters()), torch.float32)).removeprefix("torch."),
        "args": args,
        **({"unrecorded": unrecorded} if unrecorded and known else {}),
    }


def warn_unrecorded(backbone: Mapping[str, Any]) -> None:
    """Warns, before the training, that ``load`` won't be able to build this backbone by its name."""
    if backbone.get("unrecorded"):
        warnings.warn(
            f"{backbone['name']} was built with {backbone['unrecorded']}, which a delta can't record; to load one, build the "
            f"backbone in the same way and pass it: petl.load(path, model)",
            stacklevel=3,
        )


def create_arguments(
    model: nn.Module, channels: int, create_args: Mapping[str, Any] | None
) -> tuple[dict[str, Any], str]:
    """Returns the current ``create_model`` arguments of this model, and as a text those that can't be recorded.

    Raises:
        MethodError: an argument from the user is no number, word, or list of these.
    """
    current = {key: _worded(value) for key, value in {**_created(model), **_features(model)}.items()}
    explicit = {key: _worded(value) for key, value in (create_args or {}).items() if key != "num_classes"}
    if why := fault(explicit):
        raise MethodError(f"create_args: {why}; build the backbone by hand and pass it to petl.load, or leave it out")
    input_size = pretrained_cfg(model).get("input_size") or (channels,)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size and tuple(size) != tuple(input_size[1:] or size):
        current["img_size"] = list(size)
    if channels != input_size[0]:
        current["in_chans"] = channels
    unrecordable = {key: value for key, value in current.items() if key not in explicit and fault({key: value})}
    recordable = {key: value for key, value in current.items() if key not in unrecordable}
    return {**recordable, **explicit}, listing(f"{key}={str(value)[:60]}" for key, value in unrecordable.items())


def _created(model: nn.Module) -> dict[str, Any]:
    """Returns the arguments that timm built the model with, as changed by timm's own calls since."""
    original = getattr(model, "_model_args", None)
    if original is None:
        return {}
    from timm.models import get_model_args

    current = {**original, **get_model_args(model)}  # get_model_args leaves out rates
    usual_size = tuple(pretrained_cfg(model).get("input_size", ())[1:])
    if "img_size" not in original and tuple(current.get("img_size") or ()) == usual_size:
        current.pop("img_size", None)
    return {key: value for key, value in current.items() if key not in KEPT_ELSEWHERE and value is not None}


def _features(model: nn.Module) -> dict[str, Any]:
    """Returns the ``create_model`` arguments of a model that timm built with ``features_only=True``, else none."""
    out_indices = getattr(getattr(model, "feature_info", None), "out_indices", None)
    return {} if out_indices is None else {"features_only": True, "out_indices": list(out_indices)}


def _worded(value: Any) -> Any:
    """Returns the value with tuples as lists, and classes as the names by which timm creates them."""
    if isinstance(value, (list, tuple)):
        return [_worded(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _worded(item) for key, item in value.items()}
    return _timm_name(value) or value if isinstance(value, type) else as_python_number(value)


def as_python_number(value: Any) -> Any:
    """Returns a numpy or torch number (``labels.max() + 1``) as a Python number, which a header can hold; else the value."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _timm_name(kind: type) -> str | None:
    """Returns the name by which timm creates this activation or norm class, or None."""
    from timm.layers import create_act, create_norm

    tables = (getattr(create_act, "_ACT_LAYER_DEFAULT", {}), getattr(create_norm, "_NORM_MAP", {}))
    return next((name for table in tables for name, cls in table.items() if cls is kind), None)


def set_in_chans(model: nn.Module, channels: int) -> None:
    """Writes the number of image channels wherever timm keeps it, as if the model had been created with ``in_chans=``."""
    if not pretrained_cfg(model):
        return
    cast(Any, model).in_chans = channels
    for module in model.modules():
        if module is not model and "in_chans" in vars(module):
            cast(Any, module).in_chans = channels
    cast(Any, model)._model_args = {**getattr(model, "_model_args", {}), "in_chans": channels}


def build_backbone(
    backbone: Mapping[str, Any], *, pretrained: bool, trust_remote: bool = False, file_numbers: int = 0
) -> nn.Module:
    """Builds the backbone that a checked header describes; ``file_numbers`` counts the elements of the file's own tensors.

    Raises:
        DeltaError: timm can't build the backbone, its name leads outside timm and isn't trusted, or it would be far too large.
    """

    def create(name: str, args: dict[str, Any]) -> nn.Module:
        import timm

        with cache_if_unreachable() if pretrained else contextlib.nullcontext():
            return timm.create_model(name, pretrained=pretrained, **args)

    return cast(nn.Module, _built(backbone, create, trust_remote, file_numbers))


def outline_backbone(
    backbone: Mapping[str, Any], *, trust_remote: bool = False, file_numbers: int = 0
) -> nn.Module | None:
    """Builds the same backbone on the meta device, where it takes no memory; None where that isn't possible.

    Raises:
        DeltaError: as ``build_backbone``.
    """

    def create(name: str, args: dict[str, Any]) -> nn.Module | None:
        import timm

        try:
            with torch.device("meta"):
                return None if is_remote(backbone) else timm.create_model(name, pretrained=False, **args)
        except (RuntimeError, NotImplementedError):  # the constructor reads values of tensors
            return None

    return _built(backbone, create, trust_remote, file_numbers)


def _built(
    backbone: Mapping[str, Any],
    create: Callable[[str, dict[str, Any]], nn.Module | None],
    trust_remote: bool,
    file_numbers: int,
) -> nn.Module | None:
    """Returns what ``create`` builds for the described backbone, in the recorded dtype; raises a DeltaError where it may not."""
    name, by_hand = backbone.get("name"), "build it yourself and pass it: petl.load(path, model)"
    if not name:
        raise DeltaError(f"the delta's backbone has no timm name; {by_hand}")
    if backbone.get("unrecorded"):
        raise DeltaError(
            f"the delta's backbone {name} was built with {backbone['unrecorded']}, which no delta holds; {by_hand}"
        )
    if is_remote(backbone) and not trust_remote:
        raise DeltaError(
            f"the delta's backbone is {name!r}, which is outside timm; pass trust_remote=True (to a command "
            f"--trust-remote) if you trust whoever wrote the file, or {by_hand}"
        )
    args = {"num_classes": backbone.get("num_classes"), **backbone.get("args", {})}
    args = {key: value for key, value in args.items() if value is not None}
    try:
        if not is_remote(backbone):
            refuse_huge(name, args, file_numbers)
        model = create(name, args)
        return None if model is None else model.to(getattr(torch, backbone.get("dtype", "float32")))
    except Exception as error:  # the hub client, the network and the file system raise errors of their own
        raise DeltaError(f"timm can't build the backbone {name} ({str(error)[:300]}); {by_hand}") from error
