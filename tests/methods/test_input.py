"""Images of any number of channels in front of a base for three."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F

import petl
from tests.support.compare import differing, state
from tests.support.zoo import disturb, images, make, output


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", ["resnet", "efficientnet_same", "beit", "crossvit", "repvgg", "nfnet"])
def test_gray_equals_the_base_on_replicated_gray(name: str) -> None:
    """Equal up to the order of summation: one channel's kernel is the sum of three."""
    gray = images(name, 1)
    expected = output(make(name), gray.expand(-1, 3, -1, -1))
    got = output(petl.wrap(make(name), "input", in_chans=1, head=False), gray)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("channels", [4, 13])
@pytest.mark.parametrize("name", ["convnext", "crossvit", "nfnet"])
@pytest.mark.sweep(2)
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
@pytest.mark.sweep(1)
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
