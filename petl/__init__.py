"""petl: parameter-efficient transfer learning for the vision models of timm, in place and bit-exact.

>>> import petl, timm
>>> model = petl.wrap(timm.create_model("test_vit"), ["bias", petl.LoRA(rank=4)], num_classes=10)
"""

from os.path import isdir as _isdir

if _isdir(f"{__path__[0]}/transform"):  # the other petl's; its errors.py and version.py would be mixed with ours
    raise ImportError(
        f"{__path__[0]} holds the files of two packages: petl-vision and petl, the ETL library. They can't share an "
        "environment: make a fresh one and install petl-vision alone"
    )

from petl import data
from petl.check import check
from petl.delta import load, read, save
from petl.errors import DataError, DeltaError, MethodError, PetlError, SiteError, StateError
from petl.frozen import rebase
from petl.graft import InputGraft, OutputGraft, WeightGraft, grow
from petl.groups import param_groups
from petl.method import Method, register
from petl.methods import BN, Adapter, Bias, Full, Input, LoRA, Norm, Partial, Peft, Probe
from petl.record import Record, bare, record
from petl.sites import Site, Sites, Where, find
from petl.summary import summary
from petl.train import History, Metrics, evaluate, fit
from petl.version import __version__
from petl.wrap import in_chans, merge, trainable, unwrap, wrap

# isort: split
from petl.method import methods  # last: the package petl.methods has the same name and came in above

__all__ = [
    "BN",
    "Adapter",
    "Bias",
    "DataError",
    "DeltaError",
    "Full",
    "History",
    "Input",
    "InputGraft",
    "LoRA",
    "Method",
    "MethodError",
    "Metrics",
    "Norm",
    "OutputGraft",
    "Partial",
    "Peft",
    "PetlError",
    "Probe",
    "Record",
    "Site",
    "SiteError",
    "Sites",
    "StateError",
    "WeightGraft",
    "Where",
    "__version__",
    "bare",
    "check",
    "data",
    "evaluate",
    "find",
    "fit",
    "grow",
    "in_chans",
    "load",
    "merge",
    "methods",
    "param_groups",
    "read",
    "rebase",
    "record",
    "register",
    "save",
    "summary",
    "trainable",
    "unwrap",
    "wrap",
]
