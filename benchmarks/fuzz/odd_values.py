"""What an enemy puts into a recipe: odd values, sizes, names that reach outside, backbones; their order is part of a case."""

from __future__ import annotations

from typing import Any

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
