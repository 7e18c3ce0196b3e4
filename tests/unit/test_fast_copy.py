"""The copy that attacks run on is the network, but faster."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.archs import build
from bench.archs.arch import Arch, ArchSpec, conv3x3
from bench.archs.fast import FastCopy, FoldWarning, Precision, counts_rows, merges
from bench.losses import cross_entropy

N_FOLDED = {"cnn": 4, "resnet-18": 20, "vgg-16": 13, "preact-resnet-18": 8, "linear": 0}


def trained(arch: str, dtype: torch.dtype = torch.float64) -> Arch:
    """Running statistics and affine parameters that are not those of the start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build(arch, image_size=16).to(dtype)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return model.train()


def images(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(5, 3, 16, 16, dtype=dtype, generator=generator), torch.arange(5)


def outcome(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the loss at the images."""
    dtype = next(p.dtype for p in model.parameters())
    x, y = images(torch.float32 if dtype == torch.bfloat16 else dtype)
    x.requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, y).sum(), x)
    return logits.detach(), gradient


@pytest.mark.parametrize("arch", N_FOLDED)
def test_is_the_network_in_eval_mode(arch: str) -> None:
    model = trained(arch)
    fast = FastCopy(model)
    assert len(merges(model).norms) == N_FOLDED[arch]
    left = [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    all_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) == len(all_norms) - N_FOLDED[arch]
    for ours, theirs in zip(outcome(fast), outcome(model.eval()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("arch", ["cnn", "vgg-16", "preact-resnet-18"])
def test_refreshing_follows_weights_and_statistics(arch: str) -> None:
    model = trained(arch)
    fast = FastCopy(model)
    before = outcome(fast)[0]
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.1)
    torch.testing.assert_close(outcome(fast)[0], before)
    fast.refresh()
    after = outcome(fast)[0]
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, outcome(model.eval())[0], rtol=1e-10, atol=1e-12)


def test_the_model_is_left_as_it_was() -> None:
    model = trained("cnn")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fast = FastCopy(model)
    outcome(fast)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(p.requires_grad for p in fast.parameters())


def test_bf16_keeps_image_first_layer_and_classifier_in_fp32() -> None:
    model = trained("resnet-18", torch.float32)
    fast = FastCopy(model, "bf16")
    seen: dict[str, tuple[torch.dtype, torch.dtype]] = {}

    def note(name: str, module: nn.Module) -> None:
        module.register_forward_hook(
            lambda _, args, out: seen.__setitem__(name, (args[0].dtype, out.dtype))
        )

    for name, module in fast.network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            note(name, module)
    logits, gradient = outcome(fast)
    assert (logits.dtype, gradient.dtype) == (torch.float32, torch.float32)
    assert fast.network.first_layer.weight.dtype == torch.float32
    assert seen["conv1"] == (torch.float32, torch.float32)
    assert seen["linear"][1] == torch.float32
    others = {name: kinds for name, kinds in seen.items() if name not in ("conv1", "linear")}
    assert len(others) == 19
    assert set(others.values()) == {(torch.bfloat16, torch.bfloat16)}
    exact = outcome(model.eval())[0]
    assert (logits - exact).abs().max() < 0.02 * exact.abs().max()


def test_a_start_of_a_thousandth_reaches_the_bf16_copy() -> None:
    """It would not pass through an image in bf16: pixels near 0.5 would come back unchanged."""
    fast = FastCopy(trained("cnn", torch.float32), "bf16")
    x = torch.full((1, 3, 16, 16), 0.5)
    moved = x + 0.0009 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign()
    assert torch.equal(moved.bfloat16().float(), x)
    stem = fast.network.stem
    assert not torch.equal(stem(moved), stem(x))


class Branching(Arch):
    """Its forward pass asks for a value, which a trace has not."""

    def __init__(self) -> None:
        super().__init__(ArchSpec())
        self.conv, self.bn, self.fc = conv3x3(3, 4), nn.BatchNorm2d(4), nn.Linear(4, 10)

    @property
    def first_layer(self) -> nn.Module:
        return self.conv

    def rest(self, h: Tensor) -> Tensor:
        h = self.bn(h)
        if h.sum() > 0:
            h = h * 1.0
        logits: Tensor = self.fc(h.mean((2, 3)))
        return logits


def test_a_network_that_cannot_be_traced_is_copied_as_it_is_and_said_so() -> None:
    model = Branching().double()
    with pytest.warns(FoldWarning, match="Branching cannot be traced"):
        fast = FastCopy(model)
    torch.testing.assert_close(outcome(fast)[0], outcome(model.eval())[0])


def test_a_convolution_with_two_readers_is_not_folded() -> None:
    class Twice(Branching):
        def rest(self, h: Tensor) -> Tensor:
            logits: Tensor = self.fc((self.bn(h) + h).mean((2, 3)))
            return logits

    assert merges(Twice()).norms == {}


class Standardised(nn.Conv2d):
    """A convolution with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        out: Tensor = self._conv_forward(x, weight, self.bias)
        return out


class Branchless(Branching):
    """Convolution, BatchNorm, ReLU, as modules."""

    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.second, self.relu = second, nn.ReLU()

    def rest(self, h: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.relu(self.second(self.bn(h))).mean((2, 3)))
        return logits


def test_a_convolution_of_another_kind_stays_what_it_is() -> None:
    model = Branchless(Standardised(4, 4, 3)).double()
    torch.testing.assert_close(outcome(FastCopy(model))[0], outcome(model.eval())[0])


def test_a_relu_with_a_hook_keeps_it() -> None:
    model = Branchless(nn.Conv2d(4, 4, 3)).double()
    assert merges(model).in_place == ("relu",)
    model.relu.register_forward_hook(lambda _, args, out: 3 * out)
    assert merges(model).in_place == ()
    torch.testing.assert_close(outcome(FastCopy(model))[0], outcome(model.eval())[0])


@pytest.mark.parametrize("name", ["first_layer", "bn"])
def test_a_layer_with_a_hook_is_not_merged(name: str) -> None:
    model = trained("cnn") if name == "first_layer" else Branchless(nn.Conv2d(4, 4, 3)).double()
    assert merges(model).norms
    layer = model.first_layer if name == "first_layer" else model.get_submodule(name)
    n_merged = len(merges(model).norms)
    layer.register_forward_hook(counts_rows(lambda *_: None))
    assert len(merges(model).norms) == n_merged
    layer.register_forward_hook(lambda _, args, out: 3 * out)
    assert len(merges(model).norms) == n_merged - 1
    torch.testing.assert_close(outcome(FastCopy(model))[0], outcome(model.eval())[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_logit_does_not_depend_on_how_many_images_pass(precision: Precision) -> None:
    fast = FastCopy(trained("resnet-18", torch.float32), precision)
    x = torch.rand(48, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(fast(x)[:16], fast(x[:16]))
