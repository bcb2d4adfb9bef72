"""How well each method transfers with petl's defaults, against full fine-tuning and against Hugging Face peft's LoRA.

    python -m benchmarks.transfer --out runs/transfer                        # the demo's backbone, scikit-learn's digits
    python -m benchmarks.transfer --out runs/transfer --data FOLDER --sets fashion_mnist emoji_noto \
        --weights tf_efficientnet_lite0.safetensors vit_small_patch14_dinov2.safetensors --seeds 0 1 2 \
        --set vit_small_patch14_dinov2:size=70 vit_small_patch14_dinov2:epochs=10 vit_small_patch14_dinov2:precision=bf16
    python -m benchmarks.transfer --out runs/transfer --report docs/results.md

``FOLDER`` holds npz files with ``images`` (uint8, NHWC), ``labels``, ``split`` (0 train, 1 test) and ``classes``; a file named
``demo`` among ``--weights`` is the demo's backbone. Every row is trained by `petl.fit` with its default rates, start of the
classifier, clipping and warm-up: nothing is searched for. A seed draws the training images, the new values and their order, the
same for all rows; the test images are the same for all seeds. One JSON line per result, with which test images were right, goes
to ``results.jsonl`` in the folder of ``--out``: a run that was stopped goes on where it was. It runs on one thread (by default),
where the CPU seconds hardly depend on what else the machine does.
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
    """Every backbone on every data set, a seed after the other, so that whole tables of few seeds come first."""
    sets = pictures(args.data, args.sets)
    for seed in args.seeds:
        for found in sets:
            for backbone in backbones(args.weights):
                if not args.only or backbone.name in args.only:
                    yield Task(backbone, found, plan(args, backbone.name), seed)


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
    parser.add_argument(
        "--weights", type=Path, nargs="*", default=[], help="safetensors files named as timm's models, or demo"
    )
    parser.add_argument("--only", nargs="*", default=[], help="backbones to run, of those given")
    parser.add_argument("--rows", nargs="*", default=[], help="rows to run, by name; all")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
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
        for row in rows(task.base(), gray=task.gray):
            if not args.rows or row.name in args.rows:
                run(task, row, results)


if __name__ == "__main__":
    main()
