"""What may be named as a candidate, what timm's metadata says of it, and which few a filter chooses."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

import petl
from petl.ranking.candidates import fitting_size, select_candidates
from petl.ranking.limits import Limits, positive
from petl.ranking.published import PUBLISHED_TABLE, published, published_source
from petl.ranking.timm_tags import (
    LADDER,
    MOST_PARAMS,
    PRETRAININGS,
    diverse,
    has_weights,
    known_licences,
    matching_tags,
    tag_of,
)
from petl.wrapping.licences import allowed_licences, licence_warning
from tests.support.backbones import weights_file
from tests.support.feature_data import small

NONE = Limits()


def names(asked: object, limits: Limits = NONE, most: int = 8) -> list[str]:
    return [candidate.name for candidate in select_candidates(asked, limits, most).candidates]


def test_names_models_files_and_any_container(tmp_path: Path) -> None:
    model, file = small(), weights_file(tmp_path, "test_vit")
    wrapped = petl.wrap(small("test_efficientnet"), ["norm", "lora"], num_classes=2)
    assert names("resnet50") == names(["resnet50", "resnet50"]) == ["resnet50"]
    assert names(one for one in (model, model, wrapped)) == ["test_resnet", "test_efficientnet.r160_in1k + norm, lora"]
    assert names({"mine": model, "other": "resnet18.a1_in1k"}) == ["mine", "other"]
    assert names([("mine", model), "test_resnet", small()]) == ["mine", "test_resnet", "test_resnet (2)"]
    (only,) = select_candidates(f"test_vit:{file}", NONE, 8).candidates
    assert only.results.top1 is None and only.licence is None  # the file may hold any weights
    (tagged,) = select_candidates(f"test_vit.r160_in1k:{file}", NONE, 8).candidates
    assert tagged.results.top1 and tagged.licence == "apache-2.0"
    assert [c.results.top1 for c in select_candidates(["resnet50"], NONE, 8).candidates] == [
        published()["resnet50.a1_in1k"].top1
    ]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("resnet500", "no model 'resnet500'; near names: .*resnet50"),
        ("resnet50.a1_in2k", "no weights 'resnet50.a1_in2k'; near names: resnet50.a1"),
        ("test_vit:nowhere.pth", "no such file"),
        (":weights.pth", "before the colon"),
        ("nothing*", "called 'nothing\\*'"),
        ([], "no candidate; expected a name"),
        ([3], "got 3 as a candidate"),
        (5, "got a int of candidates"),
        ({"resnet50", "resnet18"}, "got a set"),  # its order is chance
    ],
)
def test_what_cannot_be_ranked(asked: object, words: str) -> None:
    with pytest.raises(petl.PetlError, match=words):
        names(asked)


def test_a_file_without_a_classifier_is_enough_and_one_without_a_block_is_not(tmp_path: Path) -> None:
    whole = small().state_dict()
    trunk = {key: value for key, value in whole.items() if not key.startswith("fc.")}
    save_file(trunk, tmp_path / "trunk.safetensors")
    (candidate,) = select_candidates(f"test_resnet:{tmp_path / 'trunk.safetensors'}", NONE, 8).candidates
    built = candidate.build(None).state_dict()
    assert all((built[key] == value).all() for key, value in trunk.items())
    save_file({k: v for k, v in whole.items() if "layer4" not in k}, tmp_path / "cut.safetensors")
    (candidate,) = select_candidates(f"test_resnet:{tmp_path / 'cut.safetensors'}", NONE, 8).candidates
    with pytest.raises(petl.StateError, match="timm can't build"):
        candidate.build(None)


def test_limits_leave_out_and_say_why() -> None:
    limits = Limits.of("30M", None, None, "open", known_licences())
    chosen = select_candidates(["resnet50", "vit_base_patch16_224", "resnet50.fb_swsl_ig1b_ft_in1k"], limits, 8)
    assert [c.name for c in chosen.candidates] == ["resnet50"]
    assert "86.6M parameters, more than max_params=30M" in chosen.left_out["vit_base_patch16_224"]
    assert chosen.left_out["resnet50.fb_swsl_ig1b_ft_in1k"] == "its licence is cc-by-nc-4.0"
    with pytest.raises(petl.PetlError, match="no candidate is left to rank: vit_base"):
        names("vit_base_patch16_224", limits)
    with pytest.raises(petl.PetlError, match="no pretrained weights of timm within max_params=10"):
        names(None, Limits(params=10.0))


def test_filters_choose_a_diverse_few() -> None:
    assert names(None) == [*LADDER] and {tag_of(name).licence for name in LADDER} <= {
        "apache-2.0",
        "mit",
        "bsd-3-clause",
    }
    assert {tag_of(name).pretraining for name in LADDER} == {*PRETRAININGS}
    limits = Limits.of("6M", 1, 256, "open", known_licences())
    tags = [tag_of(name) for name in names(None, limits)]
    assert len(tags) == 8 and len({(tag.pretraining, tag.family) for tag in tags}) > 5
    for tag in tags:
        assert tag.results.params is not None and tag.results.params <= 6e6 and tag.side <= 256
        assert tag.results.gmacs is not None and tag.results.gmacs <= 1
    assert (
        all(name.startswith("convnext") for name in names("convnext*", most=3)) and len(names("convnext*", most=3)) == 3
    )
    assert all((tag.results.params or 0) <= MOST_PARAMS for tag in matching_tags("vit_*", NONE))
    assert [tag.name for tag in diverse(matching_tags("resnet18*", NONE), 2)] == names("resnet18*", most=2)


def test_transformers_are_built_at_a_multiple_of_their_patches() -> None:
    sizes = [fitting_size(f"vit_small_patch{patch}_224", 100) for patch in (16, 32)]
    assert sizes == [96, 96] and fitting_size("swin_tiny_patch4_window7_224", 96) is None
    assert fitting_size("hf-hub:owner/patch16", 96) is None and fitting_size("resnet50", 96) is None
    (candidate,) = select_candidates("vit_small_patch14_dinov2.lvd142m", NONE, 8).candidates
    assert candidate.side is None and select_candidates(None, NONE, 8).candidates[3].side == 224


def test_the_table_is_dated_small_and_has_no_zeros_for_what_is_missing() -> None:
    assert PUBLISHED_TABLE.stat().st_size < 60_000 and published_source()["date"] == "2026-08-08"
    known = published()
    assert known["resnet50.a1_in1k"].top1 == 80.382 and known["vit_small_patch14_dinov2.lvd142m"].top1 is None
    assert all(value != 0 for results in known.values() for value in vars(results).values())
    assert {*known} <= {*timm.list_pretrained()} or timm.__version__ != published_source()["timm"]
    assert sum(results.top1 is not None for results in known.values()) > 1200


def test_licences_and_numbers() -> None:
    assert allowed_licences(["open", "cc-by-nc-4.0"], ["cc-by-nc-4.0"])[-1] == "cc-by-nc-4.0"  # type: ignore[index]  # not None
    assert "research" not in licence_warning("mit") and not licence_warning("apache-2.0")
    assert "commercially" in licence_warning("fair-noncommercial-research-license")
    assert "terms of their own (dinov3-license)" in licence_warning("dinov3-license")
    assert [positive("max_params", text) for text in ("30M", " 1.5b", "2_000", 7)] == [3e7, 1.5e9, 2000, 7]
    for wrong in ("M", "-3", "0", "1.2.3", float("inf"), True, [1]):
        with pytest.raises(petl.PetlError, match="expected a number above 0"):
            positive("max_params", wrong)
    assert has_weights("resnet50.a1_in1k") and not has_weights("botnet50ts_256")
