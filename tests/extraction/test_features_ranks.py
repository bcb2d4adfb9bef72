"""`petl.features` under ``accelerate launch``: each rank computes its share of the batches, and all return the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import petl
from tests.support.feature_data import pictures

SCRIPT = """
import json, sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import petl
from tests.support.feature_data import Counted, Items, noise, small

folder = Path(sys.argv[1])


class Stream(IterableDataset):
    def __iter__(self):
        return iter((image, number) for number, image in enumerate(noise(9)))

    def __len__(self):
        return 9


model = small(pretrained_cfg_overlay={"input_size": (3, 64, 64)})
kinds = {
    "tensors": TensorDataset(noise(11), torch.arange(11)),
    "one": TensorDataset(noise(1), torch.arange(1)),
    "batches": [noise(3), noise(3), noise(2)],
    "unknown": Items(lambda i: noise(7)[i], 7),
    "folder": folder / "new",
    "shuffled": DataLoader(TensorDataset(noise(11), torch.arange(11)), batch_size=2, shuffle=True),
    "stream": Stream(),
}
answers = {}
for name, data in kinds.items():
    with Counted(model) as counted:
        f = petl.features(model, data, batch_size=2, blocks=True, inputs=True)
        images = counted.images
        again = petl.features(model, data, batch_size=2, blocks=True, inputs=True)
        torch.save([f.x, f.y, f.blocks, f.inputs], folder / f"{name} {torch.distributed.get_rank()}.pt")
        same = torch.equal(f.x, again.x)
        answers[name] = [len(f), images, counted.images, again.cached, same, f.files, sorted(f.unreadable)]
kept = [petl.features(model, kinds["tensors"], batch_size=2, cache=folder / "kept").cached for _ in range(2)]
try:
    petl.features(model, [noise(2), noise(2)[:, :2]])
except petl.DataError as error:
    answers["error"] = str(error)
answers["kept"] = kept
(folder / f"answers {torch.distributed.get_rank()}.json").write_text(json.dumps(answers))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()  # or its threads may end the interpreter with an abort
"""
ALONE = """
import torch.distributed
torch.distributed.get_rank = lambda: 2
"""


def launched(script: str, folder: Path, *options: str) -> None:
    path = folder / "script.py"
    path.write_text(script)
    root = str(Path(petl.__file__).parent.parent)
    env = {
        **os.environ,
        "PYTHONPATH": root,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "",
    }
    env["GLOO_SOCKET_IFNAME"] = "lo"
    env.pop("ACCELERATE_USE_CPU", None)
    done = subprocess.run(
        [sys.executable, *options, str(path), str(folder)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:4000]


@pytest.mark.deep
def test_two_ranks(tmp_path: Path) -> None:
    """The same bits on both ranks and in one process, in the data's order; an error of one rank is raised on both."""
    import torch

    from tests.pipelines.test_pipelines import free_port

    data = (pictures(tmp_path / "new", 5) / "0.png").read_bytes()
    (tmp_path / "new" / "bad.png").write_bytes(b"no image")
    (tmp_path / "new" / "worse.png").write_bytes(data[:300] + b"xxxxxxxx" + data[308:])
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no"]
    launched(SCRIPT, tmp_path, *launch, "--dynamo_backend", "no", "--main_process_port", str(free_port()))
    launched(ALONE + SCRIPT, tmp_path)
    first, second, alone = (json.loads((tmp_path / f"answers {rank}.json").read_text()) for rank in range(3))
    for name in ("tensors", "one", "batches", "unknown", "folder", "shuffled", "stream"):
        wanted, *found = (torch.load(tmp_path / f"{name} {rank}.pt") for rank in (2, 0, 1))
        for rank in found:
            assert str(rank) == str(wanted), name
            assert torch.equal(rank[0], wanted[0]), name
            assert all(torch.equal(rank[2][key], wanted[2][key]) for key in wanted[2])
        for answers in (first, second):
            count, images, later, cached, same, *files = answers[name]
            assert [count, *files] == [alone[name][0], *alone[name][5:]]
            assert same and (name == "folder" or (cached and later == images))
            assert images <= count // 2 + 2
        assert first[name][1] + second[name][1] == alone[name][1]
    assert first["kept"] == second["kept"] == [False, True]
    assert "(2, 2, 64, 64)" in first["error"] and first["error"] == second["error"] == alone["error"]
