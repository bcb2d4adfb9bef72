"""Where things can go: roles, patterns, order, shapes; the model is only looked at."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from torch import nn

import petl
from tests.support.compare import portrait
from tests.support.zoo import ZOO, images, make


def names(model: nn.Module, where: petl.Where) -> list[str]:
    return [site.name for site in petl.find(model, where)]


@functools.cache
def everything(name: str) -> petl.Sites:
    return petl.find(make(name), "all")


def playing(name: str, role: str) -> set[str]:
    """Names of the zoo model's sites that play this role, out of one survey for all tests."""
    return {site.name for site in everything(name) if role in site.roles}


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


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", ZOO)
def test_roles_are_what_the_classes_say(name: str) -> None:
    modules, head = dict(make(name).named_modules()), playing(name, "head")
    linear = {n for n, m in modules.items() if isinstance(m, (nn.Linear, nn.LSTM)) and n not in head}
    assert playing(name, "linear") == linear
    kinds = (nn.modules.conv._ConvNd, timm.layers.CondConv2d)
    convs = {n: m for n, m in modules.items() if isinstance(m, kinds) and n not in head}
    depthwise = {n for n, m in convs.items() if m.groups == m.in_channels > 1}
    assert playing(name, "depthwise") == depthwise
    assert playing(name, "conv") == {*convs} - depthwise
    norms = {
        n for n, m in modules.items() if isinstance(m, (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm))
    }
    assert norms - head <= playing(name, "norm")
    batchnorms = {n for n, m in modules.items() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert playing(name, "batchnorm") == batchnorms - head


@pytest.mark.parametrize("name", ZOO)
def test_head_is_the_classifier_by_timms_word(name: str) -> None:
    model = make(name)
    asked = model.get_classifier()
    heads = asked if isinstance(asked, (tuple, list, nn.ModuleList)) else [asked]
    inside = {
        id(layer)
        for head in heads
        for layer in head.modules()
        if next(layer.parameters(recurse=False), None) is not None
    }
    modules = dict(model.named_modules())
    assert {
        id(modules[n]) for n in playing(name, "head") if next(modules[n].parameters(recurse=False), None) is not None
    } == inside


BLOCKS = {
    "vit": ["blocks.0", "blocks.1", "blocks.2"],
    "beit": ["blocks.0", "blocks.1"],
    "swinv2": [f"layers.{i}.blocks.{j}" for i in (0, 1) for j in (0, 1)],
    "tnt": ["blocks.0", "blocks.1"],
    "mambaout": None,
    "maxvit": None,
    "coatnet": None,
    "efficientnet": None,
    "densenet": None,
    "coat": None,
    "levit": None,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_found_in_the_order_of_execution(name: str) -> None:
    model, order = make(name), []
    found = names(model, "block")
    assert len(found) >= 2
    assert not any(a != b and b.startswith(f"{a}.") for a in found for b in found), "a block inside a block"
    expected = BLOCKS[name]
    assert expected is None or [b for b in found if "downsample" not in b] == expected
    for block in found:
        model.get_submodule(block).register_forward_pre_hook(lambda *_, block=block: order.append(block))
    model(images(name))
    assert list(dict.fromkeys(order)) == found


@pytest.mark.parametrize("name", ZOO)
def test_stems_are_the_layers_that_see_the_image(name: str) -> None:
    model, batch = make(name), images(name)
    stems, seen = playing(name, "stem"), []
    for n, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_pre_hook(
                lambda m, args, n=n: seen.append(n) if args[0].shape[1] == 3 and args[0].ndim == 4 else None
            )
    model(batch)
    assert stems == {*seen}


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


def test_patterns_full_names_and_lists() -> None:
    model = make("vit")
    assert names(model, "blocks.*.attn.qkv") == [f"blocks.{i}.attn.qkv" for i in range(3)]
    assert names(model, "blocks.1.mlp.fc1") == ["blocks.1.mlp.fc1"]
    assert names(model, ["blocks.1.mlp.fc1", "blocks.0.attn.qkv", "blocks.1.mlp.fc1"]) == [
        "blocks.0.attn.qkv",
        "blocks.1.mlp.fc1",
    ]
    assert names(model, "blocks.[02].attn.proj") == ["blocks.0.attn.proj", "blocks.2.attn.proj"]
    assert {*names(model, ("linear", "conv"))} == {*names(model, "linear"), *names(model, "conv")}


def test_patterns_are_full_names_never_suffixes() -> None:
    with pytest.raises(petl.SiteError, match=r"'qkv'.*near names"):
        petl.find(make("vit"), "qkv")


@pytest.mark.parametrize(
    ("where", "near"), [("linaer", "linear"), ("blocks.9.attn.qkv", "blocks.0.attn.qkv"), ("Conv", "conv")]
)
def test_unknown_places_get_near_names(where: str, near: str) -> None:
    with pytest.raises(petl.SiteError, match=f"(?s){where}.*near names.*{near}"):
        petl.find(make("vit"), where)


def test_a_role_that_nobody_plays_is_an_empty_answer() -> None:
    assert petl.find(make("vit"), "batchnorm") == []


def test_sites_print_as_a_table() -> None:
    table = repr(petl.find(make("vit"), ["blocks.0.attn.qkv", "stem"])).splitlines()
    assert table[0].split() == ["name", "kind", "weight", "roles"]
    assert table[1].split() == ["patch_embed.proj", "Conv2d", "64x3x16x16", "conv", "stem"]
    assert table[2].split() == ["blocks.0.attn.qkv", "Linear", "192x64", "linear"]


def test_layers_that_never_run_are_left_out() -> None:
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x).mean((2, 3))

    assert names(Spare(), ("linear", "conv")) == ["used"]


OWN = "own, neither matrix nor bias of a layer: 'full' or 'partial' train it"
LEFT = {
    "vit": {"cls_token": f"VisionTransformer's {OWN}", "pos_embed": f"VisionTransformer's {OWN}"},
    "beit": {
        "blocks.0.attn.q_bias": "a bias of no layer with a role: 'bias' trains it",
        "blocks.1.attn.relative_position_bias_table": f"Attention's {OWN}",
    },
    "levit": {"stages.0.blocks.0.attn.attention_biases": f"Attention's {OWN}"},
    "swinv2": {"layers.0.blocks.0.attn.logit_scale": f"WindowAttention's {OWN}"},
    "nfnet": {"stem.conv1.gain": f"ScaledStdConv2d's {OWN}"},
    "resnet": {},
    "sequencer": {},
    "condconv": {},
    "lowformer": {},
}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", LEFT)
def test_all_says_what_is_not_reached_and_why(name: str) -> None:
    """Every parameter is reached by a role or listed with its reason, never both, never neither."""
    model, sites = make(name), petl.find(make(name), "all")
    left = {entry.name: entry for entry in sites.left}
    assert LEFT[name].items() <= {n: entry.why for n, entry in left.items()}.items()
    assert bool(left) == bool(LEFT[name])
    layers = {site.name for site in sites if {"linear", "conv", "depthwise", "norm", "head"} & {*site.roles}}
    for key, parameter in model.named_parameters():
        assert (key in left) != (key.rpartition(".")[0] in layers) or key.endswith(".gain")
        assert key not in left or left[key].shape == parameter.shape
    table = repr(sites)
    assert all(entry.name in table and entry.why in table for entry in left.values())


def test_what_the_forward_never_reads_is_left_with_that_reason() -> None:
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare, self.token = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.used(x).mean((2, 3)) * self.token

    left = {entry.name: entry.why for entry in petl.find(Spare(), "all").left}
    never = "not read in the forward"
    assert left == {"token": f"Spare's {OWN}", "spare.weight": never, "spare.bias": never}
    assert not petl.find(Spare(), "conv").left


@pytest.mark.parametrize("name", ["beit", "swinv2", "eva_fused"])
def test_weights_that_are_read_without_a_call_count_as_running(name: str) -> None:
    assert any(n.endswith("attn.qkv") for n in names(make(name), "linear"))


def test_a_shared_module_is_one_site() -> None:
    model = make("coat")
    found = names(model, "all")
    assert len(found) == len(set(found))
    assert len({id(model.get_submodule(n)) for n in found}) == len(found)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", ["vit", "resnet", "beit", "swin", "efficientnet_same"])
def test_find_on_a_wrapped_model(name: str) -> None:
    """What has grown is no place of its own, and the rest is where it was."""
    model = make(name)
    before = petl.find(model, "all")
    petl.wrap(model, [petl.LoRA(where=("linear", "conv", "depthwise")), "adapter"], head=False)
    assert petl.find(model, "all") == before


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


def test_a_block_with_norm_in_its_name_and_a_scalar_gain_is_no_norm() -> None:
    """dm_nfnet's NormFreeBlock has a gain without dimensions."""
    with torch.device("meta"):
        model = timm.create_model("dm_nfnet_f0", num_classes=4)
    assert any(p.ndim == 0 for p in model.parameters())
    assert petl.find(model, "conv") and petl.find(model, "block")
    assert not petl.find(model, "norm")
