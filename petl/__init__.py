"""Parameter-efficient tuning of timm vision models, in place."""

from petl.check import check
from petl.delta import load, read, save
from petl.errors import DataError, DeltaError, MethodError, PetlError, SiteError, StateError
from petl.graft import InputGraft, OutputGraft, WeightGraft, grow
from petl.groups import param_groups
from petl.method import Method, methods, register
from petl.methods import BN, Adapter, Bias, Full, Input, LoRA, Norm, Partial, Peft, Probe
from petl.record import Record, bare, record
from petl.sites import Site, Sites, Where, find
from petl.summary import summary
from petl.version import __version__
from petl.wrap import in_chans, merge, trainable, unwrap, wrap
