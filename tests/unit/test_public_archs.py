"""The networks of public checkpoints: their keys, and their function written out from those keys.

The keys are those of models/wideresnet.py (TRADES), preactresnet.py (robust overfitting) and the
VGG-16 that the robust-training repositories share.
"""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import archs
from bench.archs.arch import Arch, ArchSpec
from bench.archs.resnet import WideResNet
from tests.contract.test_archs import settle


def bn_keys(name: str) -> Iterator[str]:
    for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"{name}.{key}"


def keys_of(name: str) -> list[str]:
    with torch.device("meta"):
        return list(archs.build(name).state_dict())


@pytest.mark.parametrize(
    ("arch", "blocks", "shortcut", "norm", "linear"),
    [
        # TRADES; the first block of each group has a shortcut
        ("wrn-34-10", (5, 5, 5), "block{}.layer.{}|convShortcut", "bn1", "fc"),
        ("wrn-28-10", (4, 4, 4), "block{}.layer.{}|convShortcut", "bn1", "fc"),
        # robust overfitting; but for the first group
        ("preact-resnet-18", (2, 2, 2, 2), "layer{}.{}|shortcut.0", "bn", "linear"),
        ("preact-resnet-18-raw", (2, 2, 2, 2), "layer{}.{}|shortcut.0", "bn", "linear"),
    ],
)
def test_residual_keys_are_those_of_the_public_copies(
    arch: str, blocks: tuple[int, ...], shortcut: str, norm: str, linear: str
) -> None:
    expected, (place, name) = ["conv1.weight"], shortcut.split("|")
    for group, n_blocks in enumerate(blocks, 1):
        for i in range(n_blocks):
            block = place.format(group, i)
            for layer in (1, 2):
                expected += [*bn_keys(f"{block}.bn{layer}"), f"{block}.conv{layer}.weight"]
            if i == 0 and (group > 1 or arch.startswith("wrn")):
                expected.append(f"{block}.{name}.weight")
    expected += [*bn_keys(norm), f"{linear}.weight", f"{linear}.bias"]
    assert keys_of(arch) == expected


def test_vgg_keys_are_those_of_the_public_copies() -> None:
    expected, layer = [], 0
    for n_convs in (2, 2, 3, 3, 3):
        for _ in range(n_convs):
            expected += [f"features.{layer}.weight", f"features.{layer}.bias"]
            expected += bn_keys(f"features.{layer + 1}")
            layer += 3  # convolution, BatchNorm, ReLU
        layer += 1  # pooling
    assert keys_of("vgg-16") == [*expected, "classifier.weight", "classifier.bias"]


class Written:
    """A network in eval mode as plain formulas over a state dict."""

    def __init__(self, model: Arch) -> None:
        self.state = model.state_dict()

    def bn_relu(self, h: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (
            self.state[f"{name}.{key}"].view(1, -1, 1, 1)
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        out: Tensor = (h - mean) / (var + 1e-5).sqrt() * weight + bias
        return out.clamp(min=0)

    def conv(self, h: Tensor, name: str, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(h, self.state[f"{name}.weight"], None, stride, padding)

    def block(self, x: Tensor, name: str, stride: int, shortcut: str, *, raw: bool) -> Tensor:
        """A pre-activation block; `shortcut` names its 1x1 convolution, if the keys have one."""
        h = self.bn_relu(x, f"{name}.bn1")
        out = self.conv(h, f"{name}.conv1", stride)
        out = self.conv(self.bn_relu(out, f"{name}.bn2"), f"{name}.conv2")
        if f"{name}.{shortcut}.weight" not in self.state:
            return out + x
        return out + self.conv(x if raw else h, f"{name}.{shortcut}", stride, padding=0)

    def head(self, h: Tensor, bn: str, linear: str, size: int) -> Tensor:
        """The public copies average over a window of `size`, which must be the whole map."""
        h = F.avg_pool2d(self.bn_relu(h, bn), size).flatten(1)
        return F.linear(h, self.state[f"{linear}.weight"], self.state[f"{linear}.bias"])


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def preact(net: Written, images: Tensor, raw: bool) -> Tensor:
    h = net.conv(images, "conv1")
    for group in (1, 2, 3, 4):
        for i in (0, 1):
            stride = 2 if i == 0 and group > 1 else 1
            h = net.block(h, f"layer{group}.{i}", stride, "shortcut.0", raw=raw)
    return net.head(h, "bn", "linear", 4)


@pytest.mark.parametrize(
    ("arch", "raw"), [("preact-resnet-18", False), ("preact-resnet-18-raw", True)]
)
@torch.no_grad()
def test_preact_function(arch: str, raw: bool, images: Tensor) -> None:
    torch.manual_seed(0)
    model = settle(archs.build(arch), images)
    net, actual = Written(model), model(images)
    torch.testing.assert_close(actual, preact(net, images, raw), rtol=1e-4, atol=1e-4)
    assert (actual - preact(net, images, not raw)).abs().amax() > 1e-2


@torch.no_grad()
def test_wide_function(images: Tensor) -> None:
    torch.manual_seed(0)
    model = settle(WideResNet(ArchSpec(), depth=16, widen=2), images)
    net = Written(model)
    h = net.conv(images, "conv1")
    for group in (1, 2, 3):
        for i in (0, 1):
            stride = 2 if i == 0 and group > 1 else 1
            h = net.block(h, f"block{group}.layer.{i}", stride, "convShortcut", raw=False)
    torch.testing.assert_close(model(images), net.head(h, "bn1", "fc", 8), rtol=1e-4, atol=1e-4)


def test_wide_initialisation_is_that_of_trades() -> None:
    torch.manual_seed(0)
    model = WideResNet(ArchSpec(), depth=10, widen=4)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 1 + 3 * 3
    for conv in convs:
        expected = (2 / (conv.kernel_size[0] ** 2 * conv.out_channels)) ** 0.5
        n = conv.weight.numel()
        assert conv.weight.std().item() == pytest.approx(expected, rel=4 / (2 * n) ** 0.5)
    assert model.fc.bias.abs().amax() == 0
    assert model.fc.weight.abs().amax() > 0
