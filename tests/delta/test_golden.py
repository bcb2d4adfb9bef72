"""Files that earlier versions wrote load for ever: their numbers bit for bit, their headers as they were."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

import petl
from tests.support import golden

EXPECTED = golden.expected()
QUICK = ("lora", "combined", "int4")  # the rest are deep


def test_every_kind_has_its_file_and_all_are_small() -> None:
    files = {path.stem: path.stat().st_size for path in golden.FOLDER.glob("*.safetensors")}
    assert {*files} == {*golden.KINDS} == {*EXPECTED}
    assert sum(files.values()) < 500_000
    for kind in files:
        digest = hashlib.sha256(golden.path_of(kind).read_bytes()).hexdigest()
        assert digest == EXPECTED[kind]["file"], f"{kind} was written again: a golden file never changes"


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.deep) for k in golden.KINDS])
def test_a_golden_file_loads_as_it_was(kind: str) -> None:
    now = golden.facts(kind, petl.load(golden.path_of(kind), golden.backbone(kind)))
    outputs, wanted = now.pop("outputs"), {**EXPECTED[kind]}
    torch.testing.assert_close(torch.tensor(outputs), torch.tensor(wanted.pop("outputs")), rtol=1e-3, atol=1e-3)
    assert now == wanted


@pytest.mark.deep
@pytest.mark.parametrize("kind", golden.KINDS)
def test_a_golden_file_is_saved_again_as_it_is(kind: str, tmp_path: Path) -> None:
    """The numbers of the file come back from the model, in the file's own types."""
    path = golden.path_of(kind)
    model = petl.load(path, golden.backbone(kind))
    dtype = petl.read(path)["dtype"]
    again = petl.save(model, tmp_path / "d.safetensors", dtype=dtype)
    assert petl.read(again)["checksum"] == petl.read(path)["checksum"]
