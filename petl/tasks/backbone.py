"""The backbone that tasks share: copies of its modules on its memory, the proof that nobody has changed it, and moving it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.delta.file import as_path, read_delta, shapes_of
from petl.delta.header import Header
from petl.delta.load import Tensors, wrap_by_recipe
from petl.delta.receiver import receiving_module
from petl.delta.save import delta_of
from petl.errors import StateError, listing
from petl.graft.classes import base_class
from petl.memory.base_dtype import low_precision_dtype
from petl.tasks.modes import Watched
from petl.tasks.sharing import Sharer
from petl.tasks.task_model import guard_task
from petl.tasks.twins import with_own_tensors, with_same_memory
from petl.wrapping.fingerprints import checksum
from petl.wrapping.lookup import require_record
from petl.wrapping.preconditions import survey_unwrapped


class SharedBackbone:
    """A user's model, and ``trunk``, a copy of its modules in evaluation mode on the same memory, which tasks share."""

    @torch.inference_mode(False)
    def __init__(self, model: nn.Module) -> None:
        survey_unwrapped(model)  # refuses models that no delta can be put on
        self.model, self.trunk = model, with_same_memory(model)
        self.sharer = Sharer(self.trunk)
        own = dict(_tensors(model))
        self.watched = [(key, own[key], alias) for key, alias in _tensors(self.trunk) if key in own]
        self.checksums = {key: checksum(alias) for key, _, alias in self.watched}
        self.versions = self._versions()
        self.modes = Watched(self.trunk)

    def refuse_changed(self) -> None:
        """Raises a StateError where values of the backbone have been written to since `petl.Tasks` took it, or it trains.

        Torch counts writes, so this reads no values where there was none. It doesn't count those through ``.data``.
        """
        self.modes.refuse_training()
        now = self._versions()
        if now == self.versions:
            return
        written = [i for i, pair in enumerate(now) if pair != self.versions[i]]
        changed = [
            key for i in written for key, _, alias in [self.watched[i]] if checksum(alias) != self.checksums[key]
        ]
        if changed:
            raise StateError(
                f"{listing(changed, 3)} of the backbone changed since petl.Tasks(model), and all tasks read the values: put the "
                "old ones back (model.load_state_dict), or make petl.Tasks of the new backbone and add deltas made on it"
            )
        self.versions = now

    def accept_changes(self) -> None:
        """Takes the values of the backbone as they are now: there is no task that was made on others."""
        now = self._versions()
        self.checksums |= self._changed(now)
        self.versions = now

    def _changed(self, now: list[tuple[int, int]]) -> dict[str, str]:
        """Returns the keys of tensors whose bits have changed, with their new checksums; reads those that were written to."""
        written = [self.watched[i] for i, pair in enumerate(now) if pair != self.versions[i]]
        found = {key: checksum(alias) for key, _, alias in written}
        return {key: new for key, new in found.items() if new != self.checksums[key]}

    @torch.inference_mode(False)
    def with_delta(self, name: str, delta: Any, check_base: bool) -> nn.Module:
        """Returns a model with the delta on it, whose other tensors and modules are the trunk's; changes nothing.

        Raises:
            PetlError: the delta can't be read, or doesn't fit.
        """
        path, header, tensors = _read(name, delta)
        model, memo = with_own_tensors(self.trunk)
        # petl.load changes a backbone while it tries: here one that is thrown away if it fails
        training: dict[str, Any] = {"memory": None, "base_dtype": low_precision_dtype(header.base_dtype)}
        wrap_by_recipe(path, header, tensors, receiving_module(model, header), check_base, False, **training)
        plain, record = require_record(model)
        for parameter in plain.parameters():
            parameter.requires_grad_(False)
        self.sharer.share(model, record, memo)
        model.eval()  # a new classifier comes in training mode
        for guarded in {model: None, plain: None}:  # the delta may be on a model inside
            guard_task(guarded, name)
        return model

    @torch.inference_mode(False)
    def move(self, device: torch.device, models: list[nn.Module]) -> None:
        """Moves the user's model, the trunk and all tasks' models to a device, all or nothing; what was shared stays shared."""
        tensors = {id(t): t for model in (self.trunk, *models) for _, t in _tensors(model)}
        moved = {key: tensor.detach().to(device) for key, tensor in tensors.items()}
        self.model.to(device)
        for key, tensor in tensors.items():
            tensor.data = moved[key]
        own_now = dict(_tensors(self.model))
        self.watched = [(key, own_now.get(key, alias), alias) for key, _, alias in self.watched]
        for _, own, alias in self.watched:
            if own.shape == alias.shape:  # the user may have put another layer in its place
                own.data = alias.data
        self.versions = self._versions()

    def __reduce__(self) -> Any:
        raise StateError(
            "petl.Tasks can't be copied or pickled: it shares its backbone's memory with the model that it was made of. Make "
            "another one and add the deltas there, or copy one task's model: copy.deepcopy(tasks[name])"
        )

    def _versions(self) -> list[tuple[int, int]]:
        return [(own._version, alias._version) for _, own, alias in self.watched]

    def __repr__(self) -> str:
        return base_class(self.model).__name__


def device_of(device: Any) -> torch.device:
    """Returns the device that is meant, or raises a StateError for anything else, such as a dtype."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise StateError(
            f"tasks.to({device!r}): expected a device; a delta belongs to a backbone of one type. Cast the backbone before "
            f"petl.Tasks(model), and add deltas that were made on it, or run tasks under torch.autocast"
        ) from error


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Returns all parameters and buffers by name."""
    return [*model.named_parameters(), *model.named_buffers()]


def _read(name: str, delta: Any) -> tuple[Path, Header, Tensors]:
    """Returns a delta from a file or from a wrapped model, with a path for errors; both pass the same checks."""
    if not isinstance(delta, nn.Module):
        path = as_path(delta)
        return path, *read_delta(path)
    path = Path(f"the model for task {name!r}")
    header, tensors = delta_of(delta)
    shapes = shapes_of(tensors)
    return path, Header.from_metadata(path, header.to_metadata(path, shapes), shapes), tensors
