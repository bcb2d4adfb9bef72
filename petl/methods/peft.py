"""Any tuner of Hugging Face peft, with petl's sites, head, norm policy and delta file."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn

from petl.errors import MethodError, SiteError, listing, near
from petl.graft.classes import base_class
from petl.methods.foreign import ForeignMethod
from petl.methods.method import Method
from petl.methods.peft_copies import BaseCopies
from petl.methods.peft_fields import KNOWN_FIELDS, asks_for_nothing, checked_config
from petl.methods.peft_merging import merge_tuner_layers
from petl.methods.rates import TrainedTensor, low_rank_rate, rate_for
from petl.methods.registry import register
from petl.sites.names import exact_pattern
from petl.sites.roles import all_sites
from petl.sites.selection import select
from petl.sites.sites import Site, Sites, Where
from petl.sites.survey import Survey

LOW_RANK_TUNERS = ("LORA", "ADALORA")  # with r and lora_alpha as LoRA has them
TRANSIENT = ("task_type", "inference_mode", "auto_mapping", "base_model_name_or_path", "revision", "peft_version")


@register("peft")
@dataclass(frozen=True, kw_only=True)
class Peft(ForeignMethod):
    """A tuner of peft: pass any of its configs, or name it: ``"peft:LoHa"``.

    petl chooses the layers by ``where`` (by default all linear layers; in a net without any, the plain dense
    convolutions; a config's own ``target_modules`` comes first), trains the head, holds BatchNorm still, and saves, loads
    and unwraps bit-exactly. The rest is peft's: it puts wrapper layers in place of the model's own, so weights that a model reads
    without calling the layer (BEiT, EVA, Swin-V2) are not adapted, grouped convolutions are refused, keys get a
    ``base_layer`` in them while wrapped, and merging is as exact as peft's ``merge``: equal up to rounding.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "peft:LoHa", r=4, num_classes=5)
    >>> type(model.blocks[0].attn.proj).__module__
    'peft.tuners.loha.layer'
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    where: Where = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "config", {} if self.config == {} else checked_config(self.config))

    @classmethod
    def from_text(cls, text: str, options: Mapping[str, Any]) -> Method:
        peft = _library()
        kinds = {name.removesuffix("Config"): name for name in dir(peft) if name.endswith("Config")}
        if text not in kinds:
            raise MethodError(f"peft:{text}: peft has no {text}Config{near(text, kinds)}; try peft:LoHa")
        own = {key: value for key, value in options.items() if key != "where"}
        try:
            values = _values(getattr(peft, kinds[text])(**own))
        except Exception as error:  # each config of peft's checks, and fails, in its own way
            raise MethodError(f"peft:{text}: {kinds[text]} refused {own}: {error!r}") from None
        return cls(config=values, where=options.get("where", ()))

    @classmethod
    def from_foreign(cls, item: Any) -> Method | None:
        peft = sys.modules.get("peft")  # an object of peft's exists only where peft has been imported
        return cls(config=_values(item)) if peft and isinstance(item, peft.PeftConfig) else None

    def plan(self, survey: Survey) -> Sites:
        sites = self._chosen(survey)
        uncalled = [site.name for site in sites if site.name not in survey.calls and not survey.failed]
        if uncalled:
            raise SiteError(
                f"peft: {type(survey.model).__name__} reads {listing(uncalled)} without calling it, so peft's wrapper would "
                f"train nothing there; use petl's own 'lora', or leave these out by where="
            )
        if not sites:
            raise SiteError(f"peft: no layer to adapt at where={self.where!r} in {type(survey.model).__name__}")
        return sites

    def _chosen(self, survey: Survey) -> Sites:
        if self.config.get("target_modules"):
            from peft.tuners.tuners_utils import check_target_module_exists

            config = self._config()
            layers = [s for s in all_sites(survey) if {"linear", "conv", "depthwise"} & {*s.roles}]
            return Sites(site for site in layers if check_target_module_exists(config, site.name))
        if self.where:
            return select(survey, self.where)
        return select(survey, "linear") or Sites(s for s in select(survey, "conv") if _is_plain(survey.modules[s.name]))

    def apply(self, model: nn.Module, sites: Sequence[Site]) -> None:
        flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
        config = self._config()
        # of every layer tuner; a pattern, because a name in a list also stands for longer names that end like it
        config.target_modules = exact_pattern(site.name for site in sites)
        copies = BaseCopies(model, sites)
        try:
            _library().inject_adapter_in_model(config, model)
        except BaseException as error:
            copies.put_back()
            if not isinstance(error, Exception):
                raise
            raise SiteError(f"peft: {self.config['peft_type']} can't go onto these layers: {error!r}") from error
        if written := copies.put_back():
            raise SiteError(
                f"peft: {self.config['peft_type']} rewrites the base's own tensors when it starts ({listing(written)}), which "
                f"could then neither be saved apart from the change nor be given back; choose another init"
            )
        for parameter, flag in flags.items():  # peft freezes all that isn't its own, also other methods' grafts
            parameter.requires_grad_(flag)

    def rate(self, tensor: TrainedTensor) -> float:
        """Of peft's LoRA and its kin that of petl's; a cautious one for the other tuners, which differ much."""
        kind = self.config.get("peft_type")
        if kind in LOW_RANK_TUNERS:
            rank = int(self.config.get("r") or 8)
            alpha = float(self.config.get("lora_alpha") or 8)
            scale = alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)
            return low_rank_rate("peft low rank", tensor, rank=rank, scale=scale)
        if kind == "LN_TUNING":
            return rate_for("norm", tensor)
        return rate_for("peft scale" if kind == "IA3" else "peft", tensor)

    def merge(self, model: nn.Module) -> None:
        merge_tuner_layers(model, self.config.get("peft_type"))

    def _config(self) -> Any:
        try:
            return _library().get_peft_config(checked_config(self.config))
        except MethodError:
            raise
        except Exception as error:  # each config of peft's checks, and fails, in its own way
            raise MethodError(
                f"peft: {self.config.get('peft_type')} of the installed peft refused {dict(self.config)}: {error!r}"
            ) from None


def _library() -> Any:
    """Returns the package peft, which is imported here alone."""
    try:
        import peft
    except ImportError as error:
        raise MethodError(f"this method needs Hugging Face peft ({error}); pip install peft") from None
    return peft


def _is_plain(conv: nn.Module) -> bool:
    """Returns whether the layer is dense and has no forward of its own (SAME padding ...) that peft's wrapper would lose."""
    return base_class(conv) is nn.Conv2d and cast(nn.Conv2d, conv).groups == 1


def _values(config: Any) -> dict[str, Any]:
    """Returns a peft config as plain JSON values, without what belongs to peft's own files or asks for nothing."""
    fields = {k: v for k, v in config.to_dict().items() if k not in TRANSIENT and v is not None}
    values = {k: sorted(v) if isinstance(v, set) else getattr(v, "value", v) for k, v in fields.items()}
    default = {field.name: field.default for field in dataclasses.fields(config)}
    idle = {k for k, v in values.items() if asks_for_nothing(k, v) or v == default.get(k, config)}
    return {k: v for k, v in values.items() if k in KNOWN_FIELDS or k not in idle}
