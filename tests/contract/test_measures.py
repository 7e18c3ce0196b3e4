"""What every measure of the papers keeps: values in JSON, repeatable, the model as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import ConfigError
from bench.evaluation.measuring import MeasuredModel
from bench.papers import plugins
from bench.threat import Threat

MEASURES = plugins("measures")


def subject() -> MeasuredModel:
    """A linear model of points in the plane, which every measure takes, in training mode."""
    g = torch.Generator().manual_seed(0)
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 2, generator=g))
    x = torch.rand(12, 2, 1, 1, generator=g)
    y = layer(x.flatten(1)).argmax(1)
    y[3] = 1 - y[3]
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), layer).train()
    return MeasuredModel(model=model, x=x, y=y, threat=Threat(eps=0.05), seed=5)


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_repeats_whatever_the_batch_and_leaves_the_model_as_it_was(name: str) -> None:
    given, (measure, _) = subject(), MEASURES[name]
    before = {key: value.clone() for key, value in given.model.state_dict().items()}
    found, again, small = map(measure, (given, given, replace(given, batch_size=5)))
    json.dumps(found.values, allow_nan=False)
    for key, array in found.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[key])
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, small.arrays[key], rtol=1e-4, atol=1e-6)
    assert given.model.training
    assert all(p.requires_grad and p.grad is None for p in given.model.parameters())
    for key, value in given.model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("landscape", {"n_points": 4}, "odd number"),
        ("landscape", {"n_images": 0}, "odd number"),
        ("landscape", {"reach": 0.0}, "odd number"),
        ("bilateral", {"steps": 5}, "at least 1 and 6"),
        ("margins", {"steps": 0}, "at least 1 each"),
    ],
)
def test_impossible_numbers_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MEASURES[name][0](subject(), **options)
