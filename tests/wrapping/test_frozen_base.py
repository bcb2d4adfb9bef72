"""The frozen base under other tools' hands: averages, casts, sync-BN, base weights loaded after ``wrap``."""

from __future__ import annotations

import copy
import gc
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, update_bn

import petl
from petl.wrapping.rounding import equal_up_to_rounding
from tests.support.compare import differing, portrait, state
from tests.support.zoo import disturb, images, make, output

Ema = Any


def wrapped(name: str, methods: Any = "lora", **options: Any) -> Any:
    return disturb(petl.wrap(make(name), methods, num_classes=5, **options))


def frozen(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the frozen tensors."""
    names = petl.record(model).frozen
    return {key: value for key, value in state(model).items() if key in names}


def reloads(model: nn.Module, name: str, path: Path) -> bool:
    """Whether the delta of ``model`` on a fresh base gives its outputs, bit for bit."""
    return torch.equal(output(petl.load(petl.save(model, path), make(name)), images(name)), output(model, images(name)))


# ---- averages

AVERAGES = {
    "ModelEmaV2": lambda m: ModelEmaV2(m, decay=0.9),
    "ModelEmaV2, slow": lambda m: ModelEmaV2(m, decay=0.9998),
    "ModelEmaV3": lambda m: ModelEmaV3(m, decay=0.9),
    "ModelEmaV3, one by one": lambda m: ModelEmaV3(m, decay=0.9, foreach=False),
    "AveragedModel": lambda m: AveragedModel(m),
    "avg_fn": lambda m: AveragedModel(m, avg_fn=lambda a, b, n: 0.99 * a + 0.01 * b, use_buffers=True),
    "ema avg_fn": lambda m: AveragedModel(m, avg_fn=get_ema_avg_fn(0.999)),
    "ema multi_avg_fn": lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.999)),
}


def average(kind: str, model: nn.Module, times: int = 6) -> Any:
    kept = AVERAGES[kind](model)
    for seed in range(times):
        disturb(model, seed=seed, by=0.01)
        (kept.update_parameters if isinstance(kept, AveragedModel) else kept.update)(model)
    return kept


@pytest.mark.sweep(5)
@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_averages_are_saved_with_the_bits_of_the_base(kind: str, name: str, tmp_path: Path) -> None:
    model = wrapped(name)
    before = frozen(model)
    kept = average(kind, model).module
    moves = bool(differing(frozen(kept), before))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        path = petl.save(kept, tmp_path / "d.safetensors")
    assert moves == any("put the old bits back" in str(w.message) for w in seen)
    assert not differing(frozen(kept), before)
    assert torch.equal(output(petl.load(path, make(name)), images(name)), output(kept, images(name)))


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore:.*put the old bits back")
def test_an_average_is_unwrapped_merged_and_checked_too() -> None:
    model = wrapped("vit")
    kept = average("avg_fn", model)
    assert petl.check(copy.deepcopy(kept.module), images("vit")).ok
    petl.unwrap(kept.module)
    assert not differing(state(kept.module), state(make("vit")))


def test_averages_loaded_into_the_model_leave_the_base_as_it_is(tmp_path: Path) -> None:
    model = wrapped("resnet")
    before, kept = frozen(model), average("ModelEmaV2", model)
    model.load_state_dict(kept.module.state_dict())
    assert not differing(frozen(model), before)
    del kept
    assert reloads(model, "resnet", tmp_path / "d.safetensors")


# said where another test's model lives and has the bits
@pytest.mark.filterwarnings("ignore:.* had moved by rounding:UserWarning")
def test_averages_copied_over_the_base_are_named_and_a_fresh_base_puts_it_right(tmp_path: Path) -> None:
    """As Lightning's callback does at the end: then nobody has the bits any more."""
    model = wrapped("vit")
    kept = average("avg_fn", model)
    for own, averaged in zip(model.parameters(), kept.module.parameters(), strict=True):
        own.data.copy_(averaged.data)
    del kept
    gc.collect()  # models of other tests have the bits too
    with pytest.raises(petl.StateError, match=r"averages over all weights.*petl\.rebase\(model, base\)"):
        petl.save(model, tmp_path / "d.safetensors")
    petl.rebase(model, make("vit"))
    assert reloads(model, "vit", tmp_path / "d.safetensors")


@pytest.mark.parametrize("by", [1e-3, 1e-5])
def test_a_real_change_of_a_copy_stays_an_error(by: float, tmp_path: Path) -> None:
    model = wrapped("vit")
    clone = copy.deepcopy(model)
    with torch.no_grad():
        clone.pos_embed.add_(by)
    with pytest.raises(petl.StateError, match=r"pos_embed: written to"):
        petl.save(clone, tmp_path / "d.safetensors")
    one = copy.deepcopy(model)
    with torch.no_grad():
        one.pos_embed[0, 0, 0] += by
    with pytest.raises(petl.StateError, match=r"pos_embed: written to"):
        petl.save(one, tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


def test_rounding_is_told_from_steps() -> None:
    value = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert equal_up_to_rounding(0.9998 * value + (1 - 0.9998) * value, value)
    assert (
        not equal_up_to_rounding(value + 1e-6, value)
        and not equal_up_to_rounding(value.double(), value)
        and not equal_up_to_rounding(value[:9], value)
    )
    assert equal_up_to_rounding(torch.tensor(4), torch.tensor(5)) and not equal_up_to_rounding(
        torch.tensor(3), torch.tensor(5)
    )
    odd = torch.tensor([float("nan"), float("inf"), 0.0])
    assert equal_up_to_rounding(odd, odd.clone()) and not equal_up_to_rounding(torch.tensor([0.0, 1.0, 0.0]), odd)


@pytest.mark.parametrize("methods", ["lora", "probe", "bn"])
def test_update_bn_leaves_held_norms_alone(methods: str, tmp_path: Path) -> None:
    model = wrapped("resnet", methods)
    kept = AveragedModel(model)
    kept.update_parameters(model)
    before = frozen(kept.module)
    statistics = {key for key in before if "running" in key}
    loader = [(images("resnet"), 0), (images("resnet") * 2, 0)]
    if statistics:
        with pytest.warns(UserWarning, match=r"held norms take none.*petl\.BN"):
            update_bn(loader, kept)
    else:
        update_bn(loader, kept)
    assert bool(statistics) == (methods != "bn") and not differing(frozen(kept.module), before)
    assert reloads(kept.module, "resnet", tmp_path / "d.safetensors")


# ---- sync-BN


@pytest.mark.sweep(3)
@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, convert_sync_batchnorm])
@pytest.mark.parametrize(("name", "methods"), [("resnet", "lora"), ("resnet", "norm"), ("resnet", "probe")])
def test_norms_stay_held_as_sync_bn(convert: Any, name: str, methods: str, tmp_path: Path) -> None:
    """By torch's and timm's conversion, which make new modules around the same tensors."""
    model = convert(petl.wrap(make(name), methods, num_classes=5, fused=False))
    before = frozen(model)
    model.train()
    model.eval()
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert norms and not any(norm.training for norm in norms)
    with torch.no_grad():
        model(images(name))
    disturb(model)
    assert not differing(frozen(model), before)
    assert reloads(model, name, tmp_path / "d.safetensors")
    petl.unwrap(model)
    assert portrait(model)["bits"] == portrait(make(name))["bits"]


def test_norms_with_an_activation_need_timms_conversion(tmp_path: Path) -> None:
    model = convert_sync_batchnorm(petl.wrap(make("efficientnet"), "lora", num_classes=5, fused=False)).train()
    assert reloads(disturb(model), "efficientnet", tmp_path / "d.safetensors")
    model = petl.wrap(make("efficientnet"), "lora", num_classes=5)
    with pytest.raises(petl.StateError, match=r"timm\.layers\.convert_sync_batchnorm"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model).train()


@pytest.mark.parametrize("memory", ["fast", "lean", "min"])
def test_a_training_step_with_sync_bn_is_the_plain_one(memory: Any) -> None:
    outs = []
    for options in ({"memory": memory}, {"fused": False}):
        torch.manual_seed(0)
        model = convert_sync_batchnorm(wrapped("resnet", **options)).train()
        outs.append(model(images("resnet")).detach())
    torch.testing.assert_close(*outs)


def test_norms_that_train_do_so_as_sync_bn_too() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(petl.wrap(make("resnet"), "bn", num_classes=5)).train()
    assert all(m.training for m in model.modules() if isinstance(m, nn.SyncBatchNorm))


# ---- casts


@pytest.mark.sweep(2)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("name", "methods"), [("vit", ["norm", "lora"]), ("resnet", "adapter")])
def test_a_model_that_is_cast_as_a_whole_is_saved(dtype: torch.dtype, name: str, methods: Any, tmp_path: Path) -> None:
    model = wrapped(name, methods).to(dtype)
    path = petl.save(model, tmp_path / "d.safetensors")
    assert petl.read(path)["backbone"]["dtype"] == str(dtype).removeprefix("torch.")
    x = images(name).to(dtype)
    again = petl.load(path, make(name).to(dtype))
    assert torch.equal(output(again, x), output(model, x))
    short = str(dtype).replace(".", r"\.")
    with pytest.raises(petl.DeltaError, match=rf"{short}.*torch\.float32.*model\.to\({short}\)"):
        petl.load(path, make(name))
    petl.unwrap(model)
    assert not differing(state(model), state(make(name).to(dtype)))


def test_a_cast_and_back_is_named_unless_it_kept_the_bits(tmp_path: Path) -> None:
    model = wrapped("vit").double().float()
    assert reloads(model, "vit", tmp_path / "d.safetensors")
    model.bfloat16().float()
    with pytest.raises(
        petl.StateError, match=r"were torch\.float32, now torch\.float32 \(cast in parts, or to a smaller"
    ):
        petl.save(model, tmp_path / "d.safetensors")
    petl.rebase(model, make("vit"))
    assert reloads(model, "vit", tmp_path / "d.safetensors")


def test_a_change_before_the_cast_is_not_forgiven(tmp_path: Path) -> None:
    model = wrapped("vit")
    with torch.no_grad():
        model.norm.weight.add_(1)
    with pytest.raises(petl.StateError, match=r"norm\.weight"):
        petl.save(model.half(), tmp_path / "d.safetensors")


def test_a_narrow_base_is_not_cast() -> None:
    model = petl.wrap(make("vit"), "lora", base_dtype="float16")
    before = state(model)
    with pytest.raises(petl.StateError, match="base_dtype"):
        model.bfloat16()
    assert not differing(state(model), before)


# ---- other base weights


def other(name: str) -> nn.Module:
    """The same net with other weights."""
    model = make(name)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    return model


@pytest.mark.parametrize("methods", ["lora", "norm", "probe"])
def test_base_weights_that_are_loaded_after_wrap_are_the_base(methods: str, tmp_path: Path) -> None:
    model = petl.wrap(make("resnet"), methods, num_classes=5)
    base = {key: value for key, value in other("resnet").state_dict().items() if not key.startswith("fc.")}
    with pytest.warns(UserWarning, match="takes them for the base"):
        model.load_state_dict(base, strict=False)
    disturb(model)
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), other("resnet"))
    assert torch.equal(output(again, images("resnet")), output(model, images("resnet")))
    petl.unwrap(model)
    assert [key for key in differing(state(model), state(other("resnet"))) if not key.startswith("fc.")] == []


def test_base_weights_reach_a_model_inside_another(tmp_path: Path) -> None:
    net = nn.ModuleDict({"backbone": petl.wrap(make("vit"), "lora", num_classes=5)})
    base = {f"backbone.{k}": v for k, v in other("vit").state_dict().items() if not k.startswith("head.")}
    with pytest.warns(UserWarning, match="takes them for the base"):
        net.load_state_dict(base, strict=False)
    model = net["backbone"]
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), other("vit"))
    assert torch.equal(output(again, images("vit")), output(model, images("vit")))


def test_base_weights_reach_layers_that_peft_has_renamed(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = petl.wrap(make("vit"), "peft:LoHa", r=2, num_classes=5)
    with pytest.warns(UserWarning, match="takes them for the base"):
        model.load_state_dict({k: v for k, v in other("vit").state_dict().items() if "head" not in k}, strict=False)
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), other("vit"))
    assert torch.equal(output(again, images("vit")), output(model, images("vit")))


def test_a_narrow_base_takes_other_weights(tmp_path: Path) -> None:
    model = petl.wrap(make("vit"), "lora", num_classes=5, base_dtype="bfloat16")
    with pytest.warns(UserWarning, match="takes them for the base"):
        model.load_state_dict({k: v for k, v in other("vit").state_dict().items() if "head" not in k}, strict=False)
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), other("vit"))
    assert torch.equal(output(again, images("vit")), output(model, images("vit")))
    petl.unwrap(model)
    assert [key for key in differing(state(model), state(other("vit"))) if not key.startswith("head.")] == []


@pytest.mark.filterwarnings("error")
def test_the_models_own_state_is_loaded_without_a_word() -> None:
    model = wrapped("resnet")
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    copy.deepcopy(model).load_state_dict(model.state_dict())


def test_base_weights_that_came_unseen_are_named_and_rebase_takes_them(tmp_path: Path) -> None:
    model = petl.wrap(make("vit"), "lora", num_classes=5)
    for key, p in other("vit").named_parameters():
        if not key.startswith("head."):
            model.get_submodule(key.rpartition(".")[0])._parameters[key.rpartition(".")[2]].data.copy_(p)
    with pytest.raises(petl.StateError, match=r"most of the base.*petl\.rebase\(model\)"):
        petl.save(model, tmp_path / "d.safetensors")
    assert petl.rebase(model) is model
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), other("vit"))
    assert torch.equal(output(again, images("vit")), output(model, images("vit")))


def test_rebase_onto_what_does_not_fit_changes_nothing() -> None:
    model = wrapped("vit")
    before = state(model)
    with pytest.raises(petl.StateError, match="lacks cls_token"):
        petl.rebase(model, make("resnet"))
    assert not differing(state(model), before)
    with pytest.raises(petl.StateError, match="not wrapped"):
        petl.rebase(make("vit"))


def test_another_input_size_after_wrap_is_refused_at_once(tmp_path: Path) -> None:
    model = wrapped("vit")
    with pytest.raises(petl.StateError, match=r"petl\.unwrap\(model\), set_input_size"):
        model.set_input_size((96, 96))
    assert reloads(model, "vit", tmp_path / "d.safetensors")
    petl.unwrap(model).set_input_size((96, 96))
    assert not hasattr(make("resnet"), "set_input_size")
    assert not hasattr(petl.wrap(make("resnet"), "lora"), "set_input_size")


# ---- layers that were exchanged


def test_another_layer_in_a_frozen_ones_place_is_named(tmp_path: Path) -> None:
    model = wrapped("vit")
    model.norm = nn.LayerNorm(64).requires_grad_(False)
    with pytest.raises(petl.StateError, match=r"norm\.weight"):
        petl.save(model, tmp_path / "d.safetensors")
    model = wrapped("vit")
    del model.blocks[2]
    with pytest.raises(petl.StateError, match=r"blocks\.2.*gone"):
        petl.save(model, tmp_path / "d.safetensors")


def test_frozen_batch_norm_with_the_same_numbers_is_the_base(tmp_path: Path) -> None:
    model = timm.layers.freeze_batch_norm_2d(wrapped("resnet", fused=False))
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), make("resnet"))
    torch.testing.assert_close(output(again, images("resnet")), output(model, images("resnet")))


def test_a_base_with_exchanged_norms_is_told_from_other_weights(tmp_path: Path) -> None:
    path, base = petl.save(wrapped("resnet"), tmp_path / "d.safetensors"), make("resnet")
    timm.utils.freeze(base, [name for name, _ in base.named_children()])
    with pytest.raises(petl.DeltaError, match=r"other frozen tensors.*timm\.utils\.freeze.*check_base=False"):
        petl.load(path, base)
    again = petl.load(path, base, check_base=False)
    assert output(again, images("resnet")).isfinite().all()
    with pytest.raises(petl.DeltaError, match="other weights"):
        petl.load(path, other("resnet"))


# ---- fit


@pytest.mark.parametrize("when", ["before", "during"])
def test_fit_stops_early_where_no_delta_could_be_saved(when: str) -> None:
    model = petl.wrap(make("vit"), "bias", num_classes=2)
    data = torch.utils.data.TensorDataset(images("vit", batch=4), torch.tensor([0, 1, 0, 1]))

    def move(*_: Any) -> None:
        with torch.no_grad():
            model.norm.weight.add_(1)

    if when == "before":
        move()
    else:
        model.register_forward_pre_hook(move)
    epochs: list[Any] = []
    with pytest.raises(petl.StateError, match=r"no delta could be saved.*norm\.weight"):
        petl.fit(model, data, epochs=3, lr=1e-3, on_epoch=epochs.append)
    assert not epochs
