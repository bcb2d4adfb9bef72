"""Trainings that start from the same model on the same images compute the classifier once."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

import petl
from petl.training.head_start import HeadStarter
from petl.training.known_heads import KnownHead, sharing_head
from tests.support.compare import state
from tests.support.data import pairs

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
TRAIN = pairs(18)


def test_the_second_training_writes_what_the_first_one_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = petl.wrap(timm.create_model("test_resnet"), "norm", num_classes=3)
    models, known = [first, *(copy.deepcopy(first) for _ in range(2))], KnownHead()
    options = {"epochs": 1, "progress": False}
    alone = petl.fit(models[2], TRAIN, **options)
    with sharing_head(known):
        histories = [petl.fit(models[0], TRAIN, **options)]
        monkeypatch.setattr(HeadStarter, "start", None)
        histories.append(petl.fit(models[1], TRAIN, **options))
    for model, history in zip(models[:2], histories, strict=True):
        assert history.head == alone.head
        assert history.rows[0]["train_loss"] == alone.rows[0]["train_loss"]
        assert all(torch.equal(value, state(models[2])[key]) for key, value in state(model).items())


def test_a_probe_is_computed_anyway() -> None:
    known = KnownHead()
    with sharing_head(known):
        history = petl.fit(petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=3), TRAIN, progress=False)
    assert known.start is None
    assert "left_out_accuracy" in history.rows[0]
