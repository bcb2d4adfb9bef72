"""Damaged and hostile deltas, always the same: each is the right delta or one PetlError, and harms nothing.

The harness is `benchmarks.fuzz`, where 200,000 of them run: ``python -m benchmarks.fuzz --cases 200000 --seed 0``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import petl
from benchmarks.fuzz.accidents import put_together, taken_apart
from petl.delta.sealed_text import KEY
from tests.support import golden

ROOT = Path(__file__).parents[2]


def fuzzed(*options: Any) -> dict[str, Any]:
    """What the harness found, in a process of its own: it watches what the process opens and how much memory it has."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.fuzz", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.mark.deep
def test_thousands_of_accidents_and_enemies() -> None:
    found = fuzzed("--cases", 3000, "--seed", 1)
    assert found["done"] == 3000
    kinds = {f"{kind}: {end}" for kind in ("recipe", "tensors") for end in ("taken", "refused when loaded")}
    assert kinds <= {*found["counts"]} and found["counts"]["bytes: refused when read"] > 500


def test_a_few_accidents_and_enemies() -> None:
    """In this process, for one method; time and memory are not judged here."""
    import random
    import tempfile

    from benchmarks.fuzz.accidents import by_bytes, by_container
    from benchmarks.fuzz.enemies import changed_recipe, changed_tensors
    from benchmarks.fuzz.judge import Victim

    victim, taken = Victim("probe"), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.safetensors"
        for number in range(240):
            chance = random.Random(number)
            if number % 12 == 0:
                recipe, tensors = changed_recipe(victim.recipe, victim.recipe, chance), victim.tensors
                recipe, tensors = (
                    (recipe, tensors)
                    if number % 24
                    else (victim.recipe, changed_tensors(tensors, victim.state, chance))
                )
                save_file(tensors, path, {KEY: json.dumps({**recipe, "checksum": None}, ensure_ascii=True)})
            else:
                path.write_bytes((by_container if number % 3 == 0 else by_bytes)(victim.bytes, chance))
            try:
                petl.read(path)
                petl.load(path, victim.base)
            except petl.PetlError as error:
                assert 20 < len(str(error)) <= 1500 and "\x1b" not in str(error)
                assert victim.is_whole()
            else:
                taken += 1
                petl.unwrap(victim.base)
                victim.base.eval()
            assert [*Path(folder).iterdir()] == [path]
    assert taken < 40


def test_the_unharmed_file_loads_as_other_tools_write_it(tmp_path: Path) -> None:
    path, base = tmp_path / "d.safetensors", golden.backbone("norm")
    expected = golden.facts("norm", petl.load(golden.path_of("norm"), golden.backbone("norm")))["tensors"]
    text = json.dumps({key: value for key, value in petl.read(golden.path_of("norm")).items() if value is not None})
    save_file(load_file(golden.path_of("norm")), path, metadata={KEY: text})
    assert golden.facts("norm", petl.load(path, base))["tensors"] == expected
    table, body = taken_apart(path.read_bytes())  # spaces in the JSON, and entries in another order
    path.write_bytes(put_together(json.dumps(dict(reversed(table.items())), indent=1).encode(), body))
    assert golden.facts("norm", petl.load(path, golden.backbone("norm")))["tensors"] == expected
