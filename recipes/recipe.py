"""What every recipe does: it reads its arguments, builds the backbone, reads the images, and reports the result.

The recipes import these functions; this file is not a recipe that you can run.
"""

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


def arguments(doc: str | None, *, epochs: int | None, lr: float | None) -> argparse.Namespace:
    """Parses the command line of a recipe; ``epochs`` and ``lr`` are the defaults of that recipe."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        help="folder with a folder per class, or with train and val that have such folders [scikit-learn's digits]",
    )
    parser.add_argument("--model", help="NAME of a timm model, or NAME:WEIGHTS_FILE [the demo's EfficientNet-Lite0]")
    parser.add_argument(
        "--size", type=int, help="side of the images in pixels [64 for the digits, else the model's default]"
    )
    parser.add_argument("--epochs", type=int, default=epochs, help="[%(default)s]")
    parser.add_argument("--lr", type=float, default=lr, help="learning rate [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=32, help="per process [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--limit", type=int, help="maximum number of training images, and of test images [all]")
    parser.add_argument("--out", type=Path, help="file for the delta [a temporary file, to measure its size]")
    args = parser.parse_args()
    args.size = args.size or (None if args.data else 64)
    torch.manual_seed(args.seed)  # the new classifier and the methods are initialised at random
    return args


def backbone(args: argparse.Namespace) -> nn.Module:
    """Returns the pretrained model of ``--model``. An architecture with a fixed image size is built for ``--size``."""
    if args.model is None:
        return demo.lite0()
    name, _, file = args.model.partition(":")
    config = timm.get_pretrained_cfg(name)
    size: dict[str, Any] = {"img_size": args.size} if args.size and config and config.fixed_input_size else {}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": file} if file else None, **size)


def classes(args: argparse.Namespace, model: nn.Module) -> list[str]:
    """Returns the names of the classes in ``--data``."""
    if args.data is None:
        return [str(digit) for digit in range(10)]
    return petl.data.dataset(args.data, petl.data.pipeline(model)).classes


def images(args: argparse.Namespace, model: nn.Module) -> tuple[Dataset[Any], Dataset[Any]]:
    """Returns the training and test sets of ``--data``, with the channels, normalisation and size that the model expects."""
    record = petl.record(model)
    pipeline = petl.data.pipeline(model, size=args.size)
    if record is not None:
        record.pipeline = pipeline  # petl.save writes it into the delta
    train, test = _digits(pipeline) if args.data is None else _folder(args.data, pipeline)
    return limited(train, args.limit), limited(test, args.limit)


def limited(dataset: Any, limit: int | None) -> Dataset[Any]:
    """Returns ``limit`` random images of ``dataset``, the same ones in every process; without a limit, ``dataset`` itself."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    return Subset(dataset, order[:limit]) if limit else dataset


def _digits(pipeline: dict[str, Any]) -> tuple[Any, Any]:
    channels, size, _ = pipeline["input_size"]
    return demo.digits(size, channels=channels)


def _folder(path: str, pipeline: dict[str, Any]) -> tuple[Any, Any]:
    train = petl.data.dataset(path, pipeline, training=True)
    if "val" in petl.data.splits(path):
        return train, petl.data.dataset(path, pipeline, split="val", classes=train.classes)
    return petl.data.holdout(train)


def report(args: argparse.Namespace, model: nn.Module, test: Dataset[Any], seconds: float) -> None:
    """Measures the accuracy on the test images, saves the delta, and prints one line. A recipe ends with this call."""
    accuracy, state = petl.evaluate(model, test).accuracy, PartialState()
    if state.is_main_process:
        also = f" on {state.num_processes} processes" if state.num_processes > 1 else ""
        print(f"accuracy {accuracy:.3f}, {_saved(args, model)}, {seconds:.0f} s{also}")
    state.destroy_process_group()  # the group's threads have to end before Python exits


def _saved(args: argparse.Namespace, model: nn.Module) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = petl.save(model, args.out or Path(folder) / "delta.safetensors", labels=classes(args, model))
        size = path.stat().st_size
    numbers = sum(parameter.numel() for parameter in petl.trainable(model).values())
    return f"{numbers:,} trainable parameters, delta of {size:,} bytes"
