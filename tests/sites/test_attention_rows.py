"""Which rows of fused attention projections are q, k and v: judged by what they do, not by what petl believes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import petl
from petl.graft.kinds import grafts
from petl.methods.lora_weights import LowRank
from petl.sites.attention_rows import Rows, fused_rows, projection_letters
from petl.sites.roles import all_sites
from petl.sites.survey import survey_model
from tests.support.families import FAMILIES, build
from tests.support.zoo import disturb, output

# attention modules over channels: a token's value stays where it is, q and k reach all
CHANNELS = {"ChannelAttention", "ChannelAttentionV2", "XCA", "CrossCovarianceAttn"}
SEPARABLE = {"LinearSelfAttention"}  # a query number per token weighs keys into one context, which scales each value
RENAMED = {"ChannelAttention": {"q": "v", "k": "k", "v": "q"}}  # DaViT calls q what its attention is applied to
CONSTANTS = ("norm_v", "conv_lambda", "crpe")  # biases on the way of values: with them, zero values are no zeros


class Meddle(TorchFunctionMode):
    """Edits what one layer's weight makes, whoever multiplies by it."""

    def __init__(self, weight: Tensor, edit: Callable[[Tensor], None]):
        super().__init__()
        self.weight, self.edit, self.calls = weight, edit, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (F.linear, F.conv2d) and any(t is self.weight for t in (*args, *(kwargs or {}).values())):
            self.calls += 1
            rows_last = out if func is F.linear else out.movedim(1, -1)
            self.edit(rows_last)
        return out


class Case:
    """One fused projection in its attention module, with the inputs that it gets in a forward of the whole model."""

    def __init__(self, model: nn.Module, size: int, name: str, rows: Rows):
        self.weight, self.rows, self.module = model.get_submodule(name).weight, rows, self.attention(model, name)
        self.given: list[Any] = []
        handle = self.module.register_forward_pre_hook(
            lambda module, args, kwargs: self.given.append((args, kwargs)), with_kwargs=True
        )
        with torch.no_grad():
            model(torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
        handle.remove()

    @staticmethod
    def attention(model: nn.Module, name: str) -> nn.Module:
        """The module that holds what the name's word names."""
        parts = name.split(".")
        last = max(i for i in range(len(parts)) if projection_letters(parts[i]))
        return model.get_submodule(".".join(parts[:last]))

    def mask(self, letter: str) -> Tensor:
        """[rows] whether the row makes this letter."""
        one = "".join(name * count for name, count in self.rows)
        return torch.tensor([made == letter for made in one * (self.weight.shape[0] // len(one))])

    def output(
        self, *, fill: Mapping[str, float] | None = None, random: Collection[str] = (), nudge: str = ""
    ) -> Tensor:
        """What the attention answers when these rows are constant, noise, or off by a little for one token."""

        def edit(out: Tensor) -> None:
            for letter, value in (fill or {}).items():
                out[..., self.mask(letter)] = value
            for letter in random:
                mask, chance = self.mask(letter), torch.Generator().manual_seed(3)
                out[..., mask] = torch.randn(out[..., mask].shape, dtype=out.dtype, generator=chance)
            if nudge:
                noise = torch.randn(out.shape[-1], dtype=out.dtype, generator=torch.Generator().manual_seed(4))
                out[(0,) * (out.ndim - 1)] += noise * self.mask(nudge)

        args, kwargs = self.given[0]
        copies = tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, (args, kwargs))
        with torch.no_grad(), Meddle(self.weight, edit) as meddle:
            out = self.module(*copies[0], **copies[1])
        assert meddle.calls
        return torch.cat([t.flatten() for t in tree_leaves(out) if isinstance(t, Tensor)])

    def reach(self, letter: str) -> int:
        """How many numbers of the output change when these rows change for the first token."""
        return int(((self.output(nudge=letter) - self.output()).abs() > 1e-12).sum())


def in_float64(family: str) -> tuple[nn.Module, int]:
    name, size, options, _ = FAMILIES[family]
    model = build(name, size, num_classes=3, **options).double()
    for module in model.modules():
        if hasattr(module, "residual_pooling"):
            module.residual_pooling = False  # MViTv2 adds its queries to the values
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if any(part in key for part in CONSTANTS) and key.endswith(("bias", "running_mean")):
            nn.init.zeros_(tensor)
    return model, size


@pytest.mark.sweep(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_do_what_their_letters_say(family: str) -> None:
    """Without values nothing else matters; without keys values still do; a query stays at its token, a key doesn't."""
    model, size = in_float64(family)
    found = survey_model(model, size)
    layers = [
        s.name for s in all_sites(found) if {"linear", "conv"} & {*s.roles} and len(projection_letters(s.name)) > 1
    ]
    known = fused_rows(found, layers)
    assert {*known} == {*layers}, "some layouts were not found"
    heads = {n: model.get_submodule(n).weight.shape[0] // sum(count for _, count in known[n]) for n in layers}
    assert max(heads.values()) == FAMILIES[family][3]
    kinds = {(known[n], heads[n], type(Case.attention(model, n))): n for n in layers}
    for (rows, _, _), name in kinds.items():
        if model.get_submodule(name).weight.shape[1] == 1:
            continue  # csatv2's attention over one channel: a LayerNorm of one channel is constant, so nothing matters
        judge(Case(model, size, name, rows))


def judge(case: Case) -> None:
    kind, made = type(case.module).__name__, {letter for letter, _ in case.rows} - {"m"}
    q, k, v = (RENAMED.get(kind, {}).get(letter, letter) for letter in "qkv")
    if v in made:
        others = made - {v}
        assert same(case.output(fill={v: 0}), case.output(fill={v: 0}, random=others)), "something else is a value"
        assert not same(case.output(), case.output(random=others))
    if {k, v} <= made:
        assert not same(case.output(fill={k: 1}), case.output(fill={k: 1}, random=v)), "the key is the value"
    if q in made:
        reach = {letter: case.reach(letter) for letter in made}
        local = v if kind in CHANNELS | SEPARABLE else q
        assert reach.pop(local, 0) < min(reach.values(), default=10**9), (local, reach)


def same(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding of float64."""
    return bool((one - other).abs().max() <= 1e-11 * one.abs().max())


@pytest.mark.sweep(1)
@pytest.mark.parametrize("slices", ["q", "v", "qv", "kv"])
@pytest.mark.parametrize("family", ["vit", "maxvit", "levit, several heads", "shvit", "vit parallel", "pvt"])
def test_slices_change_these_rows_and_no_others(family: str, slices: str) -> None:
    model, size = in_float64(family)
    found = survey_model(model, size)
    fused = {
        s.name for s in all_sites(found) if {"linear", "conv"} & {*s.roles} and len(projection_letters(s.name)) > 1
    }
    known = fused_rows(found, fused)
    petl.wrap(model, "lora", slices=slices, rank=2, head=False)
    disturb(model)
    for name in fused:
        layer = model.get_submodule(name)
        one = "".join(letter * count for letter, count in known[name])
        wanted = torch.tensor([letter in slices for letter in one * (layer.weight.shape[0] // len(one))])
        moved = (layer.weight != layer._parameters["weight"]).flatten(1)
        assert torch.equal(moved.any(1), wanted)
    others = {*petl.record(model).sites[0]} - fused
    assert {projection_letters(name) for name in others} <= {*slices}
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    before = output(model, x)
    merged = petl.merge(model).requires_grad_(False)  # torch sums in another order where a weight requires a gradient
    assert torch.equal(output(merged, x), before)


SEPARATE = [
    "eva02_base_patch14_224",
    "mobilenetv4_hybrid_medium",
    "nextvit_small",
    "efficientformerv2_s0",
    "gemma4_vit_167m",
]


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", SEPARATE)
def test_separate_projections_are_taken_whole(name: str) -> None:
    if not timm.is_model(name):
        pytest.skip(f"{name} is not in timm {timm.__version__}")
    with torch.device("meta"):
        model = timm.create_model(name)
    sites = petl.record(petl.wrap(model, "lora", slices="qv", head=False)).sites[0]
    assert sites and {projection_letters(site) for site in sites} == {"q", "v"}
    assert all(isinstance(model.get_submodule(site).lora, LowRank) for site in sites)


def test_torchs_own_attention() -> None:
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    model = petl.wrap(VisionTransformer(32, 8, 1, 2, 32, 64, num_classes=5), "lora", slices="qv", head="heads")
    (name,) = petl.record(model).sites[0]
    attention = model.get_submodule(name)
    disturb(model)
    q, k, v = (attention.in_proj_weight != attention._parameters["in_proj_weight"]).chunk(3)
    assert q.all() and v.all() and not k.any()
    assert not grafts(attention.out_proj)


def test_what_takes_itself_apart_in_another_way_is_a_clear_error() -> None:
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.qkv, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(24, 2)

        def forward(self, x):
            return self.fc(self.qkv(self.stem(x).flatten(2).mean(2)))

    with pytest.raises(petl.SiteError, match=r"takes the output of qkv apart.*leave out slices"):
        petl.wrap(Odd(), "lora", slices="qv", head="fc")


@pytest.mark.deep
def test_a_sliced_delta_reloads(tmp_path) -> None:
    torch.manual_seed(0)
    model = disturb(petl.wrap(timm.create_model("test_maxvit", img_size=64), "lora", slices="qv", num_classes=3)).eval()
    x = torch.randn(2, 3, 64, 64)
    base = timm.create_model("test_maxvit", img_size=64)
    base.load_state_dict(
        {k: v for k, v in model.state_dict().items() if k in base.state_dict() and "head" not in k}, strict=False
    )
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), base).eval()
    assert torch.equal(again(x), model(x))
