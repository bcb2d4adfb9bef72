"""`python -m benchmarks.features`, under the path that it had before."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    runpy.run_module("benchmarks.features", run_name="__main__")
