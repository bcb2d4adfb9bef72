"""What an enemy writes who knows the format: recipes and tensors of another kind, under checksums that are right."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

ODD: list[Any] = [
    None, True, False, 0, -1, 3, 10**6, 10**9, 10**12, -(2**63), 1e308, -1e-300, float("nan"), float("inf"),
    "", "x", "x" * 3000,
    "\x1b[2J\x1b]0;x\x07", "../../etc/passwd", "/dev/zero", "/dev/stdin", "hf-hub:a/b", "local-dir:/", "hf_hub:a/b@c", "a:b",
    "file:///etc/passwd", "http://127.0.0.1:9/x", "s3://a/b", "hf://a/b/c", "\ud800",
    "os.system", "__import__('os')", "torch.load",
    [], {}, [[]], [None], ["a", "a"], [10**9], {"name": "lora"}, {"name": "peft"}, {"a": {"b": [1]}}, "full", "peft", "conv1",
    ["conv1"], [[[[[[1]]]]]], "lora.up", "bfloat16", "float64", "int8", [[], []], [["fc"]], {"": ""}, "everything", "blocks.0",
]  # fmt: skip
SIZES = [0, 1, 2, 3, 5, 8, 100, 1000, 10**4, 10**5, 10**6, 2**20 + 1, 10**9, 2**31, 2**63, -1, 1.5, 1e9]
SIZED = """
    embed_dim depth num_heads img_size patch_size in_chans num_classes mlp_ratio reg_tokens channels layers
    width_factor rank bottleneck kernel last first reduction scale alpha dims depths stem_width base_width
    cardinality window_size dim head_dim out_indices output_stride num_reg_tokens features_only global_pool
    drop_rate act_layer norm_layer dynamic_img_size
""".split()  # noqa: SIM905
REACHING = """
    cache_dir checkpoint_path pretrained_cfg pretrained_cfg_overlay pretrained file url hf_hub_id scriptable
    exportable device dtype custom_load state_dict labels num_classes module class target __class__ __reduce__
    auto_mapping base_model_name_or_path
""".split()  # noqa: SIM905
BACKBONES = """
    test_resnet test_vit test_vit2 test_efficientnet test_convnext test_byobnet test_nfnet test_mambaout resnet18
    vit_tiny_patch16_224 test_vit.r160_in1k nothing hf-hub:timm/test_vit local-dir:/tmp test_vit:/etc/passwd
    TEST_VIT test-vit
""".split()  # noqa: SIM905
PEFT = (
    "LORA",
    "LOHA",
    "LOKR",
    "IA3",
    "OFT",
    "BOFT",
    "VERA",
    "FOURIERFT",
    "HRA",
    "VBLORA",
    "XLORA",
    "PROMPT_TUNING",
    "lora",
    None,
    3,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a nest of tables and lists there is something."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [p for key in keys for p in [(*path, key), *places(value[key], (*path, key))]]


def changed_recipe(recipe: Mapping[str, Any], others: Mapping[str, Any], chance: random.Random) -> dict[str, Any]:
    """The header's values with one to three of them replaced, removed, added, moved, or taken from another delta's header."""
    header = copy.deepcopy(dict(recipe))
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        change = chance.choice([_anywhere, _anywhere, _top, _backbone, _backbone, _method, _sites, _borrowed])
        with contextlib.suppress(TypeError, KeyError, AttributeError):  # of a second change to what the first one left
            change(header, others, chance)
    return header


def _anywhere(header: dict[str, Any], others: Any, chance: random.Random) -> None:
    found = [place for place in places(header) if place[0] != "structure" or chance.random() < 0.02]
    if not found:
        return
    *way, last = chance.choice(found)
    inside: Any = header
    for key in way:
        inside = inside[key]
    kind = chance.choice(["replace", "replace", "number", "remove", "add", "twice"])
    if kind == "replace":
        inside[last] = copy.deepcopy(chance.choice(ODD))
    elif kind == "number":
        inside[last] = chance.choice(SIZES)
    elif kind == "remove":
        del inside[last]
    elif isinstance(inside, dict):
        inside[chance.choice([*REACHING, *SIZED, "new"])] = copy.deepcopy(chance.choice(ODD))
    else:
        inside.append(copy.deepcopy(inside[last] if kind == "twice" else chance.choice(ODD)))


def _top(header: dict[str, Any], others: Any, chance: random.Random) -> None:
    key = chance.choice([*header, "new"])
    if chance.random() < 0.3:
        header.pop(key, None)
    else:
        header[key] = copy.deepcopy(chance.choice(ODD))


def _backbone(header: dict[str, Any], others: Any, chance: random.Random) -> None:
    base = header.get("backbone")
    if not isinstance(base, dict):
        return
    kind = chance.choice(["name", "args", "args", "args", "reach", "size"])
    arguments = base.get("args")
    if kind == "name":
        base["name"] = chance.choice([*BACKBONES, *ODD])
    elif kind == "size":
        base[chance.choice(["num_classes", "in_chans"])] = chance.choice(SIZES)
    elif isinstance(arguments, dict):
        key = chance.choice(REACHING if kind == "reach" else SIZED)
        value = chance.choice(ODD if kind == "reach" or chance.random() < 0.3 else SIZES)
        arguments[key] = copy.deepcopy(chance.choice([value, value, [value], [value] * 4, {key: value}]))


def _method(header: dict[str, Any], others: Any, chance: random.Random) -> None:
    methods = header.get("methods")
    table = methods and isinstance(methods, list) and chance.choice(methods)
    if not isinstance(table, dict):
        return
    config = table.get("config")
    if isinstance(config, dict) and chance.random() < 0.7:
        table = config
        if chance.random() < 0.3:
            table["peft_type"] = chance.choice(PEFT)
    key = chance.choice([*table, *SIZED, "where", "config", "slices"])
    table[key] = copy.deepcopy(chance.choice([chance.choice(ODD), chance.choice(SIZES)]))


def _sites(header: dict[str, Any], others: Any, chance: random.Random) -> None:
    sites = header.get("sites")
    if not isinstance(sites, list) or not sites or not isinstance(sites[0], list):
        return
    names = chance.choice(sites)
    if not isinstance(names, list):
        return
    kind = chance.choice(["gone", "more", "other", "all"])
    if kind == "gone" and names:
        names.pop(chance.randrange(len(names)))
    elif kind == "all":
        sites.append(list(names))
    else:
        names.append(
            chance.choice(
                ["", "conv1", "layer1", "layer4.0.conv2", "blocks", "blocks.1.attn.qkv", "fc", "head", "a.b", "0"]
            )
        )


def _borrowed(header: dict[str, Any], others: Mapping[str, Any], chance: random.Random) -> None:
    key = chance.choice(list(others))
    header[key] = copy.deepcopy(others[key])


def changed_tensors(
    tensors: Mapping[str, Tensor], base: Mapping[str, Tensor], chance: random.Random
) -> dict[str, Tensor]:
    """The tensors with one of them lost, added, cast, reshaped, cut, emptied, exchanged, or made huge in name only."""
    tensors = dict(tensors)
    if not tensors:
        return tensors
    key = chance.choice(list(tensors))
    value = tensors.pop(key)
    kind = chance.choice(list(TENSOR_CHANGES))
    if kind == "a base tensor too":
        name = chance.choice(list(base))
        return {**tensors, key: value, name: base[name].detach().clone().contiguous()}
    if kind == "exchanged":
        other = chance.choice([*tensors, key])
        return {**tensors, key: tensors.get(other, value), other: value}
    changed = TENSOR_CHANGES[kind](value)
    if changed is not None:
        tensors[key if chance.random() < 0.8 else chance.choice([f"{key}.x", "", "\x1b[2J", "x" * 5000])] = changed
    return tensors


TENSOR_CHANGES: dict[str, Any] = {
    "lost": lambda t: None,
    "double": lambda t: t.double(),
    "half": lambda t: t.half(),
    "brain": lambda t: t.bfloat16(),
    "integer": lambda t: t.long(),
    "bytes": lambda t: t.to(torch.int8),
    "unsigned": lambda t: t.abs().clamp(max=200).to(torch.uint8),
    "bool": lambda t: t.bool(),
    "flat": lambda t: t.reshape(-1),
    "turned": lambda t: t.transpose(0, -1).contiguous() if t.ndim else t,
    "scalar": lambda t: torch.tensor(1.0),
    "empty": lambda t: torch.empty(0, 10**9),
    "nothing": lambda t: torch.empty(0),
    "longer": lambda t: torch.cat([t.reshape(-1), t.reshape(-1)]),
    "one axis more": lambda t: t[None],
    "nan": lambda t: t * float("nan"),
    "infinite": lambda t: torch.full_like(t, float("inf")) if t.is_floating_point() else t,
    "a base tensor too": None,
    "exchanged": None,
}


def sealed_text(header: Mapping[str, Any], chance: random.Random) -> str:
    """The header as JSON; now and then as JSON that is none."""
    text = json.dumps(header)
    if chance.random() < 0.03:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(["", "1" * 5000, "[" * 3000, '"', "\\ud800", "NaN", "}"]) + text[at + 1 :]
    return text
