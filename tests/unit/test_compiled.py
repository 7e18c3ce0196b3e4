"""A compiled copy does what the copy does, on batches of one size."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd

from bench.archs import build, compiled
from bench.archs.arch import Arch
from bench.archs.cnn import Cnn
from bench.archs.compiled import CompiledCopy, CompileWarning
from bench.archs.fast import FastCopy, Precision
from bench.losses import cross_entropy
from bench.method import Batch, TrainState
from bench.recipe import Recipe
from bench.registry import get_method
from bench.threat import Threat
from bench.training.cost import Cost
from bench.training.optimiser import Optimiser
from bench.training.precision import with_precision

N = 6


@pytest.fixture(autouse=True)
def _traced_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Traced as for a compiler and run as it is: no compiler is needed, and no minute."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network(arch: str = "cnn", dtype: torch.dtype = torch.float64) -> Arch:
    """With statistics of BatchNorm that are not the first ones."""
    torch.manual_seed(0)
    made = build(arch, num_classes=4).to(dtype)
    with torch.no_grad():
        made.train()(images(dtype=dtype))
    return made.eval()


def images(n: int = N, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return draw.to(dtype)


def copy_of(model: Arch, precision: Precision = "fp32") -> CompiledCopy:
    """For batches of N images."""
    return CompiledCopy(model, precision, N)


def noting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images of each graph that is compiled from now on."""
    made: list[int] = []

    def noted(graph: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        made.extend(len(e) for e in examples if e.ndim == 4 and e.shape[2:] == (8, 8))
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", noted)
    return made


def with_gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the cross entropy of x."""
    x = x.clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.arange(len(x)) % 4).sum(), x)
    return logits.detach(), gradient


@pytest.mark.parametrize("arch", ["cnn", "resnet-18", "preact-resnet-18", "linear"])
@pytest.mark.slow
def test_it_gives_the_logits_and_gradients_of_the_copy(arch: str) -> None:
    if arch == "linear":
        torch.manual_seed(0)
        model: Arch = build("linear", num_classes=4, image_size=8).double().eval()
    else:
        model = network(arch)
    for got, expected in zip(
        with_gradient(copy_of(model), images()),
        with_gradient(FastCopy(model), images()),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_in_bf16_image_first_layer_and_classifier_stay_in_fp32() -> None:
    model = network(dtype=torch.float32)
    x = images(dtype=torch.float32)
    logits, gradient = with_gradient(copy_of(model, "bf16"), x)
    expected, way = with_gradient(FastCopy(model, "bf16"), x)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, way, rtol=1e-4, atol=1e-7)
    assert logits.dtype == gradient.dtype == torch.float32


def test_fewer_images_are_filled_up_and_more_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = noting(monkeypatch)
    model = network()
    copied, alone = copy_of(model), FastCopy(model)
    for n in (4, N, 1, N + 2):
        found = with_gradient(copied, images(N + 2)[:n])
        for got, expected in zip(found, with_gradient(alone, images(N + 2)[:n]), strict=True):
            assert len(got) == n
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            assert copied(images(N + 2)[:n]).shape == (n, 4)
    assert made == [N, N]  # with a gradient and without
    assert copied(images()[:0]).shape == (0, 4)


@pytest.mark.slow
def test_every_training_compiles_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch stops after eight graphs of one forward pass, and does not say so."""
    made = noting(monkeypatch)
    for width in range(10):
        copied = CompiledCopy(network(), "fp32", N + width)
        with_gradient(copied, images())
        assert copied.runs_compiled
    assert made == [N + width for width in range(10) for _ in range(2)]


def test_one_channel_has_one_graph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its strides can be written in two ways."""
    made = noting(monkeypatch)
    torch.manual_seed(0)
    model = build("cnn", num_classes=4, in_channels=1).double().eval()
    copied, x = copy_of(model), images()[:, :1]
    for given in (x, x.contiguous(), x.contiguous(memory_format=torch.channels_last)):
        expected = with_gradient(FastCopy(model), given)
        for got, other in zip(with_gradient(copied, given), expected, strict=True):
            torch.testing.assert_close(got, other, rtol=1e-10, atol=1e-12)
    assert made == [N, N]


def test_it_follows_the_weights() -> None:
    model = network()
    copied = copy_of(model)
    before = copied(images())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert torch.equal(copied(images()), before)
    copied.refresh()
    torch.testing.assert_close(copied(images()), model(images()), rtol=1e-10, atol=1e-12)


def test_what_it_gave_stays_when_it_is_called_again() -> None:
    """A CUDA graph writes into the same memory each time."""
    copied = copy_of(network())
    first = copied(images())
    kept = first.clone()
    assert not torch.equal(copied(1 - images()), kept)
    assert torch.equal(first, kept)


def stepped(
    name: str, *, compiles: bool, precision: Precision = "fp32"
) -> tuple[Arch, Cost, CompiledCopy | FastCopy | None]:
    """The network after an update; what was counted; what was attacked."""
    dtype = torch.float64 if precision == "fp32" else torch.float32
    own, x = network(dtype=dtype), images(dtype=dtype)
    assert isinstance(own, Cnn)
    with torch.no_grad():
        own.fc.weight.mul_(50)  # MMA attacks only what is right by far
    y = copy.deepcopy(own).train()(x).argmax(1)
    y[0] = (y[0] + 1) % 4  # and so not all
    model, cost = with_precision(own, precision), Cost()
    cost.watch(model, own.first_layer)
    method, threat = get_method(name), Threat()
    recipe = Recipe(epochs=4, batch_size=N, lr=0.1)
    optimiser = Optimiser(model, recipe, 4, compiled_rows=N if compiles else 0)
    state = TrainState(
        model=model.train(),
        threat=threat,
        num_classes=4,
        seed=0,
        n_epochs=4,
        epoch=2,
        stepper=optimiser,
        device=torch.device("cpu"),
        examples=method.example_state(N, threat),
    )
    with cost.counting():
        method.train_step(state, Batch(x, y, torch.arange(N)))
    return own, cost, optimiser._copy


@pytest.mark.parametrize("name", ["madry", "trades", "mart", "cat-ce", "mma", "iaat", "bilateral"])
@pytest.mark.slow
def test_a_method_does_the_same_update_and_counts_the_same_passes(name: str) -> None:
    plain, cost, _ = stepped(name, compiles=False)
    network, counted, attacked = stepped(name, compiles=True)
    assert isinstance(attacked, CompiledCopy)
    assert counted == cost
    assert cost.backward > 0
    for got, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_a_training_in_bf16_compiles_its_copy_in_bf16() -> None:
    _, cost, attacked = stepped("madry", compiles=True, precision="bf16")
    assert isinstance(attacked, CompiledCopy)
    assert attacked.copy.precision == "bf16"
    assert cost.backward == 11 * N


def failing(graph: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    raise OSError("no compiler here")


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_where_the_compiler_fails_it_is_said_and_the_result_is_right(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward_fails = aot_autograd(fw_compiler=lambda graph, _: graph.forward, bw_compiler=failing)
    monkeypatch.setattr(compiled, "BACKEND", failing if way == "forward" else backward_fails)
    model = network()
    copied = copy_of(model)
    with pytest.warns(CompileWarning, match=r"was not compiled \(.*no compiler here.*--compile"):
        found = with_gradient(copied, images())
    for got, expected in zip(found, with_gradient(FastCopy(model), images()), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert not copied.runs_compiled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied(images())  # it is said once


def test_a_hook_that_changes_a_layer_stays_there() -> None:
    model = network()
    model.first_layer.register_forward_hook(lambda module, args, output: 2 * output)
    logits, _ = with_gradient(copy_of(model), images())
    torch.testing.assert_close(logits, model(images()), rtol=1e-8, atol=1e-10)


def test_an_error_of_the_network_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = copy_of(network())

    def broken(x: Tensor) -> Tensor:
        raise ZeroDivisionError("the network's")

    monkeypatch.setattr(copied.copy, "forward", broken)
    with pytest.warns(CompileWarning), pytest.raises(ZeroDivisionError, match="the network's"):
        copied(images())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_with_torchs_own_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    model = network(dtype=torch.float32)
    copied, x = copy_of(model), images(dtype=torch.float32)
    for got, expected in zip(
        with_gradient(copied, x), with_gradient(FastCopy(model), x), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert copied.runs_compiled


def test_the_network_itself_stays_as_it_was() -> None:
    model = network()
    state = copy.deepcopy(model.state_dict())
    n_hooks = len(model.first_layer._forward_hooks)
    with_gradient(copy_of(model), images())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert len(model.first_layer._forward_hooks) == n_hooks
    assert all(p.requires_grad for p in model.parameters())
