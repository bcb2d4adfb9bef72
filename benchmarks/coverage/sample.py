"""The fixed sample: the smallest architecture of every family of timm, and one for every trap of its own."""

from __future__ import annotations

from typing import Any

Entry = tuple[str, tuple[tuple[str, Any], ...]]

# large ones are built with fewer layers: what `timm.create_model` is told
SMALLER: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"depth": 2},
    "beitv2_base_patch16_224": {"depth": 2},
    "deepseek_vit_412m": {"depth": 2},
    "eva_giant_patch14_224": {"depth": 1},
    "gemma4_vit_167m": {"depth": 2},
    "naflexvit_base_patch16_parfac_gap": {"depth": 2},
    "qwen3_vit_88m": {"depth": 2},
    "samvit_base_patch16_224": {"depth": 3},
    "vgg11": {"mlp_ratio": 0.125},
    "vit_base_patch16_siglip_224": {"depth": 2},
}

# the smallest of each file of timm
FAMILIES = """
beit_base_patch16_224 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 cpubone_nano crossvit_tiny_240
cs3darknet_focus_s csatv2 cspnext_tiny davit_tiny deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46x_c
dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientvim_m1 efficientvit_b0 efficientvit_m0
ese_vovnet19b_slim_dw fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050
gmlp_ti16_224 halonet_h1 hardcorenas_b hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t inception_next_atto
inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small legacy_seresnet18 legacy_xception levit_128s
lowformer_b0 mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_parfac_gap
nasnetalarge nest_tiny nextvit_small pit_ti_224 pnasnet5large poolformerv2_s12 pvt_v2_b0 qwen3_vit_88m
rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d resnetv2_18 rexnet_100 sam2_hiera_tiny
samvit_base_patch16_224 selecsls42 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window16_256 test_byobnet test_coatnet test_convnext
test_efficientnet test_mambaout test_nfnet test_resnet test_vit test_vit_relpos tiny_vit_5m_224
tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny vit_tiny_patch16_dinov3_qkvb
vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 xception41p xcit_nano_12_p8_224
""".split()

# weights read without calling their layer, convolutions and norms with a forward of their own, several stems or heads ...
TRAPS = """
beitv2_base_patch16_224 eva02_tiny_patch14_224 eva_giant_patch14_224 mobilevitv2_050 levit_conv_128s
levit_384_s8 repvgg_a0 mobileone_s0 deit_tiny_distilled_patch16_224 convnextv2_atto tf_efficientnet_cc_b0_4e
tf_efficientnet_b0 tf_mixnet_s eca_nfnet_l0 nf_resnet26 resnetv2_50x1_bit resnetv2_50d_evos resnetv2_50d_frn
resmlp_12_224 mixer_s32_224 test_efficientnet_evos test_efficientnet_gn botnet26t_256 lambda_resnet26t
bat_resnext26ts eca_halonext26ts test_maxvit coatnext_nano_rw_224 caformer_s18 poolformer_s12 twins_pcpvt_small
vit_small_patch16_rope_224 test_vit2 test_vit4 test_convnext2 test_convnext3 vit_base_patch16_siglip_224
resnet18 resnet50_gn mobilenetv4_conv_small swin_s3_tiny_224 gernet_s cspresnet50
""".split()

SAMPLE: list[Entry] = [(name, tuple(SMALLER.get(name, {}).items())) for name in (*FAMILIES, *TRAPS)]
