"""The line of a linear model in the plane: angle, offset, robust accuracy by its closed form."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.archs import build
from bench.data import Split
from bench.errors import ConfigError
from bench.evaluation.measuring import MeasuredModel
from bench.papers.cat.gaussians import SHIFT, UNIT, load_two_gaussians
from bench.papers.cat.measures.boundary import measure_boundary
from bench.threat import Threat

MEAN, STD = (SHIFT / UNIT,) * 2, (1 / UNIT,) * 2


def model(weight: tuple[float, float], bias: float) -> nn.Module:
    """d = weight . p + bias in the points' units, shared between the two logits."""
    net = build("linear", num_classes=2, in_channels=2, image_size=1, mean=MEAN, std=STD).eval()
    layer = net.first_layer
    assert isinstance(layer, nn.Linear)
    half = torch.tensor(weight) / 2
    with torch.no_grad():
        layer.weight.copy_(torch.stack([1.0 - half, 1.0 + half]))
        layer.bias.copy_(torch.tensor([3.0, 3.0 + bias]))
    return net


def subject(net: nn.Module, eps: float = 1 / UNIT) -> MeasuredModel:
    test = load_two_gaussians().test
    assert isinstance(test, Split)
    x = torch.from_numpy(test.x).permute(0, 3, 1, 2).contiguous()
    return MeasuredModel(model=net, x=x, y=torch.from_numpy(test.y), threat=Threat(eps=eps))


@pytest.mark.parametrize(
    ("weight", "bias", "angle", "offset"),
    [
        ((2.0, 0.0), 0.0, 0.0, 0.0),
        ((2.0, 2.0), -3.0, 45.0, 1.5),
        ((-1.0, 0.5), 0.25, math.degrees(math.atan(0.5)), 0.25),
        ((0.0, 1.0), 1.0, 90.0, None),
    ],
)
def test_angle_and_offset(
    weight: tuple[float, float], bias: float, angle: float, offset: float | None
) -> None:
    found = measure_boundary(subject(model(weight, bias)))
    assert found.values["angle"] == pytest.approx(angle, abs=1e-3)
    if offset is None:
        assert found.values["offset"] is None or abs(found.values["offset"]) > 1e4
    else:
        assert found.values["offset"] == pytest.approx(offset, abs=1e-3)
    np.testing.assert_allclose(found.arrays["weight"], weight, atol=1e-4)
    assert float(found.arrays["bias"]) == pytest.approx(bias, abs=1e-3)
    line = found.arrays["boundary"]
    np.testing.assert_allclose(line @ weight + bias, 0, atol=1e-2)
    assert np.abs(line[0] - line[1]).max() > 60


def test_robust_accuracy_is_that_of_the_worst_corner_of_the_ball() -> None:
    net, given = model((1.0, 0.4137), 0.3019), subject(model((1.0, 0.4137), 0.3019))
    radii = (0.0, 1 / UNIT, 2 / UNIT, 4 / UNIT)
    found = measure_boundary(given, eps=radii)
    assert found.values["eps"] == pytest.approx([0, 1, 2, 4])
    for radius, accuracy in zip(radii, found.values["robust_accuracy"], strict=True):
        direction = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
        side = torch.where(given.y == 1, -1.0, 1.0).view(-1, 1, 1, 1)
        with torch.no_grad():
            right = net(given.x + radius * side * direction).argmax(1) == given.y
        assert accuracy == pytest.approx(float(right.double().mean()))
    assert found.values["robust_accuracy"][0] == found.values["clean_accuracy"]
    values = measure_boundary(subject(net, eps=4 / UNIT)).values  # the threat's radius
    assert (values["eps"], values["n"]) == ([4.0], 1000)
    assert values["robust_accuracy"] == found.values["robust_accuracy"][3:]
    assert 0 < found.values["robust_accuracy"][3] < found.values["clean_accuracy"] < 1


def test_a_model_that_takes_pixels_as_they_are_has_its_line_in_units_too() -> None:
    net = build("linear", num_classes=2, in_channels=2, image_size=1).eval()
    layer = net.first_layer
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        layer.bias.copy_(torch.tensor([0.0, -1.0]))  # pixels that sum to 1: the line p_0 = -p_1
    found = measure_boundary(subject(net))
    assert found.values["angle"] == pytest.approx(45, abs=1e-3)
    assert found.values["offset"] == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(found.arrays["weight"], [1 / UNIT, 1 / UNIT], rtol=1e-4)


def test_a_constant_model_has_no_line() -> None:
    found = measure_boundary(subject(model((0.0, 0.0), 1.0)))
    assert np.isnan(found.arrays["boundary"]).all()
    assert found.values["clean_accuracy"] == 0.5
    json.dumps(found.values, allow_nan=False)


class Bent(nn.Module):
    """Linear in the corners of the pixel range alone."""

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        return torch.cat([h[:, :1], (h[:, 1:] - 0.5).abs()], dim=1)


@pytest.mark.parametrize(
    ("net", "size", "words"),
    [
        (Bent(), (2, 1, 1), "not linear"),
        (nn.Sequential(nn.Flatten(), nn.Linear(2, 3)), (2, 1, 1), "two classes"),
        (nn.Flatten(), (1, 8, 8), "two-gaussians"),
    ],
)
def test_what_has_no_line_is_refused(
    net: nn.Module, size: tuple[int, int, int], words: str
) -> None:
    given = subject(net)
    if size != (2, 1, 1):
        given = MeasuredModel(model=net, x=torch.rand(3, *size), y=given.y[:3], threat=given.threat)
    with pytest.raises(ConfigError, match=words):
        measure_boundary(given)
