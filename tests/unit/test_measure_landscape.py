"""The loss around an image: against the closed form of a linear model, and what the grid holds."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.evaluation.measuring import MeasuredModel
from bench.papers.cat.measures.landscape import measure_landscape
from bench.seeding import generator_for
from bench.threat import Threat

EPS = 0.05


class Two(nn.Module):
    """Two linear classes of images (1, 3, 3); one pixel has no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(9, 2)
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.fc.weight.copy_(torch.randn(2, 9, generator=g))
            self.fc.weight[:, 4] = 0.0
            self.fc.bias.copy_(torch.tensor([0.2, -0.3]))
        self.lowest, self.highest = torch.inf, -torch.inf

    def forward(self, x: Tensor) -> Tensor:
        self.lowest = min(self.lowest, float(x.detach().min()))
        self.highest = max(self.highest, float(x.detach().max()))
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def subject(model: nn.Module, n: int = 3, away: float = 0.3) -> MeasuredModel:
    """`away`: the least distance of a pixel from 0 and 1."""
    g = torch.Generator().manual_seed(1)
    x = away + (1 - 2 * away) * torch.rand(n, 1, 3, 3, generator=g)
    y = torch.arange(n) % 2
    return MeasuredModel(model=model, x=x, y=y, threat=Threat(eps=EPS), seed=5)


def test_a_linear_model_has_planes() -> None:
    model = Two()
    given = subject(model)
    found = measure_landscape(given, n_points=5)
    a, b, margin, ce = (found.arrays[name] for name in ("a", "b", "margin", "ce"))
    np.testing.assert_allclose(a, [-2 * EPS, -EPS, 0, EPS, 2 * EPS], atol=1e-12)
    np.testing.assert_array_equal(a, b)
    assert margin.shape == ce.shape == (3, 5, 5)
    weight = model.fc.weight.detach().double()
    for i, (image, label) in enumerate(zip(given.x, given.y, strict=True)):
        w = (weight[1] - weight[0]) * (1 if label == 0 else -1)
        bias = float(model.fc.bias.detach().diff()) * (1 if label == 0 else -1)
        noise = torch.randint(0, 2, (1, 3, 3), generator=generator_for(5, "landscape", i))
        v = (2.0 * noise - 1).flatten().double()
        at_x = float(w @ image.flatten().double()) + bias
        plane = at_x + a[:, None] * float(w.abs().sum()) + b[None, :] * float(v @ w)
        np.testing.assert_allclose(margin[i], plane, atol=1e-5)
        np.testing.assert_allclose(ce[i], np.log1p(np.exp(plane)), atol=1e-5)
    np.testing.assert_array_equal(found.arrays["index"], [0, 1, 2])
    assert found.values["margin_at_x"] == pytest.approx(margin[:, 2, 2].mean())
    assert found.values["ce_highest"] == pytest.approx(ce.max((1, 2)).mean())


def test_pixels_stay_in_range_and_surfaces_depend_on_no_other_image() -> None:
    model = Two()
    measure_landscape(subject(model, away=0.0), n_points=3)
    assert (model.lowest, model.highest) == (0.0, 1.0)
    whole = measure_landscape(subject(Two()), n_points=5)
    alone = measure_landscape(subject(Two()), n_points=5, n_images=1)
    assert alone.arrays["ce"].shape == (1, 5, 5)
    np.testing.assert_allclose(alone.arrays["ce"][0], whole.arrays["ce"][0], atol=1e-6)


def test_other_seeds_have_other_signs() -> None:
    first, second = (
        measure_landscape(replace(subject(Two()), seed=seed), n_points=3).arrays["ce"]
        for seed in (0, 1)
    )
    assert np.abs(first - second)[:, :, 0].max() > 1e-3


def test_logits_that_are_not_finite_leave_no_nan_among_the_values() -> None:
    class Broken(Two):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.nan

    values = measure_landscape(subject(Broken()), n_points=3).values
    assert values["ce_at_x"] is None
    json.dumps(values, allow_nan=False)
