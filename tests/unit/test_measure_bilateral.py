"""The bilateral margin of Definition 3.1 against closed forms, and against search in the plane."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.evaluation.measuring import MeasuredModel
from bench.papers.cat.measures.bilateral import measure_bilateral
from bench.threat import Threat


class Double(nn.Module):
    """Logits of a function of the flat pixels, in float64."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *layers).double().eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def linear(weight: Tensor, bias: Tensor) -> Double:
    layer = nn.Linear(weight.shape[1], len(weight))
    model = Double(layer)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return model


def subject(model: nn.Module, x: Tensor, y: Tensor | None = None) -> MeasuredModel:
    labels = model(x).argmax(1) if y is None else y
    return MeasuredModel(model=model, x=x, y=labels, threat=Threat())


def written_out(model: nn.Module, x: Tensor, y: int, d: Tensor) -> Tensor:
    """(G, D) -> (G,): size of d and of the shortest d_o that changes the argmax, by the formula."""
    z = x.flatten() + d * x.norm()
    with torch.no_grad():
        h = model(z.view(-1, *x.shape)).softmax(1)
    others = h.clone()
    others[:, y] = -1
    lead = (h[:, y] - others.amax(1)).clamp_min(0)
    size: Tensor = (d.square().sum(1) + (lead / 2**0.5 / z.norm(dim=1)).square()).sqrt()
    return size


def plane(reach: float, n: int = 601) -> Tensor:
    axis = torch.linspace(-reach, reach, n, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis)


@pytest.mark.parametrize("scale", [1e3, 3.0, 0.3])
def test_the_margin_of_a_linear_model(scale: float) -> None:
    """The best d_i is in the plane of x and w; where the softmax is saturated, along w."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(12, generator=g, dtype=torch.float64)
    model = linear(torch.stack([scale * w, -scale * w]), scale * torch.tensor([0.4, -0.4]))
    x = torch.rand(6, 1, 3, 4, generator=g, dtype=torch.float64)
    given = subject(model, x)
    found, bound = (measure_bilateral(given).arrays[name] for name in ("margin", "bound"))
    for image, y, margin, most in zip(x, given.y.tolist(), found, bound, strict=True):
        flat = image.flatten()
        distance = abs(float(2 * flat @ w + 0.8)) / float(2 * w.norm()) / float(flat.norm())
        h = model(image[None]).softmax(1)[0].detach()
        assert most == pytest.approx(float(h[y] - h[1 - y]) / 2**0.5 / float(flat.norm()))
        if scale == 1e3:
            assert margin == pytest.approx(min(distance, most), rel=1e-3)
            continue
        basis = torch.linalg.qr(torch.stack([flat, w], 1)).Q
        centre, reach = torch.zeros(2, dtype=torch.float64), most
        for _ in range(3):  # ever finer around the best point
            points = centre + plane(reach, 161)
            sizes = written_out(model, image, y, points @ basis.T)
            centre, reach = points[sizes.argmin()], reach / 20
        assert margin == pytest.approx(float(sizes.min()), rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_margin_of_a_small_network_is_that_of_a_grid(seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Double(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.mul_(4.0 if name.endswith("weight") else 1.0)
        x = torch.rand(5, 2, 1, 1, dtype=torch.float64)
    given = subject(model, x)
    found = measure_bilateral(given)
    for image, y, margin, bound in zip(
        x, given.y.tolist(), found.arrays["margin"], found.arrays["bound"], strict=True
    ):
        best = float(written_out(model, image, y, plane(bound)).min())
        assert margin <= bound * (1 + 1e-12)
        assert best * 0.995 <= margin <= best * 1.02


def test_the_bound_is_reached_by_a_perturbation_of_the_output_and_longer_inputs_need_less() -> None:
    """Outputs that no input changes: d_o moves class y down and the next one up as far."""
    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    model = linear(torch.zeros(3, 4), torch.tensor([1.0, 0.5, -1.0]))
    found = measure_bilateral(subject(model, x)).arrays
    h = model(x).softmax(1)[0].detach()
    step = torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64) / 2**0.5
    for factor, answer in ((1.001, 1), (0.999, 0)):
        assert int((h + factor * float(found["bound"][0]) * step * x.norm()).argmax()) == answer
    r = np.linspace(0, 0.1, 10_001)  # ||d_i||, along x
    closed = np.sqrt(r**2 + (found["bound"][0] / (1 + r)) ** 2).min()
    assert closed < 0.99 * found["bound"][0]
    assert found["margin"][0] == pytest.approx(closed, rel=1e-3)


def test_soft_outputs_lower_the_bound_and_a_wrong_image_has_no_margin() -> None:
    g = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(4, 12, generator=g), torch.randn(4, generator=g)
    x = torch.rand(10, 1, 3, 4, generator=g, dtype=torch.float64)
    sharp, soft = (linear(scale * weight, scale * bias) for scale in (5.0, 0.1))
    y = sharp(x).argmax(1)
    y[3] = (y[3] + 1) % 4
    high, low = (measure_bilateral(subject(model, x, y)) for model in (sharp, soft))
    assert (high.values["n"], high.values["n_correct"]) == (10, 9)
    assert high.arrays["margin"][3] == high.arrays["bound"][3] == 0
    assert low.values["mean_bound"] < 0.2 * high.values["mean_bound"]
    assert low.values["mean_margin"] < high.values["mean_margin"]
    assert high.values["mean_margin"] == pytest.approx(high.arrays["margin"].mean())
    assert high.values["mean_inverse_margin"] >= high.values["mean_inverse_bound"]
    wrong = measure_bilateral(subject(sharp, x, (sharp(x).argmax(1) + 1) % 4)).values
    assert (wrong["mean_margin"], wrong["n_correct"]) == (0, 0)
