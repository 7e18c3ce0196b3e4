"""The floor of a step: which layers, what each multiplies, and each pass alone."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.archs import build
from bench.archs.arch import ArchSpec
from bench.archs.wrn import WideResNet
from bench.speed import peak
from bench.speed.layers import PASSES, Layer, Pass, layers_of, work
from bench.speed.peak import floor_seconds, shortest
from bench.training.passes import Passes

CPU = torch.device("cpu")
MADRY = Passes(forward=11.0, backward=11.0, first_layer=11.0)


def flops(network: nn.Module, batch: int = 1, side: int = 16) -> int:
    return sum(layer.flops for layer in layers_of(network, torch.rand(batch, 3, side, side)))


def test_flops_are_those_of_the_formula() -> None:
    network = build("cnn", in_channels=3)
    # (in, out, side of the output) of its four 3x3 convolutions on 16x16, then the classifier
    shapes = ((3, 16, 16), (16, 32, 8), (32, 64, 4), (64, 128, 4))
    by_hand = sum(2 * 9 * n_in * n_out * side**2 for n_in, n_out, side in shapes) + 2 * 128 * 10
    assert flops(network) == by_hand
    assert flops(network, batch=5) == 5 * by_hand


def test_a_deeper_network_multiplies_in_proportion() -> None:
    shallow, deep = (WideResNet(ArchSpec(), depth=depth, widen=1) for depth in (28, 52))
    assert flops(deep) / flops(shallow) == pytest.approx(2, rel=0.1)


def test_groups_and_bytes_are_counted() -> None:
    (layer,) = layers_of(nn.Conv2d(4, 6, 3, groups=2, bias=False), torch.rand(2, 4, 5, 5))
    assert layer.output == (2, 6, 3, 3)
    assert layer.flops == 2 * (2 * 6 * 3 * 3) * (2 * 3 * 3)
    numbers = 2 * 4 * 5 * 5 + 6 * 2 * 3 * 3 + 2 * 6 * 3 * 3
    assert layer.intensity(torch.float32) == layer.flops / (4 * numbers)
    assert layer.intensity(torch.bfloat16) == layer.flops / (2 * numbers)


def test_looking_at_the_layers_changes_nothing() -> None:
    network = build("cnn").train()
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    layers_of(network, torch.rand(2, 3, 8, 8))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("layout", peak.LAYOUTS)
@pytest.mark.parametrize("which", PASSES)
def test_a_pass_is_the_one_that_its_name_says(which: Pass, layout: torch.memory_format) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False)
    (layer,) = layers_of(conv, torch.rand(2, 4, 5, 5))
    found = work(layer, which, torch.float32, layout, CPU)()
    noise = torch.Generator()
    x, w, g = (torch.randn(s, generator=noise) for s in (layer.input, layer.weight, layer.output))
    x, w = x.requires_grad_(), w.requires_grad_()
    out = F.conv2d(x, w, stride=2, padding=1, groups=2)
    inputs, weights = torch.autograd.grad(out, (x, w), g)
    wanted = {"forward": out, "input": inputs, "weight": weights}[which]
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", PASSES)
def test_a_linear_layer_is_a_product_of_matrices(which: Pass) -> None:
    (layer,) = layers_of(nn.Linear(3, 2), torch.rand(5, 3))
    shape = {"forward": layer.output, "input": layer.input, "weight": layer.weight}[which]
    assert layer.is_linear
    assert work(layer, which, torch.float32, torch.contiguous_format, CPU)().shape == shape


def test_gradients_that_are_not_asked_for_are_not_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[bool]] = []
    real = torch.ops.aten.convolution_backward

    def spy(*args: object) -> object:
        mask = args[-1]
        assert isinstance(mask, list)
        asked.append(mask)
        return real(*args)

    (layer,) = layers_of(nn.Conv2d(3, 4, 3), torch.rand(1, 3, 5, 5))
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", spy)
    for which in PASSES:
        work(layer, which, torch.float32, torch.contiguous_format, CPU)()
    assert asked == [[True, False, False], [False, True, False]]


def test_the_floor_adds_each_pass_as_often_as_the_step_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {"forward": 1.0, "input": 100.0, "weight": 10_000.0}
    monkeypatch.setattr(peak, "least", lambda layer, which, *_: seconds[which])
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    x = torch.rand(1, 3, 3, 3)
    # of the first layer, the update needs no gradient of the pixels
    first, second = 11 + 10 * 100 + 10_000, 11 + 11 * 100 + 10_000
    assert floor_seconds(network, x, MADRY) == first + second
    natural = Passes(forward=1.0, backward=1.0, first_layer=1.0)
    assert floor_seconds(network, x, natural) == (1 + 10_000) + (1 + 100 + 10_000)


def test_equal_layers_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Layer] = []

    def counted(layer: Layer, *rest: object) -> object:
        measured.append(layer)
        return lambda: torch.zeros(())

    monkeypatch.setattr(peak, "work", counted)
    network = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(5)))
    floor_seconds(network, torch.rand(1, 4, 6, 6), MADRY, budget=0.0)
    assert len(measured) == len(PASSES) * len(peak.LAYOUTS)
    assert len(set(measured)) == 1


def test_the_shortest_call_is_taken() -> None:
    naps = iter([0.05, 0.05, 0.05, 0.002, 0.05])

    def nap() -> Tensor:
        time.sleep(next(naps, 0.05))
        return torch.zeros(())

    assert 0.002 <= shortest(nap, CPU, budget=0.25) < 0.04
