"""Convolutional nets and transformers are told apart by their layers."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import petl
from petl.sites.family import family_of

FAMILIES = {
    "resnet18": "cnn",
    "vgg11": "cnn",  # no norms; three of its layers are linear, and most of its weights
    "nf_resnet26": "cnn",  # no norms
    "resnetv2_50x1_bit": "cnn",  # norms over groups of channels
    "levit_128s": "cnn",  # attention and linear layers, with BatchNorms
    "vit_tiny_patch16_224": "transformer",
    "swin_tiny_patch4_window7_224": "transformer",
    "mixer_s16_224": "transformer",
    "poolformer_s12": "transformer",
    "convnext_femto": "transformer",  # with 1x1 convolutions for linear layers
    "convnext_tiny": "transformer",
}


@pytest.mark.parametrize(("name", "family"), FAMILIES.items())
@pytest.mark.sweep(5)
def test_the_family_is_that_of_its_layers(name: str, family: str) -> None:
    with torch.device("meta"):
        assert family_of(timm.create_model(name)) == family


def test_grafts_and_an_empty_model_change_nothing() -> None:
    model = petl.wrap(timm.create_model("test_resnet"), petl.LoRA(), num_classes=3)
    assert family_of(model) == "cnn" and family_of(nn.Identity()) == "cnn"
