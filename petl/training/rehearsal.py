"""Saving that loses no epoch: tried before the training and after its first epoch, and rescued where the disk fails."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from petl.delta.file import path_to_write
from petl.delta.load import read
from petl.delta.save import save
from petl.errors import DeltaError, PetlError, StateError
from petl.wrapping.lookup import record

SAVE_ERRORS = (PetlError, OSError, SafetensorError, ValueError)  # of a disk, and of petl's own checks


def refuse_delta_path(out: str | Path, model: nn.Module) -> None:
    """Refuses a path that no delta of this model can have, before any data is read.

    Raises:
        StateError: the model isn't wrapped; the path is a folder, is in none, or can be no file's.
        DeltaError: it is an address.
    """
    if record(model) is None:
        raise StateError("out= is for a delta, and this model is not wrapped; call petl.wrap first")
    if "://" in str(out):
        path_to_write(out)  # refuses an address
    try:
        parent = Path(out).absolute().parent
        is_folder, there = os.path.isdir(out) or str(out).endswith(("/", os.sep)), parent.stat() and parent.is_dir()
        other = os.path.lexists(out) and not os.path.isfile(out)
    except FileNotFoundError:
        raise StateError(f"out={str(out)!r}: {Path(out).parent} is not a folder; make it first") from None
    except (OSError, ValueError) as error:
        raise StateError(f"out={str(out)[:200]!r}: no file can have this name ({error})") from error
    if not there:
        raise StateError(f"out={str(out)!r}: {Path(out).parent} is not a folder; make it first")
    if is_folder:
        raise StateError(f"out={str(out)!r} is a folder; give a file's name, such as {Path(out) / 'delta.safetensors'}")
    if other:
        raise StateError(f"out={str(out)!r} is no ordinary file; give another name")


def rehearse_saving(model: nn.Module, out: str | Path, labels: Sequence[str] | None) -> None:
    """Saves the delta as it is now into a temporary folder beside ``out``: what would fail after the training fails now.

    Raises:
        PetlError: the disk is full, the folder can't be written to, or the model, its labels or its pipeline can't be saved.
    """
    try:
        with tempfile.TemporaryDirectory(dir=Path(out).absolute().parent, prefix=".petl-") as folder:
            read(save(model, Path(folder) / Path(out).name, labels=labels))
    except SAVE_ERRORS as error:
        kind = type(error) if isinstance(error, PetlError) else StateError
        raise kind(f"out={str(out)!r} couldn't be written after the training, so it doesn't begin: {error}") from error


def prove_savable(model: nn.Module) -> None:
    """Tries after an epoch whether a wrapped model can be saved, for trainings that write no delta.

    Raises:
        PetlError: it can't, for another reason than a full disk.
    """
    if record(model) is None:
        return
    try:
        with tempfile.TemporaryDirectory(prefix="petl-") as folder:
            save(model, Path(folder) / "trial.safetensors")
    except (OSError, SafetensorError):
        return
    except DeltaError as error:
        if not isinstance(error.__cause__, (OSError, SafetensorError)):
            raise


def save_or_rescue(model: nn.Module, out: str | Path, labels: Sequence[str] | None, results: Mapping[str, Any]) -> None:
    """Saves a delta to ``out``, or, where that fails, to a temporary folder.

    Raises:
        PetlError: it isn't in ``out``; the error says where it is instead.
    """
    try:
        save(model, out, labels=labels, results=results)
    except SAVE_ERRORS as error:
        kind = type(error) if isinstance(error, PetlError) else StateError
        raise kind(f"{out} couldn't be written: {error}{_rescued(model, Path(out).name, labels, results)}") from error


def _rescued(model: nn.Module, name: str, labels: Sequence[str] | None, results: Mapping[str, Any]) -> str:
    try:
        place = Path(tempfile.mkdtemp(prefix="petl-rescued-")) / name
        return f"; the delta is in {save(model, place, labels=labels, results=results)} instead"
    except SAVE_ERRORS:
        return ""
