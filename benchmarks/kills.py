"""Kills processes while they write, and looks at what is left: the old file or the new one, whole, every time.

    python -m benchmarks.kills --times 300           # save, checkpoint, cache: so many kills each
    python -m benchmarks.kills --disk                # a full disk and a read-only one; needs the right to mount

A child process writes one version after the other until SIGKILL ends it at a random moment; its parent then reads. Moments
between two writes count as well, so the report says how many kills met a write.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.bad_disks import disks
from benchmarks.kill_writers import WRITERS, Writer

LONGEST = 0.08  # seconds from a child's first whole write to its end


def killed(writer: Writer, chance: random.Random) -> bool:
    """Lets a child write, kills it at a random moment, and returns whether that was during a write."""
    flag, (out, into) = mmap.mmap(-1, 1), os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            start = chance.randrange(1000)
            for number in range(start, start + 100_000):
                flag[0] = 1
                writer.write(number)
                flag[0] = 0
                if number == start:
                    os.write(into, b"x")
        os._exit(1)  # only a fault of the writer leads here
    os.close(into)
    os.read(out, 1)
    time.sleep(chance.random() * LONGEST)
    met = bool(flag[0])
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(out)
    flag.close()
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"{type(writer).__name__}: the child ended by itself")
    return met


def run(name: str, times: int, seed: int, folder: Path) -> str:
    """Kills a writer so many times; returns a line that says how it went."""
    chance, met, faults = random.Random(f"{name}:{seed}"), 0, []
    writer = WRITERS[name](folder)
    for number in range(times):
        met += killed(writer, chance)
        try:
            fault = writer.fault()
        except Exception as error:
            fault = f"{type(error).__name__}: {str(error)[:200]}"
        if fault:
            faults.append(f"kill {number}: {fault}")
    return f"{name}: {times} kills, {met} of them during a write, {len(faults)} faults {faults[:3] or ''}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--times", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=WRITERS, nargs="*", default=list(WRITERS))
    parser.add_argument("--disk", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = disks() if options.disk else []
    for name in () if options.disk else options.only:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(run(name, options.times, options.seed, Path(folder)))
            print(lines[-1], flush=True)
    print("\n".join(lines) if options.disk else "")
    sys.exit(any("FAULT" in line or ("faults" in line and " 0 faults" not in line) for line in lines))


if __name__ == "__main__":
    main()
