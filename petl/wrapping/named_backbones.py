"""Builds the backbones that words name: ``NAME``, with weights that timm fetches, or ``NAME:FILE``, with those of a file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petl.errors import ITEM, StateError, near, shortened

if TYPE_CHECKING:  # torch takes seconds, which `petl --help` needn't
    from torch import nn

LONGEST_REASON = 400  # characters of what timm says: of wrong weights it names every tensor
DEMO = "demo"  # where a model is named: the backbone of the extra ``demo``, EfficientNet-Lite0
NAME_PREFIXES = ("hf-hub", "hf_hub", "local-dir")  # timm's prefixes of names, which have a colon of their own
NOT_FETCHED = (
    "weights of timm's that aren't on this computer can't be fetched now; connect to the network (and unset HF_HUB_OFFLINE), "
    "or use weights from a file: NAME:FILE"
)


class NotFetched(StateError):
    """timm's weights aren't in the cache, and their server can't be reached."""


def existing_file(path: str | Path) -> Path:
    """Returns the path of an existing file, or raises a StateError."""
    if not Path(path).is_file():
        raise StateError(f"{path} is no file; name one" if Path(path).exists() else f"no such file: {path}")
    return path if isinstance(path, Path) else Path(path)


def create_backbone(
    text: str, args: Mapping[str, Any], *, pretrained: bool = True, headless: bool = False
) -> nn.Module:
    """Returns the timm model ``NAME`` with the weights that timm fetches, or ``NAME:FILE`` with those of a checkpoint file.

    ``headless``: the file has no classifier; all else has to be in it, as always.
    """
    import timm

    name, file = name_and_file(text)
    # timm's loading of pretrained weights also resizes position embeddings; of a changed num_classes it wouldn't ask for all
    overlay = {"file": str(existing_file(file)), **({"num_classes": 0} if headless else {})} if file else None
    args = {**args, **({"num_classes": 0} if headless else {})}
    try:
        return timm.create_model(name, pretrained=bool(pretrained or file), pretrained_cfg_overlay=overlay, **args)
    except Exception as error:  # timm raises whatever the hub's client, the network or the file raise
        if not file and timm.is_model(name) and _is_unreachable(error):
            raise NotFetched(f"timm can't build {shortened(text, ITEM)}: {NOT_FETCHED}") from error
        hint = "" if timm.is_model(name) else near(name, timm.list_models())
        where = "; to use weights from a file: NAME:FILE" if pretrained and not file else ""
        said = shortened(" ".join(str(error).split()), LONGEST_REASON)
        raise StateError(f"timm can't build {shortened(text, ITEM)}: {said}{hint}{where}") from error


def _is_unreachable(error: BaseException | None) -> bool:
    """Returns whether an error, or one that it came from, is of the way to a server, rather than what a server answered."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "URLError",
        "ConnectionError",
        "ConnectError",
        "Timeout",
    }:
        return "HTTPError" not in names  # urllib's is an URLError, and an answer
    return error is not None and _is_unreachable(error.__cause__ or error.__context__)


def create_any_head(text: str, args: Mapping[str, Any]) -> nn.Module:
    """Returns the same model; where the file has no classifier, one without, for features or a delta that brings its own.

    Raises:
        StateError: timm can't build it with a classifier, nor without.
    """
    try:
        return create_backbone(text, args)
    except StateError:
        if name_and_file(text)[1]:
            with contextlib.suppress(StateError):
                return create_backbone(text, args, headless=True)
        raise


def name_and_file(text: str) -> tuple[str, str]:
    """Returns name and file; names such as ``hf-hub:owner/name`` keep their own colon."""
    name, _, rest = text.partition(":")
    if name not in NAME_PREFIXES:
        return name, rest
    inner, _, file = rest.partition(":")
    return f"{name}:{inner}", file
