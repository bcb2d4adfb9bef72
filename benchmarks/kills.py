"""Kills processes while they write, and looks at what is left: the old file or the new one, whole, every time.

    python -m benchmarks.kills --times 300           # save, checkpoint, cache: so many kills each
    python -m benchmarks.kills --disk                # a full disk and a read-only one; needs the right to mount

A child process writes one version after the other until SIGKILL ends it at a random moment; its parent then reads. Moments
between two writes count as well, so the report says how many kills met a write.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch

import petl
from petl.extraction.store import Store
from petl.training.checkpoints import load_checkpoint, newest_checkpoint, save_trained_only, write_checkpoint

VERSIONS = 4
LONGEST = 0.08  # seconds from a child's first whole write to its end


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


def killed(writer: Writer, chance: random.Random) -> bool:
    """Lets a child write, kills it at a random moment, and returns whether that was during a write."""
    flag, (out, into) = mmap.mmap(-1, 1), os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            start = chance.randrange(1000)
            for number in range(start, start + 100_000):
                flag[0] = 1
                writer.write(number)
                flag[0] = 0
                if number == start:
                    os.write(into, b"x")
        os._exit(1)  # only a fault of the writer leads here
    os.close(into)
    os.read(out, 1)
    time.sleep(chance.random() * LONGEST)
    met = bool(flag[0])
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(out)
    flag.close()
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"{type(writer).__name__}: the child ended by itself")
    return met


def run(name: str, times: int, seed: int, folder: Path) -> str:
    """Kills a writer so many times; returns a line that says how it went."""
    chance, met, faults = random.Random(f"{name}:{seed}"), 0, []
    writer = WRITERS[name](folder)
    for number in range(times):
        met += killed(writer, chance)
        try:
            fault = writer.fault()
        except Exception as error:
            fault = f"{type(error).__name__}: {str(error)[:200]}"
        if fault:
            faults.append(f"kill {number}: {fault}")
    return f"{name}: {times} kills, {met} of them during a write, {len(faults)} faults {faults[:3] or ''}".rstrip()


@contextlib.contextmanager
def mounted(size: int) -> Iterator[Path]:
    """A file system in memory of this many bytes; raises an OSError where none can be mounted."""
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, check=False
        )
        if done.returncode:
            raise OSError(done.stderr.decode().strip())
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", "-l", place], check=False)


def _fit(model: Any, **options: Any) -> Any:
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 3)
    return petl.fit(model, data, epochs=2, batch_size=4, progress=False, **options)


def _features(folder: Path) -> Any:
    images = torch.utils.data.TensorDataset(torch.randn(600, 3, 32, 32), torch.arange(600) % 3)
    return petl.features(timm.create_model("test_resnet"), images, cache=folder, progress=False)


def attempts(folder: Path) -> dict[str, Callable[[Any], Any]]:
    """What writes to a folder, by what it is."""
    return {
        "save": lambda model: petl.save(model, folder / "delta.safetensors"),
        "fit(out=)": lambda model: _fit(model, out=folder / "delta.safetensors"),
        "fit(checkpoint=)": lambda model: _fit(model, checkpoint=folder / "run"),
        "features(cache=)": lambda model: _features(
            folder / "cache"
        ),  # they are returned, and a note says why not kept
    }


def disks() -> list[str]:
    """Full and read-only disks: one PetlError each, nothing half-written, an older file and the model as they were."""
    lines = []
    for kind in ("full", "read-only"):
        for name in attempts(Path()):
            with mounted(2**20) as folder:
                lines.append(f"{kind} disk, {name}: {_on_disk(kind, name, folder)}")
    return lines


def _on_disk(kind: str, name: str, folder: Path) -> str:
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model("test_resnet", num_classes=3), petl.LoRA(rank=8))
    petl.save(model, folder / "delta.safetensors")
    if kind == "full":
        (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free - 20_000))
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        attempts(folder)[name](model)
    except petl.PetlError as error:
        said = f"{type(error).__name__}: {str(error)[:160]}"
    except BaseException as error:
        return f"FAULT {type(error).__name__}: {error}"
    else:
        said = "no error" if name.startswith("features") and kind == "full" else "FAULT: no error"
    if {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} != files:
        return f"FAULT: files were changed or left: {[path.name for path in folder.rglob('*')]}"
    trains = (
        name == "fit(checkpoint=)" and kind == "full"
    )  # an epoch was trained before its checkpoint couldn't be written
    if not trains and not all(torch.equal(value, state[key]) for key, value in model.state_dict().items()):
        return f"FAULT: the model was changed ({said})"
    return said


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--times", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=WRITERS, nargs="*", default=list(WRITERS))
    parser.add_argument("--disk", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = disks() if options.disk else []
    for name in () if options.disk else options.only:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(run(name, options.times, options.seed, Path(folder)))
            print(lines[-1], flush=True)
    print("\n".join(lines) if options.disk else "")
    sys.exit(any("FAULT" in line or ("faults" in line and " 0 faults" not in line) for line in lines))


if __name__ == "__main__":
    main()
