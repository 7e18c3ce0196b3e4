"""Honest models raise no alarm, and each way to hide gradients raises the alarms that it must.

Square makes a tenth of its queries here, the longest attack has 120 steps, and eps 0.25, on which
no verdict depends, is not tried; the images and eps are those of the digits suite.
"""

from __future__ import annotations

from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from bench.evaluation import evaluate
from bench.evaluation.checks import CHECKS, Check, CheckBudget, check_params, run_checks
from bench.evaluation.measuring import Measuring
from bench.spec import MeasureSpec
from bench.threat import Threat
from tests.masked import Hot, Noisy, Planted, Quantised, Shattered
from tests.short import ShortAutoAttack
from tests.trained import trained

pytestmark = pytest.mark.slow

BUDGET = CheckBudget(steps=120, samples=200, restarts=8)
N_HONEST = 200
N_MASKED = 30


class FewQueries(pyautoattack.AutoAttack):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.square.n_queries = 500


@pytest.fixture(autouse=True)
def _less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", FewQueries)
    monkeypatch.setattr("bench.evaluation.checks.white_box.UNBOUNDED", (0.5, 1.0))


def alarms(checks: list[Check]) -> dict[str, tuple[float, float]]:
    """Name -> value and threshold, of those that ring."""
    return {check.name: (check.value, check.threshold) for check in checks if check.alarm}


def two_signals(n: int = 60) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 4, 4): the first four pixels tell class 0 from class 1, the others nothing.

    They are 0.02 to 0.4 above or below grey.
    """
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = 0.5 + 0.05 * (torch.rand(n, 1, 4, 4, generator=g) - 0.5)
    height = torch.linspace(0.02, 0.4, n) * (2.0 * y - 1)
    x[:, 0, 0] = 0.5 + height[:, None]
    return x, y


def on_the_signal(x: Tensor) -> Tensor:
    """Linear, on those four pixels: it withstands what is lower than their height."""
    return (x[:, :4] - 0.5).sum(1)


def on_all_pixels(x: Tensor) -> Tensor:
    """Linear, on all sixteen: four times as easy to break."""
    return (x - 0.5).sum(1)


@pytest.mark.parametrize("surrogates", [{}, {"natural": Planted(on_all_pixels)}])
def test_a_linear_model_raises_no_alarm(surrogates: dict[str, nn.Module]) -> None:
    x, y = two_signals()
    found = evaluate(
        Planted(on_the_signal),
        x,
        y,
        Threat(eps=0.15),
        ("apgd-ce",),
        checks=True,
        effort=BUDGET,
        surrogates=surrogates,
    )
    assert alarms(found.checks) == {}
    assert len(found.checks) == (14 if surrogates else 12)
    height = (x[:, 0, 0, 0] - 0.5).abs()
    assert torch.equal(found.robust, height > 0.15)
    package = found.outcomes["apgd-ce"][0].package_checks
    assert len(package) == 4
    assert alarms(list(package)) == {}


@pytest.mark.parametrize(("method", "n"), [("natural", 40), ("madry", N_HONEST)])
def test_a_network_raises_no_alarm_whether_or_not_it_is_defended(method: str, n: int) -> None:
    # after ten epochs losses still differ by as much as C7 allows
    net, twin = trained(method, epochs=20), trained("natural")
    found = run_checks(
        net.model, net.x[:n], net.y[:n], net.threat, budget=BUDGET, surrogates=[twin.model]
    )
    assert [check.number for check in found] == list(CHECKS)
    assert alarms(found) == {}


def recorded(model: nn.Module, numbers: list[str]) -> dict[str, bool]:
    """Number -> the alarm in the record of that check, on the first images of the digits."""
    net, twin = trained("natural"), trained("natural").model
    measuring = Measuring(model, 256, lambda run_id: twin)
    verdicts = {}
    for number in numbers:
        uses = {"surrogates": ["twin"]} if CHECKS[number].uses_surrogate else {}
        spec = MeasureSpec(
            checkpoint="given",
            name=number,
            params=check_params(number, BUDGET) | uses,
            eps=net.threat.eps,
            n_examples=N_MASKED,
            data_sha256="",
        )
        values = measuring.measure(spec, net.x[:N_MASKED], net.y[:N_MASKED]).values
        verdicts[number] = values["alarm"]
    return verdicts


HIDDEN_BY_SCALE = ["C7", "C8", "C9", "C14"]
HIDDEN_BY_STEPS = ["C1", "C2", "C5", "C6", "C9"]
HIDDEN_BY_RIPPLE = ["C1", "C2", "C5", "C11"]


@pytest.mark.parametrize(
    ("mask", "rings"),
    [
        (Hot, HIDDEN_BY_SCALE),
        (Quantised, HIDDEN_BY_STEPS),
        (Shattered, HIDDEN_BY_RIPPLE),
        (Noisy, ["C13"]),
    ],
)
def test_each_mask_rings_the_checks_that_look_for_it(mask: Any, rings: list[str]) -> None:
    model = mask(trained("natural").model)
    assert recorded(model, rings) == dict.fromkeys(rings, True)


def test_smoothed_labels_alone_hide_nothing_and_the_checks_say_so() -> None:
    model, looked = trained("natural-ls").model, ["C1", "C2", "C6", "C8", "C9", "C11", "C14"]
    assert recorded(model, looked) == dict.fromkeys(looked, False)


def test_smoothed_labels_with_scaled_logits_or_quantised_inputs_ring() -> None:
    model = trained("natural-ls").model
    assert all(recorded(Hot(model), ["C8", "C9", "C14"]).values())
    assert all(recorded(Quantised(Hot(model)), HIDDEN_BY_STEPS).values())


@pytest.mark.parametrize(("mask", "rings"), [(Noisy, "repeated calls"), (Quantised, "zero grad")])
def test_autoattacks_own_checks_ring_too(
    mask: Any, rings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)
    net = trained("natural")
    found = evaluate(mask(net.model), net.x[:20], net.y[:20], net.threat, ("autoattack",))
    (outcome,) = found.outcomes["autoattack"]
    assert any(rings in check.name for check in outcome.package_checks if check.alarm)


def test_a_linear_classifier_of_digits_needs_the_margin_and_hides_nothing() -> None:
    """Its cross entropy has maxima inside the ball that the margin does not have."""
    model = trained("natural", arch="linear").model
    found = recorded(model, ["C6", "C7", "C8", "C9", "C11", "C13"])
    assert [number for number, alarm in found.items() if alarm] == ["C7", "C8"]
