"""Which of peft's tuners and fields petl takes, from users and from delta files alike: an allow-list.

A peft config can name a module to import, a file to open, code to compile, or a pattern that never ends. What isn't listed
here has to have its harmless default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from petl.errors import MethodError, near

TUNERS = set(
    """
    ADALORA ADAMSS BEFT BONE C3A DEFT DELORA FOURIERFT GLORA GRALORA HIRA HRA IA3 LILY LN_TUNING LOHA LOKR LORA
    MISS OFT OSF PEANUT PSOFT RANDLORA ROAD SUPERTUNING VBLORA VERA WAVEFT
    """.split()
)
FLAG_FIELDS = set(
    """
    apply_GS block_share coft decompose_both fan_in_fan_out init_ia3_weights init_lora_weights init_weights
    lora_bias para proportional_parameters psoft_mag_a psoft_mag_b psoft_orth rank_dropout_scale save_indices
    save_only_topk_weights save_precomputed_indices save_projection select_top sparse use_asa use_cayley_neumann
    use_dora use_dynamic_rank use_effective_conv2d use_idwt use_rslora very_sparse
    """.split()
)
NUMBER_FIELDS = set(
    """
    alpha asa_importance_beta asa_schedule_exponent asa_target_subspaces asa_uncertainty_beta beta1 beta2
    block_size cayley_neumann_eps d_initial decompose_factor deft_dropout delora_lambda deltaT depth
    effective_rank eps final_warmup gralora_dropout gralora_k group_size hira_dropout hybrid_r init_logits_std
    init_r init_scale init_vector_bank_bound init_warmup lora_alpha lora_dropout mask_interval mini_r miss_dropout
    module_dropout n_frequency num_B num_cayley_neumann_terms num_subspaces num_vectors oft_block_size
    orth_reg_weight projection_prng_key psoft_alpha psoft_dropout psoft_svd_lowrank_niter r randlora_alpha
    randlora_dropout random_loc_seed random_seed rank_dropout scaling sparsity stride_A subspace_rank
    svd_threshold target_r tfinal tinit topk total_step vblora_dropout vector_length vera_dropout
    """.split()
)
SEED_FIELDS = {"projection_prng_key", "random_loc_seed", "random_seed"}
WORD_FIELDS = set(
    """
    ab_svd_init act_fn config_A_B config_C config_D_E decomposition_method init_lora_weights init_weights
    psoft_svd variant wavelet_family
    """.split()
)
NAME_FIELDS = {"exclude_modules", "feedforward_modules", "layers_pattern", "target_modules"}
PATTERN_FIELDS = {"alpha_pattern", "block_size_pattern", "lambda_pattern", "n_frequency_pattern", "rank_pattern"}
LAYER_NUMBER_FIELDS = {"layers_to_transform"}
KNOWN_FIELDS = {
    "peft_type",
    *FLAG_FIELDS,
    *NUMBER_FIELDS,
    *WORD_FIELDS,
    *NAME_FIELDS,
    *PATTERN_FIELDS,
    *LAYER_NUMBER_FIELDS,
}

# what peft's own defaults write into a config, also in deltas of petl 0.1: they ask for nothing
IDLE_VALUES: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "megatron_core": ("megatron.core",),
    "runtime_config": ({"ephemeral_gpu_offload": False},),
    "qalora_group_size": (16,),
    "mask_type": ("random",),
}
INSTEAD = {
    "bias": "name petl's method beside it: [config, 'bias']",
    "modules_to_save": "leave it out, and let them train after petl.wrap: model.get_submodule(name).requires_grad_()",
}
REWRITES = "starts from a changed base, which could neither be saved apart from the change nor be given back"
NEEDS_DATA = "needs images or another library's preparation before it starts"
INITS = {
    **dict.fromkeys(("pissa", "olora", "corda", "loftq"), REWRITES),
    **dict.fromkeys(("eva", "lora_ga"), NEEDS_DATA),
}

_WORD = re.compile(r"[\w.-]{1,64}")
_SAFE = re.compile(r"[\w.*+?|^$\\\[\]()-]{1,200}")
_REPEATS = re.compile(r"(?<!\\)[*+?]")


def checked_config(config: Any) -> dict[str, Any]:
    """Returns the fields of a peft config that petl passes to peft; a MethodError names the first that petl doesn't take."""
    if not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config):
        raise MethodError(f"peft: the config is {type(config).__name__}; expected peft's field names with their values")
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in TUNERS:
        raise MethodError(
            f"peft: {_short(kind)} is no tuner that petl takes{_why_not(kind)}; it takes {', '.join(sorted(TUNERS))}"
        )
    _refuse_init(kind, config.get("init_lora_weights"))
    kept = {key: value for key, value in config.items() if key in KNOWN_FIELDS}
    for key, value in config.items():
        if key not in KNOWN_FIELDS and not asks_for_nothing(key, value):
            hint = INSTEAD.get(key, f"leave it out{near(key, KNOWN_FIELDS)}")
            raise MethodError(f"peft: {kind} with {key[:60]}={_short(value)}, which petl doesn't take; {hint}")
        if key in KNOWN_FIELDS and not _fits(key, value):
            raise MethodError(f"peft: {kind} with {key}={_short(value)}; expected {_expected(key)}")
    return kept


def asks_for_nothing(key: str, value: Any) -> bool:
    """Returns whether a field that petl doesn't take has a value that changes nothing."""
    return value is None or value is False or value in ({}, [], "") or value in IDLE_VALUES.get(key, ())


def _why_not(kind: Any) -> str:
    return " (it compiles C++ and CUDA code when its layers are made)" if kind == "BOFT" else ""


def _refuse_init(kind: str, init: Any) -> None:
    start = next((word for word in INITS if isinstance(init, str) and init.lower().startswith(word)), None)
    if start:
        raise MethodError(
            f"peft: {kind} with init_lora_weights={init!r} {INITS[start]}; use init_lora_weights=True, 'gaussian' or 'orthogonal'"
        )


def _fits(key: str, value: Any) -> bool:
    if value is None:
        return key != "peft_type"
    kinds = {
        "flag": key in FLAG_FIELDS and isinstance(value, bool),
        "number": key in NUMBER_FIELDS and _is_number(value, 2**63 if key in SEED_FIELDS else 1e6),
        "word": (key in WORD_FIELDS or key == "peft_type") and isinstance(value, str) and bool(_WORD.fullmatch(value)),
        "names": key in NAME_FIELDS and _are_names(value),
        "patterns": key in PATTERN_FIELDS and _is_pattern_table(value),
        "places": key in LAYER_NUMBER_FIELDS and _are_places(value),
    }
    return any(kinds.values())


def _expected(key: str) -> str:
    sets = {
        "True or False": FLAG_FIELDS,
        "a number below a million": NUMBER_FIELDS,
        "a word": WORD_FIELDS,
        "names of layers, or one pattern with at most two repeats and two groups": NAME_FIELDS,
        "layer names or simple patterns, each with a number": PATTERN_FIELDS,
        "numbers of layers": LAYER_NUMBER_FIELDS,
    }
    return " or ".join(words for words, keys in sets.items() if key in keys)


def _is_number(value: Any, most: float = 1e6) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < most  # which no NaN is


def _are_names(value: Any) -> bool:
    if isinstance(value, str):
        return _is_safe(value)
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) and _is_safe(name) for name in value)


def _are_places(value: Any) -> bool:
    listed = value if isinstance(value, (list, tuple)) else [value]
    return all(type(place) is int and abs(place) < 1e6 for place in listed)


def _is_pattern_table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and _is_safe(key) and _is_number(number) for key, number in value.items()
    )


def _is_safe(pattern: str) -> bool:
    """Returns whether matching the pattern ends soon on any name: no repeat of a group, two repeats and two groups at most."""
    repeats = len(_REPEATS.findall(pattern))
    if not _SAFE.fullmatch(pattern) or repeats > 2 or pattern.count("(") > 2 or re.search(r"\)[*+?]", pattern):
        return False
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
