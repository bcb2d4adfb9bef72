"""Recording the calls of modules in a forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petl.sites.calls import CallRecorder, kept_in
from petl.sites.survey import survey_model


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no")


class Catches(nn.Module):
    """Calls a layer by keyword, and another one inside a module that raises an error, which is caught."""

    def __init__(self) -> None:
        super().__init__()
        self.raises, self.conv, self.fc = Raises(), nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        try:
            x = self.raises(x)
        except ValueError:
            x = self.conv(input=x)
        return self.fc(x.mean((2, 3))), "text"


def test_calls_are_recorded_with_what_is_kept_of_their_tensors() -> None:
    model, recorder = Catches(), CallRecorder(lambda tensor: torch.Size(tensor.shape))
    with recorder.watching(model.named_modules()):
        model(torch.zeros(2, 3, 8, 8))
    assert [call.name for call in recorder.calls] == ["", "raises", "conv", "fc"]
    assert [call.name for call in recorder.finished] == ["conv", "fc", ""]
    whole, raises, conv, fc = recorder.calls
    assert (conv.args, conv.kwargs) == ((), {"input": (2, 3, 8, 8)})
    assert whole.returned == ((2, 2), "text") and fc.returned == (2, 2)
    assert raises.end == 0 and raises.returned is None
    assert whole.begin < conv.begin < conv.end < fc.begin < fc.end < whole.end
    assert kept_in(fc.returned, torch.Size) == [fc.returned]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_are_removed_after_an_error() -> None:
    model, recorder = Raises(), CallRecorder(lambda tensor: None)
    try:
        with recorder.watching(model.named_modules()):
            model(torch.zeros(1))
    except ValueError:
        pass
    assert not model._forward_hooks and not recorder.finished


def test_a_survey_sees_a_model_that_catches_errors_of_its_modules() -> None:
    survey = survey_model(Catches())
    assert not survey.failed
    assert [*survey.calls] == ["", "raises", "conv", "fc"]
    assert survey.read_parameters == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}
