"""Processes that are killed while they write, and disks that are full or read-only: a few of `benchmarks.kills`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import petl
from tests.support.small_delta import small

ROOT = Path(__file__).parents[2]


@pytest.mark.deep
@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are made by fork")
def test_what_a_killed_process_leaves_is_whole() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.kills", "--times", "15"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("15 kills") == 3 and done.stdout.count(" 0 faults") == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the rights of another user need a process of their own")
def test_a_folder_without_the_right_to_write_is_one_error(tmp_path: Path) -> None:
    """Root may write anywhere, so the child becomes another user."""
    model, folder = small(), tmp_path / "there"
    folder.mkdir()
    before = petl.save(model, folder / "d.safetensors").read_bytes()
    folder.chmod(0o555)
    for parent in (*folder.parents,):
        if not parent.stat().st_mode & 0o005 and parent.is_relative_to("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            petl.save(model, folder / "d.safetensors", labels=list("abc"))
            said = "no error"
        except petl.DeltaError as error:
            said = str(error)
        except BaseException as error:
            said = repr(error)
        os.write(into, said.encode()[:500])
        os._exit(0)
    os.close(into)
    said = os.read(out, 1000).decode()
    os.waitpid(child, 0)
    assert said.startswith("can't write") and "Permission denied" in said
    folder.chmod(0o755)
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("d.safetensors", before)]
