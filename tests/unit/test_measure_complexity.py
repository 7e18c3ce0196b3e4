"""Norms of layers: against numpy, with dead modules, BatchNorm, and products beyond a float."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.archs.arch import ArchSpec
from bench.archs.resnet import WideResNet
from bench.errors import ConfigError
from bench.evaluation.measuring import MeasuredModel
from bench.papers.cat.measures.complexity import NORMS, measure_complexity
from bench.threat import Threat


def subject(model: nn.Module, size: int = 4) -> MeasuredModel:
    x = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    return MeasuredModel(model=model, x=x, y=torch.tensor([0, 1]), threat=Threat())


VARIANCE = torch.tensor([0.2, 0.5, 1.0, 3.0])


class Net(nn.Module):
    """Convolution, BatchNorm; convolution, addition, BatchNorm; Linear; and a module unused."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.dead = nn.Linear(100, 100)
            self.fc = nn.Linear(4, 3)
            self.first = nn.Conv2d(1, 4, 3, padding=1)
            self.bn1 = nn.BatchNorm2d(4)
            self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(4)
            nn.init.uniform_(self.bn1.weight, -2, 2)
            nn.init.uniform_(self.bn2.weight, -2, 2)
        self.bn1.running_var = VARIANCE
        self.bn2.running_var = torch.tensor([1.5, 0.1, 4.0, 0.7])

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn1(self.first(x)).relu()
        h = self.bn2(h + self.second(h)).relu()
        logits: Tensor = self.fc(h.mean((2, 3)))
        return logits


def norms(matrix: np.ndarray) -> list[float]:
    return [
        float(np.sqrt((matrix**2).sum())),
        float(np.linalg.svd(matrix, compute_uv=False)[0]),
        float(np.linalg.norm(matrix, np.inf)),
    ]


def matrix(layer: nn.Module) -> np.ndarray:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer.weight.detach().double().numpy().reshape(len(layer.weight), -1)


def scale(bn: nn.BatchNorm2d) -> np.ndarray:
    assert bn.running_var is not None
    return (bn.weight.detach() / (bn.running_var + bn.eps).sqrt()).double().numpy()


def test_norms_are_numpy_s_in_the_order_of_the_calls() -> None:
    model = Net()
    found = measure_complexity(subject(model))
    layers = [model.first, model.second, model.fc]
    assert list(found.arrays["weights_names"]) == ["first", "second", "fc"]
    assert list(found.arrays["folded_names"]) == ["first", "second", "bn2", "fc"]
    stored = np.array([norms(matrix(layer)) for layer in layers])
    own = np.abs(scale(model.bn2)).max()
    folded = np.array(
        [norms(scale(model.bn1)[:, None] * matrix(model.first)), stored[1], [own] * 3, stored[2]]
    )
    for variant, expected in (("weights", stored), ("folded", folded)):
        for column, norm in enumerate(NORMS):
            np.testing.assert_allclose(
                found.arrays[f"{variant}_{norm}"], expected[:, column], rtol=1e-6
            )
            assert found.values[f"log10_product_{variant}_{norm}"] == pytest.approx(
                np.log10(expected[:, column].prod())
            )
    counts = [found.values[name] for name in ("n_layers", "n_folded", "n_own")]
    assert counts == [3, 1, 1]


def test_folding_undoes_a_scale_before_a_batchnorm() -> None:
    model, other = Net(), Net()
    with torch.no_grad():
        other.first.weight *= 10
        other.bn1.running_var = 100 * VARIANCE + 99 * model.bn1.eps
    first, second = (measure_complexity(subject(net)).values for net in (model, other))
    for norm in NORMS:
        stored, folded = f"log10_product_weights_{norm}", f"log10_product_folded_{norm}"
        assert second[stored] == pytest.approx(first[stored] + 1)
        assert second[folded] == pytest.approx(first[folded])


def test_the_max_row_sum_bounds_what_a_layer_does_to_a_signed_image() -> None:
    """The norm from L-infinity to L-infinity is reached inside the image, padding or not."""
    conv = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    kernel = conv.weight.detach()
    row = int(kernel.abs().flatten(1).sum(1).argmax())
    x = torch.zeros(1, 2, 5, 5)
    x[0, :, 1:4, 1:4] = kernel[row].sign()
    given = MeasuredModel(model=conv, x=x, y=torch.tensor([0]), threat=Threat())
    (norm,) = measure_complexity(given).arrays["weights_max_row_sum"]
    assert float(conv(x).detach().abs().max()) == pytest.approx(norm, rel=1e-5)


def test_a_product_beyond_a_float_and_a_layer_of_zeros() -> None:
    deep = nn.Sequential(nn.Flatten(), *(nn.Linear(16, 16) for _ in range(200)))
    with torch.no_grad():
        for layer in deep[1:]:
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(100 * torch.eye(16))
    values = measure_complexity(subject(deep)).values
    assert values["log10_product_weights_spectral"] == pytest.approx(400)
    with torch.no_grad():
        assert isinstance(deep[1], nn.Linear)
        deep[1].weight.zero_()
    values = measure_complexity(subject(deep)).values
    assert values["log10_product_weights_spectral"] is None
    json.dumps(values, allow_nan=False)


def test_a_grouped_convolution_is_block_diagonal() -> None:
    conv = nn.Conv2d(4, 6, 3, groups=2, bias=False)
    found = measure_complexity(
        MeasuredModel(model=conv, x=torch.rand(1, 4, 3, 3), y=torch.tensor([0]), threat=Threat())
    )
    halves = matrix(conv).reshape(2, 3, -1)
    largest = max(norms(half)[1] for half in halves)
    assert found.arrays["weights_spectral"][0] == pytest.approx(largest)


def test_layers_of_a_wide_residual_network() -> None:
    spec = ArchSpec(num_classes=10, in_channels=1, image_size=8)
    values = measure_complexity(subject(WideResNet(spec, depth=10, widen=2), 8)).values
    # Stem, three blocks of two with a shortcut each, classifier. The first BatchNorm of a block
    # follows an addition but in the first block, the second one a convolution, the last none.
    assert (values["n_layers"], values["n_folded"], values["n_own"]) == (11, 4, 3)


def test_a_model_without_weights_or_statistics_is_refused() -> None:
    with pytest.raises(ConfigError, match="no weights"):
        measure_complexity(subject(nn.Flatten()))
    bare = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ConfigError, match="running statistics"):
        measure_complexity(subject(bare))
