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

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from petl.errors import StateError, listing

WEIGHTS = "model.safetensors"  # accelerate's name for it
SUFFIXES = (".safetensors", ".bin", ".pkl", ".pt")  # of accelerate's files
EPOCH = re.compile("epoch-[0-9]{4,}")


def moving(model: nn.Module) -> dict[str, Tensor]:
    """What training moves, by name: trainable parameters, and running statistics of modules that are in training mode.

    The tensors are the model's own: they show what it learns, and writing into them changes it.
    """
    found: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, module in model.named_modules():
        if module.training and any(leaf.startswith("running_") for leaf in module._buffers):
            statistics = {f"{name}.{leaf}".lstrip("."): tensor for leaf, tensor in module._buffers.items()}
            found.update({key: tensor for key, tensor in statistics.items() if tensor is not None})
    return found


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def put(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write values into a model's own tensors.

    Raises:
        StateError: they are not those of this model; nothing is written.
    """
    wrong = sorted(tensors.keys() ^ values.keys()) or [k for k in tensors if tensors[k].shape != values[k].shape]
    if wrong:
        raise StateError(
            f"the checkpoint is of another model or method: {listing(wrong)} differ; wrap the model as it was wrapped then"
        )
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


def keep_small(accelerator: Any, tensors: Mapping[str, Tensor]) -> None:
    """Have accelerate save and load these tensors rather than all of the prepared model's."""

    def save(models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        weights[:] = [copied(tensors)]

    def load(models: list[nn.Module], folder: str) -> None:
        models.clear()
        put(tensors, load_file(Path(folder) / WEIGHTS))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def write(accelerator: Any, folder: Path, epoch: int) -> None:
    """A checkpoint ``epoch-0003`` in ``folder``, whole or not at all; the one before it goes.

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
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: what torch's writer makes of a full disk
        shutil.rmtree(part, ignore_errors=True)
        left = newest(folder)
        raise StateError(
            f"the training checkpoint {place} can't be written: {str(error).splitlines()[0]}; "
            f"{f'{left} is the last one' if left else 'there is none yet'}"
        ) from error
    accelerator.wait_for_everyone()


def _replace(part: Path, place: Path) -> None:
    older = _all(place.parent)
    if place in older:
        shutil.rmtree(place)
    os.replace(part, place)
    for path in older:
        if path != place:
            shutil.rmtree(path, ignore_errors=True)


def refuse_folder(folder: str | Path) -> None:
    """Try a folder for checkpoints before a training, and leave everything as it was.

    Raises:
        StateError: nothing can be written to it, or it can't be made.
    """
    made: list[Path] = []
    try:
        place = Path(folder).absolute()
        made = [path for path in (place, *place.parents) if not path.exists()]
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"trial")
    except (OSError, ValueError) as error:
        raise StateError(f"checkpoint={str(folder)[:200]!r}: nothing can be written there ({error})") from error
    finally:
        for path in made:
            with contextlib.suppress(OSError, ValueError):
                path.rmdir()


def go_on(accelerator: Any, place: Path, tensors: Mapping[str, Tensor]) -> None:
    """Load a checkpoint. Its pickles run whatever code they hold: only from a folder that you trust.

    Raises:
        StateError: it is damaged, or of another training; the model is as it was.
    """
    before = copied(tensors)
    try:
        accelerator.load_state(str(place))
    except Exception as error:  # damaged pickles raise whatever their bytes spell
        put(tensors, before)
        if isinstance(error, StateError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StateError(
            f"the training checkpoint {place} can't be read ({reason}): it is damaged, or of a training with other settings; "
            "remove it, or pass resume=False"
        ) from error


def newest(folder: Path) -> Path | None:
    """The checkpoint to go on from."""
    return next(reversed(_all(folder)), None)


def _all(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first: what has such a name and such files. Nothing else is ever removed."""
    try:
        found = [path for path in folder.iterdir() if EPOCH.fullmatch(path.name) and _is_checkpoint(path)]
    except (OSError, ValueError):
        return []
    return sorted(found, key=lambda path: int(path.name.removeprefix("epoch-")))


def _is_checkpoint(path: Path) -> bool:
    if path.is_symlink() or not (path / WEIGHTS).is_file():
        return False
    return all(file.is_file() and file.suffix in SUFFIXES for file in path.iterdir())
