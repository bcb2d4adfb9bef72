"""Some three hundred damaged and hostile deltas, always the same: each is the right delta or one PetlError, and harms nothing."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import petl
from petl.delta.file import read_delta
from petl.delta.sealed_text import KEY, SEAL
from petl.format.tensorfile import write_file
from petl.wrapping.fingerprints import combined_fingerprint, fingerprints

ODD: list[Any] = [
    None, True, False, 0, -1, 3, 10**6, 10**12, -(2**63), 1e308, float("nan"), float("inf"), "", "x", "x" * 3000,
    "\x1b[2J\x1b]0;x\x07", "../../etc/passwd", "/dev/zero", "hf-hub:a/b", "local-dir:/", "file:///etc/passwd", "\ud800",
    [], {}, [[]], [None], ["a", "a"], [10**9], {"name": "lora"}, {"a": {"b": [1]}}, "full", "peft", "conv1", ["conv1"],
    [[[[[[1]]]]]], "torch.load", "lora.up",
]  # fmt: skip


class Victim:
    """A small delta, the model that it was saved from, and a base that must stay as it is."""

    def __init__(self, folder: Path):
        torch.manual_seed(0)
        self.base = timm.create_model("test_resnet", num_classes=4).eval()
        model = petl.wrap(copy.deepcopy(self.base), ["bias", petl.LoRA(rank=2)], num_classes=4)
        with torch.no_grad():
            for p in petl.trainable(model).values():
                p.add_(torch.randn(p.shape), alpha=0.1)
        self.folder, self.path, self.batch = folder, folder / "delta.safetensors", torch.randn(1, 3, 32, 32)
        self.bytes = petl.save(model, self.path, labels=list("abcd"), results={"accuracy": 0.5}).read_bytes()
        header, self.tensors = read_delta(self.path)
        self.header = header.to_dict()
        self.output, self.before = self.answer(model), self.portrait()

    def answer(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model.eval()(self.batch)

    def portrait(self) -> list[Any]:
        """Classes, attributes, flags and bits of the base."""
        state = self.base.state_dict()
        prints = combined_fingerprint(dict(zip(state, fingerprints(state.values()), strict=True)))
        modules = [(name, type(m), sorted(vars(m)), m.training) for name, m in self.base.named_modules()]
        return [prints, modules, [p.requires_grad for p in self.base.parameters()]]

    def load(self) -> nn.Module | None:
        """What comes of the file: a model, or None after exactly one petl.DeltaError."""
        files = sorted(self.folder.rglob("*"))
        model, text = None, ""
        try:
            model = petl.load(self.path, self.base)
        except petl.DeltaError as error:
            text = str(error)
            assert 20 < len(text) <= 1500 and "\x1b" not in text and "\n" not in text
            assert self.portrait() == self.before
        assert sorted(self.folder.rglob("*")) == files
        return model

    def take_off(self) -> None:
        petl.unwrap(self.base)
        self.base.eval()
        assert self.portrait() == self.before


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return Victim(tmp_path_factory.mktemp("fuzz"))


def bent(data: bytes, chance: random.Random) -> bytes:
    """The file's bytes after an accident, mostly in the header: to a bit or a byte, or to a piece that is lost or moved."""
    size = len(data) if chance.random() < 0.3 else 8 + int.from_bytes(data[:8], "little")
    at, much = chance.randrange(size), chance.choice([1, 1, 2, 8, 64])
    kind = chance.choice(["bit", "byte", "zeros", "lost", "twice", "moved", "end"])
    if kind == "bit":
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    if kind == "byte":
        return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    if kind == "zeros":
        return data[:at] + bytes(much) + data[at + much :]
    if kind == "lost":
        return data[:at] + data[at + much :]
    if kind == "twice":
        return data[: at + much] + data[at:]
    if kind == "moved":
        other = chance.randrange(size)
        return data[:at] + data[other : other + much] + data[at + much :]
    return data[:at]


def test_accidents_to_the_bytes(victim: Victim) -> None:
    chance = random.Random(0)
    for _ in range(150):
        damaged = bent(victim.bytes, chance)
        victim.path.write_bytes(damaged)
        model = victim.load()
        if damaged == victim.bytes or model is not None:  # nothing happened, or in a space at the header's end
            assert model is not None and torch.equal(victim.answer(model), victim.output)
            assert petl.read(victim.path) == victim.header
            victim.take_off()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a nest of dicts and lists there is something."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [p for key in keys for p in [(*path, key), *places(value[key], (*path, key))]]


def mutated(header: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The header with one to three values replaced, removed, added or moved."""
    header = copy.deepcopy(header)
    for _ in range(chance.choice([1, 1, 2, 3])):
        if not (found := [place for place in places(header) if place[0] != "structure" or chance.random() < 0.02]):
            break
        *way, last = chance.choice([place for place in found if len(place) == 1] if chance.random() < 0.4 else found)
        inside: Any = header
        for key in way:
            inside = inside[key]
        kind = chance.choice(["replace", "replace", "remove", "add"])
        if kind == "replace":
            inside[last] = copy.deepcopy(chance.choice(ODD))
        elif kind == "remove":
            del inside[last]
        elif isinstance(inside, dict):
            name = chance.choice(
                ["cache_dir", "checkpoint_path", "pretrained_cfg_overlay", "depth", "new", "rank", "config"]
            )
            inside[name] = copy.deepcopy(chance.choice(ODD))
        else:
            inside.append(copy.deepcopy(chance.choice(ODD)))
    return header


def shuffled(tensors: dict[str, Tensor], chance: random.Random) -> dict[str, Tensor]:
    """The tensors with one of them lost, added, cast, reshaped, cut, emptied or made huge in name only."""
    tensors = dict(tensors)
    key = chance.choice(list(tensors))
    changes = {
        "lost": lambda t: None,
        "double": lambda t: t.double(),
        "integer": lambda t: t.long(),
        "bool": lambda t: t.bool(),
        "flat": lambda t: t.reshape(-1),
        "scalar": lambda t: torch.tensor(1.0),
        "empty": lambda t: torch.empty(0, 10**9),
        "longer": lambda t: torch.cat([t.reshape(-1), t.reshape(-1)]),
        "nan": lambda t: t * float("nan"),
    }
    value = changes[chance.choice(list(changes))](tensors.pop(key))
    if value is not None:
        tensors[key if chance.random() < 0.8 else f"{key}.x"] = value
    return tensors


@pytest.mark.deep
def test_headers_and_tensors_by_an_enemy(victim: Victim) -> None:
    """The enemy knows the checksums; what is taken is a delta that petl itself can save again, and comes off again."""
    chance, taken = random.Random(1), 0
    for number in range(160):
        header = mutated(victim.header, chance) if number % 4 else victim.header
        tensors = shuffled(victim.tensors, chance) if not number % 4 else victim.tensors
        if number % 2:
            header = {key: value for key, value in header.items() if key != "checksum"}
        text = json.dumps(header)
        write_file(victim.path, tensors, {KEY: text, **({SEAL: "0"} if chance.random() < 0.05 else {})})
        if victim.load() is not None:
            taken += 1
            petl.save(victim.base, victim.folder / "again.safetensors")
            (victim.folder / "again.safetensors").unlink()
            victim.take_off()
    assert 5 < taken < 120  # both ways were taken


def test_the_unharmed_file_still_loads(victim: Victim) -> None:
    victim.path.write_bytes(victim.bytes)
    assert torch.equal(victim.answer(victim.load() or victim.base), victim.output)
    victim.take_off()
    save_file(load_file(victim.path), victim.path, metadata={KEY: json.dumps(victim.header)})  # as other tools write it
    assert torch.equal(victim.answer(victim.load() or victim.base), victim.output)
    victim.take_off()
