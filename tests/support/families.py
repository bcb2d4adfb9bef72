"""Small models of most families with attention, and models built alike whatever they are built by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.support.zoo import ZOO, lively


def build(name: str | Callable[..., nn.Module], size: int, **options: Any) -> nn.Module:
    """A lively model by timm's name or by a builder, the same each time; skips what this timm doesn't have."""
    if isinstance(name, str) and not timm.is_model(name):
        pytest.skip(f"{name} is not in timm {timm.__version__}")
    torch.manual_seed(0)
    return lively(timm.create_model(name, **options) if isinstance(name, str) else name(**options), size)


# name -> (timm name, image size, further arguments, the most often that a layout is repeated, head by head)
_TINY = {"depth": 1, "embed_dim": 32, "num_heads": 2}
_VIT = {"img_size": 32, "patch_size": 8, **_TINY}
_SWIN = {"img_size": 64, "window_size": 8, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}


def _caformer(**options: Any) -> nn.Module:
    from timm.models.metaformer import Attention, LayerNorm2dNoBias, LayerNormNoBias, MetaFormer, SepConv

    mixers, norms = (SepConv, SepConv, Attention, Attention), [LayerNorm2dNoBias] * 2 + [LayerNormNoBias] * 2
    return MetaFormer(depths=(1,) * 4, dims=(32,) * 4, token_mixers=mixers, norm_layers=norms, **options)


def _mvitv2(**options: Any) -> nn.Module:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    return MultiScaleVit(MultiScaleVitCfg(depths=(1, 1), embed_dim=16, num_heads=1), img_size=(64, 64), **options)


def _nest(**options: Any) -> nn.Module:
    from timm.models.nest import Nest

    return Nest(img_size=64, embed_dims=(32,) * 3, num_heads=(2,) * 3, depths=(1,) * 3, **options)


FAMILIES: dict[str, tuple[str | Callable[..., nn.Module], int, dict[str, Any], int]] = {
    "vit": ("vit_tiny_patch16_224", 32, _VIT, 1),
    "vit parallel": ("vit_base_patch16_xp_224", 32, _VIT, 1),
    "vit_relpos": ("vit_relpos_small_patch16_224", 32, _VIT, 1),
    "vit_sam": ("samvit_base_patch16_224", 32, _VIT | {"global_attn_indexes": (), "window_size": 4}, 1),
    "deit": ("deit_tiny_distilled_patch16_224", 32, _VIT, 1),
    "beit": ("beit_base_patch16_224", 32, _VIT, 1),
    "eva fused": ("eva_giant_patch14_224", 32, _VIT, 1),
    "dinov3": ("vit_small_patch16_dinov3", 32, _VIT, 1),
    "naflexvit": ("naflexvit_base_patch16_gap", 64, _TINY, 1),
    "cait": ("cait_xxs24_224", 32, _VIT, 1),
    "convit": ("convit_tiny", 32, _VIT | {"local_up_to_layer": 1}, 1),
    "crossvit": ("crossvit_tiny_240", 120, ZOO["crossvit"][2], 1),
    "coat": ("coat_tiny", 64, ZOO["coat"][2], 1),
    "csatv2": ("csatv2", 512, {}, 1),
    "davit": ("davit_tiny", 64, {"depths": (1,) * 4, "embed_dims": (32,) * 4, "num_heads": (2,) * 4}, 1),
    "edgenext": ("edgenext_xx_small", 64, {}, 1),
    "efficientformer": ("efficientformer_l1", 224, {}, 8),
    "efficientvit, linear": ("efficientvit_b0", 128, {}, 8),
    "efficientvit, cascaded": ("efficientvit_m0", 224, {}, 1),
    "fastvit": ("fastvit_sa12", 128, {}, 1),
    "gcvit": ("gcvit_xxtiny", 224, {}, 1),
    "halonet": ("halonet26t", 256, {}, 8),
    "hiera": ("hiera_tiny_224", 224, {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}, 1),
    "hieradet": ("hieradet_small", 224, {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}, 1),
    "lambda": ("lambda_resnet26t", 64, {}, 1),
    "bottleneck attention": ("botnet26t_256", 256, {}, 1),
    "levit": ("levit_128s", 224, ZOO["levit"][2], 4),
    "levit, several heads": ("levit_128s", 224, ZOO["levit"][2] | {"num_heads": (2, 2, 3)}, 4),
    "maxvit": ("test_maxvit", 64, {"img_size": 64}, 4),
    "coatnet": ("test_coatnet", 64, {"img_size": 64}, 3),
    "caformer": (_caformer, 64, {}, 1),
    "mobilevit": ("mobilevit_xxs", 128, {}, 1),
    "mobilevit, separable": ("mobilevitv2_050", 128, {}, 1),
    "mvitv2": (_mvitv2, 64, {}, 1),
    "nest": (_nest, 64, {}, 1),
    "pit": ("pit_ti_224", 224, {"depth": (1, 1, 1)}, 1),
    "pvt": ("pvt_v2_b0", 64, {}, 1),
    "shvit": ("shvit_s1", 224, {}, 1),
    "swin": ("swin_tiny_patch4_window7_224", 64, _SWIN, 1),
    "swinv2": ("swinv2_tiny_window8_256", 64, _SWIN, 1),
    "swinv2_cr": ("swinv2_cr_tiny_224", 224, {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}, 1),
    "tiny_vit": ("tiny_vit_5m_224", 224, {}, 10),
    "tnt": ("tnt_s_legacy_patch16_224", 224, ZOO["tnt"][2], 1),
    "twins": ("twins_svt_small", 64, {"img_size": 64, "depths": (2, 1, 1, 1)}, 1),
    "visformer": ("visformer_tiny", 224, {}, 1),
    "volo": ("volo_d1_224", 64, {"img_size": 64}, 1),
    "xcit": ("xcit_nano_12_p8_224", 32, {"img_size": 32, **_TINY}, 1),
}
