"""A wrapped model in loops that know nothing of petl: plain, accelerate, averaged, checkpointed, on two ranks."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import petl

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

METHODS = ["bias", petl.LoRA(rank=4)]


def pairs(count: int = 24) -> TensorDataset:
    chance, targets = torch.Generator().manual_seed(0), torch.arange(count) % 2
    return TensorDataset(torch.randn(count, 3, 64, 64, generator=chance) + targets[:, None, None, None], targets)


def base() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=64)


def adapted(methods: Any = METHODS) -> nn.Module:
    return petl.wrap(base(), methods, num_classes=2)


def batches() -> DataLoader[Any]:
    return DataLoader(pairs(), batch_size=8)


def plain_loop(model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int = 3) -> list[float]:
    losses = []
    model.train()
    for _ in range(epochs):
        for images, targets in batches():
            loss = F.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    model.eval()
    return losses


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(petl.trainable(model).values(), lr=1e-2)


def reloads(model: nn.Module, path: Path) -> None:
    """Saved and loaded onto a fresh base, the outputs are the same bits; merged too."""
    images = pairs().tensors[0]
    again = petl.load(petl.save(model, path), base()).eval()
    with torch.no_grad():
        wanted = petl.bare(model).eval()(images)
        assert torch.equal(again(images), wanted)
        assert torch.equal(petl.merge(again)(images), wanted)


def test_a_plain_loop(tmp_path: Path) -> None:
    model = adapted()
    losses = plain_loop(model, adamw(model))
    assert losses[-1] < 0.5 * losses[0]
    assert petl.record(model).moved() == []
    reloads(model, tmp_path / "delta.safetensors")


def test_an_accelerate_loop_gives_the_same_weights(tmp_path: Path) -> None:
    hand, model = adapted(), adapted()
    plain_loop(hand, adamw(hand))
    accelerator = Accelerator(cpu=True)
    prepared, optimizer, loader = accelerator.prepare(model, adamw(model), batches())
    for _ in range(3):
        prepared.train()
        for images, targets in loader:
            with accelerator.accumulate(prepared):
                accelerator.backward(F.cross_entropy(prepared(images), targets))
                optimizer.step()
                optimizer.zero_grad()
    ours, theirs = petl.trainable(prepared), petl.trainable(hand)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    reloads(prepared, tmp_path / "delta.safetensors")


def test_timms_average(tmp_path: Path) -> None:
    model = adapted()
    ema, optimizer = ModelEmaV3(model, decay=0.5), adamw(model)
    before = {name: p.detach().clone() for name, p in petl.trainable(model).items()}
    plain_loop(model, optimizer, epochs=1)
    ema.update(model)
    averages = petl.trainable(ema.module)
    assert averages.keys() == before.keys()
    for name, parameter in petl.trainable(model).items():
        torch.testing.assert_close(averages[name], 0.5 * (before[name] + parameter))
    assert petl.record(ema.module) is not petl.record(model)
    reloads(ema.module, tmp_path / "ema.safetensors")


@pytest.mark.parametrize("grouping", ["timm", "petl"])
@pytest.mark.sweep(1)
def test_layer_decay(grouping: str) -> None:
    """Earlier blocks learn with less, by timm's grouping of the wrapped model."""
    model = adapted()
    if grouping == "timm":
        groups = [{**g, "lr": 1e-2 * g["lr_scale"]} for g in param_groups_layer_decay(model, 0.0, layer_decay=0.5)]
    else:
        groups = petl.param_groups(model, lr=1e-2, layer_decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    trains = petl.trainable(model)
    assert rate.keys() == {id(p) for p in trains.values()}
    depths = [rate[id(trains[f"blocks.{i}.attn.qkv.lora.down"])] for i in range(len(model.blocks))]
    assert depths == sorted(set(depths))
    assert rate[id(trains["head.weight"])] == 1e-2
    losses = plain_loop(model, torch.optim.AdamW(groups))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.sweep(2)
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    """Up to rounding; what is checkpointed is computed again in the backward."""
    torch.manual_seed(0)
    size = {"img_size": 64} if name == "test_vit" else {}
    model = petl.wrap(timm.create_model(name, **size), "lora", num_classes=2)
    for parameter in petl.trainable(model).values():
        nn.init.normal_(parameter, std=0.1)
    twin, (images, targets) = copy.deepcopy(model), pairs(8).tensors
    twin.set_grad_checkpointing(True)
    calls = {}
    for key, net in (("plain", model), ("checkpointed", twin)):
        seen: list[int] = []
        for module in net.modules():
            if hasattr(module, "lora"):
                module.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        F.cross_entropy(net.train()(images), targets).backward()
        calls[key] = len(seen)
    assert calls["checkpointed"] > calls["plain"]
    for (key, ours), theirs in zip(petl.trainable(model).items(), petl.trainable(twin).values(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=key)


SCRIPT = """
import gc, json, sys
from pathlib import Path

import timm, torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, TensorDataset

import petl

out = Path(sys.argv[1])
torch.set_num_threads(1)


def pairs(count):
    chance, targets = torch.Generator().manual_seed(0), torch.arange(count) % 2
    return TensorDataset(torch.randn(count, 3, 64, 64, generator=chance) + targets[:, None, None, None], targets)


def adapted(methods, name="test_resnet"):
    torch.manual_seed(0)
    return petl.wrap(timm.create_model(name), methods, num_classes=2)


def digest(model):
    return {key: tensor.double().sum().item() for key, tensor in petl.bare(model).state_dict().items()}


petl.evaluate(adapted("probe"), pairs(4))  # before anybody has told accelerate that these ranks have no GPU
accelerator = Accelerator(cpu=True)
rank, answers = accelerator.process_index, {"ranks": accelerator.num_processes}

# a loop of one's own
model = adapted("lora")
model, optimizer, loader = accelerator.prepare(
    model, torch.optim.AdamW(petl.trainable(model).values(), lr=1e-2), DataLoader(pairs(24), batch_size=4)
)
start = digest(model)
model.train()
for images, targets in loader:
    accelerator.backward(F.cross_entropy(model(images), targets))
    optimizer.step()
    optimizer.zero_grad()
answers["wrapper"] = type(model).__name__
answers["loop"] = gather_object([digest(model)])
answers["moved"] = start != digest(model)
path = out / f"delta{rank}.safetensors"
petl.save(model, path)
torch.manual_seed(0)
fresh = petl.load(path, timm.create_model("test_resnet")).eval()
with torch.no_grad():
    images = pairs(4).tensors[0]
    answers["reload"] = gather_object([torch.equal(fresh(images), petl.bare(model).eval()(images))])

# petl's own, with statistics that each rank would move by itself, and a validation set that the ranks can't share evenly
for name, methods in (("fit", "bn"), ("probe", "probe")):
    tuned = adapted(methods)
    history = petl.fit(tuned, pairs(21), pairs(13), epochs=2, lr=1e-2, batch_size=4, out=out / f"{name}.safetensors")
    answers[name] = gather_object([digest(tuned)])
    answers[f"{name}_rows"] = gather_object([[{**row, "seconds": 0} for row in history.rows]])
    answers[f"{name}_confusion"] = gather_object([petl.evaluate(tuned, pairs(13), batch_size=4).confusion])
    with torch.no_grad():
        logits = tuned(pairs(13).tensors[0])
    alone = torch.bincount(pairs(13).tensors[1] * 2 + logits.argmax(1), minlength=4).reshape(2, 2).tolist()
    answers[f"{name}_alone"] = alone
tuned = adapted("bn")  # no validation, during which DDP would share the first rank's statistics
petl.fit(tuned, pairs(16), epochs=1, lr=1e-2, batch_size=4)
answers["unwatched"] = gather_object([digest(tuned)])
if accelerator.is_main_process:
    (out / "answers.json").write_text(json.dumps(answers))
# DDP holds the process group; gloo's threads must have ended before the interpreter does, or they may abort it
del model, optimizer, loader
gc.collect()
accelerator.end_training()
"""


def free_port() -> int:
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        return open_socket.getsockname()[1]


@pytest.mark.deep
def test_two_ranks(tmp_path: Path) -> None:
    """accelerate launch with two ranks on the CPU (gloo): a loop of one's own, and fit and evaluate.

    accelerate (1.15) starts a single process for ``--cpu --num_processes 2`` unless mpirun is set up, so it is asked for
    two GPUs, which the script declines with ``cpu=True``.
    """
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    options = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    root = str(Path(petl.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, *options, str(script), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "answers.json").read_text())
    assert found["ranks"] == 2
    assert found["wrapper"] == "DistributedDataParallel"
    assert found["moved"]
    assert found["reload"] == [True, True]
    for name in ("loop", "fit", "probe", "fit_rows", "probe_rows", "unwatched"):
        assert found[name][0] == found[name][1], name
    for name in ("fit", "probe"):
        assert found[f"{name}_confusion"] == [found[f"{name}_alone"]] * 2
        assert sum(map(sum, found[f"{name}_alone"])) == 13
        assert petl.read(tmp_path / f"{name}.safetensors")["results"]["epoch"] >= 1


def test_hooks_and_names_are_timms() -> None:
    """What pipelines ask a timm model for is where it was."""
    model, plain = adapted(), base()
    images = pairs(2).tensors[0]
    seen: list[Tensor] = []
    model.blocks[0].register_forward_hook(lambda module, args, output: seen.append(output))
    assert model.forward_features(images).shape == plain.forward_features(images).shape
    assert len(seen) == 1
    assert isinstance(model, type(plain))
    assert model.get_classifier().out_features == 2
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in model.named_parameters() if "lora" not in n]
