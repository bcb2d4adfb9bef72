"""Lists the arguments of ``timm.create_model`` that a delta's header may hold: numbers and words that shape the model, nothing
that names a file, a folder, an address or a Python object.

The list was collected from the constructors and configurations of timm 1.0.31's models. An argument that isn't on the list is
not recorded, and is refused when a file is read; the user builds such a backbone and passes it: ``petl.load(path, model)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

ARGUMENTS = frozenset(
    """aa_layer aa_stem_only abs_win_pos_embed act_layer alpha always_partition attn attn_act_layer attn_bias attn_block
    attn_block_token_only attn_drop attn_drop_rate attn_early attn_gain attn_gated attn_groups attn_head_dim_reduction
    attn_kwargs attn_layer attn_mlp attn_mlp_ratio attn_only_layer_scale attn_pool_mlp_ratio attn_pool_num_heads
    attn_ratio attn_stage attn_type attn_types attn_upsample aux_logits avg_down base_dim base_dims base_width bias block
    block_args block_cfg block_cls block_config block_fn block_kwargs block_layer block_layers block_layers_token
    block_ratio block_reduce_first block_type blocks bn_eps bn_momentum bn_size bn_tf bottle_ratio bottleneck_width_ratio
    cardinality ch_div channel_attention channel_attn_v2 channel_multiplier channels class_token cls_attn_layers cls_ratio
    conv_act_layer conv_attn_act_layer conv_attn_early conv_attn_layer conv_attn_ratio conv_bias conv_block
    conv_block_type conv_downsample_pool_type conv_expand_output conv_expand_ratio conv_group_size conv_init
    conv_init_values conv_kernel_size conv_layer conv_mlp conv_norm_eps conv_norm_layer conv_norm_layer_cl
    conv_output_bias conv_padding conv_pool_type conv_pre_norm_act conv_ratio conv_stride_mode cpe_act crop_scale
    cross_linear crpe_window d2_scales deepen_factor depth depth_list depth_mult depth_token_only depths dim dim_head
    dim_mul dims distillation distilled down_growth down_kernel_size down_op down_ops down_pad down_patch_size
    down_shortcut down_stride downsample downsample_block downsample_expand_ratios downsample_kernel_size downsample_norm
    downsample_padding downsample_pool_type downsample_ratio downsamples drop drop_block_rate drop_block_size
    drop_connect_rate drop_path_rate drop_rate dropout dw_act_layer dynamic_img_pad dynamic_img_size embed_dim embed_dims
    embed_layer embed_norm embed_norm_layer embed_proj_type enable_patch_interpolator encoder_pool eta expand_attn
    expand_first expand_groups expand_output expand_ratio expansion_ratio extra_conv extra_norm_period extra_norm_stage
    fc_act_layer fc_norm feature_cls feature_dim feature_location features_only ffn ffn_ratio final_chs final_norm
    first_stride fix_group_size fix_init fix_stem fixed_input_size flatten_sequential focal_levels focal_windows
    fused_conv fused_downsample gamma_in_act global_att_blocks global_attn_indexes global_block_counts global_pool
    global_pos_size grid_size group group_min_ratio group_size groups growth_rate growth_rates head_bias head_dim
    head_first head_fn head_hidden_size head_init_scale head_mul head_norm head_norm_first head_type head_widths heads
    hidden_dim hidden_size hidden_sizes img_size in_channels in_chans in_dim in_features inc_sec inference_mode
    init_channels init_values initial_chs inner_dim inplanes input_3x3 input_norm_layer intermediate_size
    is_downsample_block k_r k_sec kernel_qkv kernel_size kernel_sizes kernels key_dim layer_scale layer_scale_init_value
    layer_scale_init_values layers layerscale_value legacy levels linear_out lkc_use_act local_conv_size local_mbconv_norm
    local_up_to_layer locality_strength ls_init_value mask_unit_attn mask_unit_size mbconv_expand_ratio memory_efficient
    merge_size mix_block_ratio mlp mlp_act mlp_bias mlp_block mlp_block_token_only mlp_layer mlp_ratio
    mlp_ratio_token_only mlp_ratios mode msfa_indices msfa_output_resolution multi_conv n_div neck_chans nlhb
    no_block_attn no_embed_class no_rewrite norm_eps norm_layer norm_layer_cl norm_layers normalize_modulator num_blocks
    num_blocks_list num_features num_heads num_heads_inner num_heads_outer num_init_features num_kv_heads num_levels
    num_reg_tokens num_rnn_layers num_vit out_channels out_chs out_features out_indices outlook_attention output_bias
    output_fmt output_norm output_stride pad_type padding parallel_depth partial_dim partition_ratio patch_drop_rate
    patch_kernel patch_layer patch_norm patch_padding patch_size patch_sizes patch_stride patchify_channels_last
    pconv_fw_type pool pool_first pool_include_prefix pool_size pool_type pooling_kernel_size pooling_scale pos_drop_rate
    pos_embed pos_embed_align_corners pos_embed_antialias pos_embed_ar_preserving pos_embed_grid_size
    pos_embed_interp_mode pos_embed_use_grid_sample pos_embs position_embedding_size post_layers pre_norm pre_norm_act
    preact pretrained_window_sizes proj_bias proj_drop proj_drop_rate q_pool q_stride qk_dim qk_norm qkv_bias qkv_fused
    reduction ref_feat_shape reg reg_tokens rel_pos_dim rel_pos_type reparam replace_stem_pool repmixer_kernel_size
    res_scale_init_values residual_pooling return_interm_layers rnn_layer rope_grid_indexing rope_grid_offset
    rope_jitter_coords rope_mixed_mode rope_mrope_section rope_ref_feat_shape rope_rescale_coords rope_rotate_half
    rope_shift_coords rope_temperature rope_theta rope_type round_chs_fn same_padding scale scale_attn_inner
    scale_attn_inner_norm scale_attn_norm scale_mlp scale_mlp_norm se_act_layer se_downsamples se_from_exp se_layer
    se_ratio self_attn_kwargs self_attn_layer sep_pos_embed sequential_attn serial_depths shared_rel_pos shortcut_bias
    shortcut_root skipinit small_kernels spatial_conv sr_ratios ssd_expand stage_type stages standardize state_dim
    std_conv_eps stem_bias stem_chs stem_conv stem_expand_ratio stem_hidden_dim stem_kernel_size stem_mid_norm stem_norm
    stem_pool stem_size stem_stride stem_type stem_use_scale_branch stem_width strict_img_size stride stride_kv
    stride_kv_adaptive stride_mode stride_q strides swiglu_align_to swiglu_mlp token_mixers tokens_norm
    transformer_act_layer transformer_attn_bias transformer_attn_drop transformer_depths transformer_dim_head
    transformer_drop_path transformer_expand_first transformer_expand_ratio transformer_grid_size transformer_head_first
    transformer_init_values transformer_no_block_attn transformer_norm_eps transformer_norm_layer
    transformer_norm_layer_cl transformer_partition_ratio transformer_pool_type transformer_proj_drop
    transformer_rel_pos_dim transformer_rel_pos_type transformer_shortcut_bias transformer_use_nchw_attn
    transformer_window_size transition_compression_ratio use_abs_pos use_abs_pos_emb use_aux_head use_checkpoint
    use_clipped_linears use_cls_token use_conv use_expand_proj use_fc_norm use_grn use_key_only_attn_mask use_lab
    use_layer_scale use_mix_token use_mlp_head use_msfa use_naflex use_nchw_attn use_overlap_down use_pos_emb
    use_pos_embed use_post_norm use_post_norm_in_modulation use_post_transformer_norm use_pre_transformer_norm use_rel_pos
    use_rel_pos_bias use_rope use_rot_pos_emb use_shared_rel_pos_bias vit_stem weight_init widen_factor width width_factor
    width_list width_mult widths window_ratio window_size window_sizes window_spec with_fc wss zero_init_fc zero_init_last
    """.split()  # noqa: SIM905  # a list literal takes five hundred lines
)
WORD = re.compile(r"[A-Za-z0-9_.+-]{0,64}")  # no slash, no colon: no path and no address
LARGEST_NUMBER = 2**20
MOST_VALUES = 2000  # values in all, nested ones counted
DEEPEST_LIST = 4


def fault(args: Any) -> str:
    """Returns why a header can't hold these arguments, or "" where it can.

    >>> fault({"global_pool": "max", "depths": [2, 2]}), fault({"cache_dir": "somewhere"})
    ('', "argument 'cache_dir', which isn't among those that a delta may hold")
    """
    if not isinstance(args, Mapping):
        return f"arguments {_shown(args)}, which are no table"
    for name, value in args.items():
        if name not in ARGUMENTS:
            return f"argument {_shown(name)}, which isn't among those that a delta may hold"
        if not is_argument(value):
            return f"{name}={_shown(value)}; expected a number, a word, or a list or table of them"
    return ""


def is_argument(value: Any) -> bool:
    """Returns whether the value is a number, a word, or a list or a table of them, of a reasonable size."""
    return _count(value, 0) <= MOST_VALUES


def _count(value: Any, depth: int) -> float:
    """Counts the values, nested ones too; returns infinity where one isn't allowed."""
    if value is None or isinstance(value, bool):
        return 1
    if isinstance(value, int):
        return 1 if abs(value) <= LARGEST_NUMBER else math.inf
    if isinstance(value, float):
        return 1 if math.isfinite(value) else math.inf
    if isinstance(value, str):
        return 1 if WORD.fullmatch(value) else math.inf
    if depth == DEEPEST_LIST or not isinstance(value, (list, tuple, Mapping)) or len(value) > MOST_VALUES:
        return math.inf
    if isinstance(value, Mapping):
        keys_are_words = all(isinstance(key, str) and WORD.fullmatch(key) for key in value)
        return sum(_count(item, depth + 1) for item in value.values()) if keys_are_words else math.inf
    return sum(_count(item, depth + 1) for item in value)


def _shown(value: Any) -> str:
    """Returns the ``repr`` of a value, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
