"""Running out of memory: an evaluation goes on with fewer rows and the same outcome."""

import logging
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import networks
from bench.attacks.networks import MIN_ROWS, BatchedModel, fitted
from bench.evaluation import evaluate
from bench.evaluation.checks import CheckBudget
from bench.evaluation.chunk import Outcome, PartialOutcome, attack_chunk
from bench.evaluation.measuring import Measuring
from bench.machine import out_of_memory
from bench.records.spec import MeasureSpec
from bench.threat import Threat

N = 200
CPU = torch.device("cpu")
EFFORT = CheckBudget(steps=20, samples=2, restarts=6)
ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't ..."),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
    "host": MemoryError(),
    "driver": RuntimeError("CUDA error: out of memory"),
    "cublas": RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
}


class _Held(torch.autograd.Function):
    """The identity, which keeps an activation for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Tensor) -> Tensor:
        ctx.save_for_backward(activation)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (_,) = ctx.saved_tensors
        return gradients[0], None


class Small(nn.Module):
    """A linear network that runs out of memory where more than `limit` rows are alive in it."""

    def __init__(self, limit: int, error: Exception = ERRORS["cuda"]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(16, 4)
        self.limit, self.error, self.n_failed = limit, error, 0
        self.alive: list[weakref.ref[Tensor]] = []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.alive = [ref for ref in self.alive if ref() is not None]
        held = sum(len(tensor) for ref in self.alive if (tensor := ref()) is not None)
        if held + len(x) > self.limit:
            self.n_failed += 1
            raise self.error
        activation = x.detach().clone()
        self.alive.append(weakref.ref(activation))
        logits: Tensor = self.linear(_Held.apply(x, activation).flatten(1))
        return logits


@pytest.fixture(autouse=True)
def _fresh(short_autoattack: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_ROWS", weakref.WeakKeyDictionary())
    monkeypatch.setattr(networks, "_SAID", set())


def images() -> tuple[Tensor, Tensor]:
    x = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = Small(N)(x).argmax(1)
    y[::7] = (y[::7] + 1) % 4
    return x, y


def attacked(model: nn.Module, name: str, **options: Any) -> Outcome:
    x, y = images()
    return attack_chunk(model, x, y, torch.arange(N), Threat(eps=0.05), name, **options)


@pytest.mark.parametrize("name", ["pgd-20", "fgsm", "autoattack"])
def test_an_attack_that_runs_out_of_memory_has_the_same_outcome(name: str) -> None:
    """The memory holds 25 rows: 256, 128, 64 and 32 at once fail, 16 do not, gradients included."""
    expected = attacked(Small(10_000), name)
    model = Small(25)
    found = attacked(model, name)
    assert model.n_failed == 4
    assert torch.equal(found.survived, expected.survived)
    assert torch.equal(found.broken_by, expected.broken_by)
    assert 0 < int(found.survived.sum()) < int(found.clean.sum())
    assert attacked(model, name).survived.equal(expected.survived)
    assert model.n_failed == 4, "what fits is remembered"


def test_after_a_failure_the_gradient_of_blocks_is_that_of_all_at_once_and_holds_one() -> None:
    x, y = images()
    gradients = []
    for model, batch_size in ((Small(N), N), (Small(32), 32)):
        networks._ROWS[model] = batch_size
        leaf = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(BatchedModel(model, batch_size)(leaf), y)
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    assert torch.equal(*gradients)
    leaf = x.clone().requires_grad_()
    with pytest.raises(torch.OutOfMemoryError):  # the blocks without that: all of them are held
        [model(leaf[first : first + 32]) for first in range(0, N, 32)]


def test_blocks_that_fit_are_computed_once() -> None:
    calls = []
    model = nn.Linear(3, 2)
    model.register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(40, 3, requires_grad=True)
    BatchedModel(model, 16)(x).sum().backward()
    assert len(calls) == 3


def test_parts_that_were_done_are_not_repeated() -> None:
    model, parts = Small(10_000), list[int]()

    def shrink(part: PartialOutcome) -> None:
        parts.append(part.n_parts)
        model.limit = 40

    expected = attacked(Small(10_000), "autoattack")
    found = attacked(model, "autoattack", on_part=shrink)
    assert torch.equal(found.broken_by, expected.broken_by)
    assert parts == [1, 2, 3]
    model.limit = 10_000
    assert attacked(model, "autoattack", on_part=shrink, keep_images=True).x_adv is not None


@pytest.mark.parametrize("kind", ERRORS)
def test_every_kind_of_allocation_that_fails_is_known(kind: str) -> None:
    model = Small(60, ERRORS[kind])
    assert attacked(model, "fgsm").survived.equal(attacked(Small(N), "fgsm").survived)
    assert model.n_failed > 0
    wrapped = ValueError("a model failed")
    wrapped.__cause__ = ERRORS[kind]
    assert out_of_memory(wrapped)
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_what_does_not_fit_at_all_and_other_errors_are_raised() -> None:
    rows: list[int] = []

    def fail(error: Exception, n: int) -> None:
        rows.append(n)
        raise error

    with pytest.raises(torch.OutOfMemoryError):
        fitted(nn.Identity(), 70, CPU, lambda n: fail(ERRORS["cuda"], n))
    assert rows == [70, 35, 17, MIN_ROWS]
    with pytest.raises(ZeroDivisionError):
        fitted(nn.Identity(), 64, CPU, lambda _: 1 // 0)


def test_it_is_said_once_per_process(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for model in (Small(25), Small(50)):
            attacked(model, "fgsm")
    (line,) = caplog.messages
    assert line == (
        "batches of 256 images do not fit into the memory of cpu: going on with 128; no result "
        "depends on it"
    )


def test_measures_and_the_public_function_go_on_too() -> None:
    x, y = (part[:60] for part in images())
    spec = MeasureSpec(
        checkpoint="best", name="C9", params={}, eps=0.05, n_examples=60, data_sha256="ab"
    )
    made = [
        Measuring(Small(limit), 256, lambda _: nn.Identity()).measure(spec, x, y)
        for limit in (10_000, 40)
    ]
    assert made[0] == made[1]
    whole, small = (
        evaluate(Small(limit), x, y, 0.05, ("pgd-20",), checks=True, effort=EFFORT)
        for limit in (10_000, 40)
    )
    assert torch.equal(small.robust, whole.robust)
    assert [c.to_dict() for c in small.checks] == [c.to_dict() for c in whole.checks]
    assert small.warnings == whole.warnings
