"""Does petl keep its contract on every architecture of timm, with every method?

    python -m benchmarks.coverage --sample               # a fixed sample of architectures, for real: minutes
    python -m benchmarks.coverage --all                  # the four depths below: hours; stop and start it as you like
    python -m benchmarks.coverage --depth real --only "swin*"
    python -m benchmarks.coverage --rival peft           # peft's own LoRA on the sample, judged alike
    python -m benchmarks.coverage --report docs/timm.md  # only write the page from the results

Depths:
    shapes   every architecture x every method on the meta device: wraps, runs, head, keys, what would be saved, unwraps
    real     the smallest architecture of each signature (model class, layer classes, attention) x every method through
             `petl.check`: forward, backward, three steps, save, load, merge, unwrap, with random but live weights
    every    every architecture up to 100 million parameters: LoRA, BatchNorm (else other norms) and input adapter at once
    graphs   the sample: torch.compile(fullgraph=True, backend="eager") and torch.export on the bare model, then with LoRA on
             every layer and an input adapter; compared with eager

Results are JSON lines, one per architecture and method, in benchmarks/results/coverage; pairs that are there already are not
run again, but for the statuses named by ``--again``. A pair that met the limit of time or memory is a line of its own, and
counts as not run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.coverage import index
from benchmarks.coverage.plan import DEPTHS, pairs
from benchmarks.coverage.run import Limits, Results, run

FOLDER = Path(__file__).parents[1] / "results" / "coverage"
GROUPS = {"shapes": 20, "real": 3, "every": 6, "graphs": 30, "sample": 10, "rival": 10}  # architectures to a subprocess


def main() -> None:
    args = arguments()
    began, bad = time.monotonic(), 0
    for depth in depths(args):
        results = Results(args.out / f"{depth}.jsonl")
        results.compact(args.again)
        chosen = pairs(depth, index.load(FOLDER / "architectures.jsonl") if depth in DEPTHS else [], args.only)
        print(f"{depth}: {len(chosen)} pairs", flush=True)
        run(chosen, results, args.jobs, Limits(args.seconds, args.memory * 1e9), GROUPS[depth], tell)
        lines = results.read()
        found = [lines[pair.architecture, pair.column]["status"] for pair in chosen]
        counts = {status: found.count(status) for status in sorted({*found})}
        print(f"{depth}: {counts} after {time.monotonic() - began:.0f} s", flush=True)
        bad += sum(number for status, number in counts.items() if status not in ("pass", "n/a"))
    if args.report:
        from benchmarks.coverage.report import write

        write(args.out, args.report)
    sys.exit(1 if bad and not args.rival else 0)


def tell(line: dict[str, Any]) -> None:
    if line["status"] not in ("pass", "n/a"):
        print(line["architecture"], line["method"], line["status"], line.get("reason", line.get("points")), flush=True)


def depths(args: argparse.Namespace) -> list[str]:
    if args.rival:
        return ["rival"]
    return [*(["sample"] if args.sample else []), *(DEPTHS if args.all else args.depth)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", action="store_true", help="the fixed sample")
    parser.add_argument("--all", action="store_true", help="all four depths")
    parser.add_argument("--depth", nargs="*", choices=DEPTHS, default=[], help="some of the depths")
    parser.add_argument("--rival", choices=["peft"], help="try another library's LoRA instead, on the sample")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="architectures whose names match")
    parser.add_argument(
        "--again", nargs="*", default=[], metavar="STATUS", help="try pairs of this status again: fail ..."
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="subprocesses, of one thread each")
    parser.add_argument("--seconds", type=float, default=Limits.seconds, help="limit per architecture")
    parser.add_argument("--memory", type=float, default=Limits.memory / 1e9, help="limit per subprocess in GB")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--report", type=Path, help="write the page of results to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
