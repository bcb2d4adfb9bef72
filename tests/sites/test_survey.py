"""One forward on shapes alone: recorded shapes and axes, models of other sizes, types and makers."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import petl
from tests.support.compare import portrait
from tests.support.places import names
from tests.support.zoo import images, make


@pytest.mark.parametrize("name", ["vit", "resnet", "beit", "levit", "crossvit", "swin"])
def test_finding_touches_nothing(name: str) -> None:
    model = make(name).train()
    calls: list[str] = []
    model.register_forward_hook(lambda *_: calls.append("model"))
    next(m for m in model.modules() if isinstance(m, nn.Conv2d)).register_forward_pre_hook(
        lambda *_: calls.append("stem")
    )
    before = portrait(model)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = torch.rand(1)
    torch.manual_seed(5)
    assert petl.find(model, "all")
    assert torch.equal(torch.rand(1), expected), "petl.find drew random numbers"
    assert portrait(model) == before and not calls


@pytest.mark.sweep(5)
@pytest.mark.parametrize(
    "name", ["swin", "convnext", "mambaout", "maxvit", "resnet", "vit", "crossvit", "coatnet", "swinv2"]
)
def test_recorded_shapes_and_channel_axes_are_the_real_ones(name: str) -> None:
    """What a real forward on a real batch shows has the same ranks and the same channels at the said axis."""
    model = make(name)
    sites = petl.find(model, "block")
    for site in sites:
        shapes: list[torch.Size] = []
        handle = model.get_submodule(site.name).register_forward_hook(
            lambda m, args, out, shapes=shapes: shapes.extend(
                t.shape for t in (out if isinstance(out, (list, tuple)) else [out])
            )
        )
        model(images(name))
        handle.remove()
        assert len(shapes) == len(site.outputs)
        widths = {
            m.normalized_shape[-1] for m in model.get_submodule(site.name).modules() if isinstance(m, nn.LayerNorm)
        }
        widths |= {
            w
            for m in model.get_submodule(site.name).modules()
            if (w := getattr(m, "out_channels", getattr(m, "out_features", 0)))
        }
        for shape, said, axis in zip(shapes, site.outputs, site.axes, strict=True):
            assert len(shape) == len(said) and shape[axis] == said[axis]
            assert shape[axis] in widths
            assert axis == (-1 if len(shape) != 4 else 3 if name in ("swin", "swinv2", "mambaout") else 1)


@pytest.mark.parametrize("size", [24, 56, 7])
def test_square_maps_as_high_as_deep_are_told_apart(size: int) -> None:
    """[b, c, h, w] with c == h == w in one model and [b, h, w, c] in the other."""

    class First(nn.Module):
        def __init__(self, last: bool):
            super().__init__()
            self.blocks = nn.ModuleList(Cell(size, last) for _ in range(2))
            self.stem = nn.Conv2d(3, size, 3, padding=1)
            self.last = last

        def forward(self, x):
            x = nn.functional.adaptive_avg_pool2d(self.stem(x), (size, size * x.shape[3] // x.shape[2]))
            x = x.permute(0, 2, 3, 1) if self.last else x
            for block in self.blocks:
                x = block(x)
            return x

    class Cell(nn.Module):
        def __init__(self, width: int, last: bool):
            super().__init__()
            self.layer = nn.Linear(width, width) if last else nn.Conv2d(width, width, 1)

        def forward(self, x):
            return x + self.layer(x)

    for last in (True, False):
        sites = petl.find(First(last), "block")
        assert [site.axes for site in sites] == [(3 if last else 1,)] * 2


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    ("architecture", "options", "channels"),
    [
        ("test_vit", {"img_size": 96}, 3),
        ("test_maxvit", {"img_size": 64}, 3),
        ("test_coatnet", {"img_size": 64}, 3),
        ("levit_128s", {"img_size": 128}, 3),
        ("test_resnet", {"in_chans": 5}, 5),
        ("test_vit", {"in_chans": 1}, 1),
        ("test_maxvit", {"img_size": 96, "in_chans": 6}, 6),
        ("test_vit", {"img_size": (64, 96)}, 3),
        ("test_vit", {"dynamic_img_size": True}, 3),
        ("test_convnext", {"in_chans": 2}, 2),
        ("test_efficientnet", {"in_chans": 8}, 8),
    ],
)
def test_survey_of_changed_image_size(architecture: str, options: dict, channels: int) -> None:
    if not timm.is_model(architecture):
        pytest.skip(f"{architecture} is not in timm {timm.__version__}")
    model = timm.create_model(architecture, num_classes=3, **options)
    assert petl.in_chans(model) == channels
    assert petl.find(model, "block")
    petl.wrap(model, "lora", num_classes=5)
    assert petl.record(model).backbone["in_chans"] == channels


def test_features_only_models() -> None:
    model = timm.create_model("test_resnet", features_only=True)
    assert len(petl.find(model, "conv")) > 5
    wrapped = petl.wrap(model, "lora", head=False)
    assert [t.shape[1] for t in wrapped(images("resnet"))] == model.feature_info.channels()


def test_half_precision_and_meta_models() -> None:
    plain = names(make("resnet"), "all")
    assert names(make("resnet").half(), "all") == plain
    assert names(make("resnet").to("meta"), "all") == plain
    assert names(make("resnet").to(memory_format=torch.channels_last), "all") == plain


def test_torchvision_without_any_contract() -> None:
    from torchvision.models import resnet18

    model = resnet18()
    assert names(model, "stem") == ["conv1"]
    assert len(names(model, "batchnorm")) == 20
    assert names(model, "block")[:2] == ["layer1.0", "layer1.1"]
