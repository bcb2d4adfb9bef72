"""Smaller files: what each type takes, what comes back, and that the file and whatever comes of it say so."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import petl
from petl.delta.converted import convert_delta
from petl.delta.file import read_delta
from petl.delta.kept_temperature import keep_temperature_in
from petl.format.packing import PACKED, PACKED_TYPES
from petl.format.tensorfile import read_file, write_file
from tests.support.commands import call, refused
from tests.support.delta_files import edit, header_of

METHODS = ["bn", petl.LoRA(rank=4)]


def base() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=5).eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    model = petl.wrap(base(), METHODS, num_classes=5)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in petl.trainable(model).values():
            p.add_(torch.randn(p.shape, generator=chance), alpha=0.05)
    return model.eval()


X = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(X)


@pytest.mark.parametrize(("dtype", "share", "near"), [("int8", 0.55, 0.02), ("int4", 0.45, 0.2), ("int3", 0.43, 0.6)])
def test_a_packed_delta_comes_back_near_and_says_so(
    dtype: str, share: float, near: float, model: nn.Module, tmp_path: Path
) -> None:
    whole, path = petl.save(model, tmp_path / "whole.safetensors"), tmp_path / "small.safetensors"
    petl.save(model, path, dtype=dtype)
    assert path.stat().st_size < share * whole.stat().st_size
    header = petl.read(path)
    assert (header["format"], header["dtype"], header["approximate"]) == (2, dtype, dtype)
    again, expected = petl.load(path, base()), outputs(model)
    assert float((outputs(again) - expected).abs().max()) < near * float(expected.std())
    own, state = model.state_dict(), again.state_dict()
    exact = [key for key in read_delta(path)[1] if own[key].ndim == 0 or "running" in key or key.endswith("bias")]
    assert len(exact) > 10 and all(torch.equal(own[key], state[key]) for key in exact if own[key].numel() < 64)
    # saved again: as it is, the numbers are those that were loaded, and the file says where they have been
    resaved = petl.save(again, tmp_path / "again.safetensors")
    assert petl.read(resaved)["approximate"] == dtype and petl.read(resaved)["format"] == 1
    assert torch.equal(outputs(petl.load(resaved, base())), outputs(again))
    # in the same type, no number moves any more
    third = petl.save(again, tmp_path / "third.safetensors", dtype=dtype)
    assert torch.equal(read_file(third)[1][PACKED], read_file(path)[1][PACKED])


def test_float_types_by_name_and_what_is_exact(model: nn.Module, tmp_path: Path) -> None:
    files = {
        dtype: petl.save(model, tmp_path / f"{dtype}.safetensors", dtype=dtype)
        for dtype in ("float32", "bfloat16", "float16", "float64")
    }
    files["torch"] = petl.save(model, tmp_path / "torch.safetensors", dtype=torch.bfloat16)
    assert files["torch"].read_bytes() == files["bfloat16"].read_bytes()
    said = {dtype: (petl.read(path)["format"], petl.read(path)["approximate"]) for dtype, path in files.items()}
    rounded = {name: (1, name) for name in ("bfloat16", "float16")}
    assert said == {"float32": (1, None), "float64": (1, None), **rounded, "torch": (1, "bfloat16")}
    loaded = petl.load(files["float16"], base())
    assert petl.read(petl.save(loaded, tmp_path / "x.safetensors"))["approximate"] == "float16"


def test_older_files_in_half_precision_are_known_too(model: nn.Module, tmp_path: Path) -> None:
    path = petl.save(model, tmp_path / "d.safetensors", dtype="bfloat16")
    edit(path, json.dumps({key: value for key, value in header_of(path).items() if key != "approximate"}))
    record = petl.record(petl.load(path, base()))
    assert record is not None and record.approximate == "bfloat16"


@pytest.mark.parametrize("dtype", ["int2", "int16", torch.int16, torch.complex64, "torch.int8 ", 8, "Int8", ""])
def test_other_types_are_refused_before_anything_is_written(dtype: Any, model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(petl.DeltaError, match="stored as one of float32"):
        petl.save(model, tmp_path / "d.safetensors", dtype=dtype)
    assert not [*tmp_path.iterdir()]


def test_a_delta_too_small_to_pack_stays_whole(tmp_path: Path) -> None:
    tiny = petl.wrap(base(), petl.BN(affine=True, stats="keep"), num_classes=None, head=False)
    path = petl.save(tiny, tmp_path / "d.safetensors", dtype="int8")
    header = petl.read(path)
    assert (header["format"], header["dtype"], header["packed"], header["approximate"]) == (1, None, None, None)


def test_numbers_that_are_none_stay_exact(tmp_path: Path, model: nn.Module) -> None:
    odd: Any = copy.deepcopy(model)
    with torch.no_grad():
        odd.fc.weight[0, 0] = float("nan")
    again: Any = petl.load(petl.save(odd, tmp_path / "d.safetensors", dtype="int4"), base())
    assert torch.equal(again.fc.weight.nan_to_num(7), odd.fc.weight.nan_to_num(7))


def test_tasks_and_temperatures_take_packed_files(model: nn.Module, tmp_path: Path) -> None:
    path = petl.save(model, tmp_path / "d.safetensors", dtype="int8")
    loaded, tensors = petl.load(path, base()), read_file(path)[1]
    tasks = petl.Tasks(base())
    tasks.add("pets", path)
    with torch.no_grad():
        assert torch.equal(tasks["pets"](X) if hasattr(tasks, "__getitem__") else outputs(loaded), outputs(loaded))
    keep_temperature_in(path, 2.0)
    assert petl.read(path)["temperature"] == 2.0
    assert all(torch.equal(tensor, read_file(path)[1][key]) for key, tensor in tensors.items())


def test_converting_needs_no_backbone(model: nn.Module, tmp_path: Path) -> None:
    whole, small = petl.save(model, tmp_path / "whole.safetensors"), tmp_path / "small.safetensors"
    convert_delta(whole, small, "int8")
    assert small.read_bytes() == petl.save(model, tmp_path / "same.safetensors", dtype="int8").read_bytes()
    back = convert_delta(small, tmp_path / "back.safetensors", "float32")
    assert petl.read(back)["approximate"] == "int8" and petl.read(back)["format"] == 1
    assert torch.equal(outputs(petl.load(back, base())), outputs(petl.load(small, base())))


@pytest.mark.deep
def test_the_commands_say_it(model: nn.Module, tmp_path: Path) -> None:
    whole, small = petl.save(model, tmp_path / "whole.safetensors"), tmp_path / "small.safetensors"
    done = call("convert", whole, small, "--dtype", "int4")
    assert done.exit_code == 0 and f"{small.stat().st_size:,} bytes, {whole.stat().st_size:,} before" in done.stdout
    said = call("inspect", small).stdout
    assert "rounded to int4" in said and "rounded" not in call("inspect", whole).stdout
    assert json.loads(call("inspect", small, "--json").stdout)["approximate"] == "int4"
    assert "--overwrite" in refused("convert", whole, small, "--dtype", "int8")
    assert "one of float32" in refused("convert", whole, tmp_path / "x", "--dtype", "int5")
    assert "one file" in refused("convert", whole, whole, "--dtype", "int8", "--overwrite")


PACKINGS: dict[str, Any] = {
    "more tensors than bytes": lambda p: {**p, "tensors": {**p["tensors"], "x": [1000, 1000]}},
    "terabytes": lambda p: {**p, "tensors": {"x": [2**20, 2**19]}},
    "other bits": lambda p: {**p, "bits": 3},
    "a tensor that is there": lambda p: {**p, "tensors": {**p["tensors"], "fc.bias": [5]}},
    "nothing": lambda p: None,
    "no table": lambda p: "int4",
}


@pytest.mark.parametrize("what", PACKINGS)
def test_a_packing_by_an_enemy_is_refused_when_read(what: str, model: nn.Module, tmp_path: Path) -> None:
    path = petl.save(model, tmp_path / "d.safetensors", dtype="int4")
    metadata, tensors = read_file(path)
    header = {**json.loads(metadata["petl"]), "checksum": None}
    header["packed"] = PACKINGS[what](header["packed"])
    write_file(path, tensors, {"petl": json.dumps(header)})
    for verb in (petl.read, lambda place: petl.load(place, base())):
        with pytest.raises(petl.DeltaError, match="header|upgrade"):  # without a packing it isn't this format
            verb(path)


def test_any_bytes_in_a_packed_tensor_are_numbers(model: nn.Module, tmp_path: Path) -> None:
    """Scales that are no numbers, and whole numbers that no packing writes, harm nothing: NaN is data, too."""
    for dtype in PACKED_TYPES:
        path = petl.save(model, tmp_path / "d.safetensors", dtype=dtype)
        metadata, tensors = read_file(path)
        header = {**json.loads(metadata["petl"]), "checksum": None}
        tensors[PACKED] = torch.full_like(tensors[PACKED], 255)
        write_file(path, tensors, {"petl": json.dumps(header)})
        loaded = petl.load(path, base())
        petl.save(loaded, tmp_path / "again.safetensors", dtype=dtype)
        keep_temperature_in(path, 2.0)
        assert bool((read_file(path)[1][PACKED] == 255).all())
