"""What `benchmarks.kills` kills: writers of deltas, checkpoints and caches, each of which says what is wrong afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import timm
import torch

import petl
from petl.extraction.store import Store
from petl.training.checkpoints import load_checkpoint, newest_checkpoint, save_trained_only, write_checkpoint

VERSIONS = 4


class Writer:
    """Writes version after version in a folder, and says what is wrong with a folder after a kill."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, number: int) -> None:
        raise NotImplementedError

    def fault(self) -> str:
        raise NotImplementedError


class Saves(Writer):
    """A delta that `petl.save` replaces again and again."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        torch.manual_seed(0)
        self.model = petl.wrap(timm.create_model("test_resnet", num_classes=3), ["bias", petl.LoRA(rank=4)])
        self.known = set()
        for number in range(VERSIONS):
            self.write(number)
            self.known.add(hashlib.sha256(self.path.read_bytes()).digest())

    @property
    def path(self) -> Path:
        return self.folder / "delta.safetensors"

    def write(self, number: int) -> None:
        with torch.no_grad():
            for parameter in petl.trainable(self.model).values():
                parameter.fill_(float(number % VERSIONS))
        petl.save(self.model, self.path)

    def fault(self) -> str:
        petl.read(self.path)
        return "" if hashlib.sha256(self.path.read_bytes()).digest() in self.known else "the file is neither version"


class Checkpoints(Writer):
    """Training checkpoints, one an epoch; now and then a training begins anew in the same folder."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        from accelerate import Accelerator

        self.net = torch.nn.Linear(200, 200)
        self.accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(self.net.parameters())
        self.net(torch.ones(1, 200)).sum().backward()
        optimizer.step()
        self.net, self.optimizer = self.accelerator.prepare(self.net, optimizer)
        self.tensors = dict(self.net.named_parameters())
        save_trained_only(self.accelerator, self.tensors)
        self.write(1)

    def write(self, number: int) -> None:
        with torch.no_grad():
            for tensor in self.tensors.values():
                tensor.fill_(float(number))
        write_checkpoint(self.accelerator, self.folder, number % 7 or 3)  # an epoch that is there, and lower ones, too

    def fault(self) -> str:
        newest = newest_checkpoint(self.folder)
        if newest is None:
            return "no checkpoint is left"
        load_checkpoint(self.accelerator, newest, self.tensors)
        values = {
            float(value) for tensor in self.tensors.values() for value in (tensor.detach().min(), tensor.detach().max())
        }
        return "" if len(values) == 1 and values.pop() >= 1 else "the checkpoint holds parts of two"


class Caches(Writer):
    """A feature cache with room for three entries, so that writing removes older ones."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.write(0)

    def _rows(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((200, 40), float(number)), torch.full((200,), number)

    def write(self, number: int) -> None:
        number %= 6
        x, y = self._rows(number)
        parts = ((x[i : i + 20], y[i : i + 20]) for i in range(0, 200, 20))
        store = Store(self.folder, 3 * 40_000)
        if number % 2:
            store.forget({"version": number})  # so that it is written, and not found
        store.get_or_compute({"version": number}, 200, parts, needed=36_000)
        store.close()

    def fault(self) -> str:
        store = Store(self.folder, 1e9)
        if left := [path.name for path in self.folder.iterdir() if path.name.startswith(".part-")]:
            return f"a later run doesn't remove {left[0]}"
        for number in range(6):
            found = store.get({"version": number}) or self._rows(number)
            if not all(torch.equal(*pair) for pair in zip(found, self._rows(number), strict=True)):
                return "an entry isn't what was written"
        return ""


WRITERS: dict[str, type[Writer]] = {"save": Saves, "checkpoint": Checkpoints, "cache": Caches}
