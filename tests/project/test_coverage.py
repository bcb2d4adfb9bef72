"""The sweep over timm's architectures: what it plans, how it survives, and that it tells what is broken."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import petl
from benchmarks.coverage import graphs, index, models, plan, report, trials
from benchmarks.coverage import run as runner
from benchmarks.coverage.plan import COLUMNS, Pair
from benchmarks.coverage.run import Limits, Results
from petl.methods.lora_weights import LowRank

INDEX = [index.Architecture(name, i, f"kind {i % 2}") for i, name in enumerate(("test_vit", "test_resnet", "vgg11"))]


def test_the_sample_has_every_family_and_turns_the_methods() -> None:
    sampled = plan.sampled()
    names = {pair.architecture for pair in sampled}
    assert len(names) >= 120 and len({(p.architecture, p.column) for p in sampled}) == len(sampled)
    missing = {index.family(name) for name in timm.list_models()} - {index.family(n) for n in names}
    assert not missing or timm.__version__ != "1.0.31"
    counts = Counter(pair.column for pair in sampled)
    assert set(counts) == set(COLUMNS) and min(counts.values()) >= 20
    assert {name for name, _ in COLUMNS.values()} == {
        "probe",
        "bn",
        "norm",
        "lora",
        "adapter",
        "input",
        "bias",
        "partial",
        "full",
    }


def test_the_depths() -> None:
    assert len(plan.pairs("shapes", INDEX)) == 3 * len(COLUMNS)
    assert {p.architecture for p in plan.pairs("real", INDEX)} == {
        "test_vit",
        "test_resnet",
    }  # smallest of a kind
    assert [p.column for p in plan.pairs("every", INDEX, "*vit")] == ["combined"]
    graph_pairs = plan.pairs("graphs", INDEX, "test_[rv]*")
    assert {(p.architecture, p.column) for p in graph_pairs} >= {("test_vit", "compile"), ("test_resnet", "export")}
    assert {plan.channels(name) for name in timm.list_models()[:40]} == {1, 2, 4, 13}


def run(folder: Path, pairs: list[Pair], limits: Limits | None = None) -> list[dict[str, Any]]:
    results, told = Results(folder / "lines.jsonl"), []
    runner.run(pairs, results, 1, limits or Limits(), 2, told.append)
    return told


@pytest.mark.deep
def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    done = {"architecture": "test_vit", "method": "lora", "status": "pass"}
    (tmp_path / "lines.jsonl").write_text(json.dumps(done) + '\n{"architecture": "test_v')
    told = run(tmp_path, [Pair("shapes", "test_vit", "lora"), Pair("shapes", "test_vit", "bn")])
    assert [(line["method"], line["status"]) for line in told] == [("bn", "n/a")]
    assert "no BatchNorm" in told[0]["reason"]


def test_limits_are_lines_of_their_own(tmp_path: Path) -> None:
    pairs = [Pair("real", "test_vit", "lora"), Pair("real", "test_vit", "bias")]
    slow = run(tmp_path / "slow", pairs, Limits(seconds=0.3))
    assert [line["status"] for line in slow] == ["timeout", "skipped"]
    large = run(tmp_path / "large", pairs[:1], Limits(memory=1e6))
    assert [line["status"] for line in large] == ["memory"] and "0 GB" in large[0]["reason"]


def test_statuses_to_try_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "lines.jsonl")
    for status in ("fail", "timeout", "pass"):
        results.add({"architecture": "a", "method": status, "status": status})
    results.add({"architecture": "a", "method": "fail", "status": "pass"})  # the later line counts
    results.compact(["timeout"])
    assert {method: line["status"] for (_, method), line in results.read().items()} == {"fail": "pass", "pass": "pass"}


@pytest.mark.deep
def test_a_whole_contract() -> None:
    line = trials.tried(Pair("real", "test_resnet", "combined"))
    assert line["status"] == "pass" and line["used"] == "lora+bn+input" and line["size"] == 64, line
    assert line["sites"] and line["trainable"] and line["bytes"] and line["passed"] >= 6
    assert trials.tried(Pair("real", "test_vit", "bn"))["status"] == "n/a"


@pytest.mark.deep
@pytest.mark.parametrize("column", plan.GRAPHS)
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_graphs_of_bare_and_wrapped_models(name: str, column: str) -> None:
    line = trials.tried(Pair("graphs", name, column))
    assert line["status"] == "pass" and line["sites"] > 10 and line["size"] == 64, line
    assert max(line["gap"], line["bare_gap"]) <= graphs.OUTPUT


@pytest.mark.deep
@pytest.mark.parametrize("column", plan.GRAPHS)
def test_graphs_tell_breaks_and_other_numbers(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bare model, and of the wrapped one alone."""
    pair = Pair("graphs", "test_resnet", column)

    def looks(self: LowRank, weight: torch.Tensor) -> torch.Tensor:
        return weight if float(weight.sum()) > 1e9 else weight + 0  # a number that no graph knows

    def forgets(self: LowRank, weight: torch.Tensor) -> torch.Tensor:
        return weight if torch.compiler.is_compiling() else weight + 0.01

    for change, reason in ((looks, "data-dependent|DataDependent"), (forgets, "output differs by")):
        with monkeypatch.context() as broken:
            broken.setattr(LowRank, "change", change)
            broken.setattr(LowRank, "low_rank", lambda self: None)
            line = trials.tried(pair)
        assert line["status"] == "fail" and re.search(reason, line["reason"]) and line["bare_gap"] == 0, line
    monkeypatch.setattr(models.timm.models.ResNet, "forward", lambda self, x: x.sum() * float(x.sum()))
    line = trials.tried(pair)
    assert line["status"] == "n/a" and line["reason"].startswith("the bare model: "), line


@pytest.mark.deep
def test_a_broken_method_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A LoRA that doesn't start at zero, norms that aren't held, and a refusal that the model doesn't bear out."""
    with monkeypatch.context() as broken:
        broken.setattr("petl.wrapping.freezing.hold_in_eval", lambda module: None)
        line = trials.tried(Pair("real", "test_resnet", "lora"))
        assert line["status"] == "fail" and "drift" in line["points"], line
        line = trials.tried(Pair("shapes", "test_resnet", "lora"))
        assert line["status"] == "fail" and "running_mean" in line["points"]["delta"], line
    monkeypatch.setattr(petl.BN, "fits", lambda self, module: False)
    with pytest.raises(petl.SiteError):
        trials.tried(Pair("real", "test_resnet", "bn"))


def test_models_are_alive_and_small() -> None:
    model = models.lively("test_resnet", (), 64)
    assert not [name for name, p in model.named_parameters() if not p.any()]
    assert models.sizes("test_vit") == [(64, (("img_size", 64),)), (160, ())]


def test_the_page(tmp_path: Path) -> None:
    results = Results(tmp_path / "real.jsonl")
    results.add({"architecture": "test_vit", "method": "lora", "status": "pass", "s": 3600, "wrap_s": 0.2})
    results.add({"architecture": "test_vit", "method": "bn", "status": "n/a", "reason": "this net has no BatchNorm"})
    results.add({"architecture": "test_resnet", "method": "lora", "status": "fail", "points": {"drift": "moved: [x]"}})
    results.add({"architecture": "vgg11", "method": "full", "status": "memory", "reason": "over 8 GB"})
    graph_lines = Results(tmp_path / "graphs.jsonl")
    graph_lines.add({"architecture": "test_vit", "method": "compile", "status": "pass", "bare_gap": 0.0, "gap": 2e-6})
    graph_lines.add(
        {"architecture": "test_resnet", "method": "compile", "status": "fail", "bare_gap": 0.0, "reason": "breaks"}
    )
    graph_lines.add({"architecture": "vgg11", "method": "compile", "status": "n/a", "reason": "the bare model: data"})
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("a\n<!-- coverage -->\n<!-- end of coverage -->\nb\n")
    report.write(tmp_path, tmp_path / "docs" / "timm.md")
    page = (tmp_path / "docs" / "timm.md").read_text()
    assert (
        "| real | 3 | 4 | 1 | 1 | 1 | 1 | 1.0 |" in page and "| real | 3 | 4 |" in (tmp_path / "README.md").read_text()
    )
    assert "| real | vgg11 | `full` | memory | over 8 GB |" in page and "drift: moved" in page
    assert (
        "| `compile` | 3 | 2 | 1 | 0 | 0 | 2e-06 |" in page and "| vgg11 | `compile` | the bare model: data |" in page
    )
    assert "| graphs | test_resnet | `compile` | fail | breaks |" in page and "| graphs" not in page.split("##")[0]
    assert (
        "| vision_transformer | 1 | 0/0 |" not in page
        and "| `bn` | the method | the net has no BatchNorm | 1 |" in page
    )
