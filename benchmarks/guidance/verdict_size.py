"""How often `petl.advise` says *positive* or *negative* of pretraining that is worth nothing.

    python -m benchmarks.guidance.verdict_size --draws 24 --numbers 300

``--draws``: EfficientNet-Lite0 with random weights stands for the pretrained network, so that it is no better and no worse than
the copy that it is compared with; each draw has other textures (120 images at 64 pixels, of which raw pixels tell less), other
weights and another copy. The same with the labels shuffled, where nothing is above chance, with the ImageNet weights.
``--numbers``: the verdict's arithmetic on drawn numbers, where the pretrained features, the random ones and raw pixels know
equally much of four classes: 100 images, all three right on about six in ten.
"""

from __future__ import annotations

import argparse
from collections import Counter

import timm
import torch
import torch.nn.functional as F
from torch import nn

import petl
from benchmarks.guidance.synthetic_tasks import SIDE, TASKS
from petl import demo
from petl.advice.random_copy import calibrate_norms
from petl.advice.readings import ClassReader, read_all, verdict_of

CLASSES, IMAGES = 4, 100
STRENGTH = 0.28  # of what a class adds to each number


def of_random_weights(seed: int) -> str:
    """What is said of a network with random weights, whose batch norms have seen the images as those of the copy have."""
    torch.manual_seed(1000 + seed)
    model = timm.create_model(demo.BACKBONE, pretrained=False).eval()
    data = TASKS["textures"](images=120, seed=seed).tensors(petl.data.pipeline(model, size=SIDE))
    with torch.no_grad():
        calibrate_norms(model, data.tensors[0].split(64))
    return said(model, data, seed)


def of_shuffled_labels(seed: int) -> str:
    model = demo.lite0()
    return said(model, TASKS["shuffled"](seed=seed).tensors(petl.data.pipeline(model, size=SIDE)), seed)


def said(model: nn.Module, data: torch.utils.data.TensorDataset, seed: int) -> str:
    return petl.advise(model, data, cache=False, progress=False, seed=seed).verdict.transfer


def of_numbers(seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(IMAGES) % CLASSES
    means = STRENGTH * torch.randn(CLASSES, 192, generator=generator)
    one, two, three = (means[y] + torch.randn(IMAGES, 192, generator=generator) for _ in range(3))
    pictures = F.interpolate(three.reshape(IMAGES, 3, 8, 8), size=32, mode="nearest")
    reader = ClassReader(y, seed)
    return verdict_of(reader, read_all(reader, one, {}, pictures, (two, "drawn"))).transfer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--numbers", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = (of_numbers, args.numbers), (of_random_weights, args.draws), (of_shuffled_labels, args.draws)
    for case, draws in cases:
        print(f"{case.__name__}: {dict(Counter(case(seed) for seed in range(draws)))} of {draws}", flush=True)


if __name__ == "__main__":
    main()
