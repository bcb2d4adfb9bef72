"""How a backbone is built again: described when it is wrapped, and rebuilt from the description when a delta is loaded."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from petl.errors import DeltaError, MethodError, listing
from petl.format import create_args
from petl.format.header import NAME, remote
from petl.sites.meta import pretrained_cfg
from petl.sites.survey import Survey

ELSEWHERE = ("num_classes", "in_chans")  # arguments that have their own place in the description
USUAL = {
    "num_classes": 25_000,
    "img_size": 1024,
    "in_chans": 64,
    "output_stride": 32,
    "out_indices": 64,
}  # make nothing large
FREE_TENSORS = 3_000  # what a header's arguments may make of any backbone, at least
FREE_NUMBERS = 50_000_000
REACH = 3.0  # seconds that the hub may take to answer


def describe(found: Survey, num_classes: int | None, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """How to build the base again: timm's name with tag, classes, channels, type, and further ``create_model`` arguments.

    ``unrecorded`` names arguments that are no numbers or words (a class, a partial): such a base can't be built by its name.
    """
    model, cfg = found.model, pretrained_cfg(found.model)
    name = ".".join(part for part in (cfg.get("architecture"), cfg.get("tag")) if part) or None
    args, unrecorded = arguments(model, found.image[0], given)
    known = name is not None and NAME.fullmatch(name)
    return {
        "name": name if known else None,
        "num_classes": unboxed(getattr(model, "num_classes", num_classes)),
        "in_chans": found.image[0],
        "dtype": str(next((p.dtype for p in model.parameters()), torch.float32)).removeprefix("torch."),
        "args": args,
        **({"unrecorded": unrecorded} if unrecorded and known else {}),
    }


def warn_unrecorded(backbone: Mapping[str, Any]) -> None:
    """Say early what will be missed late: that no delta can have this backbone built by its name."""
    if backbone.get("unrecorded"):
        warnings.warn(
            f"{backbone['name']} was built with {backbone['unrecorded']}, which a delta can't record; to load one, build the "
            f"backbone in the same way and pass it: petl.load(path, model)",
            stacklevel=3,
        )


def arguments(model: nn.Module, channels: int, given: Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
    """The ``create_model`` arguments of this model as it is now, and in words those that can't be recorded.

    Raises:
        MethodError: one that the user gave is no number, word, or list of these.
    """
    own = {key: _worded(value) for key, value in {**_created(model), **_features(model)}.items()}
    asked = {key: _worded(value) for key, value in (given or {}).items()}
    if why := create_args.fault(asked):
        raise MethodError(f"create_args: {why}; build the backbone by hand and pass it to petl.load, or leave it out")
    input_size = pretrained_cfg(model).get("input_size") or (channels,)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size and tuple(size) != tuple(input_size[1:] or size):
        own["img_size"] = list(size)
    if channels != input_size[0]:
        own["in_chans"] = channels
    lost = {key: value for key, value in own.items() if key not in asked and create_args.fault({key: value})}
    kept = {key: value for key, value in own.items() if key not in lost}
    return {**kept, **asked}, listing(f"{key}={str(value)[:60]}" for key, value in lost.items())


def _created(model: nn.Module) -> dict[str, Any]:
    """What timm says of the arguments that the model was made with, changes by its own calls included."""
    made = getattr(model, "_model_args", None)
    if made is None:
        return {}
    from timm.models import get_model_args

    now = {**made, **get_model_args(model)}  # which leaves out rates
    if "img_size" not in made and tuple(now.get("img_size") or ()) == tuple(
        pretrained_cfg(model).get("input_size", ())[1:]
    ):
        now.pop("img_size", None)
    return {key: value for key, value in now.items() if key not in ELSEWHERE and value is not None}


def _features(model: nn.Module) -> dict[str, Any]:
    """The ``create_model`` arguments of a model that timm made with ``features_only=True``."""
    chosen = getattr(getattr(model, "feature_info", None), "out_indices", None)
    return {} if chosen is None else {"features_only": True, "out_indices": list(chosen)}


def _worded(value: Any) -> Any:
    """Tuples as lists, and classes by the name under which timm makes them."""
    if isinstance(value, (list, tuple)):
        return [_worded(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _worded(item) for key, item in value.items()}
    return _timm_name(value) or value if isinstance(value, type) else unboxed(value)


def unboxed(value: Any) -> Any:
    """A number of numpy's or torch's (``labels.max() + 1``) as Python's own, which a header can hold."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _timm_name(kind: type) -> str | None:
    from timm.layers import create_act, create_norm

    tables = (getattr(create_act, "_ACT_LAYER_DEFAULT", {}), getattr(create_norm, "_NORM_MAP", {}))
    return next((name for table in tables for name, cls in table.items() if cls is kind), None)


def takes_channels(model: nn.Module, channels: int) -> None:
    """Say in timm's own words that the model takes images of so many channels, as if it had been created with ``in_chans=``."""
    if not pretrained_cfg(model):
        return
    cast(Any, model).in_chans = channels
    for module in model.modules():
        if module is not model and "in_chans" in vars(module):
            cast(Any, module).in_chans = channels
    cast(Any, model)._model_args = {**getattr(model, "_model_args", {}), "in_chans": channels}


def build(header: Mapping[str, Any], *, pretrained: bool, trust_remote: bool = False, held: int = 0) -> nn.Module:
    """The backbone that a checked header describes; ``held`` is how many numbers the file itself has.

    Raises:
        DeltaError: timm can't build it, the name leads elsewhere and isn't trusted, or it would be out of all proportion.
    """

    def made(name: str, args: dict[str, Any]) -> nn.Module:
        import timm

        with impatient() if pretrained else contextlib.nullcontext():
            return timm.create_model(name, pretrained=pretrained, **args)

    return cast(nn.Module, _built(header, made, trust_remote, held))


def outline(header: Mapping[str, Any], *, trust_remote: bool = False, held: int = 0) -> nn.Module | None:
    """``build`` on the meta device, without memory; None where that can't be.

    Raises:
        DeltaError: as ``build``.
    """

    def made(name: str, args: dict[str, Any]) -> nn.Module | None:
        import timm

        try:
            with torch.device("meta"):
                return None if remote(header) else timm.create_model(name, pretrained=False, **args)
        except (RuntimeError, NotImplementedError):  # code that reads values while it builds
            return None

    return _built(header, made, trust_remote, held)


def _built(
    header: Mapping[str, Any],
    made: Callable[[str, dict[str, Any]], nn.Module | None],
    trust_remote: bool,
    held: int,
) -> nn.Module | None:
    base = header["backbone"]
    by_hand = "build it yourself and pass it: petl.load(path, model)"
    if not base.get("name"):
        raise DeltaError(f"the delta's backbone has no timm name; {by_hand}")
    if base.get("unrecorded"):
        raise DeltaError(
            f"the delta's backbone {base['name']} was built with {base['unrecorded']}, which no delta holds; {by_hand}"
        )
    if remote(header) and not trust_remote:
        raise DeltaError(
            f"the delta's backbone is {base['name']!r}, which is outside timm; pass trust_remote=True if you trust whoever wrote "
            f"the file, or {by_hand}"
        )
    args = {k: v for k, v in {"num_classes": base.get("num_classes"), **base.get("args", {})}.items() if v is not None}
    try:
        if not remote(header):
            _refuse_huge(base["name"], args, held)
        model = made(base["name"], args)
        return None if model is None else model.to(getattr(torch, base.get("dtype", "float32")))
    except Exception as error:  # timm raises whatever the hub client, the network or the file system raise
        raise DeltaError(f"timm can't build the backbone {base['name']} ({str(error)[:300]}); {by_hand}") from error


class _TooLarge(Exception):
    pass


def _refuse_huge(name: str, args: Mapping[str, Any], held: int) -> None:
    """Try the arguments without memory, and stop where they make the backbone out of proportion to timm's own."""
    import timm

    if all(_largest(value) <= USUAL.get(key, 0) for key, value in args.items()):
        return
    with torch.device("meta"), _counted() as plain:
        timm.create_model(name, pretrained=False)
    limits = max(FREE_TENSORS, 4 * plain[0]), max(FREE_NUMBERS, 8 * plain[1]) + 2 * held
    with torch.device("meta"), _counted(*limits):
        timm.create_model(name, pretrained=False, **args)


def _largest(value: Any) -> float:
    """The largest number in a value that isn't a switch or a rate between 0 and 1."""
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, (list, tuple)):
        return max(map(_largest, value), default=0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return 0 if isinstance(value, float) and 0 <= value <= 1 else abs(value)


@contextlib.contextmanager
def _counted(most_parts: float = math.inf, most_numbers: float = math.inf) -> Iterator[list[int]]:
    """Counts modules, parameters and buffers, and the numbers in them, as this thread makes them; stops at the limits."""
    me, counts = threading.get_ident(), [0, 0]

    def count(module: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        if threading.get_ident() != me:
            return
        counts[0] += 1
        counts[1] += part.numel() if isinstance(part, Tensor) else 0
        if counts[0] > most_parts or counts[1] > most_numbers:
            raise _TooLarge(
                f"its recorded arguments make it more than {most_parts:,} parts or {most_numbers:,} numbers, "
                f"out of proportion to what timm builds by that name"
            )

    handles = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
        registration.register_module_module_registration_hook(count),
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Lets the hub's client use its cache alone where the hub can't be reached, instead of trying again for a minute."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(endpoint: str) -> bool:
    """Whether somebody listens there; behind a proxy that can't be told, and the client may try."""
    if {"http", "https", "all"} & {*urllib.request.getproxies()}:
        return True
    place = urllib.parse.urlsplit(endpoint)
    try:
        with socket.create_connection((place.hostname or "", place.port or 443), timeout=REACH):
            return True
    except OSError:
        return False
