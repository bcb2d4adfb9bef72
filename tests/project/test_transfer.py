"""The benchmark of transfer: what it counts, what it runs, and what it writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from benchmarks.transfer import report
from benchmarks.transfer.__main__ import main
from benchmarks.transfer.data import Pictures
from benchmarks.transfer.results import Results, packed, unpacked


def line(row: str, seed: int, right: list[int], **more: Any) -> dict[str, Any]:
    answers = {"right": packed(torch.tensor(right).bool()), "tested": len(right), "accuracy": sum(right) / len(right)}
    plan = {"size": 64, "epochs": 0, "precision": "no"}
    place = {"backbone": "net", "data": "set", "row": row, "seed": seed, "plan": plan, "images": 30}
    return {**place, **answers, "trainable": 1000, "cpu_seconds": 2.0, **more}


def test_right_answers_are_packed_without_loss_also_where_the_first_are_wrong() -> None:
    for right in ([0, 0, 0, 0, 1], [1, 0, 1, 1], [0] * 9, [1] * 64):
        assert unpacked(packed(torch.tensor(right).bool()), len(right)).tolist() == right


def test_rows_are_compared_on_the_seeds_that_both_have_and_image_by_image() -> None:
    full = {0: line("full", 0, [1, 1, 0, 0]), 1: line("full", 1, [1, 0, 0, 0])}
    lora = {1: line("lora", 1, [1, 1, 0, 1]), 2: line("lora", 2, [0, 0, 0, 0])}
    mean, error = report.difference(lora, full)
    gaps = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert mean == 0.5 and error == pytest.approx(float(gaps.std()) / 2)
    assert report.difference(full, full) == (0.0, 0.0)
    assert report.accuracy(full)[0] == pytest.approx(3 / 8)


def test_the_report_orders_rows_and_leaves_the_rest_of_the_page_alone(tmp_path: Path) -> None:
    saved = {"bytes": 4000, "reload_difference": 0.0, "reload_accuracy": None, "rates": {"full": 3e-4}, "epochs": 30}
    lines = [
        line("raw pixels", 0, [1, 0, 0, 0]),
        line("full", 0, [1, 1, 0, 0], **saved),
        line("full", 1, [1, 1, 1, 0], **saved),
        line("lora", 0, [1, 1, 1, 1], **saved | {"rates": {"lora": 5e-3, "head": 5e-4}}),
    ]
    page = tmp_path / "results.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(lines, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    rows = [words.split(" | ") for words in text.splitlines() if words.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["| lora, seed 0", "| full", "| raw pixels, seed 0"]
    assert rows[0][2] == "+50.0 ± 28.9" and rows[1][2] == "" and rows[2][2] == "-25.0 ± 25.0"
    assert "full 0.0003; lora 0.005, head 0.0005" in text and "30 epochs (the default)" in text
    assert "bit-equal in 3 of 3 trainings" in text


def test_a_seed_draws_the_training_images_alone_and_evenly_among_the_classes() -> None:
    labels = np.repeat(np.arange(3), 40)
    found = Pictures("set", np.zeros((120, 8, 8, 1), np.uint8), labels, np.arange(120) % 2, ("a", "b", "c"))
    first, second = found.chosen(0, 30, 0), found.chosen(0, 30, 1)
    assert np.bincount(labels[first]).tolist() == [10, 10, 10] and set(first) != set(second)
    assert not set(first) & set(found.chosen(1, 30, 0))


@pytest.mark.deep
def test_the_rows_are_trained_with_defaults_and_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(0)
    images, labels = chance.integers(0, 256, (60, 16, 16, 3), np.uint8), np.arange(60) % 3
    images[labels == 1] //= 2
    np.savez(tmp_path / "set.npz", images=images, labels=labels, split=np.arange(60) // 40, classes=list("abc"))
    torch.manual_seed(0)
    net = timm.create_model("test_resnet")
    weights = tmp_path / "test_resnet.safetensors"
    save_file(net.state_dict(), weights)
    names = ["raw pixels", "probe", "full", "lora", "peft LoRA"]
    words = ["--data", str(tmp_path), "--weights", str(weights), "--out", str(tmp_path / "out"), "--seeds", "0"]
    work = [*words, "--set", "epochs=1", "train=24", "size=32", f"threads={torch.get_num_threads()}", "--rows"]
    monkeypatch.setattr(sys, "argv", ["transfer", *work, *names[:-1]])
    main()
    before = Results(tmp_path / "out").read()
    monkeypatch.setattr(sys, "argv", ["transfer", *work, *names])
    main()
    lines = Results(tmp_path / "out").read()
    assert [one["row"] for one in lines] == names and lines[:-1] == before
    assert all(one["reload_difference"] == 0 for one in lines[1:])
    assert lines[4]["rates"] == lines[3]["rates"] and "started from" in lines[3]["head"]
    assert lines[4]["trainable"] == lines[3]["trainable"]
