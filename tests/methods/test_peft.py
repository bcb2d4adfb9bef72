"""peft's tuners as methods: petl's sites, head, norm policy, delta and unwrap around peft's layers."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import petl
from tests.support.compare import differing, portrait, state
from tests.support.zoo import disturb, images, make, output

peft = pytest.importorskip("peft")

CONFIGS = {
    "LoHa": lambda: peft.LoHaConfig(r=2, alpha=2),
    "LoKr": lambda: peft.LoKrConfig(r=2, alpha=2),
    "IA3": lambda: peft.IA3Config(target_modules=r".*mlp\.fc1", feedforward_modules=[]),
    "LoRA": lambda: peft.LoraConfig(r=2, lora_alpha=4),
    "DoRA": lambda: peft.LoraConfig(r=2, use_dora=True),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=4),
    "VeRA": lambda: peft.VeraConfig(r=2),
    "FourierFT": lambda: peft.FourierFTConfig(n_frequency=20),
}


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "LoRA", "IA3", "OFT"])
def test_contract(kind: str) -> None:
    torch.manual_seed(0)
    report = petl.check(make("vit"), images("vit"), CONFIGS[kind](), num_classes=5)
    wrong = {f.point: f.detail for f in report if f.status == "fail"}
    assert not wrong, report


@pytest.mark.parametrize("kind", ["VeRA", "FourierFT", "DoRA"])
def test_each_works_or_is_one_clear_error_and_leaves_no_trace(kind: str) -> None:
    model = make("vit")
    before = portrait(model)
    try:
        petl.wrap(model, CONFIGS[kind](), num_classes=5)
    except petl.PetlError:
        pass
    else:
        out = output(disturb(model, by=0.01), images("vit"))
        assert out.shape == (3, 5) and out.isfinite().all()
        petl.unwrap(model)
    assert portrait(model) == before


def test_objects_and_names_say_the_same() -> None:
    by_name = petl.wrap(make("vit"), "peft:LoHa", r=3, num_classes=5)
    by_object = petl.wrap(make("vit"), peft.LoHaConfig(r=3), num_classes=5)
    assert petl.record(by_name).methods == petl.record(by_object).methods
    assert {*by_name.state_dict()} == {*by_object.state_dict()}
    mixed = petl.wrap(make("resnet"), ["bn", peft.LoHaConfig(r=2)], num_classes=5)
    assert [m.name for m in petl.record(mixed).methods] == ["bn", "peft"]


def test_petl_chooses_the_layers_unless_the_config_does() -> None:
    model = petl.wrap(make("vit"), "peft:LoHa", r=2, num_classes=5)
    assert petl.record(model).sites == [[s.name for s in petl.find(make("vit"), "linear")]]
    model = petl.wrap(make("vit"), peft.LoHaConfig(r=2, target_modules=["qkv"]), num_classes=5)
    assert petl.record(model).sites == [[f"blocks.{i}.attn.qkv" for i in range(3)]]
    model = petl.wrap(make("vit"), "peft:LoHa", r=2, where="blocks.0.*.fc?", num_classes=5)
    assert petl.record(model).sites == [["blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]]


def test_head_trains_norms_hold_and_all_else_is_frozen() -> None:
    model = petl.wrap(make("resnet"), "peft:LoHa", r=2, num_classes=5)
    trains = petl.trainable(model)
    head = {n for n in trains if n.startswith("fc.")}
    assert head == {"fc.weight", "fc.bias"}
    assert all("hada" in n for n in trains if n not in head)
    before = state(model)
    model.train()(images("resnet"))
    assert not differing(before, state(model))


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_round_trip_merge_and_unwrap(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = disturb(petl.wrap(make(name), ["norm", peft.LoHaConfig(r=2)], num_classes=5), by=0.05)
    out = output(model, images(name))
    path = petl.save(model, tmp_path / "d.safetensors")
    assert {*load_file(path)} == {*petl.trainable(model)}
    again = petl.load(path, make(name))
    assert torch.equal(output(again, images(name)), out)
    petl.merge(again)
    torch.testing.assert_close(output(again, images(name)), out, rtol=1e-3, atol=1e-4)
    base = make(name)
    base.reset_classifier(5)
    assert {*again.state_dict()} == {*base.state_dict()}
    assert {type(m) for m in again.modules()} == {type(m) for m in base.modules()}
    deep = petl.unwrap(copy.deepcopy(model))
    petl.unwrap(model)
    assert not any("peft_config" in vars(one) for one in (again, model, deep))
    assert not differing(state(model), state(make(name)))
    assert {n: type(m) for n, m in model.named_modules()} == {n: type(m) for n, m in make(name).named_modules()}


@pytest.mark.deep
def test_together_with_petls_own_lora() -> None:
    methods: Any = [petl.LoRA(rank=2, where="conv"), peft.LoHaConfig(r=2)]
    report = petl.check(make("vit"), images("vit"), methods, num_classes=5)
    assert report.ok, report


@pytest.mark.parametrize("name", ["beit", "swinv2", "eva_fused"])
def test_weights_that_peft_would_silently_miss(name: str) -> None:
    model = make(name)
    before = portrait(model)
    with pytest.raises(petl.SiteError, match=r"without calling it.*'lora'"):
        petl.wrap(model, "peft:LoHa", num_classes=5)
    assert portrait(model) == before


def test_what_peft_refuses_is_a_site_error_and_leaves_no_trace() -> None:
    """peft's LoRA wants a rank that the groups of a convolution divide, and finds that out half-way."""
    model = make("resnext")
    before = portrait(model)
    grouped = peft.LoraConfig(r=2, target_modules=["layer1.0.conv1", "layer1.0.conv2"])
    with pytest.raises(petl.SiteError, match="peft"):
        petl.wrap(model, ["bias", petl.LoRA(rank=2, where="conv1"), grouped], num_classes=5)
    assert portrait(model) == before


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("peft:LoHaa", {}, "near names: LoHa"),
        ("peft:LoHa", {"rank": 3}, "LoHaConfig"),
        ("peft", {}, "peft"),
        ("peft:", {}, "peft"),
        ("peft:Peft", {}, "peft"),
        ("peft:PromptTuning", {"num_virtual_tokens": 3}, "peft"),
    ],
)
def test_what_can_not_be_asked_of_peft(method: str, options: dict[str, Any], message: str) -> None:
    model = make("vit")
    before = portrait(model)
    with pytest.raises(petl.PetlError, match=message):
        petl.wrap(model, method, num_classes=5, **options)
    assert portrait(model) == before


def test_layers_by_hand_of_a_plain_module() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    before = portrait(net)
    petl.wrap(net, peft.LoHaConfig(r=2), head=False)
    assert petl.record(net).sites == [["3"]] or petl.record(net).sites
    petl.unwrap(net)
    assert portrait(net) == before


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_2", "olora", "corda", "eva", "lora_ga"])
def test_inits_that_change_the_base_or_need_data_are_refused_at_wrap(init: str) -> None:
    model = make("vit")
    before = portrait(model)
    with pytest.raises(petl.MethodError, match=f"{init}.*'gaussian'"):
        petl.wrap(model, peft.LoraConfig(r=2, init_lora_weights=init), num_classes=5)
    assert portrait(model) == before


@pytest.mark.parametrize("stops", [False, True])
def test_an_init_that_rewrites_the_base_unannounced_is_undone(stops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where peft stops half-way, after the first layers."""
    monkeypatch.setattr(sys.modules["petl.methods.peft_fields"], "INITS", {})
    model = make("vit")
    before = portrait(model)
    config = peft.LoraConfig(r=2, init_lora_weights="pissa", target_modules=["qkv"])
    if stops:
        plain, calls = peft.tuners.lora.layer.LoraLayer.pissa_init, []

        def stop(self: Any, *args: Any) -> None:
            calls.append(1)
            plain(self, *args)
            if len(calls) == 3:
                raise OSError("the disk")

        monkeypatch.setattr(peft.tuners.lora.layer.LoraLayer, "pissa_init", stop)
    with pytest.raises(petl.SiteError, match="the disk" if stops else "rewrites the base.*another init"):
        petl.wrap(model, config, num_classes=5)
    assert portrait(model) == before


EVIL: dict[str, Any] = {
    "megatron_config": {"hidden_size": 4},
    "megatron_core": "antigravity",
    "auto_mapping": {"parent_library": "antigravity", "base_model_class": "x"},
    "rank_pattern": {"(a+)+$": 2},
    "alpha_pattern": {"(a|a)(a|a)(a|a)": 2},
    "exclude_modules": "(.*)*x",
    "layers_pattern": ["(x*)*"],
    "target_modules": "[",
    "modules_to_save": ["head"],
    "loftq_config": {"loftq_bits": 4},
    "corda_config": {"cache_file": "/etc/passwd"},
    "eva_config": {"rho": 2.0},
    "layer_replication": [[0, 4]],
    "runtime_config": {"ephemeral_gpu_offload": True},
    "trainable_token_indices": [1],
    "bias": "all",
    "init_lora_weights": "pissa",
    "lora_dropout": float("nan"),
    "r": 10**9,
    "use_dora": "yes",
    "no_such_field": 1,
    "peft_type": "BOFT",
}


def altered(path: Path, changes: dict[str, Any]) -> Path:
    """A copy of the delta whose peft config has these fields too."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["petl"])
    header["methods"][0]["config"] |= changes
    metadata = {"petl": json.dumps(header), "format": "pt"}
    save_file(load_file(path), path.with_name("altered.safetensors"), metadata=metadata)
    return path.with_name("altered.safetensors")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = petl.wrap(make("vit"), peft.LoraConfig(r=2, target_modules=["qkv"]), num_classes=5)
    return petl.save(model, tmp_path_factory.mktemp("peft") / "d.safetensors")


@pytest.mark.parametrize("field", EVIL)
@pytest.mark.sweep(8)
def test_a_file_asks_peft_only_for_what_is_listed(field: str, lora: Path) -> None:
    path = altered(lora, {field: EVIL[field]})
    with pytest.raises(petl.DeltaError, match="peft: |misstates methods"):
        petl.read(path)
    model = make("vit")
    before = portrait(model)
    with pytest.raises(petl.DeltaError, match="peft: |misstates methods"):
        petl.load(path, model)
    assert portrait(model) == before


def test_what_older_files_say_of_unused_fields_is_read(lora: Path) -> None:
    idle = {"megatron_core": "megatron.core", "runtime_config": {"ephemeral_gpu_offload": False}, "bias": "none"}
    path = altered(lora, {**idle, "loftq_config": {}, "layer_replication": None, "qalora_group_size": 16})
    assert torch.equal(
        output(petl.load(path, make("vit")), images("vit")), output(petl.load(lora, make("vit")), images("vit"))
    )


@pytest.mark.parametrize("config", [3, [], {"r": 2}, {"peft_type": None}, {"peft_type": ["LORA"]}, {1: 2}])
def test_what_is_no_config_is_one_error(config: Any) -> None:
    with pytest.raises(petl.MethodError, match="peft: "):
        petl.Peft(config=config)


def test_patterns_of_users_that_end_are_taken() -> None:
    config = peft.LoraConfig(
        r=2, target_modules=r".*\.(qkv|proj)", rank_pattern={r"blocks\.0\.attn\.qkv": 4, "proj": 1}
    )
    model = petl.wrap(make("vit"), config, num_classes=5)
    assert [model.blocks[i].attn.qkv.lora_A["default"].out_features for i in range(2)] == [4, 2]
