"""petl: parameter-efficient transfer learning for the vision models of timm, in place and bit-exact.

>>> import petl, timm
>>> model = petl.wrap(timm.create_model("test_vit"), ["bias", petl.LoRA(rank=4)], num_classes=10)
"""

import importlib as _importlib
import sys as _sys
from importlib.util import find_spec as _find_spec
from os.path import isdir as _isdir
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING

if _isdir(f"{__path__[0]}/transform"):  # the other petl's; its errors.py and version.py would be mixed with ours
    raise ImportError(
        f"{__path__[0]} holds the files of two packages: petl-vision and petl, the ETL library. They can't share an "
        "environment: make a fresh one and install petl-vision alone"
    )

if TYPE_CHECKING:
    from petl import data
    from petl.advice.advise import advise
    from petl.advice.result import Advice
    from petl.combining.combine import combine
    from petl.combining.combined import Combined
    from petl.combining.extend import extend
    from petl.combining.extended import Extended
    from petl.combining.extract import extract
    from petl.combining.extracted import Extracted
    from petl.combining.ridge_statistics import RidgeStatistics
    from petl.delta.load import load, read
    from petl.delta.save import save
    from petl.errors import DataError, DeltaError, MethodError, PetlError, SiteError, StateError
    from petl.exchange.export import export
    from petl.exchange.from_peft import from_peft
    from petl.exchange.to_peft import to_peft
    from petl.extraction.feature_set import Features
    from petl.extraction.features import features
    from petl.graft.graft import grow
    from petl.graft.kinds import InputGraft, OutputGraft, WeightGraft
    from petl.inspection.check import check
    from petl.inspection.listing import ls
    from petl.inspection.summary import summary
    from petl.methods import BN, Adapter, Bias, Full, Input, LoRA, Norm, Partial, Peft, Probe
    from petl.methods.method import Method
    from petl.methods.registry import methods, register
    from petl.objectives.measured import TaskMetrics
    from petl.objectives.metric_learning import MetricLearning
    from petl.objectives.metrics import Metrics
    from petl.objectives.multilabel import Multilabel
    from petl.objectives.multilabel_metrics import MultilabelMetrics
    from petl.objectives.ordinal import Ordinal, OrdinalMetrics
    from petl.objectives.own_loss import LossMetrics, OwnLoss
    from petl.objectives.regression import Regression
    from petl.objectives.regression_metrics import RegressionMetrics
    from petl.objectives.retrieval_metrics import RetrievalMetrics
    from petl.prediction.predict import predict
    from petl.prediction.results import Predictions
    from petl.ranking.rank import rank
    from petl.ranking.ranking import Ranking
    from petl.report.report import report
    from petl.report.result import Report
    from petl.serving.serve import serve
    from petl.sharing.push import push
    from petl.sharing.pushed import Pushed
    from petl.shifts.correct import correct
    from petl.shifts.shift import shift
    from petl.shifts.shift_findings import Shift
    from petl.sites.selection import find
    from petl.sites.sites import Site, Sites, Where
    from petl.start.start import start
    from petl.start.started import Started
    from petl.tasks.tasks import Tasks
    from petl.training.callbacks import Callback, Training
    from petl.training.evaluation import evaluate
    from petl.training.find_rate import find_lr
    from petl.training.fit import fit
    from petl.training.history import History
    from petl.training.optimizers import param_groups
    from petl.trials.compare import compare
    from petl.trials.comparison import Comparison
    from petl.version import __version__
    from petl.wrapping.lookup import bare, in_chans, record, trainable
    from petl.wrapping.merge import merge
    from petl.wrapping.rebase import rebase
    from petl.wrapping.record import Record
    from petl.wrapping.unwrap import unwrap
    from petl.wrapping.wrap import wrap

# Each public name is brought when it is first asked for: torch and timm take seconds, which `petl --version` needn't.
_HOMES = {
    "advice.advise": "advise",
    "advice.result": "Advice",
    "combining.combine": "combine",
    "combining.combined": "Combined",
    "combining.extend": "extend",
    "combining.extended": "Extended",
    "combining.extract": "extract",
    "combining.extracted": "Extracted",
    "combining.ridge_statistics": "RidgeStatistics",
    "delta.load": "load read",
    "delta.save": "save",
    "errors": "DataError DeltaError MethodError PetlError SiteError StateError",
    "exchange.export": "export",
    "exchange.from_peft": "from_peft",
    "exchange.to_peft": "to_peft",
    "extraction.feature_set": "Features",
    "extraction.features": "features",
    "graft.graft": "grow",
    "graft.kinds": "InputGraft OutputGraft WeightGraft",
    "inspection.check": "check",
    "inspection.listing": "ls",
    "inspection.summary": "summary",
    "methods": "BN Adapter Bias Full Input LoRA Norm Partial Peft Probe",
    "methods.method": "Method",
    "methods.registry": "register methods",
    "prediction.predict": "predict",
    "prediction.results": "Predictions",
    "ranking.rank": "rank",
    "ranking.ranking": "Ranking",
    "objectives.measured": "TaskMetrics",
    "objectives.metric_learning": "MetricLearning",
    "objectives.metrics": "Metrics",
    "objectives.multilabel": "Multilabel",
    "objectives.multilabel_metrics": "MultilabelMetrics",
    "objectives.ordinal": "Ordinal OrdinalMetrics",
    "objectives.own_loss": "LossMetrics OwnLoss",
    "objectives.regression": "Regression",
    "objectives.regression_metrics": "RegressionMetrics",
    "objectives.retrieval_metrics": "RetrievalMetrics",
    "report.report": "report",
    "report.result": "Report",
    "serving.serve": "serve",
    "sharing.push": "push",
    "sharing.pushed": "Pushed",
    "shifts.correct": "correct",
    "shifts.shift": "shift",
    "shifts.shift_findings": "Shift",
    "sites.selection": "find",
    "sites.sites": "Site Sites Where",
    "start.start": "start",
    "start.started": "Started",
    "tasks.tasks": "Tasks",
    "training.callbacks": "Callback Training",
    "training.evaluation": "evaluate",
    "training.find_rate": "find_lr",
    "training.fit": "fit",
    "training.history": "History",
    "training.optimizers": "param_groups",
    "trials.compare": "compare",
    "trials.comparison": "Comparison",
    "version": "__version__",
    "wrapping.lookup": "bare in_chans record trainable",
    "wrapping.merge": "merge",
    "wrapping.rebase": "rebase",
    "wrapping.record": "Record",
    "wrapping.unwrap": "unwrap",
    "wrapping.wrap": "wrap",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "BN",
    "Adapter",
    "Advice",
    "Bias",
    "Callback",
    "Combined",
    "Comparison",
    "DataError",
    "DeltaError",
    "Extended",
    "Extracted",
    "Features",
    "Full",
    "History",
    "Input",
    "InputGraft",
    "LoRA",
    "LossMetrics",
    "Method",
    "MethodError",
    "MetricLearning",
    "Metrics",
    "Multilabel",
    "MultilabelMetrics",
    "Norm",
    "Ordinal",
    "OrdinalMetrics",
    "OutputGraft",
    "OwnLoss",
    "Partial",
    "Peft",
    "PetlError",
    "Predictions",
    "Probe",
    "Pushed",
    "Ranking",
    "Record",
    "Regression",
    "RegressionMetrics",
    "Report",
    "RetrievalMetrics",
    "RidgeStatistics",
    "Shift",
    "Site",
    "SiteError",
    "Sites",
    "Started",
    "StateError",
    "TaskMetrics",
    "Tasks",
    "Training",
    "WeightGraft",
    "Where",
    "__version__",
    "advise",
    "bare",
    "check",
    "combine",
    "compare",
    "correct",
    "data",
    "evaluate",
    "export",
    "extend",
    "extract",
    "features",
    "find",
    "find_lr",
    "fit",
    "from_peft",
    "grow",
    "in_chans",
    "load",
    "ls",
    "merge",
    "methods",
    "param_groups",
    "predict",
    "push",
    "rank",
    "read",
    "rebase",
    "record",
    "register",
    "report",
    "save",
    "serve",
    "shift",
    "start",
    "summary",
    "to_peft",
    "trainable",
    "unwrap",
    "wrap",
]


class _Package(_ModuleType):
    """Keeps functions and modules of the same name apart, whatever is imported first."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, _ModuleType) and name in _HOME:
            return  # `import petl.methods` brings the package, and petl.methods stays the function
        super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package

if not TYPE_CHECKING:  # type checkers would take every name for known

    def __getattr__(name: str) -> object:
        if name in _HOME:
            value = getattr(_importlib.import_module(f"petl.{_HOME[name]}"), name)
            globals()[name] = value
            return value
        if name.startswith("_") or _find_spec(f"petl.{name}") is None:
            raise AttributeError(f"module 'petl' has no attribute {name!r}")
        return _importlib.import_module(f"petl.{name}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
