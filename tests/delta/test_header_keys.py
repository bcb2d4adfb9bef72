"""The header of a delta as one dataclass: old files, keys of other versions, and the order of the text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import timm

import petl
from petl.delta.file import read_delta, write_delta
from petl.delta.header import SCHEMA, Header
from petl.delta.sealed_text import KEY
from petl.format.tensorfile import read_header, write_file

OPTIONAL = ("structure", "frozen", "base_dtype", "also", "dtype", "labels", "task", "pipeline", "results", "checksum")


def saved(folder: Path) -> Path:
    return petl.save(petl.wrap(timm.create_model("test_vit"), "bias", num_classes=3), folder / "d.safetensors")


def test_keys_that_an_older_file_lacks_are_none_and_unknown_keys_stay(tmp_path: Path) -> None:
    header, tensors = read_delta(saved(tmp_path))
    values = {key: value for key, value in header.to_dict().items() if key not in OPTIONAL}
    old = write_file(tmp_path / "old.safetensors", tensors, {KEY: json.dumps({**values, "of tomorrow": 1})})
    read = petl.read(old)
    assert [read[key] for key in OPTIONAL] == [None] * len(OPTIONAL) and read["of tomorrow"] == 1
    assert petl.load(old, timm.create_model("test_vit"), check_base=False).num_classes == 3


def test_what_is_read_is_written_again_to_the_byte_in_the_order_of_the_fields(tmp_path: Path) -> None:
    path = saved(tmp_path)
    header, tensors = read_delta(path)
    assert isinstance(header, Header)
    again = write_delta(tmp_path / "again.safetensors", tensors, replace(header, checksum=None))
    assert again.read_bytes() == path.read_bytes()
    assert list(json.loads(read_header(path)[0][KEY])) == list(SCHEMA)
