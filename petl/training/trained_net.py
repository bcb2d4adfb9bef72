"""What a training runs: the whole model on images, or the part above its cached features on these."""

from __future__ import annotations

from typing import Any

from torch import nn

from petl.extraction.decision import Decision, Loaders, RunModel, choose_features
from petl.extraction.npy_writer import StorageError
from petl.extraction.options import FeatureOptions
from petl.extraction.reasons import NoRoom
from petl.training.compiling import compile_net
from petl.training.settings import Settings


def features_or_images(
    accelerator: Any, model: nn.Module, loaders: Loaders, options: FeatureOptions, progress: Any
) -> tuple[Decision, Loaders]:
    """Computes the features if they are to be used; returns the decision, and the loaders of features or images."""
    decision = choose_features(accelerator, model, loaders, options)
    if decision.source is None:
        return decision, loaders
    train, val = loaders
    try:
        features = decision.source.train(train, options.views or 1, progress)
        return decision, (features, decision.source.val(val, progress) if val is not None else None)
    except BaseException as error:
        decision.source.close()
        if isinstance(error, StorageError) and not (options.cache or options.views):
            return RunModel(NoRoom(str(error))), loaders
        raise


def trained_net(decision: Decision, model: nn.Module, settings: Settings) -> nn.Module:
    """Returns what trains, to be run as it is or compiled: the model, or the part above its cached features."""
    net = decision.source.net if decision.source else model
    compile_net(net, settings.loop.compile)
    return net
