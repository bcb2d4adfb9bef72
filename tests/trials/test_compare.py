"""`petl.compare` as a whole, on timm's smallest models: known answers, interruption, files, errors."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

import petl
from petl.trials import plan as plans
from petl.trials import trial as trials
from petl.trials.comparison import claims_of
from petl.trials.plan import Cost
from petl.trials.race import Race, Runner
from petl.trials.settings import settings_for
from petl.trials.telling import Baseline, Told, raw_pixel_scores, told_of
from petl.trials.timing import Timed
from petl.trials.trial import Materials, TrialRun, carried_out
from tests.support.commands import bright_and_dark
from tests.support.data import noise_pairs, pairs
from tests.support.phases import blurred, phases

pytestmark = pytest.mark.deep  # the commands' tests go the same ways, shorter


MODEL = timm.create_model("test_vit")
SHORT: dict[str, Any] = {"seconds": None, "epochs": 1, "seeds": 1, "factors": (1.0,), "progress": False}


@pytest.fixture
def short_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a few images have several rungs."""
    monkeypatch.setattr(plans, "LEAST_FIRST_UPDATES", 1)


def compared(data: Any, methods: Any = "norm", model: nn.Module = MODEL, **options: Any) -> petl.Comparison:
    return petl.compare(model, data, methods, **{**SHORT, **options})


def plain(found: petl.Comparison) -> dict[str, Any]:
    """All of a comparison that doesn't depend on time or place."""
    values = found.to_json()
    for row in values["rows"]:
        del row["seconds"]
    return {key: value for key, value in values.items() if key not in ("seconds", "delta", "plan")}


def test_where_the_first_layers_must_move_a_method_that_moves_them_wins() -> None:
    first = {"first": petl.Partial(first=1, last=0)}
    options = {"epochs": 9, "factors": (1.0, 3.0), "batch_size": 16}
    found = compared((phases(80), phases(100, seed=1)), first, blurred(), **options)
    assert found.best_name.startswith("first")
    assert found.held_out.accuracy > 0.95
    probe, pixels = found.baselines
    assert (probe.name, pixels.name) == ("probe", "raw pixels")
    assert probe.accuracy < 0.6
    assert found.claims == {"above_chance": True, "above probe": True, "above raw pixels": True}
    assert found.rungs == (9,)
    assert found.held_out_is == "own"
    assert f"{found.best_name} is chosen" in str(found)
    assert petl.evaluate(found.best, phases(100, seed=1), progress=False).accuracy == found.held_out.accuracy


def test_of_shuffled_labels_no_winner_is_claimed() -> None:
    found = compared(noise_pairs(60), ["norm"], seeds=2, factors=(1.0, 3.0))
    assert found.held_out.accuracy <= found.chance + 2 * found.held_out.error
    assert found.claims["above_chance"] is False
    assert "No setting is claimed to be better than chance" in str(found)


def test_claims_need_two_standard_errors() -> None:
    assert claims_of(Told(0.5, 0.1, 30), 0.31, []) == {"above_chance": False}
    assert claims_of(Told(0.5, 0.1, 30), 0.29, []) == {"above_chance": True}
    assert told_of(torch.ones(10), "accuracy").error > 0.05


def test_a_winner_below_raw_pixels_is_called_worse() -> None:
    said = [Baseline("raw pixels", 0.7, 0.02, gain, 0.03).said for gain in (-0.08, 0.05, 0.08, 0.0)]
    same = "no difference that these images show"
    assert [text.partition(" by")[0] for text in said] == ["WORSE", same, "better", same]


@pytest.mark.usefixtures("short_rungs")
def test_every_setting_is_in_the_table_and_nothing_of_the_callers_changes(tmp_path: Path) -> None:
    before, flags = copy.deepcopy(MODEL.state_dict()), [p.requires_grad for p in MODEL.parameters()]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    found = compared(pairs(36), ["norm", "bias"], factors=(1, 3), epochs=3, seeds=2, folder=tmp_path, batch_size=8)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in MODEL.state_dict().items())
    assert MODEL.training
    assert flags == [p.requires_grad for p in MODEL.parameters()]
    kinds = {f"{name} x{factor}" for name in ("norm", "bias") for factor in (1, 3)}
    assert {row.name for row in found.rows} == {*kinds, "probe"}
    assert all(row.why for row in found.rows)
    leader = next(row for row in found.rows if row.name == found.leader)
    assert leader.gap == 0
    inside = [
        row for row in found.rows if row.end in ("winner", "finalist", "closed form") and row.gap <= row.gap_error
    ]
    assert found.winner.trainable == min(row.trainable for row in inside)
    assert all(row.gap > row.gap_error or "no room" in row.why for row in found.rows if row.end == "dropped")
    kept = {path.name for path in tmp_path.glob("*.safetensors")}
    finalists = [row for row in found.rows if row.end in ("winner", "finalist", "closed form")]
    assert len(kept) == len(finalists)
    assert all(row.bytes in {path.stat().st_size for path in tmp_path.glob("*.safetensors")} for row in finalists)
    assert json.loads((tmp_path / "comparison.json").read_text())["best_name"] == found.best_name
    loaded = petl.load(str(found.delta), copy.deepcopy(MODEL)).eval()
    assert all(
        torch.equal(one, two)
        for one, two in zip(loaded.state_dict().values(), found.best.state_dict().values(), strict=True)
    )
    assert found.best is found.best
    assert pickle.loads(pickle.dumps(found)).best_name == found.best_name


class Interrupts:
    """Raises KeyboardInterrupt when the n-th run has trained and isn't measured yet."""

    def __init__(self, at: int):
        self.left, self.evaluate = at, trials.evaluate

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return self.evaluate(*args, **options)


@pytest.mark.parametrize("at", [3, pytest.param(6, marks=pytest.mark.deep)])
@pytest.mark.usefixtures("short_rungs")
def test_an_interrupted_comparison_goes_on_to_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    options: dict[str, Any] = {"epochs": 3, "seeds": 2, "factors": (1, 3), "batch_size": 8}
    whole = compared(pairs(30), **options)
    assert whole.rungs == (1, 3)
    with monkeypatch.context() as patched:
        patched.setattr(trials, "evaluate", Interrupts(at))
        with pytest.raises(KeyboardInterrupt):
            compared(pairs(30), folder=tmp_path, **options)
    found = compared(pairs(30), folder=tmp_path, **options)
    assert plain(found) == plain(whole)
    trained = load_file(str(found.delta))
    monkeypatch.setattr(trials, "fit", None)  # all is there: nothing trains
    again = compared(pairs(30), folder=tmp_path, **options)
    assert plain(again) == plain(found)
    assert all(torch.equal(trained[key], value) for key, value in load_file(str(again.delta)).items())
    assert compared(pairs(30), folder=tmp_path, margin=0, **options).winner.gap == 0  # only the choice is made anew


def test_a_folder_of_another_comparison_is_refused(tmp_path: Path) -> None:
    compared(pairs(30), folder=tmp_path)
    before = (tmp_path / "runs.json").read_text()
    other = copy.deepcopy(MODEL)
    next(other.parameters()).data.add_(1)
    calls: list[tuple[dict[str, Any], str]] = [
        ({"epochs": 2}, "epochs=1, now 2"), ({"methods": "bias"}, "other settings"), ({"model": other}, "other model"),
        ({"data": pairs(33)}, "other data"), ({"seed": 1}, "seed=0, now 1"), ({"batch_size": 8}, "batch_size=32, now 8"),
    ]  # fmt: skip
    for changed, said in calls:
        with pytest.raises(petl.StateError, match=said):
            compared(**{"data": pairs(30), "folder": tmp_path, **changed})
    assert (tmp_path / "runs.json").read_text() == before
    (tmp_path / "runs.json").write_text("{")
    with pytest.raises(petl.StateError, match="no file of petl.compare"):
        compared(pairs(30), folder=tmp_path)


def test_a_run_that_goes_on_equals_an_unbroken_one(tmp_path: Path) -> None:
    parts = trials.Parts([(pairs(24), pairs(9, seed=1))], pairs(9), False, "classification", 3, None)
    materials = Materials(MODEL, parts, {"objective": None, "batch_size": 8, "workers": 0})
    setting = settings_for(MODEL, "lora", (3.0,), 3)[0]

    def run(folder: str, *lengths: int) -> trials.Outcome:
        for epochs in lengths:
            place = str(tmp_path / folder)
            found = carried_out(materials, TrialRun(setting, 0, 0, epochs, (1, 3), place, torch.get_num_threads()))
        return found

    broken, whole = run("a", 1, 3), run("b", 3)
    assert not whole.failed
    assert dataclasses.replace(broken, seconds=0.0) == dataclasses.replace(whole, seconds=0.0)
    assert (tmp_path / "a/delta.safetensors").read_bytes() == (tmp_path / "b/delta.safetensors").read_bytes()


@petl.register("fails-in-training")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Fails(petl.Method):
    """Trains norms, and breaks when it is asked for a learning rate."""

    where: petl.Where = "norm"

    def trains(self, module: nn.Module, site: petl.Site) -> list[str]:
        return ["weight"]

    def rate(self, tensor: Any) -> float:
        raise ValueError("this method breaks")


def test_a_setting_that_fails_is_in_the_table_and_the_others_go_on() -> None:
    found = compared(pairs(30), ["fails-in-training", "norm"])
    row = next(row for row in found.rows if row.end == "failed")
    assert (row.name, row.why) == ("fails-in-training x1", "ValueError: this method breaks")
    assert found.best_name in ("norm x1", "probe")
    assert "failed" in str(found)
    with pytest.raises(petl.PetlError, match="all 1 settings failed: ValueError: this method breaks"):
        compared(pairs(30), "fails-in-training")


def test_a_limit_of_time_shortens_the_plan_and_not_the_results() -> None:
    with pytest.raises(petl.PetlError, match=r"seconds=0.01 isn't enough .* pass seconds=\d+"):
        compared(pairs(30), seconds=0.01)
    found = compared(pairs(30), seconds=3600, epochs=2)
    assert found.rungs == (2,)
    assert found.budget == 3600
    assert "3600 s that were given" in str(found)
    assert plain(found) == {**plain(compared(pairs(30), epochs=2)), "budget": 3600}


class Timing:
    """Takes the place of a timed run: each method costs so many seconds, and the calls are counted."""

    def __init__(self, seconds: float):
        self.seconds, self.calls = seconds, 0

    def __call__(self, source: Any, trial: TrialRun) -> Timed:
        self.calls += 1
        if not self.seconds:
            raise KeyboardInterrupt
        return Timed(trial.key, 0.0, Cost(self.seconds, self.seconds))


@pytest.mark.parametrize("made", [True, False])
def test_too_little_time_is_refused_before_any_training_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    timing = Timing(1.0)
    monkeypatch.setattr("petl.trials.workshop.timed_trial", timing)
    monkeypatch.setattr("petl.trials.early.seconds_of_a_look", lambda materials: 3.0)
    if not made:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "materials.pkl").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for executor in (None, ThreadPoolExecutor(2)):
        with pytest.raises(petl.PetlError, match=r"seconds=5 isn't enough .* a forward pass .* pass seconds=\d+"):
            compared(pairs(30), ["norm", "lora"], seconds=5, folder=tmp_path / "runs" / "deep", executor=executor)
        assert timing.calls == 0
        assert sorted(tmp_path.rglob("*")) == before


def test_a_method_that_takes_too_long_ends_the_timing_and_the_number_that_is_named_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing = Timing(30.0)
    monkeypatch.setattr("petl.trials.workshop.timed_trial", timing)
    ask: dict[str, Any] = {"data": pairs(30), "methods": ["norm", "bias", "lora"], "folder": tmp_path / "runs"}
    with pytest.raises(petl.PetlError, match=r"seconds=40 isn't enough .* the 1 of 3 methods") as caught:
        compared(**ask, seconds=40)
    assert (timing.calls, list(tmp_path.iterdir())) == (1, [])
    enough = int(str(caught.value).partition("pass seconds=")[2].partition(" ")[0])
    assert compared(**ask, seconds=enough).rungs == (1,)
    assert timing.calls == 4
    timing.seconds = 0.0
    with pytest.raises(KeyboardInterrupt):
        compared(**{**ask, "folder": tmp_path / "other" / "runs"}, seconds=600)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_what_a_run_says_of_diverging_is_in_its_line_and_its_row(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    found = compared(pairs(30), ["norm"], seconds=60, epochs=3, factors=(1.0, 3e3), batch_size=4, progress=True)
    row = next(row for row in found.rows if row.name == "norm x3e+03")
    assert any(" diverged " in note for note in row.notes)
    assert not caplog.records
    lines = [line for line in capsys.readouterr().err.splitlines() if "diverged" in line]
    assert lines
    assert all("norm x3e+03, seed 0" in line for line in lines)


@pytest.mark.usefixtures("short_rungs")
def test_without_time_the_final_comes_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Race, "_left", lambda race: 0.0)
    found = compared(pairs(30), seconds=3600, epochs=3, seeds=2, batch_size=2)
    assert len(found.rungs) == 1
    assert found.winner.seeds == 1
    assert "There was no time for rung 2" in str(found)
    assert "There was time for 1 seed of the finalists" in str(found)


def test_where_time_is_short_other_rates_are_tried_of_the_best_third(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*args: Any, middle: list[str], **options: Any) -> plans.RunPlan:
        assert middle == ["norm x1", "bias x1", "fails-in-training x1", "lora x1"]
        return plans.RunPlan((1,), 1, "one rung", "middle", 1)

    monkeypatch.setattr("petl.trials.compare.plan_within", short)
    methods = ["norm", "bias", "fails-in-training", "lora"]
    found = compared(pairs(30), methods, seconds=60, factors=(1.0, 3.0))
    ends = {row.name: row.end for row in found.rows}
    assert [ends[f"{name} x1"] for name in methods].count("failed") == 1
    tried = [name for name in methods if ends[f"{name} x3"] != "not tried"]
    assert len(tried) == 2  # a third of four, at least
    row = next(row for row in found.rows if row.name == "fails-in-training x3")
    assert (row.end, row.accuracy, row.why) == (
        "not tried",
        None,
        "fails-in-training x1 failed, and there was no time for more",
    )
    assert "not tried" in str(found)
    assert f"chosen of {9 - 2} settings" in str(found)
    with pytest.raises(petl.PetlError, match="all 1 settings failed"):
        monkeypatch.setattr("petl.trials.compare.plan_within", lambda *a, **o: plans.RunPlan((1,), 1, "", "middle", 1))
        compared(pairs(30), ["fails-in-training"], seconds=60, factors=(1.0, 3.0))


def test_with_a_margin_the_winner_may_be_the_best_itself() -> None:
    found = compared(pairs(30), ["norm", "full"], epochs=2, margin=0)
    assert found.winner.gap == 0
    assert found.to_json()["margin"] == 0
    assert "no more than 0 behind the leader" in str(found)


def test_folders_and_numbers(tmp_path: Path) -> None:
    bright_and_dark(tmp_path / "pets" / "train", 8)
    bright_and_dark(tmp_path / "pets" / "val", 5, seed=1)
    found = compared(tmp_path / "pets")
    assert found.held_out.images == 10
    assert petl.read(petl.save(found.best, tmp_path / "d.safetensors"))["labels"] == ["bright", "dark"]
    images = torch.randn(30, 3, 64, 64)
    numbers = compared(TensorDataset(images, images.mean((1, 2, 3)) * 100), objective="regression")
    assert numbers.measure == "mean absolute error, negated"
    assert [one.name for one in numbers.baselines] in (["probe"], [])


def test_probes_alone_can_be_compared() -> None:
    found = compared(pairs(30), ["probe", petl.Probe(solver="ridge")], seconds=600, seeds=2)
    assert {row.name for row in found.rows} == {"probe", "probe(solver='ridge')"}
    assert found.rungs == ()
    assert "no setting trains by gradient" in str(found)


def test_raw_pixels_tell_what_they_can() -> None:
    parts = trials.Parts([(pairs(40), pairs(20, seed=3))], pairs(30, seed=1), True, "classification", 3, None)
    scores = raw_pixel_scores(MODEL, parts)
    assert scores is not None
    assert scores.mean() > 0.9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seconds": 0}, "seconds=0"), ({"epochs": 0}, "epochs=0"), ({"seeds": 0}, "seeds=0"),
        ({"factors": ()}, "factors"), ({"factors": (1, -1)}, "factors=-1"), ({"factors": (1, 1)}, "twice"),
        ({"batch_size": 0}, "batch_size=0"), ({"executor": 3}, "executor=int"), ({"folder": 3}, "folder=3"),
        ({"margin": -0.1}, "margin=-0.1"),
        ({"methods": "lorra"}, "lorra"), ({"model": "test_vit"}, "got a str"), ({"images": 0}, "images=0"),
        ({"objective": "ordinal"}, "objective='ordinal'"), ({"seed": -1}, "seed=-1"),
        ({"model": petl.wrap(timm.create_model("test_vit"), "norm")}, "is wrapped"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(petl.PetlError, match=said):
        compared(**{"data": pairs(24), **options})


def test_under_several_ranks_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(petl.PetlError, match="executor="):
        compared(pairs(24))


def test_seeds_on_one_fold_count_its_images_once() -> None:
    entry = Runner(settings_for(MODEL, "norm", (1.0,), 3)[0], 2)
    entry.outcomes = {seed: trials.Outcome("", scores=[float(seed == 0), 1.0]) for seed in range(3)}
    assert entry.scores(3).tolist() == [0.5, 1.0, 0.0, 1.0]


@pytest.mark.usefixtures("short_rungs")
def test_after_kill_9_it_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import petl, timm, torch, sys\n"
        "from tests.support.data import pairs\n"
        "torch.manual_seed(0)\n"
        "model = timm.create_model('test_vit')\n"
        "from petl.trials import plan\n"
        "plan.LEAST_FIRST_UPDATES = 1\n"
        "options = dict(epochs=3, seeds=2, factors=(1, 3), batch_size=8, progress=False)\n"
        "petl.compare(model, pairs(30), 'norm', None, folder=sys.argv[1], **options)\n"
    )
    folder = tmp_path / "runs"
    process = subprocess.Popen([sys.executable, str(script), str(folder)], cwd=Path(__file__).parents[2])
    while process.poll() is None and '"key"' not in (read(folder / "runs.json")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    options: dict[str, Any] = {"epochs": 3, "seeds": 2, "factors": (1, 3), "batch_size": 8, "model": model}
    assert plain(compared(pairs(30), folder=folder, **options)) == plain(compared(pairs(30), **options))


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
