"""The two files of a peft adapter: written whole or not at all, and read as files that nobody vouches for."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from petl.addresses.address import address_of
from petl.delta.file import Paths, as_path, folder_to_write
from petl.errors import DeltaError, StateError, printable, shortened
from petl.format.atomic_files import open_atomically, reason
from petl.format.tensorfile import read_file, write_file
from petl.format.texts import parsed_json

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
LARGEST_CONFIG = 4 * 2**20  # bytes
PREFIX = "base_model.model."  # of every key in peft's files


def output_folder(folder: Paths) -> Path:
    """Returns the folder to write, or raises a DeltaError where it can't be one."""
    path = folder_to_write(folder)
    if path.exists() and not path.is_dir():
        raise DeltaError(f"{path} is a file; peft's adapters are folders of two files: name a folder")
    above = path.resolve().parent
    if not above.is_dir():
        raise DeltaError(f"can't write {path}: {above} is not a folder; make it first")
    return path


def write_adapter(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes both files; ``folder`` exists and is empty."""
    write_file(
        folder / TENSORS, {f"{PREFIX}{key}": value for key, value in state.items()}, {"format": "pt", **metadata}
    )
    with open_atomically(folder / CONFIG) as file:
        file.write((json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def put_in_place(made: Path, folder: Path) -> None:
    """Moves the two files into ``folder``, which appears whole where it wasn't there."""
    try:
        if not folder.exists():
            os.rename(made, folder)
            return
        for name in (TENSORS, CONFIG):  # the config last: it is what makes a folder an adapter
            os.replace(made / name, folder / name)
        shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise DeltaError(f"can't write {folder}: {reason(error)}") from error


def workshop(folder: Path) -> Path:
    """Returns a new folder beside (or in) ``folder``, on the same disk, to write in."""
    place = folder if folder.is_dir() else folder.resolve().parent
    try:
        made = Path(tempfile.mkdtemp(prefix=".petl-", dir=place))
        made.chmod(0o777 & ~_umask())
        return made
    except OSError as error:
        raise DeltaError(f"can't write {folder}: {reason(error)}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _folder_here(folder: Paths) -> Path:
    """Returns the path of an adapter's folder, or raises a DeltaError for an address, which huggingface_hub fetches."""
    address = address_of(folder) if isinstance(folder, (str, os.PathLike)) else None
    if address is not None and address.local_path() is None:
        repo = "/".join(address.text.split("/")[2:4]) if address.scheme == "hf" else "USER/REPO"
        raise DeltaError(
            f"{address} is an address, and an adapter of peft's is a folder of two files; fetch it, and pass the folder: "
            f"huggingface_hub.snapshot_download({repo!r})"
        )
    return as_path(folder)


def read_adapter(folder: Paths) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """Returns the config, the tensors without peft's prefix, and the metadata of the tensors' file.

    Raises:
        DeltaError: there is no such adapter, it is a pickle, or a file is damaged.
    """
    path = _folder_here(folder)
    if not path.is_dir():
        raise DeltaError(
            f"{path} is no folder; give one with {CONFIG} and {TENSORS}, as peft's save_pretrained writes it"
        )
    if not (path / CONFIG).is_file():
        raise DeltaError(f"{path} has no {CONFIG}; give the folder that peft's save_pretrained wrote")
    if not (path / TENSORS).is_file():
        found = [entry.name for entry in sorted(path.iterdir()) if entry.name.startswith("adapter_model")]
        if PICKLE in found:
            raise DeltaError(
                f"{path} holds its tensors as a pickle, {PICKLE}, which can run any code when it is opened; if you trust it, "
                f"open it with peft and write it again: peft_model.save_pretrained(folder), which writes {TENSORS}"
            )
        raise DeltaError(f"{path} has no {TENSORS}; give the folder that peft's save_pretrained wrote")
    config = _read_config(path / CONFIG)
    metadata, tensors = read_file(path / TENSORS)
    strange = [key for key in tensors if not key.startswith(PREFIX)]
    if strange:
        shown = shortened(printable(strange[0]), 100)
        raise DeltaError(
            f"{path / TENSORS}: {shown} is in no layer (peft's keys of layers begin with {PREFIX!r}); tensors that layers "
            f"share, as those of VeRA, are not taken"
        )
    return config, {key.removeprefix(PREFIX): value for key, value in tensors.items()}, metadata


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_CONFIG + 1)
        if len(data) > LARGEST_CONFIG:
            raise DeltaError(f"{path} has more than {LARGEST_CONFIG:,} bytes, which no adapter's config has")
        config = parsed_json(data, parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise DeltaError(f"{path} can't be read as JSON: {str(error)[:200]}") from None
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise DeltaError(f"{path} names no peft_type; it is no config of a peft adapter")
    return config


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def refuse_sharded_or_rounded(is_sharded: bool, base_dtype: Any) -> None:
    """Raises a StateError for a model whose plain base isn't at hand whole."""
    if is_sharded:
        raise StateError(
            "FSDP has sharded this model; petl.save it (every rank calls that), and give petl.to_peft the loaded one: "
            "petl.to_peft(petl.load('delta.safetensors'), folder)"
        )
    if base_dtype is not None:
        raise StateError(
            f"this model keeps its base in {base_dtype}, rounded, and peft would load onto the unrounded one, to other outputs; "
            "petl.save it and load it with base_dtype=None: petl.to_peft(petl.load('delta.safetensors', base_dtype=None), folder)"
        )
