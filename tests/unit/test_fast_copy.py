"""The copy that attacks run on is the network, but faster."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.archs import build
from bench.archs.arch import Arch, ArchSpec, conv3x3
from bench.archs.inference_copy import (
    FoldWarning,
    InferenceCopy,
    Precision,
    counts_rows,
    merges,
)
from bench.losses import cross_entropy
from tests.harness import generator

N = 6
N_FOLDED = {"cnn": 4, "resnet-18": 20, "vgg-16": 13, "preact-resnet-18": 8, "linear": 0}


def network(arch: str = "cnn", dtype: torch.dtype = torch.float64, **others: Any) -> Arch:
    """In train mode; statistics and affine parameters that are not those of the start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build(arch, num_classes=4, image_size=16, **others).to(dtype)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return model.train()


def images(n: int = N, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=generator(1), dtype=torch.float64).to(dtype)


def outcome(model: nn.Module, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the cross entropy at the images."""
    x = (images() if x is None else x).clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.arange(len(x)) % 4).sum(), x)
    return logits.detach(), gradient


def assert_alike(
    one: nn.Module, two: nn.Module, x: Tensor | None = None, rtol: float = 1e-10
) -> None:
    for got, expected in zip(outcome(one, x), outcome(two, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=rtol, atol=rtol / 100)


@pytest.mark.parametrize("arch", N_FOLDED)
@pytest.mark.slow
def test_is_the_network_in_eval_mode_and_follows_its_weights(arch: str) -> None:
    model = network(arch)
    state = copy.deepcopy(model.state_dict())
    fast = InferenceCopy(model)
    assert len(merges(model).norms) == N_FOLDED[arch]
    n_left, n_norms = (
        sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (fast, model)
    )
    assert n_left == n_norms - N_FOLDED[arch]
    before = outcome(fast)[0]
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(p.requires_grad for p in fast.parameters())
    assert_alike(fast, model.eval())
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.1)
    assert torch.equal(outcome(fast)[0], before)
    fast.refresh()
    assert (outcome(fast)[0] - before).abs().max() > 1e-3
    assert_alike(fast, model)


def test_bf16_keeps_image_first_layer_and_classifier_in_fp32() -> None:
    model = network("resnet-18", torch.float32)
    fast = InferenceCopy(model, "bf16")
    seen: dict[str, tuple[torch.dtype, torch.dtype]] = {}

    def note(name: str, module: nn.Module) -> None:
        module.register_forward_hook(
            lambda _, args, out: seen.__setitem__(name, (args[0].dtype, out.dtype))
        )

    for name, module in fast.network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            note(name, module)
    x = images(dtype=torch.float32)
    logits, gradient = outcome(fast, x)
    assert (logits.dtype, gradient.dtype) == (torch.float32, torch.float32)
    assert fast.network.first_layer.weight.dtype == torch.float32
    assert seen.pop("conv1") == (torch.float32, torch.float32)
    assert seen.pop("linear")[1] == torch.float32
    assert len(seen) == 19
    assert set(seen.values()) == {(torch.bfloat16, torch.bfloat16)}
    exact = outcome(model.eval(), x)[0]
    assert (logits - exact).abs().max() < 0.02 * exact.abs().max()
    # Pixels near 0.5 would come back unchanged from an image in bf16.
    moved = torch.full((1, 3, 16, 16), 0.5)
    moved += 0.0009 * torch.randn(moved.shape, generator=generator()).sign()
    assert (moved.bfloat16() == 0.5).all()
    stem = fast.network.stem
    assert not torch.equal(stem(moved), stem(torch.full_like(moved, 0.5)))


class Blocky(Arch):
    """Convolution, BatchNorm, a layer to choose, ReLU, as modules."""

    def __init__(self, second: nn.Module | None = None) -> None:
        super().__init__(ArchSpec(num_classes=4))
        self.conv, self.bn, self.fc = conv3x3(3, 4), nn.BatchNorm2d(4), nn.Linear(4, 4)
        self.second, self.relu = second or nn.Conv2d(4, 4, 3), nn.ReLU()
        self.double()

    @property
    def first_layer(self) -> nn.Module:
        return self.conv

    def rest(self, h: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.relu(self.second(self.bn(h))).mean((2, 3)))
        return logits


def test_a_network_that_cannot_be_traced_is_copied_unfolded_with_a_warning() -> None:
    class Branching(Blocky):
        def rest(self, h: Tensor) -> Tensor:
            return super().rest(h * 1.0 if h.sum() > 0 else h)  # a trace has no value to compare

    model = Branching()
    with pytest.warns(FoldWarning, match="Branching cannot be traced"):
        fast = InferenceCopy(model)
    assert_alike(fast, model.eval())


def test_a_convolution_with_two_readers_or_of_another_kind_is_not_folded() -> None:
    class Twice(Blocky):
        def rest(self, h: Tensor) -> Tensor:
            logits: Tensor = self.fc((self.bn(h) + h).mean((2, 3)))
            return logits

    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            out: Tensor = self._conv_forward(x, weight, self.bias)
            return out

    assert merges(Twice()).norms == {}
    model = Blocky(Standardised(4, 4, 3))
    assert_alike(InferenceCopy(model), model.eval())


@pytest.mark.parametrize("name", ["conv", "bn", "relu"])
def test_a_layer_with_a_hook_keeps_it(name: str) -> None:
    model = Blocky()
    layer = model.get_submodule(name)
    assert (len(merges(model).norms), merges(model).in_place) == (1, ("relu",))
    layer.register_forward_hook(counts_rows(lambda *_: None))
    assert len(merges(model).norms) == 1
    layer.register_forward_hook(lambda _, args, out: 3 * out)
    kept = (1, ()) if name == "relu" else (0, ("relu",))
    assert (len(merges(model).norms), merges(model).in_place) == kept
    assert_alike(InferenceCopy(model), model.eval())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_logit_does_not_depend_on_how_many_images_pass(precision: Precision) -> None:
    fast, x = (
        InferenceCopy(network("resnet-18", torch.float32), precision),
        images(48, torch.float32),
    )
    with torch.no_grad():
        assert torch.equal(fast(x)[:16], fast(x[:16]))
