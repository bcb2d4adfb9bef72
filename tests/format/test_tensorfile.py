"""The file on disk: whole or not at all, the same bytes for the same content, and one error for a path that can't be."""

from __future__ import annotations

import errno
import itertools
import json
import os
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import petl
from petl.delta.merged_checkpoint import write_merged
from petl.format.tensorfile import TYPE_NAMES, read_file, read_header, write_file
from tests.support.disk import small_files


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return petl.wrap(timm.create_model("test_resnet", num_classes=3), "bias")


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3)


TENSORS = {
    **{f"of.{name}": torch.arange(6).to(dtype).reshape(2, 3) for dtype, name in TYPE_NAMES.items()},
    "empty": torch.empty(0, 4),
    "scalar": torch.tensor(2.5),
    "strided": torch.arange(12.0).reshape(3, 4).T,
}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and torch.equal(one[k], other[k]) for k in one
    )


def test_every_type_goes_there_and_back_as_safetensors_reads_it(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.safetensors", TENSORS, {"b": "2", "a": "ü\n"})
    metadata, tensors = read_file(path)
    assert metadata == {"a": "ü\n", "b": "2"} and same(tensors, TENSORS) and same(load_file(path), TENSORS)
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata
    save_file({k: t.contiguous() for k, t in TENSORS.items()}, path)  # what others wrote
    assert same(read_file(path)[1], TENSORS)
    assert {k: entry.shape for k, entry in read_header(path)[1].items()} == {
        k: tuple(t.shape) for k, t in TENSORS.items()
    }


def test_equal_content_is_equal_bytes(tmp_path: Path, model: nn.Module) -> None:
    one = write_file(tmp_path / "a", TENSORS, {"b": "2", "a": "1"}).read_bytes()
    turned = dict(reversed(TENSORS.items()))
    assert write_file(tmp_path / "b", turned, {"a": "1", "b": "2"}).read_bytes() == one
    assert petl.save(model, tmp_path / "c").read_bytes() == petl.save(model, tmp_path / "d").read_bytes()
    again = petl.load(tmp_path / "c", fresh())
    assert petl.save(again, tmp_path / "d").read_bytes() == (tmp_path / "c").read_bytes()


ODD_PATHS: dict[str, Callable[[Path], Any]] = {
    "a device": lambda folder: "/dev/null",
    "a folder": lambda folder: folder,
    "no folder": lambda folder: folder / "no" / "x",
    "below a file": lambda folder: folder / "file" / "x",
    "a name too long": lambda folder: folder / ("n" * 300),
    "a path too long": lambda folder: "x/" * 5000,
    "a zero": lambda folder: f"{folder}/a\0b",
    "nothing": lambda folder: "",
    "a number": lambda folder: 3,
    "None": lambda folder: None,
    "bytes": lambda folder: b"x",
    "a pipe": lambda folder: folder / "pipe",
    "a circle of links": lambda folder: folder / "circle",
}


@pytest.mark.parametrize("kind", ODD_PATHS)
def test_a_path_that_can_not_be_is_one_error(kind: str, model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    path, before = ODD_PATHS[kind](tmp_path), sorted(tmp_path.rglob("*"))
    for verb in (petl.read, petl.load, lambda place: petl.save(model, place)):
        with pytest.raises(petl.DeltaError) as caught:
            verb(path)
        assert len(str(caught.value)) < 600
    assert sorted(tmp_path.rglob("*")) == before and stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o664, 0o444])
def test_a_file_that_is_replaced_keeps_its_permissions(mode: int, model: nn.Module, tmp_path: Path) -> None:
    path = petl.save(model, tmp_path / "d.safetensors")
    path.chmod(mode)
    assert stat.S_IMODE(petl.save(model, path, labels=list("abc")).stat().st_mode) == mode
    assert petl.read(path)["labels"] == list("abc")


def test_a_new_file_has_the_permissions_of_new_files(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    usual = (tmp_path / "plain").stat().st_mode
    state = {"a": torch.ones(1)}
    paths = [petl.save(model, tmp_path / "d"), write_merged(tmp_path / "m.safetensors", state, {})]
    assert {path.stat().st_mode for path in [*paths, write_merged(tmp_path / "m.pth", state, {})]} == {usual}


def test_links_stay_links_and_long_names_are_names(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    (tmp_path / "link").symlink_to(path)  # to nothing yet
    for _ in range(2):
        petl.save(model, tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and path.is_file() and petl.read(path)
    assert petl.save(model, tmp_path / ("n" * 255)).is_file()
    assert petl.save(model, str(tmp_path / "grün [1].safetensors")).is_file()


def test_a_full_disk_is_one_error_and_leaves_the_older_file(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = petl.save(model, tmp_path / "d.safetensors")
    old = path.read_bytes()
    with small_files(4096), pytest.raises(petl.DeltaError, match="can't write"):
        petl.save(model, path)
    for where in ("fsync", "replace", "chmod"):
        with monkeypatch.context() as patch:
            patch.setattr(os, where, lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
            with pytest.raises(petl.DeltaError, match="No space left"):
                petl.save(model, path)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


@pytest.mark.deep
def test_a_reader_beside_a_writer_meets_one_file_at_a_time(tmp_path: Path) -> None:
    """Numbers and labels of one save always come together."""
    path, base, writing = tmp_path / "d.safetensors", fresh(), petl.wrap(fresh(), "bias")
    done = threading.Event()

    def write(number: int) -> None:
        with torch.no_grad():
            for p in petl.trainable(writing).values():
                p.fill_(number)
        petl.save(writing, path, labels=[str(number)] * 3)

    def write_on() -> None:
        for number in itertools.cycle(range(7)):
            write(number)
            if done.is_set():
                return

    write(0)
    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for _ in range(12):
            model = petl.load(path, base)
            values = {float(x) for p in petl.trainable(model).values() for x in p.detach().flatten()}
            assert {str(int(value)) for value in values} == {*petl.record(model).labels}
            assert {*petl.read(path)["labels"]} <= {*"0123456"}
            petl.unwrap(model)
    finally:
        done.set()
        writer.join()


def test_the_path_is_opened_once(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = petl.save(model, tmp_path / "d.safetensors"), []
    plain = open

    def counting(file: Any, *rest: Any, **more: Any) -> Any:
        opened.append(file) if file == path else None
        return plain(file, *rest, **more)

    base = fresh()
    monkeypatch.setattr("builtins.open", counting)
    petl.load(path, base)
    assert opened == [path]


def raw(header: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + data


BROKEN: dict[str, bytes] = {
    "a gap": raw('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
    "an overlap": raw(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "a name twice": raw(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        bytes(8),
    ),
    "another size": raw('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', bytes(4)),
    "a negative size": raw('{"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}}', bytes(4)),
    "a size as a word": raw('{"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}', bytes(4)),
    "an unknown type": raw('{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}', bytes(8)),
    "nothing, enormously": raw('{"a":{"dtype":"F32","shape":[0,4611686018427387904,9],"data_offsets":[0,0]}}'),
    "metadata of numbers": raw('{"__metadata__":{"petl":1}}'),
    "an entry as a list": raw('{"a":[1,2]}'),
    "a list": raw("[1]"),
    "lists in lists": raw("[" * 100_000),
    "no text": struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_tables_of_tensors(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    path.write_bytes(BROKEN[kind])
    for verb in (petl.read, petl.load):
        with pytest.raises(petl.DeltaError, match="no whole safetensors file"):
            verb(path)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_merged_checkpoint_keeps_what_is_known(ending: str, model: nn.Module, tmp_path: Path) -> None:
    header = petl.read(petl.save(model, tmp_path / "d.safetensors", labels=["a", "b", "ü"], task="multilabel"))
    net = petl.merge(petl.load(tmp_path / "d.safetensors", fresh())).eval()
    path = write_merged(tmp_path / f"merged.{ending}", net.state_dict(), header)
    again = timm.create_model("test_resnet", num_classes=3, checkpoint_path=str(path)).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(x), net(x))
    if ending == "safetensors":
        metadata = read_file(path)[0]
        assert json.loads(metadata["labels"]) == ["a", "b", "ü"] and json.loads(metadata["task"]) == "multilabel"
        assert json.loads(metadata["pipeline"]) == header["pipeline"]
