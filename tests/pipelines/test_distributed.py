"""Two gloo processes: FSDP1 and FSDP2 around wrapped models. What a page says of them is tried here."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import petl
from tests.support.zoo import disturb, images, make, output

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="gloo")


def step(model: nn.Module, optimizer: torch.optim.Optimizer, name: str) -> None:
    model.train()
    optimizer.zero_grad()
    (model(images(name)) ** 2).mean().backward()
    optimizer.step()


def trained(model: nn.Module, name: str, *, evaluated: bool = True) -> torch.Tensor:
    """The output after two steps, with an evaluation before and between, if asked."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        if evaluated:
            output(model, images(name))
        step(model, optimizer, name)
    return output(model, images(name))


def two_shards(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    for block in getattr(model, "blocks", []):
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def old_shards(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that FSDP1 is deprecated
        return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


def on_two(rank: int, trial: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    globals()[trial](Path(folder))
    dist.destroy_process_group()


def run(trial: str, folder: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(on_two, (trial, str(folder)), nprocs=2)  # type: ignore[attr-defined]  # torch exports it


def fresh(name: str, methods: Any = "lora") -> Any:
    torch.manual_seed(0)
    return disturb(petl.wrap(make(name), methods, num_classes=5))


def fsdp2(folder: Path) -> None:
    for name, methods in (("vit", ["norm", "lora"]), ("resnet", "bn")):
        plain, model, path = fresh(name, methods), two_shards(fresh(name, methods)), folder / f"{name}.safetensors"
        wanted, found = trained(plain, name), trained(model, name)
        torch.testing.assert_close(found, wanted)
        assert petl.save(model, path) == path and path.is_file()
        assert torch.equal(output(petl.load(path, make(name)), images(name)), found)
        again = two_shards(fresh(name, methods))
        assert petl.load(path, again) is again
        assert torch.equal(output(again, images(name)), found)
        loaded = two_shards(petl.load(path, make(name)))
        assert torch.equal(output(loaded, images(name)), found)
    with pytest.raises(petl.StateError, match=r"petl\.wrap or petl\.load first, then shard"):
        petl.wrap(two_shards(make("vit")), "lora")
    with pytest.raises(petl.StateError, match="onto the plain backbone"):
        petl.load(folder / "vit.safetensors", two_shards(fresh("vit", "bias")))
    moved = fresh("vit")
    with torch.no_grad():
        moved.norm.weight.add_(1)
    with pytest.raises(petl.StateError, match=r"norm\.weight"):
        petl.save(two_shards(moved), folder / "no.safetensors")
    assert not (folder / "no.safetensors").exists()


def fsdp1(folder: Path) -> None:
    for name, methods in (("vit", ["norm", "lora"]), ("resnet", "lora")):
        plain, path = fresh(name, methods), folder / f"{name}.safetensors"
        model = old_shards(copy.deepcopy(plain))
        wanted, found = trained(plain, name), trained(model, name)
        torch.testing.assert_close(found, wanted)
        petl.save(model, path)
        assert torch.equal(output(petl.load(path, make(name)), images(name)), found)


@pytest.mark.deep
@pytest.mark.parametrize("trial", ["fsdp2", "fsdp1"])
def test_in_two_processes(trial: str, tmp_path: Path) -> None:
    run(trial, tmp_path)
