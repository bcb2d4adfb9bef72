"""`petl.fit` in two gloo processes: the same training as in one process with batches of twice the size.

Two processes with batches of b take, for each update, the two batches that one process with 2 b takes as one: with a number of
images that 2 b divides, the gradients are means of the same images, and the results differ by rounding (TOLERANCE).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import petl
from petl.graft.sharded import is_sharded_model
from tests.support.compare import equal, gap, state
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="gloo")

TOLERANCE = 1e-5  # of any number in the state: a hundredth of the least that a tensor of it moves
IMAGES, BATCH = 24, 4  # 3 updates of 8 images an epoch
OPTIONS: dict[str, Any] = {"epochs": 2, "lr": 0.3, "progress": False}
CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "lora": ("lora", "test_vit", {"accumulate": 2, "ema": 0.9, "clip": 1.0}),
    "probe": ("probe", "test_resnet", {}),
    "bn": (petl.BN(stats="keep"), "test_resnet", {}),
    "norm": ("norm", "test_vit", {"keep": "best"}),
    "partial": ("partial", "test_vit", {"schedule": "none"}),
    "stages": ("norm", "test_vit", {"unfreeze": 1}),
}
TRIALS: dict[str, list[str]] = {"few": ["lora", "probe", "stages"], "all": ["bn", "norm", "partial"]}
TRIALS["sharded"] = [case for case in CASES if case != "stages"]


class Stopping(petl.Callback):
    """Asks to stop after the first update, in the second process alone."""

    def on_batch_end(self, run: petl.Training, loss: float) -> None:
        if not run.is_main:
            run.stop()


def trained(case: str, batch_size: int, folder: Path, **more: Any) -> tuple[Any, petl.History]:
    methods, name, options = CASES[case]
    model = adapted(methods, name)

    def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.3)  # a step as large as the gradient: Adam's would hide a wrong factor

    options = {**OPTIONS, "optimizer": sgd, "out": folder / f"{case}-{batch_size}.safetensors", **options, **more}
    return model, petl.fit(model, pairs(IMAGES), pairs(12, seed=1), batch_size=batch_size, **options)


def results(case: str, batch_size: int, folder: Path) -> dict[str, Any]:
    model, history = trained(case, batch_size, folder)
    losses = [history.rows[-1]["train_loss"], petl.evaluate(model, pairs(12, seed=1), progress=False).loss]
    return {"losses": losses, "features": history.features, "kind": type(model).__name__,
            "state": None if is_sharded_model(model) else state(model)}  # fmt: skip


def resumed(folder: Path) -> None:
    """Interrupted after an epoch in both processes, and resumed: bit for bit the unbroken training."""

    def interrupt(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    whole, _ = trained("lora", BATCH, folder)
    with pytest.raises(KeyboardInterrupt):
        trained("lora", BATCH, folder, checkpoint=folder / "run", on_epoch=interrupt)
    again, history = trained("lora", BATCH, folder, checkpoint=folder / "run", resume=True)
    assert equal(state(again), state(whole)) and len(history) == 2


def one_stops_all(folder: Path) -> None:
    _, history = trained("probe", BATCH, folder, callbacks=Stopping(), out=None)
    assert history.stopped and len(history) == 1


def as_on_gpus() -> None:
    """Lets accelerate shard on CPUs: it reads FSDP's settings for GPUs alone. What follows is its own code."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    init = AcceleratorState.__init__

    def sharding(self: Any, *args: Any, **kwargs: Any) -> None:
        fresh = not AcceleratorState._shared_state
        init(self, *args, **kwargs)
        if fresh:
            PartialState._shared_state["distributed_type"] = self.distributed_type = DistributedType.FSDP
            policy: Any = {"auto_wrap_policy": "size_based_wrap", "min_num_params": 20000}
            self.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=True, **policy)

    AcceleratorState.__init__ = sharding  # type: ignore[method-assign]


def on_two(rank: int, trial: str, folder: str) -> None:
    torch.set_num_threads(1)
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(ranks, MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    place = Path(folder)
    if trial == "sharded":
        as_on_gpus()
        with pytest.raises(petl.StateError, match="can't be used under FSDP"):
            trained("probe", BATCH, place, checkpoint=place / "run")
        with pytest.raises(petl.StateError, match="unfreeze= can't be used under FSDP"):
            trained("stages", BATCH, place)
    found = {case: results(case, BATCH, place) for case in TRIALS[trial]}
    if trial == "all":
        resumed(place)
    if trial == "few":
        one_stops_all(place)
    torch.save(found, place / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.deep
@pytest.mark.parametrize("trial", TRIALS)
def test_two_processes_train_as_one_does(trial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(on_two, (trial, str(tmp_path)), nprocs=2)  # type: ignore[attr-defined]  # torch exports it
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    for case, found in first.items():
        wanted, two = results(case, 2 * BATCH, tmp_path), second[case]
        assert found["losses"] == two["losses"] == pytest.approx(wanted["losses"], abs=TOLERANCE), case
        saved = [state(load_onto_plain(case, tmp_path / f"{case}-{size}.safetensors")) for size in (BATCH, 2 * BATCH)]
        assert gap(*saved) < TOLERANCE, case
        assert gap(saved[1], state(adapted(*CASES[case][:2]))) > 100 * TOLERANCE, f"{case} has not moved"
        if trial == "sharded":
            assert found["kind"].startswith("FSDP") or case == "probe", case
        else:
            assert equal(found["state"], two["state"]) and gap(found["state"], wanted["state"]) < TOLERANCE, case
        assert case != "probe" or "computed once" in found["features"]


def load_onto_plain(case: str, path: Path) -> Any:
    plain = petl.unwrap(adapted(*CASES[case][:2]))
    return petl.load(path, plain)
