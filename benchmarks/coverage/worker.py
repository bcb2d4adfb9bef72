"""The subprocess that ``run.py`` starts: pairs as JSON on standard input, a JSON line for each on standard output."""

from __future__ import annotations

import gc
import json
import logging
import sys
import time
import warnings
from typing import Any

import torch

from benchmarks.coverage.plan import Pair
from benchmarks.coverage.trials import tried
from benchmarks.coverage.verdict import short


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for values in json.load(sys.stdin):
        arguments = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in values["arguments"])
        pair = Pair(**{**values, "arguments": arguments})
        began = time.process_time()  # of one thread, so it hardly depends on what else the machine does
        line: dict[str, Any]
        try:
            line = tried(pair)
        except Exception as error:  # any model code runs here; what it raises is the result
            line = {"status": "fail", "reason": short(f"{type(error).__name__}: {error}", 400)}
        line["s"] = round(time.process_time() - began, 1)
        print(json.dumps({"architecture": pair.architecture, "method": pair.column, **line}), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
