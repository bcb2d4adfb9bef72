"""What the runs of one method share changes nothing in what they find."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from petl.trials import templates
from petl.trials.settings import settings_for
from petl.trials.templates import Templates
from petl.trials.trial import Materials, Outcome, Parts, TrialRun, carried_out
from tests.support.data import pairs

MODEL = timm.create_model("test_vit")
PARTS = Parts([(pairs(24), pairs(9, seed=1))], pairs(9), False, "classification", 3, None)


@pytest.mark.deep
@pytest.mark.parametrize("method", ["lora", "adapter", "partial", "full"])
def test_shared_and_own_runs_are_the_same_bit_for_bit(method: str, tmp_path: Path) -> None:
    def materials() -> Materials:
        return Materials(MODEL, PARTS, {"objective": None, "batch_size": 8, "workers": 0})

    def run(source: Materials, name: str, number: int) -> Outcome:
        for epochs in (1, 3):  # a run that goes on, too
            trial = TrialRun(settings[number], 0, 0, epochs, (1, 3), str(tmp_path / name), torch.get_num_threads())
            found = carried_out(source, trial)
        assert not found.failed
        return found

    settings, shared = settings_for(MODEL, method, (1.0, 3.0), 3), materials()
    for number in (0, 1):
        found = [run(shared, f"shared-{number}", number), run(materials(), f"own-{number}", number)]
        assert replace(found[0], seconds=0.0) == replace(found[1], seconds=0.0)
        files = [(tmp_path / f"{kind}-{number}" / "delta.safetensors").read_bytes() for kind in ("shared", "own")]
        assert files[0] == files[1]
    assert (method in shared.templates.whole) == (method in ("lora", "full"))


def test_a_copy_is_as_new_and_so_is_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make() -> nn.Module:
        made.append(1)
        torch.manual_seed(5)
        return nn.Linear(3, 3)

    kept = Templates()
    first = kept.model("a", 0, make)
    state = torch.get_rng_state()
    with torch.no_grad():
        first.weight.zero_()  # type: ignore[operator]  # a Linear's
    torch.rand(3)
    assert kept.model("a", 0, make).weight.abs().sum() > 0  # type: ignore[union-attr]
    assert torch.equal(state, torch.get_rng_state())
    assert len(made) == 1
    kept.model("a", 1, make)
    kept.model("a", 0, make)
    assert len(made) == 2
    monkeypatch.setattr(templates, "MOST_KEPT", 12)  # of one layer
    kept.model("b", 0, make)
    kept.model("a", 0, make)
    assert len(made) == 4
    assert pickle.loads(pickle.dumps(kept)) == Templates()
