"""What `petl.combine` and `petl.extend` are worth, on real images with EfficientNet-Lite0.

    python -m benchmarks.guidance.combine --data FOLDER [--only tasks wise extend] [--tasks NAME ...]

FOLDER has npz files as benchmarks/transfer/data.py reads them; gray is repeated, and of more than three bands the first three
are taken. ``tasks``: one LoRA per task, combined in each way; test accuracy with the own classifiers, and with ones that are
computed from the training images. ``wise``: one LoRA, interpolated towards the base, on its own test images and on the same
blurred (3 x 3) at contrast .6. ``extend``: classes in steps, beside fine-tuning on the new classes alone and all at once.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import petl
from benchmarks.transfer.data import read
from petl import demo
from petl.evidence.intervals import accuracy_error, standard_error

SIDE, EPOCHS = 64, 5


class Sides(NamedTuple):
    train: TensorDataset
    test: TensorDataset
    classes: list[str]


def sides(path: Path, train: int, test: int) -> Sides:
    found = read(path)
    if found.images.shape[-1] > 3:
        found = found.__class__(found.name, found.images[..., :3], found.labels, found.split, found.classes)
    pipeline = {"input_size": (3, SIDE, SIDE), "mean": (demo.MEAN,) * 3, "std": (demo.STD,) * 3}
    parts = [found.tensors(found.chosen(split, count, 0), pipeline) for split, count in ((0, train), (1, test))]
    return Sides(parts[0], parts[1], [*found.classes])


def tuned(base: nn.Module, data: TensorDataset, classes: Sequence[str], **options: Any) -> nn.Module:
    model = petl.wrap(copy.deepcopy(base), "lora", num_classes=len(classes))
    petl.fit(model, data, val=None, epochs=EPOCHS, batch_size=32, progress=False, **options)
    petl.record(model).labels = [*classes]  # type: ignore[union-attr]  # wrapped
    return model.eval()


@torch.no_grad()
def hits(model: nn.Module, data: TensorDataset, outputs: tuple[int, int] | None = None) -> Tensor:
    """1.0 for each test image that is right, among some of the outputs."""
    start, stop = outputs or (0, model.num_classes)  # type: ignore[assignment]  # an int
    x, y = data.tensors
    scores = torch.cat([model(batch)[:, start:stop] for batch in x.split(100)])
    return (scores.argmax(1) == y).double()


def tasks(base: nn.Module, found: Mapping[str, Sides]) -> None:
    models = {name: tuned(base, one.train, one.classes) for name, one in found.items()}
    single = {name: hits(model, found[name].test) for name, model in models.items()}
    say("single", list(single.values()))
    data = {name: one.train for name, one in found.items()}
    probes = petl.combine({**models}, weights=[0.0] * len(models), data=data, progress=False)
    say("base, refitted heads", of_slices(probes, found))
    ways: list[tuple[str, dict[str, Any]]] = [
        ("mean", {}), ("mean, weights 1 each", {"weights": [1.0] * len(models)}), ("ties", {"how": "ties"}),
        ("ties, weights 1 each", {"how": "ties", "weights": [1.0] * len(models)}), ("iso", {"how": "iso"}),
        ("iso at rank 8", {"how": "iso", "rank": 8}),
    ]  # fmt: skip
    for name, options in ways:
        more: dict[str, Any]
        for heads, more in (("own heads", {}), ("refitted heads", {"data": data})):
            start = time.process_time()
            combined = petl.combine({**models}, progress=False, **options, **more)
            seconds = time.process_time() - start
            now = of_slices(combined, found)
            lost = [b - a for a, b in zip(single.values(), now, strict=True)]
            gap = float(torch.stack([one.mean() for one in lost]).mean())
            error = float(torch.tensor([standard_error(one) for one in lost]).square().sum()) ** 0.5 / len(lost)
            say(
                f"{name}, {heads}",
                now,
                f"; against single {gap:+.3f} +- {error:.3f}; residual {combined.residual:.3f}; {seconds:.0f} s",
            )


def of_slices(combined: Any, found: Mapping[str, Sides]) -> list[Tensor]:
    return [hits(combined.model, found[name].test, combined.slices[name]) for name in found]


def say(what: str, found: Sequence[Tensor], more: str = "") -> None:
    means = [float(one.mean()) for one in found]
    errors = [accuracy_error(mean, len(one)) for mean, one in zip(means, found, strict=True)]
    each = ", ".join(f"{mean:.3f} +- {error:.3f}" for mean, error in zip(means, errors, strict=True))
    print(f"  {what}: mean {np.mean(means):.3f} ({each}){more}", flush=True)


def wise(base: nn.Module, name: str, one: Sides) -> None:
    model = tuned(base, one.train, one.classes)
    x, y = one.test.tensors
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1) * 0.6
    shifted = TensorDataset(soft, y)
    last = [hits(model, data) for data in (one.test, shifted)]
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        more: dict[str, Any]
        for heads, more in (("own head", {}), ("refitted head", {"data": one.train})):
            combined = petl.combine([model], weights=[part], progress=False, **more)
            now = [hits(combined.model, data) for data in (one.test, shifted)]
            gaps = [
                f"{float((b - a).mean()):+.3f} +- {standard_error(b - a):.3f}" for a, b in zip(last, now, strict=True)
            ]
            say(
                f"wise {name}, {part:g} of the change, {heads}: own, shifted",
                now,
                f"; against all of it {', '.join(gaps)}",
            )
    chosen = petl.combine([model], weights="auto", data=one.train, progress=False)
    say(f"wise {name}, chosen {chosen.weights}", [hits(chosen.model, data) for data in (one.test, shifted)])


def extend(base: nn.Module, name: str, one: Sides, steps: int = 3) -> None:
    count = len(one.classes)
    groups = [part.tolist() for part in np.array_split(np.arange(count), steps)]
    step = len(groups[0])

    def only(data: TensorDataset, group: Sequence[int]) -> TensorDataset:
        rows = torch.isin(data.tensors[1], torch.tensor([*group]))
        return TensorDataset(*(tensor[rows] for tensor in data.tensors))

    start = time.process_time()
    model: Any = petl.wrap(copy.deepcopy(base), "probe", num_classes=len(groups[0]))
    for group in groups:
        done = petl.extend(model, only(one.train, group), progress=False)
        model = done.model
        seen = [c for g in groups[: groups.index(group) + 1] for c in g]
        say(
            f"extend {name}, {len(seen)} classes: all, the first {step}",
            [hits(model, only(one.test, seen)), hits(model, only(one.test, groups[0]))],
        )
    spent = time.process_time() - start
    joint = petl.extend(petl.wrap(copy.deepcopy(base), "probe", num_classes=count), one.train, progress=False)
    same = float((hits(model, one.test) - hits(joint.model, one.test)).abs().sum())
    say(
        f"extend {name}, all at once",
        [hits(joint.model, one.test)],
        f"; {same:.0f} answers differ; steps took {spent:.0f} s, penalty {joint.penalty:g}",
    )
    best = petl.wrap(copy.deepcopy(base), petl.Probe(solver="ridge"), num_classes=count)
    petl.fit(best, one.train, val=None, progress=False)
    say(f"extend {name}, petl.Probe(solver='ridge')", [hits(best.eval(), one.test)])
    probe = petl.wrap(copy.deepcopy(base), "probe", num_classes=count)
    rest = petl.wrap(copy.deepcopy(base), "lora", num_classes=count)
    for label, net in (("classifier", probe), ("LoRA", rest)):
        for group in groups:
            petl.fit(net, only(one.train, group), val=None, epochs=EPOCHS, start=None, batch_size=32, progress=False)
        say(
            f"extend {name}, fine-tuned on the new classes alone ({label}): all, the first {step}",
            [hits(net.eval(), one.test), hits(net, only(one.test, groups[0]))],
        )
    say(f"extend {name}, joint LoRA", [hits(tuned(base, one.train, one.classes), one.test)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=["tasks", "wise", "extend"])
    parser.add_argument("--tasks", nargs="*", default=["fashion_mnist", "emoji_noto", "landsat_satellite"])
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--test", type=int, default=400)
    args = parser.parse_args()
    base = demo.lite0().eval()
    found = {name: sides(args.data / f"{name}.npz", args.train, args.test) for name in args.tasks}
    if "extend" in args.only:
        for name in args.tasks[:2]:
            extend(base, name, found[name])
    if "tasks" in args.only:
        tasks(base, found)
    if "wise" in args.only:
        for name in args.tasks[:2]:
            wise(base, name, found[name])


if __name__ == "__main__":
    main()
