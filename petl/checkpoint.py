"""Training checkpoints: what an interrupted run needs to go on as if nothing had happened, without the frozen backbone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from petl.errors import StateError, listing

WEIGHTS = "model.safetensors"  # accelerate's name for it


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
    """A checkpoint ``epoch-0003`` in ``folder``, whole or not at all; the one before it goes."""
    part = folder / ".part"
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        older = _all(folder)
        place = folder / f"epoch-{epoch:04}"
        shutil.rmtree(place, ignore_errors=True)
        os.replace(part, place)
        for path in older:
            if path != place:
                shutil.rmtree(path)
    accelerator.wait_for_everyone()


def newest(folder: Path) -> Path | None:
    """The checkpoint to go on from."""
    return next(reversed(_all(folder)), None)


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"), key=lambda path: int(path.name.removeprefix("epoch-")))
