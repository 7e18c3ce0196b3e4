"""What is noticed of a model: a missing normalisation, and AutoAttack's own checks as numbers."""

import itertools
import sys
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import torch
from pyautoattack import checks as package
from torch import Tensor, nn

from bench.attacks.networks import BatchedModel
from bench.evaluation import evaluate
from bench.evaluation.model_checks import COMMON, expects_normalised, package_checks
from bench.losses import dlr
from bench.threat import Threat
from tests.harness import small_batch, small_net
from tests.masked import Masked, noisy

# --- normalisation ---


class Shades(nn.Module):
    """Classes by brightness, of images normalised by `mean` and `std`."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], n: int = 10) -> None:
        super().__init__()
        shades = torch.linspace(0.05, 0.95, n)[:, None]
        self.shades = (shades - torch.tensor(mean)) / torch.tensor(std)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return -100 * (x.mean((2, 3))[:, None] - self.shades).square().sum(2)


IDENTITY = Shades((0.0,) * 3, (1.0,) * 3)


def shaded(n: int, n_channels: int = 3, n_classes: int = 10) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % n_classes
    g = torch.Generator().manual_seed(0)
    noise = 0.02 * (torch.rand(n, n_channels, 8, 8, generator=g) - 0.5)
    return torch.linspace(0.05, 0.95, n_classes)[y].view(-1, 1, 1, 1) + noise, y


@pytest.mark.parametrize("name", [*COMMON, "the images' own"])
def test_the_normalisation_that_a_model_expects_is_named(name: str) -> None:
    """Of so many classes that no other constants will do."""
    x, y = shaded(100, 3 if name in COMMON else 1, 100 if name in COMMON else 10)
    own = tuple((float(value),) for value in reversed(torch.std_mean(x)))
    mean, std = COMMON.get(name, own)
    (note,) = expects_normalised(Shades(mean, std, n=int(y.max()) + 1), x, y, 16)
    assert f"100 once they are normalised by {name} mean and standard deviation" in note
    mean_text, std_text = (",".join(f"{value:.4g}" for value in values) for values in (mean, std))
    assert f"(--mean {mean_text} --std {std_text})" in note


def test_neither_a_right_model_nor_a_weak_one_is_named() -> None:
    x, y = shaded(100)
    assert expects_normalised(IDENTITY, x, y, 16) == []
    wrong = (y + 1 + torch.arange(100) // 10) % 10
    assert expects_normalised(IDENTITY, x, wrong, 16) == []
    fragile = Shades((0.5,) * 3, (0.5,) * 3)  # NaN on normalised images, whose arg-max is 0
    fragile.register_forward_hook(lambda _, x, z: z if x[0].amin() >= 0 else z * torch.nan)
    assert expects_normalised(fragile, x, torch.zeros_like(y), 16) == []


@pytest.mark.parametrize(("n_gained", "found"), [(3, False), (4, True)])
def test_of_few_images_more_than_three_must_turn_right(n_gained: int, found: bool) -> None:
    """Of 20 images 10 points are two: four of them are needed all the same."""

    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raw = x.amin() >= 0 and x.amax() <= 1
            right = torch.arange(len(x)) < (10 if raw else 10 + n_gained)
            return nn.functional.one_hot(torch.where(right, y, (y + 1) % 10), 10).float()

    x, y = shaded(20)
    assert bool(expects_normalised(Turned().eval(), x, y, 32)) == found


# --- AutoAttack's own checks: each alarm is the package's message, and no other ---

RANDOMISED, PROBABILITIES, DYNAMIC, ZERO, SQUARE = range(5)


def net() -> nn.Module:
    return small_net(dtype=torch.float32).eval()


def images(n: int = 20) -> tuple[Tensor, Tensor]:
    """Images that the small network gets right."""
    x = small_batch(n, dtype=torch.float32).x
    return x, net()(x).argmax(1)


def dynamic() -> nn.Module:
    """Moves its input against a gradient before it answers."""
    model = net()

    def moved(x: Tensor) -> Tensor:
        start = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(model(start).logsumexp(1).sum(), start)
        return x - 0.01 * gradient

    return Masked(model, before=moved)


def flat() -> nn.Module:
    """No gradient where the first pixel is bright."""
    return Masked(net(), before=lambda x: torch.where((x[:, :1, :1, :1] > 0.5), x.detach(), x))


class NanAt(Masked):
    """NaN for one image."""

    def forward(self, x: Tensor) -> Tensor:
        same = (x == images()[0][3]).flatten(1).all(1)
        return super().forward(x).masked_fill(same[:, None], torch.nan)


def theirs(model: nn.Module, x: Tensor, y: Tensor) -> list[bool]:
    """Whether the package speaks: randomised, probabilities, dynamic, zero gradients."""
    package.funcs.update(dict.fromkeys(package.funcs, 0))
    start = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(dlr(model(start), y).sum(), start)
    spoke = []
    for check, args in (
        (package.check_randomized, (model, x, y)),
        (package.check_range_output, (model, x)),
        (package.check_dynamic, (model, x)),
        (package.check_zero_gradients, (gradient,)),
    ):
        messages = list[str]()
        check(*args, logger=SimpleNamespace(warning=messages.append))
        spoke.append(bool(messages))
    return spoke


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (net(), [False, False, False, False]),
        (noisy(net(), 0.01), [True, False, False, False]),
        (
            Masked(net(), after=lambda logits: logits.softmax(1)),
            [False, True, False, False],
        ),
        (dynamic(), [False, False, True, False]),
        (flat(), [False, False, False, True]),
        (NanAt(net()), [False, False, False, False]),
    ],
)
def test_each_alarm_is_the_packages_own(model: nn.Module, expected: list[bool]) -> None:
    x, y = images()
    right = model(x).argmax(1) == y
    ours = package_checks(model, x, y, None)
    assert len(ours) == SQUARE
    assert [check.alarm for check in ours] == expected
    if not isinstance(model, NanAt):  # whose one gradient of zero the package counts
        assert expected == theirs(model, x[right], y[right])


def test_values_of_the_planted_models() -> None:
    x, y = images()
    varies = package_checks(noisy(net()), x, y, None)[RANDOMISED]
    assert varies.threshold == 1e-4
    assert 1e-3 < varies.value <= 2
    third = net()(x).topk(3).indices[:, 2]  # has no gradient in any model, and is not attacked
    some = torch.where(torch.arange(20) < 5, third, y)
    bright = x[:, 0, 0, 0] > 0.5
    assert package_checks(net(), x, third, None)[ZERO].value == 0
    assert package_checks(flat(), x, y, None)[ZERO].value == float(bright.double().mean())
    assert package_checks(flat(), x, some, None)[ZERO].value == float(bright[5:].double().mean())
    no_graph = Masked(net(), after=lambda z: nn.functional.one_hot(z.argmax(1), 4).float())
    assert package_checks(no_graph, x, y, None)[ZERO].value == 1
    calls = itertools.count()
    sometimes = Masked(net(), after=lambda logits: logits * (torch.nan if next(calls) % 2 else 1))
    assert package_checks(sometimes, x, y, None)[RANDOMISED].value == 2
    assert all(check.name.startswith("AA ") for check in package_checks(net(), x, y, 1))


def test_a_dynamic_model_leaves_no_trace() -> None:
    x, y = images()
    assert package_checks(dynamic(), x, y, None)[DYNAMIC].value > 0
    messages = list[str]()
    package.check_dynamic(net(), x, logger=SimpleNamespace(warning=messages.append))
    assert messages == []
    assert not package_checks(net(), x, y, None)[DYNAMIC].alarm


def test_a_tracer_is_put_back_even_where_the_model_raises() -> None:
    def tracer(frame: FrameType, event: str, argument: Any) -> None:
        return None

    def broken(x: Tensor) -> Tensor:
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
            package_checks(Masked(net(), before=broken), x, y, None)
        after_error = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is tracer
    assert after_error is tracer


@pytest.mark.parametrize(
    ("n", "n_square", "state"),
    [
        *((20, 0, "pass"), (20, 2, "pass"), (20, 3, "watch"), (20, 6, "alarm")),
        *((2000, 4, "pass"), (2000, 8, "watch"), (2000, 10, "alarm")),
    ],
)
def test_square_may_break_two_images_or_a_fifth_of_a_percent(
    n: int, n_square: int, state: str
) -> None:
    x, y = images(20)
    rows = torch.arange(n) % 20
    check = package_checks(net(), x[rows], y[rows], n_square)[SQUARE]
    assert check.value == n_square / n
    assert check.state == state


@pytest.mark.usefixtures("short_autoattack")
def test_an_outcome_has_them_and_blocks_and_padding_change_no_value() -> None:
    x, y = images(37)
    assert package_checks(BatchedModel(net(), 16), x, y, 1) == package_checks(net(), x, y, 1)
    for model, alarms in ((net(), []), (flat(), [ZERO])):
        outcomes = evaluate(model, x, y, Threat(eps=0.01), ("autoattack", "pgd-10")).outcomes
        found = outcomes["autoattack"][0].package_checks
        assert [i for i, check in enumerate(found) if check.alarm and i != SQUARE] == alarms
        assert len(found) == SQUARE + 1
        assert outcomes["pgd-10"][0].package_checks == ()
