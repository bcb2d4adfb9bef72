"""Which backbone a folder of deltas is served on: the one that their headers name, or the one that was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from petl.delta.file import read_recipe
from petl.delta.header import Header
from petl.errors import DeltaError, PetlError, StateError, listing
from petl.serving.folder import FolderWatch
from petl.wrapping.backbone import build_backbone
from petl.wrapping.named_backbones import DEMO, create_any_head, name_and_file

Headers = Mapping[str, Header]


def folder_of_deltas(folder: Any) -> Path:
    """Returns the folder's path, or raises a StateError where there is none."""
    try:
        path = Path(folder)
        if path.is_dir():
            return path
    except (TypeError, ValueError):
        pass
    raise StateError(f"{str(folder)[:300]!r} is no folder; give the one that the deltas are in, or will be")


def serving_backbone(folder: Path, model: nn.Module | str | None, trust_remote: bool = False) -> nn.Module:
    """Returns the backbone for a folder of deltas.

    Args:
        model: a module, which is taken as it is; NAME, NAME:FILE, :FILE or "demo"; or None for what the headers name.
        trust_remote: whether headers may name one outside timm.

    Raises:
        PetlError: the headers name several backbones or none, or it can't be built.
    """
    if isinstance(model, nn.Module):
        return model
    if model is not None and not isinstance(model, str):
        raise StateError(f"model={str(model)[:60]!r}; expected a module, NAME, NAME:FILE, :FILE, {DEMO!r}, or None")
    if model == DEMO:
        from petl.demo import lite0

        return lite0()
    headers = _headers(folder)
    if model is None or model.startswith(":"):
        recorded = _common(folder, headers)
        if model is None:
            return _built(recorded, trust_remote)
        return create_any_head(f"{recorded['name']}{model}", recorded["args"])
    return create_any_head(model, _arguments(folder, headers, name_and_file(model)[0]))


def _headers(folder: Path) -> dict[str, Header]:
    """Returns the headers of the files that can be read; what is wrong with others is said when they are loaded."""
    found = {}
    for name, file in FolderWatch(folder, 0.0).look().items():
        try:
            found[name] = read_recipe(file.path)
        except PetlError:
            continue
    return found


def _common(folder: Path, headers: Headers) -> dict[str, Any]:
    """Returns the one backbone that all headers name."""
    kinds = _kinds(headers)
    if not kinds:
        raise StateError(
            f"{folder} has no delta that can be read, which would say what backbone to build; name it: --model NAME on the "
            "command line, model= in Python"
        )
    if len(kinds) > 1:
        shown = "; ".join(f"{_shown(headers[names[0]])} ({listing(names, 3)})" for names in kinds)
        raise StateError(
            f"the deltas in {folder} were made on {len(kinds)} backbones: {shown}. One server has one: give each a folder of its "
            "own, or name the one to serve (--model NAME, model=), and the others are refused"
        )
    backbone = headers[kinds[0][0]].backbone
    if not backbone.get("name"):
        raise StateError(
            f"the backbone of {kinds[0][0]} has no timm name; build it and pass it: petl.serve({str(folder)!r}, model)"
        )
    return {"args": {}, **backbone}


def _kinds(headers: Headers) -> list[list[str]]:
    """Returns the names of the files that have one backbone, for each backbone."""
    found: dict[str, list[str]] = {}
    for name, header in headers.items():
        key = {part: header.backbone.get(part) for part in ("name", "args", "dtype", "unrecorded")}
        found.setdefault(json.dumps(key, sort_keys=True), []).append(name)
    return [*found.values()]


def _shown(header: Header) -> str:
    args = ", ".join(f"{key}={value}" for key, value in (header.backbone.get("args") or {}).items())
    return f"{header.backbone.get('name')}{f' with {args}' if args else ''}"


def _built(backbone: Mapping[str, Any], trust_remote: bool) -> nn.Module:
    """Builds a backbone with timm's own classifier, for deltas of any number of classes."""
    described = {key: value for key, value in backbone.items() if key != "num_classes"}
    try:
        return build_backbone(described, pretrained=True, trust_remote=trust_remote)
    except DeltaError as error:
        said = str(error).replace("petl.load(path, model)", "petl.serve(folder, model)")
        raise DeltaError(f"{said}; or name it, with a file of weights: --model NAME:FILE, model=") from error


def _arguments(folder: Path, headers: Headers, name: str) -> dict[str, Any]:
    """Returns the arguments that the deltas of a named backbone record; those of others say nothing about it."""
    own = {file: header for file, header in headers.items() if _same_name(header.backbone.get("name"), name)}
    kinds = _kinds(own)
    return {**_common(folder, own)["args"]} if kinds else {}


def _same_name(recorded: str | None, asked: str) -> bool:
    """Returns whether a name asks for a recorded backbone; without a tag, for any of the network's."""
    return recorded is not None and (recorded == asked or recorded.partition(".")[0] == asked)
