"""Delta files with other headers or tensors than petl wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["petl"])


def rewritten(path: Path, header: dict[str, Any] | str, tensors: dict[str, Tensor] | None = None) -> Path:
    """The same file with another header or other tensors."""
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(load_file(path) if tensors is None else tensors, path, metadata={"petl": text})
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], Any] | str) -> Path:
    """The file with another header; its tensors stay."""
    header = header_of(path)
    text = change if isinstance(change, str) else json.dumps(header | (change(header) or {}))
    save_file(load_file(path), path, metadata={"petl": text})
    return path


def base(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: {"backbone": {**header["backbone"], **values}}


def args(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: base(args={**header["backbone"]["args"], **values})(header)
