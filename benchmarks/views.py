"""Does it help to average over several views of each test image? A probe on EfficientNet-Lite0, images paired.

    python -m benchmarks.views --data FOLDER --sets fashion_mnist emoji_noto

``FOLDER`` holds npz files as `benchmarks.transfer` reads them; without it, scikit-learn's digits. The features of every view are
computed once; the heads are trained by `petl.fit` on 1000 images, another draw for each seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

import petl
from benchmarks.transfer.data import Pictures, pictures
from petl import demo
from petl.data.views import average_outputs, make_views
from petl.evidence.intervals import standard_error

SIZE, TRAIN, TEST, SEEDS, BATCH = 96, 1000, 1000, 3, 25
VIEWS = {"1": [0], "flip": [0, 1], "5": [*range(2, 7)], "10": [*range(2, 12)]}  # of the flip's two and the ten crops


def prepared(data: Pictures, indices: Tensor) -> Tensor:
    """The images [n, 3, 96, 96], as Lite0 takes them."""
    images = torch.from_numpy(data.images[indices.numpy()]).movedim(-1, 1).float() / 255
    images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
    return (images.expand(-1, 3, -1, -1) - demo.MEAN) / demo.STD


@torch.no_grad()
def features(data: Pictures, indices: Tensor) -> list[Tensor]:
    """What the classifier takes, for each view."""
    model, found = demo.lite0(), []
    for view in [*make_views("flip"), *make_views(10)]:
        batches = [view(prepared(data, part)) for part in indices.split(BATCH)]
        found.append(torch.cat([model.forward_head(model.forward_features(b), pre_logits=True) for b in batches]))  # type: ignore[operator]
    return found


def head(data: Pictures, targets: Tensor, seed: int) -> torch.nn.Module:
    """The classifier of a probe, trained on a draw of the training images."""
    torch.manual_seed(seed)
    train = torch.from_numpy(data.split == 0).nonzero()[:, 0]
    chosen = train[torch.randperm(len(train))[:TRAIN]]
    model = petl.wrap(demo.lite0(), "probe", num_classes=len(data.classes))
    images = TensorDataset(prepared(data, chosen), targets[chosen])
    petl.fit(model, images, epochs=30, lr=1e-2, seed=seed, progress=False)
    return model.get_classifier()  # type: ignore[operator]


def measure(data: Pictures) -> list[str]:
    """One line for each kind of views: the accuracy, and the paired difference to the image alone, in points."""
    targets, test = torch.from_numpy(data.labels), torch.from_numpy(data.split == 1).nonzero()[:TEST, 0]
    inputs, right = features(data, test), {name: torch.zeros(len(test)) for name in VIEWS}
    for seed in range(SEEDS):
        classifier = head(data, targets, seed)
        with torch.no_grad():
            outputs = [classifier(each) for each in inputs]
        for name, numbers in VIEWS.items():
            predicted = average_outputs([outputs[number] for number in numbers]).argmax(1)
            right[name] += (predicted == targets[test]).float() / SEEDS
    gains = {name: 100 * (each - right["1"]) for name, each in right.items()}
    return [
        f"{data.name} views={name}: {right[name].mean():.4f}, {gains[name].mean():+.2f} +- {standard_error(gains[name]):.2f}"
        for name in VIEWS
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with npz files; scikit-learn's digits without it")
    parser.add_argument("--sets", nargs="*", default=[], help="names of npz files; all")
    options = parser.parse_args()
    for each in pictures(options.data, options.sets):
        print("\n".join(measure(each)), flush=True)
