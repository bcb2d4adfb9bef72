"""`petl.save`: nothing but the delta is written, from a model that is still the same, through wrappers too."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

import petl
from tests.support.compare import differing, state
from tests.support.delta_files import header_of
from tests.support.trained import WAYS, trained
from tests.support.zoo import ZOO, disturb, images, make, output


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


@pytest.mark.deep
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


def test_saving_what_is_not_wrapped(tmp_path: Path) -> None:
    with pytest.raises(petl.StateError, match="not wrapped"):
        petl.save(make("vit"), tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


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


def test_the_zoo_is_fresh() -> None:
    """Nobody's test has changed the cached models of this process."""
    for name in ("beit", "resnet", "vit"):
        assert petl.record(make(name)) is None and not make(name).training
        assert ZOO[name][1] == images(name).shape[-1]
