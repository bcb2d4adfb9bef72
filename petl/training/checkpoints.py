"""Training checkpoints: what an interrupted run needs to go on as if nothing had happened, without the frozen backbone."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from petl.errors import StateError
from petl.training.trained_state import cloned, copy_into

WEIGHTS_FILE = "model.safetensors"  # accelerate's name for it
CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pkl", ".pt")  # of accelerate's files
EPOCH_FOLDER = re.compile("epoch-[0-9]{4,}")
OLDEST, GOING = "epoch-0000", ".going"  # names of a checkpoint that is being replaced, and of one that is being removed


def save_trained_only(accelerator: Any, tensors: Mapping[str, Tensor]) -> None:
    """Makes accelerate save and load these tensors instead of all those of the prepared model."""

    def save(models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        weights[:] = [cloned(tensors)]

    def load(models: list[nn.Module], folder: str) -> None:
        models.clear()
        copy_into(tensors, load_file(Path(folder) / WEIGHTS_FILE))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def write_checkpoint(accelerator: Any, folder: Path, epoch: int) -> None:
    """Writes a checkpoint such as ``epoch-0003`` into ``folder``, whole or not at all, and removes the one before it.

    Raises:
        StateError: it can't be written; the one before it stays.
    """
    part, place = folder / ".part", folder / f"epoch-{epoch:04}"
    try:
        if accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(part))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _replace(part, place)
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: what torch's writer raises on a full disk
        shutil.rmtree(part, ignore_errors=True)
        last = newest_checkpoint(folder)
        raise StateError(
            f"the training checkpoint {place} can't be written: {str(error).splitlines()[0]}; "
            f"{f'{last} is the last one' if last else 'there is none yet'}"
        ) from error
    accelerator.wait_for_everyone()


def _replace(part: Path, place: Path) -> None:
    """Gives a new checkpoint its name and removes the others; whenever it is killed, what has a checkpoint's name is whole."""
    older, aside = _all(place.parent), place.parent / OLDEST
    if place in older:  # a folder can't replace another: until the new one is there, the old one has a name, too
        _remove(aside)
        os.replace(place, aside)
        older = [aside, *(path for path in older if path not in (aside, place))]
    os.replace(part, place)
    for path in older:
        _remove(path)


def _remove(path: Path) -> None:
    """Removes a checkpoint, which has lost its name before it loses its first file."""
    going = path.parent / GOING
    shutil.rmtree(going, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.replace(path, going)
    shutil.rmtree(going, ignore_errors=True)


def refuse_checkpoint_folder(folder: str | Path) -> None:
    """Tries before a training whether checkpoints can be written to a folder, and leaves everything as it was.

    Raises:
        StateError: nothing can be written to it, or it can't be made.
    """
    created: list[Path] = []
    try:
        place = Path(folder).absolute()
        created = [path for path in (place, *place.parents) if not path.exists()]
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"trial")
    except (OSError, ValueError) as error:
        raise StateError(f"checkpoint={str(folder)[:200]!r}: nothing can be written there ({error})") from error
    finally:
        for path in created:
            with contextlib.suppress(OSError, ValueError):
                path.rmdir()


def load_checkpoint(accelerator: Any, place: Path, tensors: Mapping[str, Tensor]) -> None:
    """Loads a checkpoint into the model and everything that is registered with the accelerator.

    Its pickles run whatever code they hold: load only from a folder that you trust.

    Raises:
        StateError: it is damaged, or of another training; the model is as it was.
    """
    before = cloned(tensors)
    try:
        accelerator.load_state(str(place))
    except Exception as error:  # damaged pickles raise whatever their bytes spell
        copy_into(tensors, before)
        if isinstance(error, StateError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StateError(
            f"the training checkpoint {place} can't be read ({reason}): it is damaged, or of a training with other settings; "
            "remove it, or pass resume=False"
        ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """Returns the newest checkpoint in a folder, or None where there is none."""
    return next(reversed(_all(folder)), None)


def _all(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, oldest first: folders of such names with such files. Nothing else is ever removed."""
    try:
        checkpoints = [path for path in folder.iterdir() if EPOCH_FOLDER.fullmatch(path.name) and _is_checkpoint(path)]
    except (OSError, ValueError):
        return []
    return sorted(checkpoints, key=lambda path: int(path.name.removeprefix("epoch-")))


def _is_checkpoint(path: Path) -> bool:
    if path.is_symlink() or not (path / WEIGHTS_FILE).is_file():
        return False
    return all(file.is_file() and file.suffix in CHECKPOINT_SUFFIXES for file in path.iterdir())
