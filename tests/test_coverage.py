"""The sweep over timm's architectures: what it plans, how it survives, and that it tells what is broken."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import coverage_index  # pytest finds benchmarks/, see pyproject.toml
import coverage_models
import coverage_plan
import coverage_report
import coverage_run
import coverage_trials
import pytest
import timm
from coverage_plan import COLUMNS, Pair
from coverage_run import Limits, Results

import petl

INDEX = [
    coverage_index.Architecture(name, i, f"kind {i % 2}") for i, name in enumerate(("test_vit", "test_resnet", "vgg11"))
]


def test_the_sample_has_every_family_and_turns_the_methods() -> None:
    sampled = coverage_plan.sampled()
    names = {pair.architecture for pair in sampled}
    assert len(names) >= 120 and len({(p.architecture, p.column) for p in sampled}) == len(sampled)
    missing = {coverage_index.family(name) for name in timm.list_models()} - {coverage_index.family(n) for n in names}
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
    assert len(coverage_plan.pairs("shapes", INDEX)) == 3 * len(COLUMNS)
    assert {p.architecture for p in coverage_plan.pairs("real", INDEX)} == {
        "test_vit",
        "test_resnet",
    }  # smallest of a kind
    assert [p.column for p in coverage_plan.pairs("every", INDEX, "*vit")] == ["combined"]
    assert {coverage_plan.channels(name) for name in timm.list_models()[:40]} == {1, 2, 4, 13}


def run(folder: Path, pairs: list[Pair], limits: Limits | None = None) -> list[dict[str, Any]]:
    results, told = Results(folder / "lines.jsonl"), []
    coverage_run.run(pairs, results, 1, limits or Limits(), 2, told.append)
    return told


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


def test_a_whole_contract() -> None:
    line = coverage_trials.tried(Pair("real", "test_resnet", "combined"))
    assert line["status"] == "pass" and line["used"] == "lora+bn+input" and line["size"] == 64, line
    assert line["sites"] and line["trainable"] and line["bytes"] and line["passed"] >= 6
    assert coverage_trials.tried(Pair("real", "test_vit", "bn"))["status"] == "n/a"


def test_a_broken_method_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A LoRA that doesn't start at zero, norms that aren't held, and a refusal that the model doesn't bear out."""
    with monkeypatch.context() as broken:
        broken.setattr("petl.install.hold", lambda module: None)
        line = coverage_trials.tried(Pair("real", "test_resnet", "lora"))
        assert line["status"] == "fail" and "drift" in line["points"], line
        line = coverage_trials.tried(Pair("shapes", "test_resnet", "lora"))
        assert line["status"] == "fail" and "running_mean" in line["points"]["delta"], line
    monkeypatch.setattr(petl.BN, "fits", lambda self, module: False)
    with pytest.raises(petl.SiteError):
        coverage_trials.tried(Pair("real", "test_resnet", "bn"))


def test_models_are_alive_and_small() -> None:
    model = coverage_models.lively("test_resnet", (), 64)
    assert not [name for name, p in model.named_parameters() if not p.any()]
    assert coverage_models.sizes("test_vit") == [(64, (("img_size", 64),)), (160, ())]


def test_the_page(tmp_path: Path) -> None:
    results = Results(tmp_path / "real.jsonl")
    results.add({"architecture": "test_vit", "method": "lora", "status": "pass", "s": 3600, "wrap_s": 0.2})
    results.add({"architecture": "test_vit", "method": "bn", "status": "n/a", "reason": "this net has no BatchNorm"})
    results.add({"architecture": "test_resnet", "method": "lora", "status": "fail", "points": {"drift": "moved: [x]"}})
    results.add({"architecture": "vgg11", "method": "full", "status": "memory", "reason": "over 8 GB"})
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("a\n<!-- coverage -->\n<!-- end of coverage -->\nb\n")
    coverage_report.write(tmp_path, tmp_path / "docs" / "timm.md")
    page = (tmp_path / "docs" / "timm.md").read_text()
    assert (
        "| real | 3 | 4 | 1 | 1 | 1 | 1 | 1.0 |" in page and "| real | 3 | 4 |" in (tmp_path / "README.md").read_text()
    )
    assert "| real | vgg11 | `full` | memory | over 8 GB |" in page and "drift: moved" in page
    assert (
        "| vision_transformer | 1 | 0/0 |" not in page
        and "| `bn` | the method | the net has no BatchNorm | 1 |" in page
    )
