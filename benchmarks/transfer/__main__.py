"""How well each method transfers, against full fine-tuning and against Hugging Face peft's LoRA.

    python -m benchmarks.transfer --out runs/transfer                        # the demo's backbone, scikit-learn's digits
    python -m benchmarks.transfer --out runs/transfer --data FOLDER --sets fashion_mnist emoji_noto \
        --weights tf_efficientnet_lite0.safetensors vit_small_patch14_dinov2.safetensors \
        --set vit_small_patch14_dinov2:epochs=3 vit_small_patch14_dinov2:precision=bf16
    python -m benchmarks.transfer --out runs/transfer --report docs/results.md

``FOLDER`` holds npz files with ``images`` (uint8, NHWC), ``labels``, ``split`` (0 train, 1 test) and ``classes``. Every line
of the table is trained by the same loop, `petl.fit`, with the same images in the same order, epochs, batch size and schedule;
its learning rate is the best of three on a hold-out of the training images. One JSON line per result goes to ``results.jsonl``
in the folder of ``--out``: a run that was stopped goes on where it was. With one thread (the default) the CPU seconds hardly
depend on what else the machine does, and one process per backbone can run beside the other: ``--only NAME``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.transfer.data import backbones, pictures
from benchmarks.transfer.measure import run
from benchmarks.transfer.report import write
from benchmarks.transfer.results import Results
from benchmarks.transfer.rows import rows
from benchmarks.transfer.work import Plan, Task


def tasks(args: argparse.Namespace) -> Iterator[Task]:
    """Every backbone on every data set, data sets first in turn."""
    for found in pictures(args.data, args.sets):
        for backbone in backbones(args.weights):
            if not args.only or backbone.name in args.only:
                yield from (Task(backbone, found, plan(args, backbone.name), seed) for seed in args.seeds)


def plan(args: argparse.Namespace, backbone: str) -> Plan:
    """The work per line; `--epochs`, `--precision` and the like may say it for one backbone: ``NAME=VALUE``."""
    work = Plan()
    for word in args.set:
        key, value = word.rsplit("=", 1)
        owner, _, field = key.rpartition(":")
        if owner in ("", backbone):
            work = replace(work, **{field: type(getattr(work, field))(value)})
    return work


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for results.jsonl")
    parser.add_argument("--data", type=Path, help="folder with npz files; scikit-learn's digits without it")
    parser.add_argument("--sets", nargs="*", default=[], help="names of npz files; all")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="safetensors files named as timm's models")
    parser.add_argument("--only", nargs="*", default=[], help="backbones to run, of those given")
    parser.add_argument("--rows", nargs="*", default=[], help="rows to run, by name; all")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--rates-from", metavar="SET", help="take the learning rates that were chosen on this data set")
    parser.add_argument("--set", nargs="*", default=[], help=f"work per row: [BACKBONE:]KEY=VALUE; {Plan()}")
    parser.add_argument("--report", type=Path, help="only write the table of the results to this file")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    results = Results(args.out)
    if args.report:
        return write(results.read(), args.report)
    for task in tasks(args):
        torch.set_num_threads(task.plan.threads)
        for row in rows(task.backbone.build(), gray=task.gray):
            if not args.rows or row.name in args.rows:
                run(task, row, results, args.rates_from)


if __name__ == "__main__":
    main()
