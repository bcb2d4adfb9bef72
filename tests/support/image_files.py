"""Images and folders of images, as files."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000  # 0 to 63000: 8 bits can't hold it


def picture(seed: int = 0, size: int = 8, mode: str = "RGB") -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (size, size, bands), dtype=np.uint8)
    return Image.fromarray(values.squeeze(-1) if bands == 1 else values, mode=mode)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return path


def make_tar(root: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(root, arcname=".")
    return path


def damaged(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:60])
    return root
