"""Runs the cases, and keeps how far it is in a file; says every fault with the number of its case.

python -m benchmarks.fuzz --cases 200000 --seed 0 --progress fuzz.json   # goes on where the file says
python -m benchmarks.fuzz --seed 0 --only 4711 --keep case.safetensors   # one case again, and its file
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.fuzz.judge import Judge

MOST_FAULTS = 200


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", type=Path, help="a JSON file: how far it is, and what was found")
    parser.add_argument("--only", type=int, help="the number of one case")
    parser.add_argument("--keep", type=Path, help="where the file of this case goes")
    return parser.parse_args()


def run(judge: Judge, options: argparse.Namespace) -> dict[str, Any]:
    """Runs the cases from where the progress file ends; returns what it holds at last."""
    state: dict[str, Any] = {"seed": options.seed, "done": 0, "counts": {}, "faults": [], "seconds": 0.0}
    if options.progress and options.progress.exists():
        state = json.loads(options.progress.read_text())
    known, begun = collections.Counter(state["counts"]), time.process_time() - state["seconds"]
    for number in range(state["done"], options.cases):
        if faults := judge.faults(number):
            state["faults"].append([number, faults])
            print(f"case {number}: {faults}", flush=True)
        state["done"] = number + 1
        if state["done"] % 500 == 0 or state["done"] == options.cases or len(state["faults"]) >= MOST_FAULTS:
            state["counts"] = dict(sorted((known + judge.counts).items()))
            state["seconds"] = round(time.process_time() - begun, 1)
            state["slowest"] = max(state.get("slowest", 0), round(judge.slowest, 3))
            state["most_megabytes"] = max(state.get("most_megabytes", 0), judge.most_memory)
            if options.progress:
                part = options.progress.with_suffix(".part")
                part.write_text(json.dumps(state, indent=1))
                os.replace(part, options.progress)
        if len(state["faults"]) >= MOST_FAULTS:
            break
    return state


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Path(folder), options.seed)
        if options.only is not None:
            victim, kind, data = judge.case(options.only)
            if options.keep:
                options.keep.write_bytes(data)
            print(f"{kind} on {victim.kind}: {judge.faults(options.only) or 'as it should be'}")
            return
        state = run(judge, options)
    print(json.dumps({key: value for key, value in state.items() if key != "faults"}, indent=1))
    sys.exit(bool(state["faults"]))


if __name__ == "__main__":
    main()
