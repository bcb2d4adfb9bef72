"""The files of `petl.start` are named after the data, and nothing is replaced unasked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import petl
from petl.ranking.ranked_images import NEUTRAL, ranked_images
from petl.start.parts import start_parts
from petl.start.places import places_for


def test_names(tmp_path: Path) -> None:
    (tmp_path / "pets.v2").mkdir()
    (tmp_path / "table.csv").write_text("path,label\n")
    found = places_for(tmp_path / "pets.v2", None, overwrite=False)
    assert [p.name for p in (found.delta, found.page, found.numbers)] == [
        "pets.v2.safetensors",
        "pets.v2.html",
        "pets.v2.json",
    ]
    assert found.delta.parent == tmp_path
    assert places_for(f"{tmp_path}/pets.v2/", None, overwrite=False) == found
    assert places_for(tmp_path / "table.csv", None, overwrite=False).page == tmp_path / "table.html"
    for name in ("new/run", "new/run.safetensors", "new/run.html"):
        assert places_for(object(), tmp_path / name, overwrite=False).delta == tmp_path / "new" / "run.safetensors"
    assert not list((tmp_path / "new").iterdir())


def test_the_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path / "pets")
    assert places_for(".", None, overwrite=False).delta == tmp_path / "pets.safetensors"


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets.json").write_text("mine")
    with pytest.raises(petl.StateError, match="exists"):
        places_for(tmp_path / "pets", None, overwrite=False)
    places_for(tmp_path / "pets", None, overwrite=True)
    assert (tmp_path / "pets.json").read_text() == "mine"
    with pytest.raises(petl.StateError, match="has no name"):
        places_for(object(), None, overwrite=False)
    with pytest.raises(petl.StateError, match="can't write"):
        places_for(object(), tmp_path / "pets.json" / "run", overwrite=False)
    (tmp_path / "other.html").mkdir()
    with pytest.raises(petl.StateError, match="is a folder"):
        places_for(object(), tmp_path / "other", overwrite=True)


def test_a_fifth_that_leaves_too_few_is_refused_by_the_number_needed() -> None:
    for each, taken in ((4, False), (5, True)):
        data = TensorDataset(torch.zeros(2 * each, 3, 8, 8), torch.arange(2 * each) % 2)
        if taken:
            assert len(start_parts(data, {}, seed=0, options={}).train) == 8
        else:
            with pytest.raises(
                petl.DataError, match=r"start holds out a fifth.*0 \(3\), 1 \(3\).*5 of a class are enough"
            ):
                start_parts(data, {}, seed=0, options={})


@pytest.mark.parametrize("broken", [False, True])
def test_the_images_that_tell_the_result_rank_no_backbone(broken: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(46):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        noise = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "ab"[number % 2] / f"{number}.png")
    if broken:
        (tmp_path / "a" / "0.png").write_bytes(b"none")
    told = start_parts(tmp_path, NEUTRAL, seed=3, options={}).told
    ranked = ranked_images(tmp_path, 1000, 3, {})
    assert {*told.files} == {ranked.train.dataset.files[row] for row in ranked.held_rows}
    assert not {*told.files} & {ranked.train.dataset.files[row] for row in ranked.rows}
