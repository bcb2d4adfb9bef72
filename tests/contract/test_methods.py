"""The contract table: every method on architectures of every kind, judged by petl.check; then each method's own facts."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import petl
from tests.support.compare import differing, state
from tests.support.zoo import disturb, images, make, output


class Row(NamedTuple):
    """Methods and options, the architectures, channels of the images, and whether the whole folds."""

    methods: Any
    options: dict[str, Any]
    archs: str
    channels: int = 3
    folds: bool = True


EVERY_LAYER = ("linear", "conv", "depthwise")
CONTRACT = {
    "probe": Row("probe", {}, "resnet levit deit_distilled beit"),
    "bn": Row("bn", {}, "resnet densenet levit"),
    "bn-keep": Row("bn", {"stats": "keep"}, "efficientnet"),
    "bn-statistics": Row("bn", {"affine": False}, "byobnet"),
    "norm": Row("norm", {}, "vit swinv2 convnext efficientnet_gn efficientnet_evos"),
    "norm-adapt": Row("norm", {"stats": "adapt"}, "resnext"),
    "bias": Row("bias", {}, "beit eva eva_fused swinv2 nfnet coat sequencer"),
    "lora": Row("lora", {"rank": 2}, "vit2 beit eva eva_fused swinv2 resnet nfnet mambaout coat densenet"),
    "lora-fa": Row("lora", {"rank": 2, "freeze_down": True}, "vit2 resnet efficientnet_same"),
    "lora-all": Row(
        "lora",
        {"rank": 3, "where": EVERY_LAYER},
        "convnext efficientnet_same resnext levit sequencer condconv lowformer",
    ),
    "lora-slices": Row("lora", {"slices": "qv"}, "vit beit swinv2 eva crossvit"),
    "dora": Row("lora", {"rank": 2, "dora": True, "where": EVERY_LAYER}, "eva resnext nfnet sequencer lowformer"),
    "rslora": Row("lora", {"rank": 4, "rslora": True}, "swin"),
    "adapter": Row(
        "adapter", {"bottleneck": 4}, "vit4 swin convnext mambaout crossvit coatnet maxvit tnt", folds=False
    ),
    "adapter-parallel": Row(
        "adapter", {"where": "mlp", "parallel": True, "scale": 0.1}, "vit_relpos beit", folds=False
    ),
    "adapter-inside": Row("adapter", {"where": "branch", "kernel": 5}, "swin deit_distilled", folds=False),
    "input-1": Row("input", {"in_chans": 1}, "resnet beit crossvit repvgg", 1),
    "input-2": Row("input", {"in_chans": 2}, "efficientnet_same", 2),
    "input-4": Row("input", {"in_chans": 4}, "swin", 4),
    "input-13": Row("input", {"in_chans": 13}, "convnext2", 13),
    "input-in-front": Row("input", {"in_chans": 1}, "nfnet", 1, folds=False),
    "input-bias": Row("input", {"in_chans": 4, "bias": True}, "vit", 4),
    "partial": Row("partial", {}, "vit4 swin"),
    "partial-first": Row("partial", {"last": 0, "first": 2, "stats": "adapt"}, "resnet"),
    "full": Row("full", {}, "levit vit"),
    "peft": Row("peft:LoHa", {"r": 2}, "vit"),
    "seed-case": Row([petl.Input(in_chans=1), "bn", petl.LoRA(rank=2)], {}, "resnet efficientnet_same", 1),
    "lora+input": Row([petl.LoRA(rank=2), petl.Input(in_chans=5)], {}, "beit resnet", 5),
    "all-small": Row(["norm", "bias", petl.LoRA(rank=2)], {}, "swinv2 levit"),
    "with-adapter": Row(["bn", petl.LoRA(rank=2), petl.Adapter(bottleneck=4)], {}, "byobnet", folds=False),
}
CASES = [(row, arch) for row in CONTRACT for arch in CONTRACT[row].archs.split()]


@pytest.mark.sweep(3)
@pytest.mark.parametrize(("name", "arch"), CASES, ids=["-".join(case) for case in CASES])
def test_contract(name: str, arch: str) -> None:
    row = CONTRACT[name]
    torch.manual_seed(0)
    report = petl.check(make(arch), images(arch, row.channels), row.methods, num_classes=5, **row.options)
    assert report.ok, f"\n{report!r}"
    found = {finding.point: finding.status for finding in report}
    assert found.pop("merge") == ("pass" if row.folds else "n/a")
    assert found.pop("injection") == ("pass" if row.channels == 3 else "n/a")
    assert {*found.values()} == {"pass"}


def test_every_registered_method_has_a_row() -> None:
    ours = {name for name, cls in petl.methods().items() if cls.__module__.startswith("petl.methods.")}
    asked = [
        item for row in CONTRACT.values() for item in (row.methods if isinstance(row.methods, list) else [row.methods])
    ]
    assert ours <= {item.name if isinstance(item, petl.Method) else item.partition(":")[0] for item in asked}


@pytest.mark.parametrize("name", ["vit", "resnet", "beit", "levit"])
def test_training_by_hand_moves_what_trains_and_nothing_else(name: str) -> None:
    """The contract once without petl.check."""
    torch.manual_seed(0)
    methods = {"vit": "lora", "resnet": ["bn", "lora"], "beit": ["bias", "lora"], "levit": ["lora", "adapter"]}[name]
    model = petl.wrap(make(name), methods, num_classes=5).train()
    before, trains = state(model), {*petl.trainable(model)}
    optimizer = torch.optim.SGD(petl.trainable(model).values(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        out = model(images(name))
        sum((o.square() - o).sum() for o in (out if isinstance(out, tuple) else [out])).backward()
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        optimizer.step()
    moved = {*differing(before, state(model))}
    statistics = {k for k in before if "running" in k or "num_batches" in k}
    assert moved - statistics == trains
    assert moved & statistics == (statistics if name == "resnet" else {k for k in statistics if k.startswith("head")})


# ---- probe


@pytest.mark.parametrize("name", ["resnet", "deit_distilled", "swin"])
def test_probe_keeps_no_graph(name: str) -> None:
    model = petl.wrap(make(name), "probe", num_classes=5).train()
    features = model.forward_features(images(name))
    assert not features.requires_grad and features.grad_fn is None
    result = model(images(name))
    assert all(t.requires_grad for t in (result if isinstance(result, tuple) else [result]))
    head = {name for name, _ in model.named_modules() if name.startswith("head") or name == "fc"}
    awake = {name for name, module in model.named_modules() if module.training and name}
    assert awake <= head
    assert awake


def test_probe_keeps_dropout_of_the_backbone_off() -> None:
    model = petl.wrap(timm.create_model("test_resnet", drop_path_rate=0.9), "probe", num_classes=5).train()
    x = images("resnet")
    assert torch.equal(model.forward_features(x), model.forward_features(x))


# ---- bn, norm


def test_bn_moves_and_saves_statistics_or_holds_them() -> None:
    x = images("resnet")
    for stats, moves in (("adapt", True), ("keep", False)):
        model = petl.wrap(make("resnet"), "bn", stats=stats, num_classes=5).train()
        before = state(model)
        model(x + 1)
        moved = set(differing(before, state(model)))
        assert bool(moved) is moves
        assert not moves or moved == {
            k for k in before if k.endswith(("running_mean", "running_var", "num_batches_tracked"))
        }


def test_adapted_statistics_are_the_ones_that_plain_training_would_give() -> None:
    plain, model = make("resnet"), petl.wrap(make("resnet"), "bn", head=False)
    x = images("resnet")
    assert torch.equal(plain.train()(x), model.train()(x))
    assert not differing(state(plain), state(model))


@pytest.mark.parametrize("name", ["resnet", "levit", "densenet"])
def test_norms_that_nobody_tunes_stay_in_eval_for_good(name: str) -> None:
    model = petl.wrap(make(name), petl.LoRA(rank=2), num_classes=5)
    before = state(model)
    for _ in range(2):
        model.train()
        norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        head = petl.record(model).head
        assert {n for n, m in norms.items() if m.training} == {n for n in norms if n.startswith(head)}
        model(images(name))
    moved = differing(before, state(model))
    assert all(key.startswith(head) for key in moved)
    stem = next(m for n, m in norms.items() if not n.startswith(head))
    stem.train()
    assert not stem.training
    model.eval()
    assert not any(m.training for m in model.modules())


def test_batch_normalisation_of_a_held_norm_uses_its_statistics() -> None:
    plain, model = make("resnet").eval(), petl.wrap(make("resnet"), "lora", head=False, fused=False).train()
    assert torch.equal(plain(images("resnet")), model(images("resnet")))
    folded = petl.wrap(make("resnet"), "lora", head=False).train()  # into the convolutions: rounds in another order
    torch.testing.assert_close(folded(images("resnet")), plain(images("resnet")))


# ---- lora


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_numbers_by_hand(rslora: bool) -> None:
    model = disturb(petl.wrap(make("vit"), "lora", rank=4, alpha=6.0, rslora=rslora, head=False))
    for site in petl.find(model, "linear"):
        layer = model.get_submodule(site.name)
        scale = 6.0 / (math.sqrt(4) if rslora else 4)
        expected = layer._parameters["weight"] + scale * layer.lora.up @ layer.lora.down
        torch.testing.assert_close(layer.weight, expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(layer.weight, layer._parameters["weight"])


def test_dora_numbers_by_hand() -> None:
    """Liu et al. 2024, eq. 5: magnitude times the direction of W + BA, by output row."""
    model = disturb(petl.wrap(make("resnext"), "lora", rank=2, alpha=2.0, dora=True, head=False))
    for site in petl.find(model, "conv"):
        layer = model.get_submodule(site.name)
        base = layer._parameters["weight"].flatten(1)
        direction = base + layer.lora.up @ layer.lora.down
        expected = layer.lora.magnitude * direction / direction.norm(dim=1, keepdim=True)
        torch.testing.assert_close(layer.weight.flatten(1), expected, rtol=1e-5, atol=1e-6)
        assert layer.lora.magnitude.shape == (base.shape[0], 1)


def test_dora_gradients_by_hand() -> None:
    """Liu et al. 2024, section 4.3: the norm is a constant in the backward."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 5)).double(), torch.randn(3, 6, dtype=torch.float64)
    layer = disturb(petl.wrap(net, "lora", rank=2, alpha=2.0, dora=True, head=False), by=0.5)[0]
    up, down, magnitude = (
        p.detach().clone().requires_grad_() for p in (layer.lora.up, layer.lora.down, layer.lora.magnitude)
    )
    direction = layer._parameters["weight"] + up @ down
    weight = magnitude * direction / direction.norm(dim=1, keepdim=True).detach()
    (F.linear(x, weight, layer.bias) ** 3).sum().backward()
    (net(x) ** 3).sum().backward()
    for ours, by_hand in ((layer.lora.up, up), (layer.lora.down, down), (layer.lora.magnitude, magnitude)):
        torch.testing.assert_close(ours.grad, by_hand.grad)


def test_lora_starts_at_zero_change_with_a_live_random_half() -> None:
    base, model = make("swin"), petl.wrap(make("swin"), "lora", head=False)
    assert torch.equal(output(base, images("swin")), output(model, images("swin")))
    for site in petl.find(base, ("linear", "conv")):
        layer = model.get_submodule(site.name)
        assert not layer.lora.up.any() and layer.lora.down.abs().min() > 0


def test_rank_is_capped_at_what_the_weight_can_have() -> None:
    model = petl.wrap(nn.Sequential(nn.Linear(6, 4)), "lora", rank=64, head=False)
    assert model[0].lora.up.shape == (4, 4) and model[0].lora.down.shape == (4, 6)


@pytest.mark.parametrize("name", ["vit", "beit", "swinv2", "eva_fused"])
def test_slices_leave_the_other_rows_bit_equal(name: str) -> None:
    model = disturb(petl.wrap(make(name), "lora", slices="qv", where="*.qkv", head=False))
    sites = petl.record(model).sites[0]
    assert sites
    for site in sites:
        layer = model.get_submodule(site)
        q, k, v = (a != b for a, b in zip(layer.weight.chunk(3), layer._parameters["weight"].chunk(3), strict=True))
        assert q.all() and v.all() and not k.any()
    petl.merge(model)
    base = make(name)
    for site in sites:
        assert torch.equal(model.get_submodule(site).weight.chunk(3)[1], base.get_submodule(site).weight.chunk(3)[1])


def test_slices_choose_separate_projections() -> None:
    model = petl.wrap(make("eva"), "lora", slices="qv", head=False)
    assert {site.rpartition(".")[2] for site in petl.record(model).sites[0]} == {"q_proj", "v_proj"}


def test_slices_where_there_is_nothing_to_slice() -> None:
    with pytest.raises(petl.SiteError, match="attention projections"):
        petl.wrap(make("resnet"), "lora", slices="qv", num_classes=5)


@pytest.mark.parametrize("name", ["beit", "swinv2", "eva_fused"])
def test_lora_reaches_weights_that_are_read_without_their_layer(name: str) -> None:
    model = disturb(petl.wrap(make(name), "lora", where="*.qkv", head=False))
    adapted = output(model, images(name))
    by_hand = make(name)
    for site in petl.record(model).sites[0]:
        with torch.no_grad():
            by_hand.get_submodule(site).weight.copy_(model.get_submodule(site).weight)
    assert torch.equal(output(by_hand, images(name)), adapted)
    assert not torch.equal(adapted, output(make(name), images(name)))


@pytest.mark.deep
@pytest.mark.parametrize("dora", [False, True])
def test_lora_of_a_recurrent_layer_by_hand(dora: bool) -> None:
    """Every matrix of the LSTM has its own change, and the kernel computes with the changed ones."""
    torch.manual_seed(0)
    model = disturb(petl.wrap(make("sequencer"), "lora", rank=2, alpha=2.0, dora=dora, head=False), by=0.3).eval()
    name = "stages.0.blocks.0.rnn_tokens.rnn_v"
    layer, by_hand = model.get_submodule(name), make("sequencer").get_submodule(name)
    assert isinstance(layer, nn.LSTM)
    for param in [n for n, p in by_hand.named_parameters() if p.ndim == 2]:
        graft = getattr(layer, f"lora_{param}")
        weight = by_hand.get_parameter(param).detach() + graft.up @ graft.down
        weight = graft.magnitude * weight / weight.norm(dim=1, keepdim=True) if dora else weight
        with torch.no_grad():
            by_hand.get_parameter(param).copy_(weight)
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(layer(x)[0], by_hand(x)[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(layer(x)[0], make("sequencer").get_submodule(name)(x)[0], atol=1e-3)
    layer(x)[0].square().sum().backward()
    assert all(bool(p.grad.any()) for n, p in layer.named_parameters() if ".up" in n or ".down" in n)
    moved = layer.double()(x.double())[0]  # its list of weights follows the module
    torch.testing.assert_close(moved.float(), by_hand(x)[0], rtol=1e-4, atol=1e-5)


def test_lora_of_experts_by_hand() -> None:
    """Each expert of a CondConv2d has its own low-rank change of [out, in / groups * h * w]."""
    model = disturb(petl.wrap(make("condconv"), "lora", rank=2, alpha=2.0, where="blocks.4.0.*", head=False))
    for leaf in ("conv_pw", "conv_dw"):
        layer = model.get_submodule(f"blocks.4.0.{leaf}")
        assert isinstance(layer, timm.layers.CondConv2d)
        for expert in range(4):
            kernel = layer._parameters["weight"][expert].view(layer.weight_shape).flatten(1)
            expected = kernel + layer.lora.up[expert] @ layer.lora.down[expert]
            torch.testing.assert_close(layer.weight[expert].view(layer.weight_shape).flatten(1), expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_lora_of_a_transposed_convolution_by_hand(groups: int) -> None:
    """Output channels are the rows: the change is a convolution to ``rank`` features, each spread to outputs by ``up``."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(4, 8, 3, stride=2, groups=groups)).double()
    base, x = copy.deepcopy(net[0]), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    layer = disturb(petl.wrap(net, "lora", where="0", rank=2, alpha=2.0, head=False), by=0.3)[0]
    assert layer.lora.up.shape == (8, 2) and layer.lora.down.shape == (2, 4 // groups * 9)
    rows = (layer.lora.up @ layer.lora.down).view(8, 4 // groups, 3, 3)  # [out, in / groups, h, w]
    kernel = torch.cat([rows[i * 8 // groups : (i + 1) * 8 // groups].transpose(0, 1) for i in range(groups)])
    expected = F.conv_transpose2d(x, base.weight + kernel, base.bias, stride=2, groups=groups)
    torch.testing.assert_close(layer(x), expected)


PADDED = {
    "same by name": lambda: nn.Conv2d(3, 4, 3, padding="same"),
    "valid by name": lambda: nn.Conv2d(3, 4, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "dilated": lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2, stride=2),
    "grouped": lambda: nn.Conv2d(3, 6, 3, groups=3),
    "SAME": lambda: timm.layers.Conv2dSame(3, 4, 3, stride=2),
    "standardised": lambda: timm.layers.StdConv2d(3, 4, 3),
    "standardised, SAME": lambda: timm.layers.StdConv2dSame(3, 4, 3, stride=2),
    "scaled": lambda: timm.layers.ScaledStdConv2d(3, 4, 3),
    "scaled, SAME": lambda: timm.layers.ScaledStdConv2dSame(3, 4, 3, stride=2),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 3, stride=2),
    "three axes": lambda: nn.Sequential(nn.Unflatten(2, (1, 12)), nn.Conv3d(3, 4, (1, 3, 3)), nn.Flatten(2, 3)),
}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", PADDED)
def test_lora_on_every_kind_of_convolution(kind: str, dora: bool) -> None:
    """The class's own forward on the changed weight, also after folding, with a gradient for every tensor."""
    torch.manual_seed(0)
    net, x = nn.Sequential(PADDED[kind]()), torch.randn(2, 3, 12, 12)
    roles = ("conv", "depthwise")
    model = disturb(petl.wrap(copy.deepcopy(net), "lora", where=roles, rank=2, dora=dora, head=False), by=0.3)
    layer = next(m for m in model.modules() if hasattr(m, "lora"))
    plain = next(m for m in net.modules() if type(m) is type(layer).__mro__[1] or hasattr(m, "kernel_size"))
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
    before = output(model, x)
    assert torch.equal(before, output(net, x))
    model(x).square().sum().backward()
    assert all(bool(p.grad.any()) for p in petl.trainable(model).values())
    assert torch.equal(output(petl.merge(model), x), before)


@pytest.mark.deep
def test_lora_of_torchs_own_attention() -> None:
    """nn.MultiheadAttention reads its matrices itself: [q | k | v] fused or apart, and the output's without a call."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    base = VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)
    nn.init.normal_(base.heads.head.weight)
    x = torch.randn(3, 3, 32, 32)
    report = petl.check(base, x, "lora", rank=2, head="heads")
    assert report.ok, f"\n{report!r}"
    model = petl.wrap(copy.deepcopy(base), "lora", rank=2, head="heads")
    attention = "encoder.layers.encoder_layer_0.self_attention"
    assert {f"{attention}.lora_in_proj_weight.up", f"{attention}.out_proj.lora.up"} <= {*petl.trainable(model)}
    apart = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
    assert petl.sites.layers.weight_names(apart) == ["q_proj_weight", "k_proj_weight", "v_proj_weight"]


# ---- adapter


def test_adapter_shapes_of_tokens_and_maps() -> None:
    tokens = petl.wrap(make("vit"), "adapter", bottleneck=5, head=False).blocks[0].adapter.parts["0"]
    assert isinstance(tokens.down, nn.Linear) and tokens.down.weight.shape == (5, 64)
    first = petl.wrap(make("convnext"), "adapter", kernel=5, head=False)
    grafted = [m for m in first.modules() if hasattr(m, "adapter")]
    assert all(not m.adapter.parts["0"].last and m.adapter.parts["0"].down.kernel_size == (5, 5) for m in grafted)
    last = petl.wrap(make("swin"), "adapter", head=False)
    assert all(m.adapter.parts["0"].last for m in last.modules() if hasattr(m, "adapter"))


@pytest.mark.parametrize("name", ["swin", "mambaout", "convnext", "vit"])
def test_adapter_output_by_hand(name: str) -> None:
    """The adapted block gives block + scale * up(gelu(down(block))), channels last by way of a permutation."""
    torch.manual_seed(0)
    model = disturb(petl.wrap(make(name), "adapter", scale=0.5, head=False), by=0.3).eval()
    site = petl.record(model).sites[0][0]
    block, seen = model.get_submodule(site), []
    block.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        model(images(name))
        part, (x, out) = block.adapter.parts["0"], seen[0]
        plain = make(name).get_submodule(site)(x)
        last = name in ("swin", "mambaout")
        moved = plain.permute(0, 3, 1, 2) if last else plain
        if name != "vit":
            width = part.down.out_channels
            moved = F.conv2d(moved, part.down.weight, part.down.bias, padding=1, groups=width)
            change = F.conv2d(F.gelu(moved), part.up.weight, part.up.bias)
        else:
            change = part.up(F.gelu(part.down(moved)))
        change = change.permute(0, 2, 3, 1) if last else change
    torch.testing.assert_close(out, plain + 0.5 * change, rtol=1e-4, atol=1e-5)
    assert not torch.equal(out, plain)


def test_parallel_adapter_reads_the_input() -> None:
    torch.manual_seed(0)
    model = disturb(petl.wrap(make("vit"), "adapter", where="mlp", parallel=True, scale=0.1, head=False), by=0.3).eval()
    mlp, plain = model.blocks[0].mlp, make("vit").blocks[0].mlp
    x = torch.randn(2, 5, 64)
    part = mlp.adapter.parts["0"]
    with torch.no_grad():
        expected = plain(x) + 0.1 * part.up(F.gelu(part.down(x)))
    torch.testing.assert_close(mlp(x), expected, rtol=1e-5, atol=1e-6)


def test_adapters_on_every_tensor_of_a_block_that_returns_several() -> None:
    """TNT's blocks hand on pixels and patches; behind the last one nobody reads the pixels."""
    model = petl.wrap(make("tnt"), "adapter", head=False)
    assert [{*m.adapter.parts} for m in model.blocks] == [{"0", "1"}, {"1"}]
    base = output(make("tnt"), images("tnt"))
    assert torch.equal(output(model, images("tnt")), base)
    for part in ("0", "1"):
        one = copy.deepcopy(model)
        with torch.no_grad():
            one.blocks[0].adapter.parts[part].up.bias.normal_()
        assert not torch.equal(output(one, images("tnt")), base)


def test_adapter_can_not_be_merged_and_says_why() -> None:
    model = petl.wrap(make("vit"), ["lora", "adapter"], num_classes=5)
    before = state(model)
    with pytest.raises(petl.StateError, match="nonlinear"):
        petl.merge(model)
    assert not differing(before, state(model)) and petl.record(model)


# ---- input


@pytest.mark.parametrize("name", ["resnet", "efficientnet_same", "beit", "crossvit", "repvgg", "nfnet"])
def test_gray_equals_the_base_on_replicated_gray(name: str) -> None:
    """Equal up to the order of summation: one channel's kernel is the sum of three."""
    gray = images(name, 1)
    expected = output(make(name), gray.expand(-1, 3, -1, -1))
    got = output(petl.wrap(make(name), "input", in_chans=1, head=False), gray)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("channels", [4, 13])
@pytest.mark.parametrize("name", ["convnext", "crossvit", "nfnet"])
def test_further_channels_start_at_zero(name: str, channels: int) -> None:
    many = images(name, channels)
    expected = output(make(name), many[:, :3])
    model = petl.wrap(make(name), "input", in_chans=channels, head=False)
    got = output(model, many)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    louder = torch.cat([many[:, :3], many[:, 3:] * 100], 1)
    torch.testing.assert_close(output(model, louder), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_two_channels_feed_their_mean() -> None:
    two = images("resnet", 2)
    expected = output(make("resnet"), two.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    got = output(petl.wrap(make("resnet"), "input", in_chans=2, head=False), two)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_three_channels_start_as_the_base_bit_for_bit() -> None:
    model = petl.wrap(make("resnet"), "input", in_chans=3, head=False)
    assert torch.equal(output(model, images("resnet")), output(make("resnet"), images("resnet")))


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_input_folds_into_what_timm_builds_for_so_many_channels(channels: int) -> None:
    model = disturb(petl.wrap(make("resnet"), "input", in_chans=channels, num_classes=5))
    before = output(model, images("resnet", channels))
    assert petl.in_chans(model) == channels
    petl.merge(model)
    plain = timm.create_model("test_resnet", in_chans=channels, num_classes=5)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(output(plain, images("resnet", channels)), before)
    assert torch.equal(output(model, images("resnet", channels)), before)


def test_input_bias_folds_where_nothing_is_padded() -> None:
    torch.manual_seed(0)
    model = disturb(petl.wrap(make("vit"), "input", in_chans=2, bias=True, num_classes=5))
    base, x = make("vit"), images("vit", 2)
    mix, shift = model.patch_embed.proj.input.mix, model.patch_embed.proj.input_shift.shift
    assert shift.abs().min() > 0
    with torch.no_grad():
        expected = base.patch_embed(torch.einsum("ck,bkhw->bchw", mix, x) + shift.view(1, 3, 1, 1))
        torch.testing.assert_close(model.patch_embed(x), expected, rtol=1e-4, atol=1e-4)
    before = output(model, x)
    assert torch.equal(output(petl.merge(model), x), before)


@pytest.mark.parametrize(("name", "reason"), [("resnet", "pads with zeros"), ("nfnet", "does not apply one weight")])
def test_input_that_can_not_fold_says_why(name: str, reason: str) -> None:
    model = petl.wrap(make(name), "input", in_chans=1, bias=name == "resnet", num_classes=5)
    before = state(model)
    with pytest.raises(petl.StateError, match=reason):
        petl.merge(model)
    assert not differing(before, state(model))
    assert not all(row.foldable for row in petl.summary(model))


def test_input_bias_in_front_of_a_padding_stem_by_hand() -> None:
    torch.manual_seed(0)
    model, base = disturb(petl.wrap(make("resnet"), "input", in_chans=2, bias=True, head=False)), make("resnet")
    pointwise = next(m for n, m in model.named_modules() if n.endswith(".input"))
    x = images("resnet", 2)
    with torch.no_grad():
        expected = base(F.conv2d(x, pointwise.mix.weight, pointwise.mix.bias))
    torch.testing.assert_close(output(model, x), expected, rtol=1e-4, atol=1e-4)
    assert pointwise.mix.bias.abs().min() > 0


@pytest.mark.parametrize("name", ["crossvit", "repvgg"])
def test_all_stems_get_the_input_adapter(name: str) -> None:
    model = make(name)
    stems = [site.name for site in petl.find(model, "stem")]
    assert len(stems) == 2
    petl.wrap(model, "input", in_chans=1, head=False)
    assert petl.record(model).sites == [stems]


@pytest.mark.parametrize("name", ["resnet", "beit", "nfnet"])
def test_input_and_lora_in_both_orders(name: str) -> None:
    parts = [petl.Input(in_chans=2), petl.LoRA(rank=2)]
    results = []
    for methods in (parts, parts[::-1]):
        torch.manual_seed(0)
        model = disturb(petl.wrap(make(name), methods, num_classes=5))
        assert petl.in_chans(model) == 2
        results.append(output(model, images(name, 2)))
        if name != "nfnet":
            assert torch.equal(output(petl.merge(model), images(name, 2)), results[-1])
    assert all(r.shape == (3, 5) for r in results)


def test_input_on_a_base_that_was_built_for_other_channels() -> None:
    base = timm.create_model("test_resnet", in_chans=6, num_classes=5)
    model = petl.wrap(base, "input", in_chans=8, head=False)
    assert output(model, images("resnet", 8)).shape == (3, 5)


# ---- bias


@pytest.mark.parametrize(("name", "own"), [("beit", {"q_bias", "v_bias"}), ("eva_fused", {"q_bias", "v_bias"})])
def test_bias_finds_the_attentions_own(name: str, own: set[str]) -> None:
    model = petl.wrap(make(name), "bias", num_classes=5)
    trains = petl.trainable(model)
    assert own <= {key.rpartition(".")[2] for key in trains}
    assert all(key.endswith("bias") for key in trains if not key.startswith("head"))
    assert not any("relative_position" in key for key in trains)


def test_bias_trains_every_bias_and_no_matrix() -> None:
    model = petl.wrap(make("vit"), "bias", num_classes=5)
    expected = {k for k, _ in make("vit").named_parameters() if k.endswith(".bias")} | {"head.weight", "head.bias"}
    assert {*petl.trainable(model)} == expected


# ---- partial, full


def test_partial_last_and_first_blocks() -> None:
    names = {k for k, _ in make("vit").named_parameters()}
    last = {*petl.trainable(petl.wrap(make("vit"), "partial", last=1, num_classes=5))}
    assert last == {k for k in names if k.startswith(("blocks.2.", "norm.", "head."))}
    first = {*petl.trainable(petl.wrap(make("vit"), "partial", last=0, first=1, num_classes=5))}
    assert first == {k for k in names if not k.startswith(("blocks.1.", "blocks.2.", "norm."))}
    both = {*petl.trainable(petl.wrap(make("vit"), "partial", last=1, first=1, num_classes=5))}
    assert both == last | first


def test_partial_without_a_head() -> None:
    model = petl.wrap(make("resnet"), "partial", last=1, head=False)
    assert all(k.startswith("layer4.") for k in petl.trainable(model))


def test_partial_with_more_blocks_than_there_are() -> None:
    with pytest.raises(petl.SiteError, match="3 blocks"):
        petl.wrap(make("vit"), "partial", last=4)


def test_full_trains_everything() -> None:
    model = petl.wrap(make("resnet"), "full", num_classes=5)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.train().modules() if isinstance(m, nn.BatchNorm2d))
    assert all(
        m.training
        for m in petl.wrap(make("resnet"), "full", stats="adapt").train().modules()
        if isinstance(m, nn.BatchNorm2d)
    )


# ---- options


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"rank": 0}),
        ("lora", {"rank": -3}),
        ("lora", {"slices": "xyz"}),
        ("lora", {"slices": ""}),
        ("lora", {"slices": "qv", "dora": True}),
        ("input", {"in_chans": 0}),
        ("adapter", {"bottleneck": 0}),
        ("adapter", {"kernel": 2}),
        ("bn", {"stats": "move"}),
        ("bn", {"affine": False, "stats": "keep"}),
        ("partial", {"last": 0}),
        ("partial", {"last": -1, "first": 2}),
        ("full", {"stats": True}),
        ("lora", {"rnak": 8}),
    ],
)
def test_options_that_no_method_can_have(method: str, options: dict[str, Any]) -> None:
    with pytest.raises(petl.MethodError, match=method):
        petl.wrap(make("vit"), method, **options)


@pytest.mark.parametrize(("method", "name"), [("lora", "vit"), ("norm", "vit"), ("bn", "resnet")])
def test_patterns_take_only_what_the_method_can_change(method: str, name: str) -> None:
    """A pattern that also matches containers and other layers means those of the method's kind inside."""
    where = "blocks.0.*" if name == "vit" else "layer1.*"
    model = petl.wrap(make(name), method, where=where, head=False)
    kinds = {"lora": (nn.Linear, nn.Conv2d), "norm": (nn.LayerNorm,), "bn": (nn.BatchNorm2d,)}[method]
    inside = {n for n, m in make(name).named_modules() if n.startswith(where[:-1]) and isinstance(m, kinds)}
    assert {*petl.record(model).sites[0]} == inside
    with pytest.raises(petl.SiteError, match=method):
        petl.wrap(make("vit"), method, where="pos_drop" if method != "lora" else "blocks.0.norm1")


@pytest.mark.parametrize(("option", "value"), [("rank", "8"), ("rank", 2.5), ("alpha", "big"), ("rank", True)])
def test_options_of_the_wrong_type(option: str, value: Any) -> None:
    with pytest.raises(petl.MethodError, match=option):
        petl.wrap(make("vit"), "lora", **{option: value})


@pytest.mark.parametrize(
    "name", sorted(n for n, c in petl.methods().items() if c.__module__.startswith("petl.methods."))
)
def test_methods_are_plain_values(name: str) -> None:
    import json

    from petl.methods.registry import method_from_json

    cls = petl.methods()[name]
    method = cls()
    assert method_from_json(json.loads(json.dumps(method.to_json()))) == method
    with pytest.raises(AttributeError):
        method.where = "linear"  # type: ignore[misc]  # frozen
    with pytest.raises(TypeError):
        cls("linear")  # keyword-only
