"""What a training step and an inference cost: full fine-tuning, peft's LoRA, plain parametrization, and petl's methods.

    python -m benchmarks.speed                                    # the six models, float32
    python -m benchmarks.speed --models vit_base_patch16_224 --autocast --sides full "peft" "petl *"
    python -m benchmarks.speed --models vit_base_patch16_224 --compile --sides full "peft" "petl *"
    python -m benchmarks.speed --models resnet50 --bytes-only     # no timing: the same on every machine
    python -m benchmarks.speed --report docs/speed.md             # the page and its picture, from the results

All sides of a model run in one process, in turn, on the same batch with the same loss; the median of the rounds counts. A
step is forward and backward, no optimizer. Bytes are those alive for the backward; the peak is how much a few
steps raise the resident size of a process that does nothing else. One JSON file per model and variant goes to the folder of
``--out``. On a GPU the peak is what the allocator had at most, and events measure the time.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import petl
from benchmarks.speed.measure import Steps, Work, compiling, gpu_peak, in_child, interleaved
from benchmarks.speed.report import machine, write
from benchmarks.speed.resident import resident_peak
from benchmarks.speed.sides import Side, fresh, sides

MODELS = (
    "resnet50",
    "tf_efficientnet_lite0",
    "vit_small_patch16_224",
    "convnext_tiny",
    "mobilenetv3_large_100",
    "swin_tiny_patch4_window7_224",
)
RESULTS = Path(__file__).parents[1] / "results" / "speed"


def measured(name: str, work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model: its sides' steps, and inference with LoRA on it."""
    wanted = chosen(sides(fresh(name)), args.sides)
    rows: dict[str, dict[str, Any]] = {side.name: {"note": side.note} for side in wanted}
    made = {side.name: Steps(side.model(name), work) for side in wanted}
    for side, steps in made.items():
        rows[side].update(trainable=_trainable(steps.model), bytes=steps.bytes(), **_peak(name, side, steps, args))
        print(f"{name} {side}: {rows[side]}", flush=True)
    result: dict[str, Any] = {"model": name, "variant": work.variant, "work": asdict(work), "machine": machine(work)}
    result["sides"] = rows
    if not args.bytes_only:
        seconds = interleaved({side: steps.step for side, steps in made.items()}, args.repeats, work.device)
        for side, each in seconds.items():
            rows[side]["seconds"] = each
        del made, steps
        result["inference"] = inference(name, work, args.repeats)
    return result


def chosen(found: dict[str, Side], patterns: list[str]) -> list[Side]:
    """The sides that the user named, by patterns; all without any."""
    return [side for name, side in found.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns or ["*"])]


def _trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _peak(name: str, side: str, steps: Steps, args: argparse.Namespace) -> dict[str, int]:
    """Peak memory of the side's step, in a process of its own where memory is the machine's."""
    if args.bytes_only:
        return {}
    if steps.work.device.type == "cuda":
        steps.step()
        return {"peak": gpu_peak(steps.step)}
    return {} if args.no_peak else {"peak": in_child([*_again(args), "--models", name, "--child", side])["peak"]}


def _again(args: argparse.Namespace) -> list[str]:
    """The words that ask for the same work."""
    words = ["--batch", args.batch, "--size", args.size, "--threads", args.threads]
    return [*map(str, words), *(["--autocast"] if args.autocast else []), *(["--compile"] if args.compile else [])]


def child(name: str, side: str, work: Work) -> None:
    """Print the peak of one side's steps; for a process of its own."""
    steps = Steps(sides(fresh(name))[side].model(name), work)
    print(json.dumps({"peak": resident_peak(steps.step)}))


def inference(name: str, work: Work, repeats: int) -> dict[str, list[float]]:
    """Seconds of a forward in evaluation mode: the base, LoRA unmerged and merged, petl's and peft's."""
    found = sides(fresh(name))
    ours = found.get("petl") or found["petl fast"]
    wrapped, rival = ours.model(name), found["peft"].model(name)
    merged, rival_merged = petl.merge(copy.deepcopy(wrapped)), copy.deepcopy(rival).merge_and_unload()  # type: ignore[operator]
    models = {"base": fresh(name), "petl": wrapped, "petl merged": merged, "peft": rival, "peft merged": rival_merged}
    calls = {kind: Steps(model.eval(), work).infer for kind, model in models.items()}
    return interleaved(calls, repeats, work.device)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=MODELS, help="timm's names")
    parser.add_argument("--sides", nargs="*", default=[], help="names or patterns of the sides to run; all")
    parser.add_argument("--repeats", type=int, default=9, help="rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="side of the images")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 autocast, for every side")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile, for every side; bytes can't be seen then"
    )
    parser.add_argument("--bytes-only", action="store_true", help="nothing that depends on the machine")
    parser.add_argument("--no-peak", action="store_true", help="no processes of their own for the peak memory")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON files")
    parser.add_argument("--report", type=Path, help="only write this page from the results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.report:
        return write(args.out, args.report)
    torch.set_num_threads(args.threads)
    work = Work(args.batch, args.size, args.autocast, args.compile, args.threads)
    with compiling(args.compile):
        if args.child:
            return child(args.models[0], args.child, work)
        args.out.mkdir(parents=True, exist_ok=True)
        for name in args.models:
            path = args.out / f"{name}-{work.variant}.json"
            path.write_text(json.dumps(measured(name, work, args), indent=1) + "\n")


if __name__ == "__main__":
    main()
