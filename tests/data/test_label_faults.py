"""Labels that can't be used say what they are, before anything is lost; True and False are classes 1 and 0."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

import petl
from petl.data.label_faults import label_fault
from tests.support.feature_data import small

pytestmark = pytest.mark.deep


class Pairs(Dataset[Any]):
    """Eight images with these labels, which no list names beforehand."""

    def __init__(self, labels: list[Any]):
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return torch.full((3, 32, 32), index / 8), self.labels[index]


VERBS = {
    "features": lambda model, data, _: petl.features(model, data, progress=False, cache=False),
    "rank": lambda model, data, _: petl.rank({"a": model}, data, progress=False),
    "advise": lambda model, data, _: petl.advise(model, data, progress=False),
    "evaluate": lambda model, data, _: petl.evaluate(model, data, progress=False),
    "report": lambda model, data, folder: petl.report(model, data, folder / "page.html", base=False, progress=False),
}


@pytest.mark.parametrize("verb", VERBS)
def test_labels_of_other_kinds(verb: str, tmp_path: Any) -> None:
    model, numbers = small(), [0, 1] * 4
    for labels, words in (
        ([str(number) for number in numbers], "text '0'"),
        ([None] * 8, "a label is None"),
        ([0, 1, 0, 1, 0, 1, 0, None], "a label is None"),
    ):
        with pytest.raises(petl.DataError, match=words):
            VERBS[verb](model, Pairs(labels), tmp_path)
    for same in ([bool(n) for n in numbers], [torch.tensor(bool(n)) for n in numbers], [[n] for n in numbers]):
        VERBS[verb](model, Pairs(same), tmp_path)


def test_what_is_wrong_is_said_of_texts_and_none_alone() -> None:
    assert not label_fault([0, True, 0.5, np.int64(1), torch.tensor(1)])
    assert "{'cat': 0}[label]" in label_fault(["cat"]) and "{'cat': 0}" in label_fault([0, np.str_("cat")])


@pytest.mark.parametrize("verb", ["predict", *VERBS])
def test_random_generators_stay(verb: str, tmp_path: Any) -> None:
    images = torch.randn(8, 3, 32, 32)
    data = TensorDataset(images, torch.tensor([0, 1] * 4))
    calls: Any = {**VERBS, "predict": lambda model, *_: petl.predict(model, images, progress=False)}
    model = small()
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    calls[verb](model, data, tmp_path)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (str(np.random.get_state()), random.getstate())
