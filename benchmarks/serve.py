"""A server under load: one backbone with many tasks against one merged model for each task, by the same server.

    python -m benchmarks.serve                                     # 8 tasks on ViT-S: about 5 minutes of two free cores
    python -m benchmarks.serve --model efficientnet_lite0 --clients 32 --seconds 30 --rounds 5

Each side is a process of its own, uvicorn on loopback with one thread of torch's; only one runs at a time, in turns. The clients
are threads of this process, each of which asks one request after the other, each time for another task. Memory is what /proc says
of the server's process after the requests (Linux). CPU seconds are the server's: other programs count little in them. Random
weights: they change neither time nor memory.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.serve_sides import READY, run_server
from benchmarks.tasks import METHODS, backbone, delta

SIDES = ("tasks", "merged")
WARM = 2.0  # seconds of load that aren't counted


@dataclass
class Load:
    """What the clients saw: seconds of each request, by when it ended."""

    end: float
    seconds: list[tuple[float, float]] = field(default_factory=list)

    def ask(self, port: int, number: int, names: list[str], data: bytes) -> None:
        """One client, until the end."""
        chance = random.Random(number)
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        headers = {"Content-Type": "image/jpeg"}
        while (start := time.perf_counter()) < self.end:
            link.request("POST", f"/predict/{chance.choice(names)}", data, headers)
            response = link.getresponse()
            body = response.read()
            if response.status != 200:
                raise RuntimeError(body)
            self.seconds.append((time.perf_counter(), time.perf_counter() - start))


def measure(side: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """One run of one side."""
    command = [sys.executable, "-m", "benchmarks.serve", "--run", side, "--folder", str(folder)]
    command += ["--model", options.model, "--max-batch", str(options.max_batch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready, port = process.stdout.readline().split()
            assert ready == READY
            return under_load(
                process.pid, int(port), sorted(path.stem for path in folder.glob("*.safetensors")), options
            )
        finally:
            process.kill()


def under_load(process: int, port: int, names: list[str], options: argparse.Namespace) -> dict[str, float]:
    """What clients and the system see of a server that is ready."""
    loaded = memory(process)
    load = Load(time.perf_counter() + WARM + options.seconds)
    threads = [threading.Thread(target=load.ask, args=(port, n, names, jpeg())) for n in range(options.clients)]
    for thread in threads:
        thread.start()
    time.sleep(WARM)
    start, cpu, before = time.perf_counter(), cpu_seconds(process), len(load.seconds)
    for thread in threads:
        thread.join()
    spent, wall = cpu_seconds(process) - cpu, time.perf_counter() - start
    seconds = sorted(took for ended, took in load.seconds if ended >= start)
    return {
        "requests_per_s": round((len(load.seconds) - before) / wall, 2),
        "p50_ms": round(1000 * statistics.median(seconds), 1),
        "p99_ms": round(1000 * seconds[int(0.99 * (len(seconds) - 1))], 1),
        "server_cpu_ms": round(1000 * spent / len(seconds), 1),
        "loaded_mb": round(loaded, 1),
        "after_mb": round(memory(process), 1),
        "requests": len(seconds),
    }


def jpeg() -> bytes:
    """A photograph's size and weight: 320 x 240 pixels, smooth."""
    coarse = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(file, "jpeg", quality=90)
    return file.getvalue()


def memory(process: int) -> float:
    """The megabytes of a process, with its share of what several use (PSS)."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1000


def cpu_seconds(process: int) -> float:
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--method", choices=METHODS, default="lora")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.run:
        return run_server(options.run, options.folder, options.model, options.max_batch)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        base = backbone(options.model)
        for number in range(options.tasks):
            delta(base, METHODS[options.method], Path(folder), number)
        del base
        for _ in range(options.rounds):
            for side in SIDES:
                found[side].append(measure(side, Path(folder), options))
                print(side, json.dumps(found[side][-1]), flush=True)
    medians = {s: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for s, runs in found.items()}
    result = {"options": {key: str(value) for key, value in vars(options).items()}, "median": medians, "runs": found}
    print(json.dumps(medians, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
