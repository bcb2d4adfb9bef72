"""Weighted and balanced sampling: as torch's WeightedRandomSampler draws, by seed and epoch, also on several ranks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

import petl
from petl import data
from petl.data.loaders import KeyedDataset
from petl.data.sampling import Shuffle, dataset_weights, kept_weights, sampling_weights
from petl.errors import DataError
from tests.support.data import plain
from tests.support.image_files import damaged, picture

TARGETS = torch.tensor([0] * 6 + [1] * 2 + [2])
PAIRS = TensorDataset(torch.arange(9.0), TARGETS)


class Weighted(Dataset[Any]):
    """Numbers as images, with a weight each."""

    def __init__(self, weights: Any):
        self.weights = weights

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor(float(index)), index % 2


def drawn(dataset: Any, sampling: Any, epochs: int = 300, **options: Any) -> Counter[int]:
    loader = data.loader(dataset, batch_size=4, training=True, sampling=sampling, **options)
    counts: Counter[int] = Counter()
    for epoch in range(epochs):
        data.set_epoch(loader, epoch)
        counts.update(index for index, _ in loader.sampler)
    assert sum(counts.values()) == epochs * len(dataset) == epochs * len(loader.sampler)  # type: ignore[arg-type]
    return counts


def test_balanced_draws_all_classes_equally_often() -> None:
    counts = drawn(PAIRS, "balanced")
    classes = [sum(count for index, count in counts.items() if TARGETS[index] == number) for number in range(3)]
    assert all(abs(count - 900) < 100 for count in classes)  # 2700 draws: four standard deviations are 98


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda w: torch.tensor(w, dtype=torch.float16)])
def test_numbers_are_shares(kind: Any) -> None:
    counts = drawn(PAIRS, kind([0.0, 3.0, 1.0] + [0.0] * 6))
    assert set(counts) == {1, 2} and abs(counts[1] - 2025) < 90


def test_no_sampling_is_a_permutation_as_ever() -> None:
    rng = np.random.default_rng([5, 2])
    expected = list(zip(rng.permutation(9).tolist(), rng.integers(2**32, size=9).tolist(), strict=True))
    shuffle = Shuffle(9, 5)
    shuffle.set_epoch(2)
    assert list(shuffle) == expected


def test_weights_of_a_dataset_also_inside_of_others(tmp_path: Path) -> None:
    whole = Weighted(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert dataset_weights(Subset(whole, [3, 0])).tolist() == [4.0, 1.0]  # type: ignore[union-attr]
    nested = ConcatDataset([Subset(whole, [1]), KeyedDataset(whole, (0, 1))])
    assert dataset_weights(nested).tolist() == [2.0, 1.0, 2.0, 3.0, 4.0]  # type: ignore[union-attr]
    assert sampling_weights(nested, "weights").argmax() == 4  # type: ignore[union-attr]
    assert dataset_weights(ConcatDataset([whole, PAIRS])) is None
    with pytest.raises(DataError, match=r"sampling='weights', and this TensorDataset has no weights"):
        sampling_weights(PAIRS, "weights")
    with pytest.raises(DataError, match="has no weights"):
        sampling_weights(Subset(PAIRS, [0]), "weights")


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ([1.0] * 8, "8 numbers for 9 images"),
        ([1.0] * 8 + [-1.0], "-1 for image 8"),
        ([float("nan")] * 9, "nan for image 0"),
        ([float("inf")] + [1.0] * 8, "inf for image 0"),
        ([0.0] * 9, "0 for every image"),
        ([[1.0]] * 9, r"shape \[9, 1\]"),
        (["a"] * 9, "no number"),
        ([True] * 9, "bool"),
        ("even", "expected None, 'balanced', 'weights'"),
        (3, "expected None, 'balanced', 'weights'"),
        ({0: 1.0}, "expected None, 'balanced', 'weights'"),
    ],
)
def test_what_cannot_be_drawn(sampling: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        data.loader(PAIRS, batch_size=4, training=True, sampling=sampling)


def test_what_has_no_classes_is_not_balanced() -> None:
    for targets in (torch.rand(9), torch.rand(9, 2), torch.zeros(9, 2, dtype=torch.int64)):
        with pytest.raises(DataError, match="needs the class number of each image"):
            sampling_weights(TensorDataset(torch.arange(9.0), targets), "balanced")


def test_loaders_and_evaluation_refuse() -> None:
    with pytest.raises(DataError, match="evaluation reads every image once"):
        data.loader(PAIRS, batch_size=4, sampling="balanced")
    model, images = wrapped(), TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4) % 2)
    with pytest.raises(DataError, match="sampling= with a DataLoader, whose order is its own"):
        petl.fit(model, DataLoader(images, 2), epochs=1, lr=1e-3, sampling="balanced")
    with pytest.raises(DataError, match="sampling= with a list, whose order is its own"):
        petl.fit(model, [(torch.randn(2, 3, 32, 32), torch.arange(2))] * 2, epochs=1, lr=1e-3, sampling="balanced")
    with pytest.raises(petl.PetlError, match="expected None, 'balanced'"):
        petl.fit(model, images, epochs=1, lr=1e-3, sampling="even")  # type: ignore[arg-type]


def wrapped(method: str = "probe", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return petl.wrap(timm.create_model("test_resnet"), method, num_classes=2, **options)


def test_numbers_follow_the_images_that_can_be_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            picture(number).save(tmp_path / name / f"{number}.png")
    damaged(tmp_path, "a/1.png")
    images = data.dataset(tmp_path, plain(3))
    for given in (images, Subset(images, range(6))):
        kept, _ = data.sift(given)
        assert kept_weights([1, 100, 2, 3, 4, 5], given, kept).tolist() == [0.01, 0.02, 0.03, 0.04, 0.05]  # type: ignore[union-attr]
    history = petl.fit(wrapped(), tmp_path, epochs=2, lr=1e-3, sampling=[0, 1, 0, 1, 1, 1], progress=False)
    assert len(history.rows) == 2


@pytest.mark.sweep(1)
@pytest.mark.parametrize("method", ["probe", "bn"])
def test_resuming_draws_the_same(tmp_path: Path, method: str) -> None:
    """With cached features (the probe) and without (bn)."""
    images = TensorDataset(
        torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(10) // 7
    )
    options: dict[str, Any] = {
        "lr": 1e-2,
        "sampling": "balanced",
        "batch_size": 3,
        "progress": False,
        "schedule": "none",
    }

    def state(model: nn.Module) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in petl.trainable(model).items()}

    whole = wrapped(method)
    history = petl.fit(whole, images, epochs=3, **options)
    assert ("computed once" in history.features) == (method == "probe")
    broken = wrapped(method)
    petl.fit(broken, images, epochs=1, checkpoint=tmp_path, **options)
    broken = wrapped(method)
    petl.fit(broken, images, epochs=3, checkpoint=tmp_path, resume=True, **options)
    plain_order = wrapped(method)
    petl.fit(plain_order, images, epochs=3, **{**options, "sampling": None})
    assert all(torch.equal(tensor, state(broken)[name]) for name, tensor in state(whole).items())
    assert not all(torch.equal(tensor, state(plain_order)[name]) for name, tensor in state(whole).items())


def test_cached_features_are_drawn_as_the_images_would_be() -> None:
    images = TensorDataset(
        torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(10) // 7
    )
    options: dict[str, Any] = {"epochs": 2, "lr": 1e-2, "sampling": "balanced", "batch_size": 3, "progress": False}
    cached, run = wrapped(), wrapped()
    petl.fit(cached, images, **options)
    petl.fit(run, images, views=0, **options)
    for name, tensor in petl.trainable(cached).items():
        torch.testing.assert_close(tensor, petl.trainable(run)[name], atol=1e-5, rtol=1e-4)


def test_each_rank_has_its_share() -> None:
    """accelerate gives rank r every second batch of one and the same order."""
    from accelerate.data_loader import prepare_data_loader

    shares = []
    for rank in range(2):
        loader = data.loader(PAIRS, batch_size=2, training=True, sampling="balanced", seed=3)
        share = prepare_data_loader(loader, num_processes=2, process_index=rank, put_on_device=False)
        share.set_epoch(1) if hasattr(share, "set_epoch") else data.set_epoch(share, 1)  # type: ignore[arg-type]
        data.set_epoch(loader, 1)
        shares.append([int(index) for batch in share.batch_sampler for index, _ in batch])  # type: ignore[union-attr]
    loader = data.loader(PAIRS, batch_size=2, training=True, sampling="balanced", seed=3)
    data.set_epoch(loader, 1)
    order = [index for index, _ in loader.sampler]
    assert [index for pair in zip(*(np.reshape(s, (-1, 2)) for s in shares), strict=True) for b in pair for index in b][
        :8
    ] == order[:8]
