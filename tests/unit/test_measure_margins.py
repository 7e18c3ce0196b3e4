"""Margins against closed forms on linear models, and the perturbed network against its formula."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.evaluation.measuring import MeasuredModel
from bench.papers.cat.measures.layers import Where, perturbed
from bench.papers.cat.measures.margins import measure_margins
from bench.threat import Threat, rowwise


def linear(weight: Tensor, bias: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer).eval()


def subject(model: nn.Module, x: Tensor, y: Tensor) -> MeasuredModel:
    return MeasuredModel(model=model, x=x, y=y, threat=Threat())


def four_classes() -> tuple[MeasuredModel, Tensor, Tensor, Tensor]:
    """A linear model of 12 pixels, images that it gets right but for every fifth, and W, b."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 12, generator=g) * torch.tensor([[0.3], [1.0], [2.0], [0.6]])
    bias = torch.randn(4, generator=g)
    model = linear(weight, bias)
    x = torch.rand(40, 1, 3, 4, generator=g)
    with torch.no_grad():
        y = model(x).argmax(1)
    wrong = torch.arange(40) % 5 == 0
    return subject(model, x, torch.where(wrong, (y + 1) % 4, y)), weight, bias, wrong


def test_a_linear_model_s_margins_have_closed_forms() -> None:
    given, weight, bias, wrong = four_classes()
    found = measure_margins(given)
    pixels = given.x.flatten(1).double()
    logits = pixels @ weight.double().T + bias
    lead = logits.gather(1, given.y[:, None]) - logits
    apart = (weight[given.y][:, None] - weight[None]).double().norm(dim=2)
    own = torch.nn.functional.one_hot(given.y, 4).bool()
    length = pixels.norm(dim=1)
    of_input = (lead / apart).masked_fill(own, torch.inf).amin(1) / length
    of_layers = lead.masked_fill(own, torch.inf).amin(1) / 2**0.5 / length
    nearest = (lead / apart).masked_fill(own, torch.inf).argmin(1)
    assert (nearest != lead.masked_fill(own, torch.inf).argmin(1)).any()  # else a weak test
    for kind, expected in (("input", of_input), ("layers", of_layers)):
        margin = found.arrays[f"margin_{kind}"]
        assert (margin[wrong] == 0).all()
        np.testing.assert_allclose(margin[~wrong], expected[~wrong], rtol=1e-3)
        assert found.values[f"mean_{kind}"] == pytest.approx(margin.mean())
        assert found.values[f"mean_inverse_{kind}"] == pytest.approx((1 / margin[~wrong]).mean())
        assert found.values[f"n_not_found_{kind}"] == 0
    assert (found.values["n"], found.values["n_correct"]) == (40, 32)
    ranked = np.sort(found.arrays["margin_input"])  # at 5, 25, 50, 75 and 95% of 40 images
    assert found.values["quantiles_input"] == pytest.approx(ranked[[1, 9, 19, 29, 37]])


def test_both_together_reach_the_optimum_of_a_search_in_the_plane() -> None:
    weight, bias = torch.tensor([[1.0, -2.0], [-0.5, 1.5]]), torch.tensor([0.4, -0.1])
    x = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]]).view(3, 2, 1, 1)
    y = torch.tensor([0, 0, 1])
    margin = measure_margins(subject(linear(weight, bias), x, y), steps=100).arrays["margin_both"]
    axis = torch.linspace(-0.8, 0.8, 801, dtype=torch.float64)
    delta = torch.cartesian_prod(axis, axis)
    for image, label, found in zip(x.double(), y, margin, strict=True):
        point = image.flatten()
        moved = point + delta * point.norm()
        logits = moved @ weight.double().T + bias
        lead = logits[:, label] - logits[:, 1 - label]
        last = lead.clamp_min(0) / 2**0.5 / moved.norm(dim=1)
        best = (delta.square().sum(1) + last.square()).sqrt().min()
        assert found == pytest.approx(float(best), rel=5e-3)


class Small(nn.Module):
    """A convolution with BatchNorm, one without, and a Linear."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.first = nn.Conv2d(1, 4, 3, padding=1)
            self.bn = nn.BatchNorm2d(4)
            self.second = nn.Conv2d(4, 3, 3)
            self.fc = nn.Linear(3 * 4, 3)
            self.unused = nn.Linear(5, 5)
            nn.init.uniform_(self.bn.weight, 0.5, 2.0)
        self.set_variance(torch.tensor([0.2, 0.5, 1.0, 3.0]))
        self.eval()

    def set_variance(self, variance: Tensor) -> None:
        self.bn.running_var = variance

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.bn(self.first(x)).relu()).relu()
        logits: Tensor = self.fc(h.flatten(1)) * 3
        return logits


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return x, Small()(x).argmax(1)


@pytest.mark.parametrize("where", ["input", "layers", "both"])
def test_the_perturbed_network_is_the_formula(where: Where) -> None:
    model, (x, _), g = Small(), images(5), torch.Generator().manual_seed(4)
    with perturbed(model, x[:1], where) as network, torch.no_grad():
        deltas = [torch.randn(d.shape, generator=g) * 0.1 for d in network.zeros(x)]
        logits = network(x, deltas)
        np.testing.assert_allclose(network(x, network.zeros(x)), Small()(x), atol=1e-6)
    left = list(deltas)

    def add(h: Tensor, read: Tensor, *, layer: bool = True) -> Tensor:
        if where == ("input" if layer else "layers"):
            return h
        return h + left.pop(0) * rowwise(torch.linalg.vector_norm(read.flatten(1), dim=1), h)

    with torch.no_grad():
        h0 = add(x, x, layer=False)
        h1 = add(model.bn(model.first(h0)), h0).relu()
        h2 = add(model.second(h1), h1).relu()
        expected = add(model.fc(h2.flatten(1)), h2) * 3
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(model(x), Small()(x))  # the hooks are gone
    assert left == []


def test_scaling_weights_before_a_batchnorm_changes_no_margin() -> None:
    x, y = images()
    other = Small()
    other.set_variance(49 * torch.tensor([0.2, 0.5, 1.0, 3.0]) + 48 * other.bn.eps)
    with torch.no_grad():
        other.first.weight *= 7
        assert other.first.bias is not None
        other.first.bias *= 7
    first, second = (measure_margins(subject(model, x, y)).arrays for model in (Small(), other))
    for kind in ("input", "layers", "both"):
        np.testing.assert_allclose(first[f"margin_{kind}"], second[f"margin_{kind}"], rtol=1e-2)


@pytest.mark.slow
def test_more_freedom_and_more_work_give_no_larger_margin() -> None:
    x, y = images(8)
    found = measure_margins(subject(Small(), x, y)).arrays
    assert (found["margin_both"] <= found["margin_input"]).all()
    assert (found["margin_both"] <= found["margin_layers"]).all()
    assert found["margin_both"].mean() < 0.98 * found["margin_layers"].mean()
    best = measure_margins(subject(Small(), x, y), steps=100).arrays
    for kind in ("input", "layers", "both"):
        np.testing.assert_allclose(found[f"margin_{kind}"], best[f"margin_{kind}"], rtol=0.03)


def test_a_margin_that_no_perturbation_bridges_is_infinite_and_named() -> None:
    model = linear(torch.zeros(3, 4), torch.tensor([1.0, 0.0, -1.0]))
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    found = measure_margins(subject(model, x, y))
    np.testing.assert_array_equal(found.arrays["margin_input"], [np.inf, 0.0])
    assert found.values["n_not_found_input"] == 1
    assert found.values["mean_input"] is None
    assert found.values["mean_inverse_input"] == 0
    assert found.values["mean_layers"] == pytest.approx(1 / 2**0.5 / 2, rel=1e-3)
    json.dumps(found.values, allow_nan=False)


def test_without_a_correct_image_there_is_no_inverse() -> None:
    x, y = images()
    values = measure_margins(subject(Small(), x, (y + 1) % 3)).values
    assert (values["mean_both"], values["mean_inverse_both"]) == (0.0, None)
