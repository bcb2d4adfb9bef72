"""wrap and load carry plans out by one function, which is all or nothing up to the last step."""

from __future__ import annotations

import inspect

import pytest
import timm
import torch

import petl
from petl.sites.survey import Survey
from petl.wrapping.install import carry_out

RECIPE = {
    "model",
    "methods",
    "num_classes",
    "head",
    "create_args",
    "options",
}  # what a delta records of wrap's arguments


def test_load_takes_every_argument_of_wrap_that_no_delta_records() -> None:
    wrap, load = inspect.signature(petl.wrap).parameters, inspect.signature(petl.load).parameters
    assert {*wrap} - RECIPE <= {*load}


def test_an_error_in_the_last_step_leaves_the_model_as_it_was() -> None:
    model = timm.create_model("test_vit")
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def plan(survey: Survey) -> list[tuple[petl.Method, petl.Sites]]:
        method = petl.LoRA(rank=2)
        return [(method, method.plan(survey))]

    def finish(record: petl.Record) -> None:
        assert petl.record(model) is record and record.tensors[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        carry_out(model, plan, num_classes=3, finish=finish)
    assert petl.record(model) is None and model.num_classes == 1000
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.state_dict().keys() == before.keys()
