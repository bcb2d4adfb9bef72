"""What the recipes share: the arguments, the backbone and the images that these name, and the line with the result."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import Dataset, Subset

import petl
from petl import demo


def arguments(doc: str | None, *, epochs: int, lr: float) -> argparse.Namespace:
    """The command line of a recipe; ``epochs`` and ``lr`` are its own defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", help="folder of class folders, or of train and val with these [scikit-learn's digits]"
    )
    parser.add_argument("--model", help="timm's NAME, or NAME:WEIGHTS_FILE [the demo's EfficientNet-Lite0]")
    parser.add_argument(
        "--size", type=int, help="side of the images in pixels [64 for the digits, else the model's own]"
    )
    parser.add_argument("--epochs", type=int, default=epochs, help="[%(default)s]")
    parser.add_argument("--lr", type=float, default=lr, help="learning rate [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=32, help="per process [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--limit", type=int, help="so many training and test images at most [all]")
    parser.add_argument("--out", type=Path, help="file for the delta [it is only measured]")
    args = parser.parse_args()
    args.size = args.size or (None if args.data else 64)
    torch.manual_seed(args.seed)  # for the new classifier and the methods' random start
    return args


def backbone(args: argparse.Namespace) -> nn.Module:
    """The pretrained model of ``--model``; one that is built for a fixed size is built for ``--size``."""
    if args.model is None:
        return demo.lite0()
    name, _, file = args.model.partition(":")
    config = timm.get_pretrained_cfg(name)
    size: dict[str, Any] = {"img_size": args.size} if args.size and config and config.fixed_input_size else {}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": file} if file else None, **size)


def classes(args: argparse.Namespace, model: nn.Module) -> list[str]:
    """Names of the classes of ``--data``."""
    if args.data is None:
        return [str(digit) for digit in range(10)]
    return petl.data.dataset(args.data, petl.data.pipeline(model)).classes


def images(args: argparse.Namespace, model: nn.Module) -> tuple[Dataset[Any], Dataset[Any]]:
    """Training and test images of ``--data`` as the wrapped model takes them: its channels, normalisation and size."""
    record = petl.record(model)
    pipeline = petl.data.pipeline(model, size=args.size)
    if record is not None:
        record.pipeline = pipeline  # the delta tells it to whoever loads it
    found = _digits(pipeline) if args.data is None else _folder(args.data, pipeline)
    return some(found[0], args.limit), some(found[1], args.limit)


def some(part: Any, limit: int | None) -> Dataset[Any]:
    """So many images of ``part``, drawn the same way in every process; all of them in their order without a limit."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0)).tolist()
    return Subset(part, order[:limit]) if limit else part


def _digits(pipeline: dict[str, Any]) -> tuple[Any, Any]:
    channels, size, _ = pipeline["input_size"]
    return demo.digits(size, channels=channels)


def _folder(path: str, pipeline: dict[str, Any]) -> tuple[Any, Any]:
    train = petl.data.dataset(path, pipeline, training=True)
    if "val" in petl.data.splits(path):
        return train, petl.data.dataset(path, pipeline, split="val", classes=train.classes)
    return petl.data.holdout(train)


def report(args: argparse.Namespace, model: nn.Module, test: Dataset[Any], seconds: float) -> None:
    """Measure on the test images, save the delta, and print one line; the last thing that a recipe does."""
    accuracy, state = petl.evaluate(model, test).accuracy, PartialState()
    if state.is_main_process:
        also = f" on {state.num_processes} processes" if state.num_processes > 1 else ""
        print(f"accuracy {accuracy:.3f}, {_saved(args, model)}, {seconds:.0f} s{also}")
    state.destroy_process_group()  # its threads have to end before Python does


def _saved(args: argparse.Namespace, model: nn.Module) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = petl.save(model, args.out or Path(folder) / "delta.safetensors", labels=classes(args, model))
        size = path.stat().st_size
    numbers = sum(parameter.numel() for parameter in petl.trainable(model).values())
    return f"{numbers:,} trainable parameters, delta of {size:,} bytes"
