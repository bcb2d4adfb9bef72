"""What `petl.shift` says of images whose shift is known, and of data that it can't use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import petl
from petl.findings import as_text
from petl.measures.label_shift import estimated_frequencies, fitted_scaling
from petl.shifts.believed_mix import believed_frequencies
from petl.shifts.concept import concept
from petl.shifts.places import block_shifts
from petl.shifts.sides import Sides
from petl.shifts.told_apart import tell_apart

pytestmark = pytest.mark.deep  # the commands' tests go the same ways, shorter


CLASSES = 3


def drawn(y: Tensor, seed: int, *, moved: float = 0.0) -> Tensor:
    """Features [N, 12] of three overlapping classes; ``moved`` shifts all along directions that say nothing of them."""
    x = torch.randn(len(y), 12, generator=torch.Generator().manual_seed(seed))
    x[:, :3] += 2.5 * torch.eye(3)[y]
    x[:, 6:] += moved
    return x


def sides(target_y: Tensor, *, moved: float = 0.0, labels: Tensor | None = None, seed: int = 0) -> Sides:
    y = torch.arange(120) % CLASSES
    x, z = drawn(y, seed), drawn(target_y, seed + 50, moved=moved)
    scores = [2.5 * part[:, :3] for part in (x, z)]  # up to a constant, the logarithms of the probabilities
    return Sides(x, y, z, labels, ["a", "b", "c"], scores[0], scores[1], scores[1], True)


EVEN, OTHER = torch.arange(120) % 3, torch.tensor([0] * 90 + [1] * 20 + [2] * 10)
CELLS = [("none", EVEN, 0.0), ("classes", OTHER, 0.0), ("appearance", EVEN, 1.0), ("both", OTHER, 1.0)]


@pytest.mark.parametrize(("verdict", "y", "moved"), CELLS)
def test_kinds_are_told_apart_without_labels_and_with_them(verdict: str, y: Tensor, moved: float) -> None:
    plain = tell_apart(sides(y, moved=moved), level=0.05, seed=0)
    assert plain.verdict == verdict
    named = tell_apart(sides(y, moved=moved, labels=y), level=0.05, seed=0)
    assert named.verdict == verdict and named.mix is not None and named.mix.by == "labels"
    true = torch.bincount(y).double() / len(y)
    assert named.mix.target == true.tolist()
    assert plain.mix is not None and float((torch.tensor(plain.mix.target) - true).abs().max()) < 0.12
    assert plain.mix.by == ("moved classes" if moved else "scores")


def test_where_the_classifier_is_lost_no_frequencies_are_told() -> None:
    one = sides(EVEN, moved=1.0)
    lost = Sides(**{**vars(one), "target_scores": one.target_scores * 0.1 + torch.tensor([3.0, 0.0, 0.0])})
    told = tell_apart(lost, level=0.05, seed=0)
    assert told.verdict == "appearance" and told.mix is None and "label some of them" in str(told.mix_refused)


def test_a_small_change_of_appearance_is_not_taken_for_one_of_frequencies() -> None:
    """The frequencies are fitted to the same images and explain a part of it, which the test has to allow for."""
    verdicts = [tell_apart(sides(EVEN, moved=0.45, seed=seed), level=0.05, seed=seed).verdict for seed in range(6)]
    assert verdicts.count("appearance") >= 5


def test_nothing_is_found_more_often_than_the_level_says() -> None:
    verdicts = [
        tell_apart(sides(EVEN[torch.randperm(120)], seed=seed), level=0.05, seed=seed).verdict for seed in range(12)
    ]
    assert sum(one != "none" for one in verdicts) <= 2  # of 12 at 5 %, 3 or more have a probability of .02


def test_a_classifier_that_knows_nothing_tells_no_frequencies() -> None:
    blind = sides(OTHER)
    blind = Sides(**{**vars(blind), "scores": torch.randn(120, 3, generator=torch.Generator().manual_seed(0))})
    told = tell_apart(blind, level=0.05, seed=0)
    assert told.verdict == "unknown" and told.mix is None and "chance" in str(told.mix_refused)


def test_another_meaning_of_labels_needs_labels() -> None:
    assert concept(sides(EVEN), level=0.05, seed=0) is None
    assert concept(sides(EVEN[:29], labels=EVEN[:29]), level=0.05, seed=0) is None
    same = concept(sides(EVEN, labels=EVEN), level=0.05, seed=0)
    turned = concept(sides(EVEN, labels=(EVEN + 1) % 3), level=0.05, seed=0)
    assert same is not None and not same.changed
    assert turned is not None and turned.changed and turned.gap > 1


def test_blocks_show_where_the_change_is_and_not_what_the_frequencies_explain() -> None:
    one = sides(OTHER, moved=1.0)
    told = tell_apart(one, level=0.05, seed=0)
    blocks = [{"content": part[:, :3], "style": part[:, 6:]} for part in (one.x, one.z)]
    content, style = block_shifts(*blocks, told.expected, seed=0)
    assert style.deviations > 5 > content.deviations
    plain, _ = block_shifts(*blocks, None, seed=0)
    assert plain.deviations > content.deviations


class Pictures(Dataset[Any]):
    """Pictures whose class is their colour, in noise."""

    def __init__(self, y: Tensor, seed: int = 0, contrast: float = 1.0):
        noise = torch.randn(len(y), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        self.images = (noise + 1.5 * torch.eye(3)[y].view(-1, 3, 1, 1)) * contrast
        self.targets = y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


@pytest.fixture(scope="module")
def probe() -> nn.Module:
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=3)
    petl.fit(model, Pictures(EVEN), epochs=1, start="probe", labels=["a", "b", "c"], progress=False)
    return model


def test_a_model_is_asked_and_stays_as_it_is(probe: nn.Module, tmp_path: Path) -> None:
    probe.train()
    before = {key: value.clone() for key, value in probe.state_dict().items()}
    state = torch.get_rng_state()
    target = Pictures(OTHER, 1)
    found = petl.shift(probe, Pictures(EVEN, 2), target.images, seen=False, progress=False)
    assert probe.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in probe.state_dict().items())
    assert found.verdict == "classes" and found.scores_by == "the model's classifier" and found.correction is not None
    assert len(found.blocks) > 2 and len(found.target_like) == 16 and found.target_like[0].image.startswith("image ")
    assert found.to_json() == petl.shift(probe, Pictures(EVEN, 2), target.images, seen=False, progress=False).to_json()
    text = str(found)
    assert (
        "class frequencies differ" in text
        and "petl.correct" in text
        and "label about" in text
        and 6 <= text.count("\n") <= 11
    )
    scores = [petl.features(probe, data, head=False, progress=False).x for data in (Pictures(EVEN, 2), target)]
    scaling = fitted_scaling(scores[0], EVEN)
    prior = scaling.probabilities(scores[0]).mean(0)
    q = estimated_frequencies(scaling.probabilities(scores[1]), prior)
    assert found.mix is not None
    assert torch.allclose(torch.tensor(found.mix.target, dtype=torch.float64), q, atol=1e-3)
    q = believed_frequencies(prior, q, found.mix.believed, len(target))
    assert torch.allclose(torch.tensor(found.correction.target, dtype=torch.float64), q, atol=1e-3)
    assert 0 < found.mix.believed < 1 and f"{found.mix.believed:.0%} of the way" in text
    path = tmp_path / "shift.json"
    path.write_text(as_text(found))
    wanted = (scaling.probabilities(scores[1]) * (q / prior)).argmax(1)
    petl.correct(probe, path)
    answers = petl.predict(probe, target.images, progress=False)
    assert torch.equal(torch.from_numpy(answers.probabilities).argmax(1), wanted)
    right = [float((answer == OTHER).double().mean()) for answer in (scores[1].argmax(1), wanted)]
    assert right[1] >= right[0]
    again = petl.shift(probe, Pictures(EVEN, 2), target.images, seen=False, progress=False)  # of the corrected model
    assert again.correction is not None and "is corrected" in str(again)
    assert again.correction.target == pytest.approx(found.correction.target, abs=1e-4)
    assert again.correction.bias == pytest.approx(found.correction.bias, abs=1e-2)
    petl.correct(probe, None)
    assert all(torch.equal(value, before[key]) for key, value in probe.state_dict().items())


def test_images_that_were_learned_from_are_judged_by_another_classifier(probe: nn.Module) -> None:
    found = petl.shift(probe, Pictures(EVEN), Pictures(OTHER, 1).images, progress=False)
    assert "closed form" in found.scores_by and found.correction is not None and found.verdict == "classes"
    pair = petl.shift(probe, (Pictures(EVEN), Pictures(EVEN, 2)), Pictures(OTHER, 1).images, progress=False)
    assert pair.scores_by == "the model's classifier" and pair.source_images == 120
    bare = petl.shift(
        timm.create_model("test_resnet", num_classes=0), Pictures(EVEN), Pictures(OTHER, 1), progress=False
    )
    assert bare.correction is None and "num_classes" in str(bare.correction_refused) and bare.verdict == "classes"
    same = petl.shift(probe, Pictures(EVEN), Pictures(EVEN).images[:40], progress=False)
    assert same.in_both == 40 and "are in the source too" in str(same)


def test_folders_with_and_without_classes(probe: nn.Module, tmp_path: Path) -> None:
    for part, y in (("old", EVEN[:60]), ("new", OTHER[40:])):
        for row, (image, label) in enumerate(Pictures(y, 3)):
            for folder in (tmp_path / part / "abc"[label], tmp_path / f"{part}-flat"):
                folder.mkdir(parents=True, exist_ok=True)
                pixels = (image.permute(1, 2, 0) * 30 + 100).clamp(0, 255).byte().numpy()
                Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{row}.png")
    labelled = petl.shift(probe, tmp_path / "old", tmp_path / "new", progress=False)
    assert labelled.mix is not None and labelled.mix.by == "labels" and labelled.concept is not None
    flat = petl.shift(probe, tmp_path / "old", tmp_path / "new-flat", progress=False)
    assert flat.mix is not None and flat.mix.by != "labels" and flat.target_like[0].image.endswith(".png")
    assert json.loads(as_text(flat))["kind"] == "shift"
    (tmp_path / "new" / "a").rename(tmp_path / "new" / "wolf")
    with pytest.raises(petl.DataError, match="wolf"):
        petl.shift(probe, tmp_path / "old", tmp_path / "new", progress=False)


def test_data_that_cannot_be_used(probe: nn.Module) -> None:
    fine, images = Pictures(EVEN[:30]), Pictures(EVEN[:30], 1).images
    wrong: list[tuple[Any, Any, str]] = [
        (images, images, "class for each image"),
        (Pictures(torch.zeros(30, dtype=torch.long)), images, "two classes"),
        (Pictures(torch.tensor([0] * 27 + [1] * 3)), images, "4 images"),
        (fine, images[:19], "20 or more"),
        (fine, images[:0], "image"),
        (fine, images[:, :1], "channels"),
        (fine, TensorDataset(images, torch.arange(30) % 7), "label"),
        (fine, TensorDataset(images, torch.rand(30)), "numbers"),
    ]
    for source, target, said in wrong:
        with pytest.raises(petl.PetlError, match=said):
            petl.shift(probe, source, target, progress=False)
    for name, value in (
        ("images", 5),
        ("images", 10**6),
        ("images", True),
        ("level", 0),
        ("level", 0.001),
        ("level", "a"),
        ("seed", -1),
    ):
        options: dict[str, Any] = {name: value, "progress": False}
        with pytest.raises(petl.PetlError, match="expected|seed"):
            petl.shift(probe, fine, images, **options)
