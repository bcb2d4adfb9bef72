"""Runs by executors give what runs here give, bit for bit, in whatever order they end."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.utils.data import TensorDataset

import petl
from petl.trials import plan as plans
from petl.trials.journal import Journal
from petl.trials.settings import TrialSetting
from petl.trials.trial import Outcome, TrialRun, carried_out
from petl.trials.workshop import file_name
from tests.support.data import pairs
from tests.trials.test_compare import compared, plain

pytestmark = pytest.mark.deep  # the commands' tests go the same ways, shorter


MODEL = timm.create_model("test_vit")
OPTIONS: dict[str, Any] = {"data": pairs(30), "methods": ["norm", "bias"], "model": MODEL, "batch_size": 8}


@pytest.fixture(scope="module")
def serial() -> dict[str, Any]:
    return plain(compared(**OPTIONS))


class Backwards(Executor):
    """Carries everything out when the last run is submitted, the last one first."""

    def __init__(self, expected: list[int]):
        self.expected, self.waiting = expected, []

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future:
        future: Future = Future()
        self.waiting.append((future, function, args))
        if len(self.waiting) == self.expected[0]:
            self.expected.pop(0)
            for future_, function_, args_ in reversed(self.waiting):
                future_.set_result(function_(*args_))
            self.waiting = []
        return future


def test_the_order_in_which_runs_end_changes_nothing(serial: dict[str, Any]) -> None:
    assert plain(compared(**OPTIONS, executor=Backwards([1, 2]))) == serial


def test_threads_take_turns(serial: dict[str, Any]) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert plain(compared(**OPTIONS, executor=pool)) == serial


def test_a_pool_of_processes_gives_the_same(serial: dict[str, Any], tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = compared(**OPTIONS, executor=pool, folder=tmp_path)
    assert plain(found) == serial
    assert not list(tmp_path.glob("*.pkl"))


def test_several_processes_give_the_same_with_seeds_and_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "LEAST_FIRST_UPDATES", 1)
    options = {**OPTIONS, "epochs": 3, "seeds": 2, "factors": (1, 3)}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert plain(compared(**options, executor=pool)) == plain(compared(**options))


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.deep)])
def test_dask_gives_the_same(serial: dict[str, Any], tmp_path: Path, processes: bool) -> None:
    distributed = pytest.importorskip("distributed", reason='dask is missing: pip install "dask[distributed]"')
    options = {"n_workers": 2 if processes else 1, "threads_per_worker": 2, "dashboard_address": None}
    with (
        distributed.LocalCluster(processes=processes, local_directory=str(tmp_path), **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert plain(compared(**OPTIONS, executor=client.get_executor())) == serial


def test_a_pool_that_has_ended_is_an_error_that_says_so() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(petl.StateError, match="the executor ended"):
        compared(**OPTIONS, executor=pool)


def test_what_cannot_be_pickled_is_refused_before_any_training(tmp_path: Path) -> None:
    class Local(TensorDataset):
        pass

    data = Local(*pairs(30).tensors)
    with ThreadPoolExecutor(1) as pool, pytest.raises(petl.StateError, match="can be pickled"):
        compared(**{**OPTIONS, "data": data}, executor=pool, folder=tmp_path / "runs")
    assert not list(tmp_path.iterdir())


def test_an_error_on_the_way_is_that_runs_alone() -> None:
    class Loses(Executor):
        count = 0

        def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future:
            future: Future = Future()
            Loses.count += 1
            if Loses.count == 2:
                future.set_exception(OSError("lost on the way"))
            else:
                future.set_result(function(*args))
            return future

    found = compared(**OPTIONS, executor=Loses())
    assert [row.why for row in found.rows if row.end == "failed"] == ["OSError: lost on the way"]


def test_a_run_leaves_threads_and_generators_as_they_were() -> None:
    before, state, count = torch.get_num_threads(), torch.get_rng_state(), threading.active_count()
    outcome = carried_out(
        "no/such/file", TrialRun(TrialSetting("probe", (petl.Probe(),), None, 0), 0, 0, 0, (1,), "x", 1)
    )
    assert outcome.failed.startswith("FileNotFoundError")
    assert (torch.get_num_threads(), threading.active_count()) == (before, count)
    assert torch.equal(state, torch.get_rng_state())


def test_a_journal_keeps_outcomes_and_decisions(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"seed": 0})
    journal.add(Outcome("a", "accuracy", [1.0, 0.0], 0.5, 2.0, 10, 20, {"lora": 0.1}, ["note"]))
    journal.add(Outcome("b", failed="why"))
    assert journal.decided("plan", lambda: {"rungs": (1, 3)}) == {"rungs": [1, 3]}
    again = Journal(tmp_path, {"seed": 0})
    assert again.outcomes["a"] == journal.outcomes["a"]
    assert again.outcomes["b"].failed == "why"
    assert again.decided("plan", lambda: 1 / 0) == {"rungs": [1, 3]}
    assert again.elapsed >= journal.before
    with pytest.raises(petl.StateError, match="seed=0, now 1"):
        Journal(tmp_path, {"seed": 1})


def test_file_names() -> None:
    assert file_name("norm+lora(rank=4) x0.33") == "norm-lora-rank-4-x0.33"
    assert file_name("../..") == "setting"
