"""The delta on disk: a safetensors file whose header holds the recipe; written whole or not at all, read with suspicion."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from petl.errors import DeltaError, MethodError, listing
from petl.method import examine
from petl.version import __version__

FORMAT = 1
KEY = "petl"


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_backbone(value: Any) -> bool:
    classes = value.get("num_classes") if isinstance(value, dict) else "none"
    return (classes is None or type(classes) is int) and isinstance(value.get("args", {}), dict)


SCHEMA: dict[str, Callable[[Any], bool]] = {
    "version": lambda value: isinstance(value, str),
    "backbone": _is_backbone,
    "digest": lambda value: isinstance(value, str),
    "frozen": lambda value: (
        value is None
        or (isinstance(value, dict) and type(value.get("tensors")) is int and isinstance(value.get("names"), str))
    ),
    "methods": lambda value: (
        isinstance(value, list) and all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in value)
    ),
    "sites": lambda value: isinstance(value, list) and all(_texts(names) for names in value),
    "head": lambda value: isinstance(value, (bool, str)) or _texts(value),
    "also": lambda value: value is None or _texts(value),
    "base_dtype": lambda value: value is None or value in ("bfloat16", "float16"),
    "labels": lambda value: value is None or _texts(value),
    "pipeline": lambda value: value is None or isinstance(value, dict),
}


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> Path:
    """Write beside ``path``, flush to disk, and rename: a reader sees the old file or the new one, never half of one."""
    if not path.parent.is_dir():
        raise DeltaError(f"can't write {path}: {path.parent} is not a folder")
    try:
        metadata = {KEY: json.dumps(header), "format": "pt"}
    except (TypeError, ValueError) as error:
        raise DeltaError(f"can't write {path}: labels, results and create_args must be JSON values ({error})") from None
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, name, metadata=metadata)
        with open(name, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as error:
        raise DeltaError(f"can't write {path}: {error}") from error
    finally:
        Path(name).unlink(missing_ok=True)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise DeltaError(f"{path} is not a file; give the path of a delta that petl.save wrote")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DeltaError(f"{path} is no whole safetensors file ({error}); copy or save it again") from error


def read_all(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The checked header and all tensors."""
    with opened(path) as file:
        header = checked_header(path, file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    lost = [key for key in header.get("also") or () if key not in tensors]
    if lost:
        raise DeltaError(f"{path}: its header speaks of {listing(lost)}, which it doesn't hold; the file is damaged")
    return header, tensors


def checked_header(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get(KEY)
    if text is None:
        raise DeltaError(f"{path} is a safetensors file, but no petl delta: its header has no {KEY!r} entry")
    try:
        header = json.loads(text)
        number = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DeltaError(
            f"{path}: the {KEY!r} entry of its header can't be read ({error!r}); the file is damaged"
        ) from error
    if type(number) is int and number > FORMAT:
        raise DeltaError(
            f"{path} has format {number}, and petl {__version__} reads up to {FORMAT}; upgrade petl-vision"
        )
    wrong = [key for key, fits in SCHEMA.items() if not fits(header.get(key))]
    wrong += ["format"] if type(number) is not int or number < 1 else []
    if wrong or len(header["methods"]) != len(header["sites"]):
        raise DeltaError(f"{path}: its header lacks or misstates {listing(wrong or ['sites'])}; the file is damaged")
    try:
        for values in header["methods"]:
            examine(values)
    except MethodError as error:
        raise DeltaError(f"{path}: its recipe asks for what petl doesn't do: {error}") from None
    return header
