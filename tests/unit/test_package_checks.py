"""AutoAttack's own checks as figures: each alarm is the package's message, and no other."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pyautoattack
import pytest
import torch
from pyautoattack import checks as package
from torch import Tensor, nn

from bench.attacks.blocks import Blocked
from bench.evaluation import evaluate
from bench.evaluation.package_checks import is_autoattack, package_checks
from bench.losses import dlr
from bench.threat import Threat
from tests.harness import small_batch, small_net
from tests.masked import Masked, Noisy
from tests.short import ShortAutoAttack

RANDOMISED, PROBABILITIES, DYNAMIC, ZERO, SQUARE = range(5)


def net() -> nn.Module:
    return small_net(dtype=torch.float32).eval()


def images(n: int = 20) -> tuple[Tensor, Tensor]:
    """Images that the small network gets right."""
    x = small_batch(n, dtype=torch.float32).x
    return x, net()(x).argmax(1)


class Probabilities(Masked):
    def after(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class Dynamic(Masked):
    """Moves its input against a gradient before it answers."""

    def before(self, x: Tensor) -> Tensor:
        moved = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.model(moved).logsumexp(1).sum(), moved)
        return x - 0.01 * gradient


class Flat(Masked):
    """No gradient where the first pixel is bright."""

    def after(self, logits: Tensor) -> Tensor:
        return logits

    def before(self, x: Tensor) -> Tensor:
        return torch.where((x[:, :1, :1, :1] > 0.5), x.detach(), x)


class Argmax(Masked):
    """No graph at all: an attack without gradients can still be evaluated."""

    def after(self, logits: Tensor) -> Tensor:
        return nn.functional.one_hot(logits.argmax(1), 4).float()


class NanAt(Masked):
    """NaN for one image."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__(model)
        self.x = x

    def forward(self, x: Tensor) -> Tensor:
        same = (x == self.x).flatten(1).all(1)
        logits: Tensor = super().forward(x).masked_fill(same[:, None], torch.nan)
        return logits


class SometimesNan(Masked):
    """NaN at every second call."""

    calls = 0

    def after(self, logits: Tensor) -> Tensor:
        self.calls += 1
        return logits if self.calls % 2 else logits * torch.nan


class Listener:
    """A logger that keeps what the package says."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def warning(self, message: str) -> None:
        self.messages.append(message)


def theirs(model: nn.Module, x: Tensor, y: Tensor) -> list[bool]:
    """Whether the package speaks: randomised, probabilities, dynamic, zero gradients."""
    package.funcs.update(dict.fromkeys(package.funcs, 0))
    spoke = []
    for check, args in (
        (package.check_randomized, (model, x, y)),
        (package.check_range_output, (model, x)),
        (package.check_dynamic, (model, x)),
    ):
        listener = Listener()
        check(*args, logger=listener)
        spoke.append(bool(listener.messages))
    listener, start = Listener(), x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(dlr(model(start), y).sum(), start)
    package.check_zero_gradients(gradient, logger=listener)
    return [*spoke, bool(listener.messages)]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (net(), [False, False, False, False]),
        (Noisy(net(), 0.01), [True, False, False, False]),
        (Probabilities(net()), [False, True, False, False]),
        (Dynamic(net()), [False, False, True, False]),
        (Flat(net()), [False, False, False, True]),
        (NanAt(net(), images()[0][3]), [False, False, False, False]),
    ],
)
def test_each_alarm_is_the_packages_own(model: nn.Module, expected: list[bool]) -> None:
    x, y = images()
    right = model(x).argmax(1) == y
    ours = package_checks(model, x, y, None)
    assert [check.alarm for check in ours] == expected
    if not isinstance(model, NanAt):  # whose one gradient of zero the package counts
        assert expected == theirs(model, x[right], y[right])


def test_figures_of_the_planted_models() -> None:
    x, y = images()
    noisy = package_checks(Noisy(net()), x, y, None)[RANDOMISED]
    assert noisy.threshold == 1e-4
    assert 1e-3 < noisy.value <= 2
    flat = package_checks(Flat(net()), x, y, None)[ZERO]
    assert flat.value == float((x[:, 0, 0, 0] > 0.5).double().mean())
    assert 0 < flat.value < 1
    assert package_checks(Argmax(net()), x, y, None)[ZERO].value == 1
    assert package_checks(SometimesNan(net()), x, y, None)[RANDOMISED].value == 2
    assert all(check.name.startswith("AA ") for check in package_checks(net(), x, y, 1))


def test_a_label_that_ranks_third_has_no_gradient_in_any_model_and_is_not_attacked() -> None:
    x, y = images()
    third = net()(x).topk(3).indices[:, 2]
    assert package_checks(net(), x, third, None)[ZERO].value == 0
    some = torch.where(torch.arange(20) < 5, third, y)
    flat = package_checks(Flat(net()), x, some, None)[ZERO]
    assert flat.value == float((x[5:, 0, 0, 0] > 0.5).double().mean())


def test_a_dynamic_model_leaves_no_trace() -> None:
    x, y = images()
    assert package_checks(Dynamic(net()), x, y, None)[DYNAMIC].value > 0
    listener = Listener()
    package.check_dynamic(net(), x, logger=listener)
    assert listener.messages == []
    assert not package_checks(net(), x, y, None)[DYNAMIC].alarm


def test_a_tracer_is_put_back_even_where_the_model_raises() -> None:
    def tracer(frame: FrameType, event: str, argument: Any) -> None:
        return None

    class Broken(Masked):
        def before(self, x: Tensor) -> Tensor:
            if sys.gettrace() is package.tracefunc:
                raise RuntimeError("no")
            return x

    before = sys.gettrace()
    x, y = images()
    try:
        sys.settrace(tracer)
        package_checks(net(), x, y, None)
        after = sys.gettrace()
        with pytest.raises(RuntimeError, match="no"):
            package_checks(Broken(net()), x, y, None)
        after_error = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is tracer
    assert after_error is tracer


@pytest.mark.parametrize(
    ("n", "n_square", "alarm"),
    [(20, 0, False), (20, 2, False), (20, 3, True), (2000, 4, False), (2000, 5, True)],
)
def test_square_may_break_two_images_or_a_fifth_of_a_percent(
    n: int, n_square: int, alarm: bool
) -> None:
    x, y = images(20)
    rows = torch.arange(n) % 20
    check = package_checks(net(), x[rows], y[rows], n_square)[SQUARE]
    assert check.value == n_square / n
    assert check.alarm is alarm


def test_square_has_no_figure_where_it_follows_no_gradient_attack() -> None:
    x, y = images()
    assert len(package_checks(net(), x, y, None)) == SQUARE


def test_autoattack_in_whole_and_in_part_is_known() -> None:
    assert is_autoattack("autoattack")
    assert is_autoattack("square")
    assert not is_autoattack("pgd-20")


def test_blocks_and_padding_change_no_figure() -> None:
    x, y = images(37)
    plain = package_checks(net(), x, y, 1)
    assert package_checks(Blocked(net(), 16), x, y, 1) == plain


def test_the_record_of_an_evaluation_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)
    x, y = images()
    for model, alarms in ((net(), []), (Flat(net()), [ZERO])):
        outcome = evaluate(model, x, y, Threat(eps=0.01), ("autoattack",)).outcomes["autoattack"]
        found = outcome[0].package_checks
        assert [i for i, check in enumerate(found) if check.alarm and i != SQUARE] == alarms
        assert len(found) == SQUARE + 1
