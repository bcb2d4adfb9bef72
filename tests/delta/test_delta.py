"""The delta file: the same bits elsewhere, nothing but the delta inside, and a wrong file changes no model."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import petl
from tests.support.compare import differing, portrait, state
from tests.support.delta_files import header_of, rewritten
from tests.support.lively import calibrate
from tests.support.zoo import ZOO, disturb, images, make, output

WAYS: dict[str, tuple[Any, str, int]] = {
    "probe": ("probe", "levit", 3),
    "bn": ("bn", "resnet", 3),
    "norm": ("norm", "swinv2", 3),
    "bias": ("bias", "beit", 3),
    "lora": (["bias", petl.LoRA(rank=2, where=("linear", "conv", "depthwise"))], "resnext", 3),
    "slices": (petl.LoRA(rank=2, slices="qv"), "eva_fused", 3),
    "dora": (petl.LoRA(rank=2, dora=True), "nfnet", 3),
    "adapter": (petl.Adapter(bottleneck=2, where="branch"), "swin", 3),
    "partial": ("partial", "coat", 3),
    "full": (petl.Full(stats="adapt"), "efficientnet", 3),
    "seed case": ([petl.Input(in_chans=1), "bn", petl.LoRA(rank=2)], "efficientnet_same", 1),
    "input with a bias": (petl.Input(in_chans=4, bias=True), "crossvit", 4),
}


def trained(name: str, methods: Any, channels: int = 3, **options: Any) -> nn.Module:
    """A zoo model with these methods after a training step, so that statistics have moved too."""
    torch.manual_seed(0)
    model = petl.wrap(make(name), methods, num_classes=5, **options)
    disturb(model).train()
    with torch.no_grad():
        model(images(name, channels))
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small delta of the zoo's beit."""
    return petl.save(trained("beit", ["bias", petl.LoRA(rank=2)]), tmp_path / "delta.safetensors")


# ---- round trip


@pytest.mark.sweep(4)
@pytest.mark.parametrize("way", WAYS)
def test_the_same_bits_on_a_fresh_base(way: str, tmp_path: Path) -> None:
    methods, name, channels = WAYS[way]
    model, batch = trained(name, methods, channels), images(name, channels)
    path = petl.save(model, tmp_path / "d.safetensors")
    again = petl.load(path, base := make(name))
    assert again is base
    assert not differing(state(model), state(again))
    out, other = model(batch), again(batch)
    pairs = zip(*((t if isinstance(t, tuple) else (t,)) for t in (out, other)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert petl.record(again).methods == petl.record(model).methods
    assert petl.record(again).sites == petl.record(model).sites
    assert {*petl.trainable(again)} == {*petl.trainable(model)}
    assert petl.in_chans(again) == channels
    petl.unwrap(again)
    assert not differing(state(again), state(make(name)))


@pytest.mark.parametrize("way", ["seed case", "bias", "adapter"])
def test_training_goes_on_after_loading_as_if_nothing_had_been(way: str, tmp_path: Path) -> None:
    methods, name, channels = WAYS[way]
    model = trained(name, methods, channels)
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), make(name))
    for one in (model, again):
        one.train()
        torch.manual_seed(0)  # stochastic depth
        optimizer = torch.optim.SGD(petl.trainable(one).values(), lr=0.1)
        (one(images(name, channels)) ** 2).sum().backward()
        optimizer.step()
    assert not differing(state(model), state(again))


FRESH = """
import sys, torch, petl
from tests.support.zoo import images, make, output
model = petl.load(sys.argv[1], make("swinv2"))
torch.save(output(model, images("swinv2")), sys.argv[2])
torch.save(output(petl.merge(model), images("swinv2")), sys.argv[3])
"""


@pytest.mark.deep
def test_the_same_bits_in_a_fresh_process(tmp_path: Path) -> None:
    model = trained("swinv2", ["norm", "bias", petl.LoRA(rank=2)])
    path = petl.save(model, tmp_path / "d.safetensors")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    answers = [tmp_path / "loaded.pt", tmp_path / "merged.pt"]
    subprocess.run([sys.executable, "-c", FRESH, path, *answers], check=True, env=environment)
    expected = output(model, images("swinv2"))
    assert all(torch.equal(torch.load(answer), expected) for answer in answers)


def test_load_builds_the_backbone_by_its_recorded_name(tmp_path: Path) -> None:
    """Weights drawn with a seed stand for pretrained ones."""
    torch.manual_seed(3)
    model = petl.wrap(timm.create_model("test_vit", img_size=96, num_classes=4), "lora")
    disturb(model).eval()
    path = petl.save(model, tmp_path / "d.safetensors")
    torch.manual_seed(3)
    again = petl.load(path, pretrained=False)
    x = torch.randn(2, 3, 96, 96)
    assert torch.equal(output(again, x), output(model, x))
    with pytest.raises(petl.DeltaError, match="digest"):
        petl.load(path, pretrained=False)  # other random weights


def test_create_args_are_recorded_and_used(tmp_path: Path) -> None:
    torch.manual_seed(3)
    args = {"global_pool": "avg", "class_token": False}
    model = petl.wrap(timm.create_model("test_vit", num_classes=4, **args), "lora", create_args=args)
    path = petl.save(model, tmp_path / "d.safetensors")
    assert petl.read(path)["backbone"]["args"] == args
    torch.manual_seed(3)
    again = petl.load(path, pretrained=False)
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(output(again, x), output(model, x))


def test_a_base_with_other_channels_is_built_with_them(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = petl.wrap(timm.create_model("test_resnet", in_chans=6, num_classes=4), "bn")
    path = petl.save(model, tmp_path / "d.safetensors")
    assert petl.read(path)["backbone"]["in_chans"] == 6
    torch.manual_seed(3)
    again = petl.load(path, pretrained=False)
    assert torch.equal(output(again, torch.ones(2, 6, 64, 64)), output(model, torch.ones(2, 6, 64, 64)))


def test_models_without_a_timm_name_want_to_be_passed(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    base = resnet18()
    model = disturb(petl.wrap(copy.deepcopy(base), ["bn", "lora"], head="fc", num_classes=4))
    path = petl.save(model, tmp_path / "d.safetensors")
    with pytest.raises(petl.DeltaError, match=r"petl\.load\(path, model\)"):
        petl.load(path)
    x = torch.randn(2, 3, 64, 64)
    again = petl.load(path, copy.deepcopy(base))
    assert again.fc.out_features == 4
    assert torch.equal(output(again, x), output(model, x))


def test_a_classifier_of_another_size_on_the_new_base_is_no_matter(tmp_path: Path) -> None:
    model = trained("vit", "lora")
    path = petl.save(model, tmp_path / "d.safetensors")
    base = make("vit")
    base.reset_classifier(77)
    assert torch.equal(output(petl.load(path, base), images("vit")), output(model, images("vit")))


# ---- header and contents


def test_header(tmp_path: Path) -> None:
    model = trained("beit", ["bias", petl.LoRA(rank=2, slices="qv")])
    path = petl.save(
        model, tmp_path / "d.safetensors", labels=list("abcde"), results={"accuracy": 0.5, "seconds": [1, 2]}
    )
    header = petl.read(path)
    assert header == header_of(path)
    assert header["format"] == 1 and header["version"] == petl.__version__
    assert header["backbone"] == {
        "name": f"beit_base_patch16_224.{make('beit').pretrained_cfg['tag']}",
        "num_classes": 5,
        "in_chans": 3,
        "dtype": "float32",
        "args": {**ZOO["beit"][2], "img_size": [32, 32], "global_pool": "avg"},
    }
    assert [m["name"] for m in header["methods"]] == ["bias", "lora"]
    assert header["methods"][1]["rank"] == 2 and header["methods"][1]["slices"] == "qv"
    assert header["sites"][1] == [f"blocks.{i}.attn.qkv" for i in range(2)]
    assert header["head"] is True and header["labels"] == list("abcde")
    assert header["results"] == {"accuracy": 0.5, "seconds": [1, 2]}
    assert {"input_size", "mean", "std", "interpolation", "crop_pct"} <= {*header["pipeline"]}
    assert header["digest"] == petl.record(model).digest
    int(header["digest"], 16)


def test_labels_and_pipeline_of_the_record_are_saved_and_come_back(tmp_path: Path) -> None:
    model = trained("beit", "bias")
    made = petl.record(model)
    made.labels, made.pipeline, made.results = list("vwxyz"), {"input_size": [3, 32, 32], "mean": [0.5] * 3}, {"f1": 1}
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), make("beit"))
    found = petl.record(again)
    assert (found.labels, found.pipeline, found.results) == (made.labels, made.pipeline, made.results)
    path = petl.save(again, tmp_path / "e.safetensors", labels=list("abcde"))
    assert petl.read(path)["labels"] == list("abcde") and petl.read(path)["results"] == {"f1": 1}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("way", WAYS)
def test_the_file_holds_nothing_but_the_delta(way: str, tmp_path: Path) -> None:
    methods, name, channels = WAYS[way]
    model = trained(name, methods, channels)
    path = petl.save(model, tmp_path / "d.safetensors")
    tensors = load_file(path)
    held = state(model)
    statistics = {k for k in held if k.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert {*tensors} - statistics == {*petl.trainable(model)}
    tuned = {"bn": True, "full": True, "seed case": True}.get(way, False)
    head = petl.record(model).head
    assert {*tensors} & statistics == {k for k in statistics if tuned or k.startswith(head)}
    assert all(torch.equal(tensors[k], held[k]) and tensors[k].dtype == held[k].dtype for k in tensors)
    numbers = sum(t.numel() * t.element_size() for t in tensors.values())
    assert petl.summary(model).bytes == numbers
    head_bytes = len(json.dumps(header_of(path))) + 200 * len(tensors) + 500
    assert path.stat().st_size < numbers + head_bytes


def test_size_of_a_lora_of_a_vit_small(tmp_path: Path) -> None:
    with torch.device("meta"):
        base = timm.create_model("vit_small_patch16_224")
    base.to_empty(device="cpu")
    for tensor in (*base.parameters(), *base.buffers()):
        torch.nn.init.zeros_(tensor)
    model = petl.wrap(base, "lora", rank=8, num_classes=10)
    assert petl.save(model, tmp_path / "all.safetensors").stat().st_size < 3_000_000
    petl.unwrap(model)
    model = petl.wrap(base, "lora", rank=8, slices="qv", num_classes=10)
    assert petl.save(model, tmp_path / "qv.safetensors").stat().st_size < 1_000_000


def test_size_of_a_bn_delta_of_a_resnet50(tmp_path: Path) -> None:
    model = petl.wrap(timm.create_model("resnet50"), "bn", num_classes=10)
    assert petl.save(model, tmp_path / "d.safetensors").stat().st_size < 600_000


def test_bfloat16_halves_the_file(tmp_path: Path) -> None:
    model = trained("vit", ["norm", "lora"])
    whole = petl.save(model, tmp_path / "whole.safetensors")
    half = petl.save(model, tmp_path / "half.safetensors", dtype=torch.bfloat16)
    tensors = load_file(half)
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert sum(t.nbytes for t in tensors.values()) * 2 == sum(t.nbytes for t in load_file(whole).values())
    again = petl.load(half, make("vit"))
    for key, tensor in tensors.items():
        assert torch.equal(again.state_dict()[key], tensor.float())
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    torch.testing.assert_close(output(again, images("vit")), output(model, images("vit")), rtol=0.1, atol=0.1)


def test_bfloat16_leaves_counters_alone(tmp_path: Path) -> None:
    model = trained("resnet", "bn")
    tensors = load_file(petl.save(model, tmp_path / "d.safetensors", dtype=torch.bfloat16))
    assert {t.dtype for k, t in tensors.items() if k.endswith("num_batches_tracked")} == {torch.int64}


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_half_precision_base_with_a_float32_delta(name: str, tmp_path: Path) -> None:
    base = make(name).bfloat16()
    model = disturb(petl.wrap(copy.deepcopy(base), "lora", num_classes=5)).eval()
    batch = images(name).bfloat16()
    out = output(model, batch)
    path = petl.save(model, tmp_path / "d.safetensors")
    dtypes = {key.rpartition(".")[2]: t.dtype for key, t in load_file(path).items() if "lora" in key}
    assert dtypes == {"up": torch.float32, "down": torch.float32}
    assert out.dtype == torch.bfloat16 and torch.equal(output(petl.load(path, copy.deepcopy(base)), batch), out)
    with pytest.raises(petl.DeltaError, match="digest"):
        petl.load(path, make(name))


def test_channels_last_models(tmp_path: Path) -> None:
    base = make("resnet").to(memory_format=torch.channels_last)
    batch = images("resnet").to(memory_format=torch.channels_last)
    model = disturb(petl.wrap(copy.deepcopy(base), ["bn", "lora", "partial"], num_classes=5)).eval()
    path = petl.save(model, tmp_path / "d.safetensors")
    again = petl.load(path, base)
    assert torch.equal(output(again, batch), output(model, batch))
    assert again.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not differing(state(petl.load(path, make("resnet"))), state(model)), "the layout is no part of the base"


# ---- the base's identity


def test_another_base_is_refused_by_both_digests(saved: Path) -> None:
    other = make("beit")
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight[0, 0] += 1e-3
    before, digest = portrait(other), header_of(saved)["digest"]
    with pytest.raises(petl.DeltaError, match=digest[:8]) as caught:
        petl.load(saved, other)
    assert portrait(other) == before
    mine = petl.record(petl.wrap(copy.deepcopy(other), ["bias", petl.LoRA(rank=2)])).digest
    assert mine[:8] in str(caught.value) and mine != digest and "beit_base_patch16_224" in str(caught.value)
    assert petl.record(petl.load(saved, other, check_base=False))


def test_fingerprints_tell_types_shapes_and_bits_apart() -> None:
    from petl.wrapping.fingerprints import combined_fingerprint, fingerprint

    one = torch.arange(6.0)
    assert fingerprint(one) == fingerprint(one.clone()) == fingerprint(nn.Parameter(torch.arange(6.0)))
    others = [one.view(2, 3), one.view(torch.int32), -one, one.double(), one[:5], torch.arange(6.0).flip(0)]
    assert len({fingerprint(t) for t in (one, *others)}) == 1 + len(others)
    strided = torch.arange(12.0).view(2, 6)
    assert fingerprint(strided.T) == fingerprint(strided.T.contiguous())
    assert fingerprint(torch.tensor(0.0)) != fingerprint(torch.tensor(-0.0))
    assert (
        combined_fingerprint({"a": "1", "b": "2"})
        == combined_fingerprint({"b": "2", "a": "1"})
        != combined_fingerprint({"a": "2", "b": "1"})
    )


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "one sign": lambda t: t[0, 0].neg_(),
    "every sign": lambda t: t.neg_(),
    "rows in another order": lambda t: t.copy_(t.flip(0)),
    "columns in another order": lambda t: t.copy_(t.roll(1, 1)),
    "one bit": lambda t: t.view(torch.int32)[3, 5].bitwise_xor_(1),
    "not a number": lambda t: t[1, 1].fill_(float("nan")),
    "through numpy": lambda t: t.numpy().__setitem__((2, 2), 7.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_frozen_tensor_is_seen(change: str) -> None:
    model = petl.wrap(make("vit"), "lora", rank=2)
    made, weight = petl.record(model), model.blocks[1].mlp.fc1._parameters["weight"]
    assert made.moved() == []
    kept = weight.detach().clone()
    CHANGES[change](weight.detach())
    assert made.moved() == ["blocks.1.mlp.fc1.weight"]
    weight.detach().copy_(kept)
    assert made.moved() == []


def test_a_moved_statistic_makes_another_base(tmp_path: Path) -> None:
    path = petl.save(trained("resnet", "lora"), tmp_path / "d.safetensors")
    other = make("resnet")
    calibrate(other.train(), images("resnet", batch=8))
    with pytest.raises(petl.DeltaError, match="digest"):
        petl.load(path, other)


@pytest.mark.parametrize("name", ["eva", "vit", "resnet"])
def test_another_architecture_is_refused(name: str, saved: Path) -> None:
    model = make(name)
    before = portrait(model)
    for check_base in (True, False):
        with pytest.raises(petl.DeltaError):
            petl.load(saved, model, check_base=check_base)
        assert portrait(model) == before


def test_loading_onto_a_wrapped_model(saved: Path) -> None:
    model = disturb(petl.wrap(make("beit"), "lora"))
    before = portrait(model)
    with pytest.raises(petl.PetlError, match="wrapped already"):
        petl.load(saved, model)
    assert portrait(model) == before


# ---- wrong files


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


def test_a_newer_format_asks_for_an_upgrade(saved: Path) -> None:
    rewritten(saved, {**header_of(saved), "format": 2, "new": True})
    for verb in (petl.read, lambda path: petl.load(path, make("beit"))):
        with pytest.raises(petl.DeltaError, match="upgrade"):
            verb(saved)


def test_unknown_header_entries_are_no_matter(saved: Path) -> None:
    rewritten(saved, {**header_of(saved), "comment": "of a later petl, same format"})
    assert petl.record(petl.load(saved, make("beit")))


def test_not_a_number_is_data_too(tmp_path: Path) -> None:
    model = trained("beit", "bias")
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), make("beit"))
    assert again.head.bias.isnan().all()


# ---- saving


def test_a_moved_frozen_tensor_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    model = trained("resnet", "lora")
    path = petl.save(model, tmp_path / "d.safetensors")
    old = path.read_bytes()
    with torch.no_grad():
        model.bn1.running_mean[0] += 1
        model.layer1[0].conv1._parameters["weight"][0] = 0
    for target in (path, tmp_path / "new.safetensors"):
        with pytest.raises(petl.StateError, match=r"bn1\.running_mean.*layer1\.0\.conv1\.weight"):
            petl.save(model, target)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


def test_a_frozen_tensor_that_was_replaced_or_cast_is_named(tmp_path: Path) -> None:
    model = trained("vit", "lora")
    model.norm.weight = nn.Parameter(torch.zeros(64), requires_grad=False)
    with pytest.raises(petl.StateError, match=r"norm\.weight"):
        petl.save(model, tmp_path / "d.safetensors")
    model = trained("vit", "lora")
    model.blocks.half()
    with pytest.raises(petl.StateError, match=r"changed since wrap.*float32, now torch\.float16.*cast the whole model"):
        petl.save(model, tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


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


def test_saving_what_is_not_wrapped(tmp_path: Path) -> None:
    with pytest.raises(petl.StateError, match="not wrapped"):
        petl.save(make("vit"), tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_parameter_unfrozen_by_hand_is_saved_and_comes_back(tmp_path: Path) -> None:
    model = petl.wrap(make("vit"), "lora", num_classes=5)
    model.cls_token.requires_grad_(True)
    model.blocks[1].norm1.weight.requires_grad_(True)
    disturb(model).eval()
    path = petl.save(model, tmp_path / "d.safetensors")
    assert {"cls_token", "blocks.1.norm1.weight"} <= {*load_file(path)}
    again = petl.load(path, make("vit"))
    assert not differing(state(again), state(model))
    assert {*petl.trainable(again)} == {*petl.trainable(model)}
    assert petl.load(petl.save(again, tmp_path / "e.safetensors"), make("vit"))
    petl.unwrap(again)
    assert not differing(state(again), state(make("vit")))


def test_a_trained_tensor_frozen_by_hand_is_still_saved(tmp_path: Path) -> None:
    """Freezing the head for the second half of the training must not drop it from the file."""
    model = disturb(petl.wrap(make("vit"), "lora", num_classes=5))
    model.head.requires_grad_(False)
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), make("vit"))
    assert torch.equal(output(again, images("vit")), output(model, images("vit")))


@pytest.mark.parametrize("name", ["vit", "levit", "resnet"])
def test_reset_classifier_after_wrap_is_noticed(name: str, tmp_path: Path) -> None:
    model = petl.wrap(make(name), "lora", num_classes=5)
    model.reset_classifier(3)
    disturb(model).eval()
    path = petl.save(model, tmp_path / "d.safetensors")
    assert petl.read(path)["backbone"]["num_classes"] == 3
    again = petl.load(path, make(name))
    assert again.num_classes == 3 and torch.equal(output(again, images(name)), output(model, images(name)))
    assert not differing(state(again), state(model))


def test_a_third_party_method(tmp_path: Path) -> None:
    @petl.register("tests-gate")
    @dataclass(frozen=True, kw_only=True)
    class Gate(petl.Method):
        """A factor on what each block returns."""

        where: petl.Where = "block"
        start: float = 1.0

        def adapt(self, module: nn.Module, site: petl.Site) -> None:
            petl.grow(module, "gate", Factor(self.start))

    class Factor(petl.OutputGraft):
        """The factor."""

        def __init__(self, start: float):
            super().__init__()
            self.by = nn.Parameter(torch.tensor(start))

        def forward(self, out: Tensor, *inputs: Tensor) -> Tensor:
            return out * self.by

    model = disturb(petl.wrap(make("vit"), ["tests-gate", "lora"], num_classes=5))
    path = petl.save(model, tmp_path / "d.safetensors")
    again = petl.load(path, make("vit"))
    assert torch.equal(output(again, images("vit")), output(model, images("vit")))
    del sys.modules["petl.methods.registry"]._REGISTRY["tests-gate"]
    with pytest.raises(petl.DeltaError, match="tests-gate"):
        petl.load(path, make("vit"))


# ---- wrappers around the model


@pytest.mark.deep
def test_saving_through_torch_compile(tmp_path: Path) -> None:
    model = trained("vit", "lora")
    expected = output(model, images("vit"))
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(output(compiled, images("vit")), expected)
    assert petl.bare(compiled) is model and petl.record(compiled) is petl.record(model)
    path = petl.save(compiled, tmp_path / "d.safetensors")
    assert torch.equal(output(petl.load(path, make("vit")), images("vit")), expected)
    assert petl.summary(compiled) == petl.summary(model) and {*petl.trainable(compiled)} == {*petl.trainable(model)}
    petl.merge(compiled)
    assert torch.equal(output(model, images("vit")), expected)
    model.compile(backend="eager")
    assert torch.equal(output(model, images("vit")), expected)


def test_saving_through_data_parallel_wrappers(tmp_path: Path) -> None:
    import torch.distributed as dist

    model = trained("resnet", ["bn", "lora"])
    expected = output(model, images("resnet"))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        distributed = nn.parallel.DistributedDataParallel(model)
        (distributed.train()(images("resnet")) ** 2).sum().backward()
        assert all(p.grad is not None for p in petl.trainable(distributed).values())
        expected = output(model, images("resnet"))
        both = torch.compile(distributed, backend="eager")
        for wrapper in (distributed, nn.DataParallel(model), both):
            assert petl.bare(wrapper) is model
            path = petl.save(wrapper, tmp_path / "d.safetensors")
            assert not any(k.startswith("module") for k in load_file(path))
            assert torch.equal(output(petl.load(path, make("resnet")), images("resnet")), expected)
        assert petl.summary(distributed) == petl.summary(model)
        assert petl.unwrap(distributed) is distributed
        assert not differing(state(model), state(make("resnet")))
    finally:
        dist.destroy_process_group()


def test_saving_through_accelerate(tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    for precision in ("no", "bf16"):
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        model = petl.wrap(make("vit"), "lora", num_classes=5)
        optimizer = torch.optim.SGD(petl.trainable(model).values(), lr=0.1)
        prepared, optimizer = accelerator.prepare(model, optimizer)
        accelerator.backward((prepared.train()(images("vit")) ** 2).mean())
        optimizer.step()
        path = petl.save(prepared, tmp_path / f"{precision}.safetensors")
        again = petl.load(path, make("vit"))
        plain = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        assert torch.equal(output(again, images("vit")), output(plain, images("vit")))
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def test_copies_can_be_saved_and_unwrapped_by_themselves(tmp_path: Path) -> None:
    model = trained("resnet", ["bn", "lora"])
    expected = output(model, images("resnet"))
    clone = copy.deepcopy(model)
    disturb(model, seed=9)
    path = petl.save(clone, tmp_path / "d.safetensors")
    assert torch.equal(output(petl.load(path, make("resnet")), images("resnet")), expected)
    with torch.no_grad():
        model.layer1[0].conv1._parameters["weight"].zero_()
    petl.save(clone, path)  # the original's frozen tensors are no business of the copy
    with pytest.raises(petl.StateError, match=r"layer1\.0\.conv1"):
        petl.save(model, path)
    with torch.no_grad():
        clone.layer1[0].conv1._parameters["weight"].zero_()
    with pytest.raises(petl.StateError, match=r"layer1\.0\.conv1"):
        petl.save(clone, path)


def test_attention_biases_that_eval_mode_caches(tmp_path: Path) -> None:
    """LeViT keeps gathered attention biases from one eval forward to the next: no verb may leave an old one behind."""
    base, x = make("levit"), images("levit")
    expected = output(base, x)
    model = petl.wrap(base, "full")
    disturb(model, by=0.3)
    model.train().eval()
    with torch.no_grad():
        adapted = model(x)
        path = petl.save(model, tmp_path / "d.safetensors")
        fresh = make("levit").eval()
        fresh(x)
        petl.load(path, fresh)
        torch.testing.assert_close(fresh(x), adapted, rtol=0, atol=0)
        petl.unwrap(model)
        assert torch.equal(model(x), expected)


def test_the_zoo_is_fresh() -> None:
    """Nobody's test has changed the cached models of this process."""
    for name in ("beit", "resnet", "vit"):
        assert petl.record(make(name)) is None and not make(name).training
        assert ZOO[name][1] == images(name).shape[-1]
