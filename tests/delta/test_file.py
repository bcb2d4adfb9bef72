"""Files that are no delta: one clear error, and no model changes."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import petl
from tests.support.compare import portrait
from tests.support.delta_files import header_of, rewritten
from tests.support.trained import trained
from tests.support.zoo import disturb, make


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Damage done to the header as JSON."""

    def damage(path: Path) -> None:
        header = header_of(path)
        rewritten(path, change(header) or header)

    return damage


def tensors_edited(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], Any]:
    """Damage done to the tensors."""

    def damage(path: Path) -> None:
        header, tensors = header_of(path), load_file(path)
        change(tensors)
        rewritten(path, header, tensors)

    return damage


def cut(share: float) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


UP = "blocks.0.attn.qkv.lora.up"
DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "4 bytes": lambda path: path.write_bytes(path.read_bytes()[:4]),
    "8 bytes": lambda path: path.write_bytes(path.read_bytes()[:8]),
    "in the header": cut(0.02),
    "a half": cut(0.5),
    "all but one byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "random bytes": lambda path: path.write_bytes(bytes(torch.randint(0, 256, (5000,)).tolist())),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "a huge header length": lambda path: path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:]),
    "a pickle": lambda path: torch.save({"petl": 1}, path),
    "text": lambda path: path.write_text("{}"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "gone": lambda path: path.unlink(),
    "another safetensors file": lambda path: save_file({"x": torch.zeros(2)}, path),
    "metadata of others": lambda path: save_file({"x": torch.zeros(2)}, path, metadata={"format": "pt"}),
    "no JSON": lambda path: rewritten(path, "{'format': 1"),
    "JSON, but a list": lambda path: rewritten(path, "[1, 2]"),
    "JSON, but a number": lambda path: rewritten(path, "1"),
    "JSON, but null": lambda path: rewritten(path, "null"),
    "a newer format": edited(lambda h: h.update(format=2)),
    "format as a word": edited(lambda h: h.update(format="1")),
    "format zero": edited(lambda h: h.update(format=0)),
    "format true": edited(lambda h: h.update(format=True)),
    "no format": edited(lambda h: h.pop("format") and None),
    "no methods": edited(lambda h: h.pop("methods") and None),
    "no sites": edited(lambda h: h.pop("sites") and None),
    "no backbone": edited(lambda h: h.pop("backbone") and None),
    "no digest": edited(lambda h: h.pop("digest") and None),
    "methods as text": edited(lambda h: h.update(methods="lora")),
    "methods of text": edited(lambda h: h.update(methods=["bias", "lora"])),
    "a method without a name": edited(lambda h: h["methods"][0].pop("name") and None),
    "fewer sites than methods": edited(lambda h: h["sites"].pop() and None),
    "sites as text": edited(lambda h: h.update(sites=["blocks", "blocks"])),
    "a site as a number": edited(lambda h: h["sites"].__setitem__(1, [3])),
    "a site as a list": edited(lambda h: h["sites"].__setitem__(1, [["blocks"]])),
    "an unknown site": edited(lambda h: h["sites"][1].append("blocks.7.attn.qkv")),
    "a site twice": edited(lambda h: h["sites"][1].append(h["sites"][1][0])),
    "a site less": edited(lambda h: h["sites"][1].pop() and None),
    "an unknown method": edited(lambda h: h["methods"][1].update(name="lorra")),
    "an unknown option": edited(lambda h: h["methods"][1].update(rnk=3)),
    "an impossible option": edited(lambda h: h["methods"][1].update(rank=-1)),
    "an option of another type": edited(lambda h: h["methods"][1].update(rank="2")),
    "an option that is a list": edited(lambda h: h["methods"][1].update(rank=[2])),
    "a rank that needs a terabyte": edited(lambda h: h["methods"][1].update(rank=10**12)),
    "another rank": edited(lambda h: h["methods"][1].update(rank=3)),
    "another method": edited(lambda h: h["methods"][1].update(name="adapter", rank=None)),
    "no classes": edited(lambda h: h["backbone"].update(num_classes=-1)),
    "classes as a word": edited(lambda h: h["backbone"].update(num_classes="five")),
    "other classes": edited(lambda h: h["backbone"].update(num_classes=6)),
    "an unknown head": edited(lambda h: h.update(head="heed")),
    "a head of numbers": edited(lambda h: h.update(head=[1])),
    "no head": edited(lambda h: h.update(head=False)),
    "labels as a number": edited(lambda h: h.update(labels=3)),
    "keys by hand as a number": edited(lambda h: h.update(also=3)),
    "keys by hand that aren't there": edited(lambda h: h.update(also=["nowhere.weight"])),
    "another digest": edited(lambda h: h.update(digest="0" * 64)),
    "a tensor less": tensors_edited(lambda t: t.pop(UP)),
    "a tensor more": tensors_edited(lambda t: t.update(extra=torch.zeros(1))),
    "a base tensor more": tensors_edited(lambda t: t.update({"cls_token": torch.zeros(1, 1, 32)})),
    "another shape": tensors_edited(lambda t: t.update({UP: t[UP][:-1].contiguous()})),
    "a shape of the same size": tensors_edited(lambda t: t.update({UP: t[UP].T.contiguous()})),
    "another kind of number": tensors_edited(lambda t: t.update({UP: t[UP].long()})),
    "a shape that broadcasts": tensors_edited(lambda t: t.update({UP: t[UP][:1].contiguous()})),
    "a scalar": tensors_edited(lambda t: t.update({UP: torch.tensor(1.0)})),
    "no tensors": tensors_edited(lambda t: t.clear()),
}


@pytest.fixture(scope="module")
def beit_delta(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("delta")
    return petl.save(trained("beit", ["bias", petl.LoRA(rank=2)]), folder / "d.safetensors").read_bytes()


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.sweep(30)
def test_a_wrong_file_is_one_clear_error_and_changes_no_model(damage: str, beit_delta: bytes, tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    path.write_bytes(beit_delta)
    DAMAGE[damage](path)
    model = make("beit").train()
    before = portrait(model)
    with pytest.raises(petl.DeltaError) as caught:
        petl.load(path, model)
    assert 20 < len(str(caught.value)) < 900 and "\n" not in str(caught.value)
    assert portrait(model) == before
    with contextlib.suppress(petl.DeltaError):  # read answers, or refuses in the same way
        assert isinstance(petl.read(path), dict)


def test_not_a_number_is_data_too(tmp_path: Path) -> None:
    model = trained("beit", "bias")
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), make("beit"))
    assert again.head.bias.isnan().all()


def test_a_write_that_fails_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("beit", "bias")
    path = petl.save(model, tmp_path / "d.safetensors")
    old = path.read_bytes()

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for where in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, where, full_disk)
            with pytest.raises(petl.DeltaError, match="No space left"):
                petl.save(disturb(model), path)
        assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]
    assert petl.save(model, path).read_bytes() != old


def test_paths_that_can_not_be_written(tmp_path: Path) -> None:
    model = trained("beit", "bias")
    with pytest.raises(petl.DeltaError, match="not a folder"):
        petl.save(model, tmp_path / "nowhere" / "d.safetensors")
    with pytest.raises(petl.DeltaError):
        petl.save(model, tmp_path)
    with pytest.raises(petl.DeltaError, match="JSON"):
        petl.save(model, tmp_path / "d.safetensors", results={"tensor": torch.zeros(1)})
    assert not list(tmp_path.iterdir())
