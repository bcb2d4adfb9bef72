"""Full and read-only disks, for `benchmarks.kills --disk`: what petl does where it can't write."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch

import petl


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
    files = _files(folder)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    said = _attempted(kind, name, folder, model)
    if said.startswith("FAULT"):
        return said
    if _files(folder) != files:
        return f"FAULT: files were changed or left: {[path.name for path in folder.rglob('*')]}"
    trains = (
        name == "fit(checkpoint=)" and kind == "full"
    )  # an epoch was trained before its checkpoint couldn't be written
    if not trains and not all(torch.equal(value, state[key]) for key, value in model.state_dict().items()):
        return f"FAULT: the model was changed ({said})"
    return said


def _attempted(kind: str, name: str, folder: Path, model: Any) -> str:
    """What an attempt said, or which fault it was that it said nothing, or something else than a PetlError."""
    try:
        attempts(folder)[name](model)
    except petl.PetlError as error:
        return f"{type(error).__name__}: {str(error)[:160]}"
    except BaseException as error:
        return f"FAULT {type(error).__name__}: {error}"
    return "no error" if name.startswith("features") and kind == "full" else "FAULT: no error"


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
