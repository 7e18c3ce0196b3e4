"""The copy that attacks run on is the network, but faster; compiled or not."""

import copy
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.backends.common import aot_autograd

from bench.archs import build
from bench.archs import inference_copy as compiled
from bench.archs.arch import Arch, ArchSpec, conv3x3
from bench.archs.feedforward import Cnn
from bench.archs.inference_copy import (
    CompiledCopy,
    CompileWarning,
    FoldWarning,
    InferenceCopy,
    Precision,
    counts_rows,
    merges,
)
from bench.losses import cross_entropy
from bench.method import Batch
from bench.records.spec import Recipe
from bench.registry import get_method
from bench.training.cost import Cost
from bench.training.optimiser import MixedPrecision, Optimiser
from tests.harness import generator, make_state

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


# A compiled copy does what the copy does, on batches of one size.


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Traced as for a compiler and run eagerly; the number of images of each compiled graph."""
    made: list[int] = []

    def noted(graph: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        made.extend(len(e) for e in examples if e.ndim == 4 and e.shape[2:] == (16, 16))
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", noted)
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


@pytest.fixture
def aot(traced: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


@pytest.mark.parametrize(
    ("arch", "precision"),
    [("cnn", "fp32"), ("cnn", "bf16"), ("preact-resnet-18", "fp32"), ("linear", "fp32")],
)
@pytest.mark.usefixtures("aot")
@pytest.mark.slow
def test_compiled_it_gives_the_logits_and_gradients_of_the_copy_and_follows_the_weights(
    arch: str, precision: Precision
) -> None:
    dtype = torch.float64 if precision == "fp32" else torch.float32
    model, x = network(arch, dtype).eval(), images(dtype=dtype)
    state = copy.deepcopy(model.state_dict())
    copied = CompiledCopy(model, precision, N)
    rtol = 1e-10 if precision == "fp32" else 1e-4
    assert_alike(copied, InferenceCopy(model, precision), x, rtol)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.first_layer._forward_hooks
    assert all(p.requires_grad for p in model.parameters())
    first = copied(x)
    kept = first.clone()
    assert not torch.equal(copied(1 - x), kept)
    assert torch.equal(first, kept)  # a CUDA graph writes into the same memory each time
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert torch.equal(copied(x), kept)
    copied.refresh()
    assert_alike(copied, InferenceCopy(model, precision), x, rtol)


def test_small_batches_are_padded_and_large_ones_run_uncompiled(traced: list[int]) -> None:
    model = network()
    copied = CompiledCopy(model, "fp32", N)
    for n in (4, N, 1, N + 2):
        x = images(N + 2)[:n]
        assert_alike(copied, InferenceCopy(model), x)
        with torch.no_grad():
            assert copied(x).shape == (n, 4)
    assert traced == [N, N]  # with a gradient and without
    assert copied(images()[:0]).shape == (0, 4)


@pytest.mark.slow
def test_every_training_compiles_its_own(traced: list[int]) -> None:
    """torch stops after eight graphs of one forward pass, and does not say so."""
    for width in range(10):
        copied = CompiledCopy(network("linear"), "fp32", N + width)
        outcome(copied)
        assert copied.runs_compiled
    assert traced == [N + width for width in range(10) for _ in range(2)]


def test_one_channel_has_one_graph_too(traced: list[int]) -> None:
    """Its strides can be written in two ways."""
    model = network(in_channels=1)
    copied, x = CompiledCopy(model, "fp32", N), images()[:, :1]
    for given in (x, x.contiguous(), x.contiguous(memory_format=torch.channels_last)):
        assert_alike(copied, InferenceCopy(model), given)
    assert traced == [N, N]


def stepped(
    name: str, *, compiles: bool, precision: Precision = "fp32"
) -> tuple[Arch, Cost, CompiledCopy | InferenceCopy | None]:
    """The network after an update; what was counted; what was attacked."""
    dtype = torch.float64 if precision == "fp32" else torch.float32
    own, x = network(dtype=dtype), images(dtype=dtype)
    assert isinstance(own, Cnn)
    with torch.no_grad():
        own.fc.weight.mul_(50)  # MMA attacks only what is right by far
    y = copy.deepcopy(own).train()(x).argmax(1)
    y[0] = (y[0] + 1) % 4  # and so not all
    model, cost = MixedPrecision(own) if precision == "bf16" else own, Cost()
    cost.watch(model, own.first_layer)
    method = get_method(name)
    recipe = Recipe(epochs=4, batch_size=N, lr=0.1)
    optimiser = Optimiser(model, recipe, 4, compiled_rows=N if compiles else 0)
    state = make_state(method, model.train(), n=N, n_epochs=4, stepper=optimiser)
    state.epoch = 2
    with cost.counting():
        method.train_step(state, Batch(x, y, torch.arange(N)))
    return own, cost, optimiser._copy


@pytest.mark.parametrize("name", ["madry", "trades", "mart", "cat-ce", "mma", "iaat", "bilateral"])
@pytest.mark.usefixtures("aot")
@pytest.mark.slow
def test_a_method_does_the_same_update_and_counts_the_same_passes(name: str) -> None:
    plain, cost, _ = stepped(name, compiles=False)
    network, counted, attacked = stepped(name, compiles=True)
    assert isinstance(attacked, CompiledCopy)
    assert counted == cost
    assert cost.backward > 0
    for got, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("aot")
@pytest.mark.slow
def test_a_training_in_bf16_compiles_its_copy_in_bf16() -> None:
    _, cost, attacked = stepped("madry", compiles=True, precision="bf16")
    assert isinstance(attacked, CompiledCopy)
    assert attacked.copy.precision == "bf16"
    assert cost.backward == 11 * N


def failing(graph: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    raise OSError("no compiler here")


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.usefixtures("traced")
@pytest.mark.slow
def test_where_the_compiler_fails_a_warning_says_so_and_the_result_is_right(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward_fails = aot_autograd(fw_compiler=lambda graph, _: graph.forward, bw_compiler=failing)
    monkeypatch.setattr(compiled, "BACKEND", failing if way == "forward" else backward_fails)
    model = network()
    copied = CompiledCopy(model, "fp32", N)
    with pytest.warns(CompileWarning, match=r"was not compiled \(.*no compiler here.*--compile"):
        assert_alike(copied, InferenceCopy(model))
    assert not copied.runs_compiled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied(images())  # one warning is enough


@pytest.mark.usefixtures("aot")
@pytest.mark.slow
def test_a_hook_that_changes_a_layer_stays_and_an_error_of_the_network_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network().eval()
    model.first_layer.register_forward_hook(lambda module, args, output: 2 * output)
    copied = CompiledCopy(model, "fp32", N)
    assert_alike(copied, model, rtol=1e-8)

    def broken(x: Tensor) -> Tensor:
        raise ZeroDivisionError("the network's")

    copied = CompiledCopy(model, "fp32", N)
    monkeypatch.setattr(copied.copy, "forward", broken)
    with pytest.warns(CompileWarning), pytest.raises(ZeroDivisionError, match="the network's"):
        copied(images())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.usefixtures("traced")
@pytest.mark.slow
def test_with_torchs_own_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    model = network(dtype=torch.float32)
    copied = CompiledCopy(model, "fp32", N)
    assert_alike(copied, InferenceCopy(model), images(dtype=torch.float32), rtol=1e-4)
    assert copied.runs_compiled
