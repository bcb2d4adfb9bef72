"""The table of fast paths: kinds of layers and their state against the class that trains them. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm.layers
import torch
from torch import nn
from torch.nn.utils import prune

import petl
from petl.graft.graft import hold_in_eval
from petl.memory.base_dtype import ParameterRef, store_low
from petl.memory.fast_paths import EVERY_MODE, fast_path_for, fast_path_of
from petl.memory.modes import MEMORY_MODES
from tests.support.zoo import make

Make = Callable[[], nn.Module]


def adapted(layer: nn.Module, **options: object) -> nn.Module:
    """The layer with a LoRA on it."""
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 8, 5, 5) if isinstance(layer, nn.Conv2d) else torch.zeros(1, 8))
    petl.wrap(model, petl.LoRA(where=["0"], rank=2, **options), head="2", fused=False)  # type: ignore[arg-type]
    return layer


def stored_low(layer: nn.Module) -> nn.Module:
    store_low(ParameterRef("weight", layer, "weight"), torch.bfloat16)
    return layer


def frozen(norm: nn.Module) -> nn.Module:
    hold_in_eval(norm)
    return norm


def pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", amount=0.5)


class ScaledLinear(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


# what it is: (the layer, its fast path in each of the modes fast, lean, min)
LAYERS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "a frozen linear layer": (lambda: nn.Linear(8, 4), ("", "", "")),
    "a linear layer with LoRA": (lambda: adapted(nn.Linear(8, 4)), ("FusedLinear",) * 3),
    "a linear layer with DoRA": (lambda: adapted(nn.Linear(8, 4), dora=True), ("", "", "")),
    "a linear layer in low precision": (lambda: stored_low(nn.Linear(8, 4)), ("FusedLinear",) * 3),
    "a subclass of a linear layer with LoRA": (lambda: adapted(ScaledLinear(8, 4)), ("", "", "")),
    "a pruned linear layer": (lambda: pruned(nn.Linear(8, 4)), ("", "", "")),
    "a convolution": (lambda: nn.Conv2d(8, 4, 3), ("FusedConv",) * 3),
    "a convolution with LoRA": (lambda: adapted(nn.Conv2d(8, 4, 3)), ("FusedConv",) * 3),
    "a grouped convolution": (lambda: nn.Conv2d(8, 8, 3, groups=8), ("FusedConv",) * 3),
    "timm's convolution with SAME padding": (lambda: timm.layers.Conv2dSame(8, 4, 3), ("FusedConv",) * 3),
    "a standardised convolution": (lambda: timm.layers.StdConv2d(8, 4, 3), ("", "", "")),
    "a 1d convolution": (lambda: nn.Conv1d(8, 4, 3), ("", "", "")),
    "a transposed convolution": (lambda: nn.ConvTranspose2d(8, 4, 3), ("", "", "")),
    "a frozen norm": (lambda: frozen(nn.BatchNorm2d(8)), ("FrozenNorm",) * 3),
    "timm's frozen norm with an activation": (lambda: frozen(timm.layers.BatchNormAct2d(8)), ("FrozenNorm",) * 3),
    "a norm whose statistics move": (lambda: nn.BatchNorm2d(8), ("", "", "")),
    "a batch norm without statistics": (
        lambda: frozen(nn.BatchNorm2d(8, track_running_stats=False)),
        ("", "Recomputed", "Recomputed"),
    ),
    "a layer norm": (lambda: nn.LayerNorm(8), ("", "Recomputed", "Recomputed")),
    "a group norm": (lambda: nn.GroupNorm(2, 8), ("", "Recomputed", "Recomputed")),
    "GELU": (nn.GELU, ("", "Recomputed", "Recomputed")),
    "SiLU in place": (lambda: nn.SiLU(inplace=True), ("", "Recomputed", "Recomputed")),
    "leaky ReLU": (nn.LeakyReLU, ("", "", "")),
    "PReLU, whose slope may train": (nn.PReLU, ("", "", "")),
    "ReLU": (nn.ReLU, ("", "MaskedReLU", "MaskedReLU")),
    "ReLU6": (nn.ReLU6, ("", "MaskedReLU", "MaskedReLU")),
    "max pooling": (lambda: nn.MaxPool2d(2), ("", "IndexMaxPool", "IndexMaxPool")),
    "average pooling": (lambda: nn.AvgPool2d(2), ("", "", "")),
    "dropout": (nn.Dropout, ("", "", "")),
    "timm's Mlp": (lambda: timm.layers.Mlp(8), ("", "ChunkedMlp", "ChunkedMlp")),
    "timm's Mlp with convolutions": (lambda: timm.layers.Mlp(8, use_conv=True), ("", "", "")),
    "timm's gated Mlp": (lambda: timm.layers.GluMlp(8), ("", "", "")),
    "a container": (lambda: nn.Sequential(nn.ReLU()), ("", "", "")),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_fast_path_of_a_layer(kind: str) -> None:
    make_layer, expected = LAYERS[kind]
    layer = make_layer()
    before = type(layer)
    chosen = [fast_path_for(layer, mode=mode) for mode in MEMORY_MODES]
    assert tuple(path.__name__ if path else "" for path in chosen) == expected
    assert type(layer) is before, "choosing changes nothing"


@pytest.mark.parametrize("kind", LAYERS)
def test_an_output_that_is_kept_changes_only_relus(kind: str) -> None:
    layer = LAYERS[kind][0]()
    for mode in MEMORY_MODES:
        alone = fast_path_for(layer, mode=mode)
        shared = fast_path_for(layer, mode=mode, output_is_kept=True)
        expected = "SharedReLU" if alone is not None and alone.__name__ == "MaskedReLU" else alone and alone.__name__
        assert (shared and shared.__name__) == expected


def test_the_table_knows_every_mode() -> None:
    assert EVERY_MODE == MEMORY_MODES


@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_wrap_applies_the_choice(name: str, memory: str) -> None:
    model = petl.wrap(make(name), "lora", memory=memory)  # type: ignore[arg-type]
    for part in model.modules():
        choices = {fast_path_for(part, mode=memory, output_is_kept=is_kept) for is_kept in (False, True)}
        assert fast_path_of(part) in choices


def test_fused_false_leaves_every_layer_plain() -> None:
    model = petl.wrap(make("resnet"), "lora", fused=False)
    assert not any(fast_path_of(part) for part in model.modules())
