"""A report with names that would break a page which trusted them, a file that can't be read, and an image that is there twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

import petl

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><b>", 'quo"te & \u2028line']


def hostile_folder(root: Path, images: int) -> Path:
    """Fills a folder of three classes with such names, with an image that is there twice and one that can't be read."""
    rng = np.random.default_rng(0)
    classes = [name.replace("/", "\u2215") for name in HOSTILE]
    for part in ("train", "val"):
        for number, name in enumerate(classes):
            place = root / part / name
            place.mkdir(parents=True)
            for k in range(images):
                pixels = rng.integers(0, 120, (64, 64, 3), dtype=np.uint8)
                pixels[8 * number + 8 : 8 * number + 32, 16:48, number] += 90
                Image.fromarray(pixels).save(place / f"'{k}'.png")
    val = root / "val"
    shutil.copy(val / classes[0] / "'0'.png", val / classes[1] / "again.png")
    (val / classes[2] / "broken.png").write_bytes(b"no image")
    return root


def hostile_report(folder: Path, images: int = 10) -> petl.Report:
    """Returns the report of a trained small model on a folder of three classes with such names."""
    root = hostile_folder(folder / "data", images)
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model("test_resnet"), ["norm", petl.LoRA(rank=2)], num_classes=3)
    delta = folder / "pets.safetensors"
    petl.record(model).pipeline = petl.data.pipeline(model, size=64)  # type: ignore[union-attr]  # just wrapped
    petl.fit(model, root, epochs=2, out=delta, progress=False)
    advice = {"kind": "advice", "sentences": ["<i>norm</i> & lora"], "alarms": [{"name": "</script>", "p": 0.25}]}
    (folder / "advice.json").write_text(json.dumps(advice))
    shown = {"findings": folder / "advice.json", "title": "<Pets> & more"}
    return petl.report(model, root, folder / "pets.html", delta=delta, progress=False, **shown)
