"""The masking checks together: what they share, what is left out, what their records hold."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pyautoattack
import pytest
import torch
from bench.evaluation.check import Check, Indicator, verdict
from torch import Tensor, nn

from bench.errors import ConfigError
from bench.evaluation import Evaluation, evaluate
from bench.evaluation.checks import (
    CHECKS,
    CheckBudget,
    CheckContext,
    check_params,
    left_out,
    run_checks,
)
from bench.evaluation.measuring import Measuring
from bench.spec import MeasureSpec
from bench.threat import Threat
from tests.harness import SmallNet, small_batch, small_net
from tests.masked import Noisy, Planted, grey
from tests.short import ShortAutoAttack

BUDGET = CheckBudget(steps=20, samples=20, restarts=6)
THREAT = Threat(eps=0.05)
N = 40


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)
    monkeypatch.setattr("bench.evaluation.checks.white_box.UNBOUNDED", (0.5, 1.0))


def net(seed: int = 0, num_classes: int = 4) -> SmallNet:
    return small_net(seed=seed, dtype=torch.float32, num_classes=num_classes).eval()


def images(model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Images, a tenth of which the network gets wrong."""
    x = small_batch(N, dtype=torch.float32).x
    logits = (net() if model is None else model)(x)
    y = logits.argmax(1)
    return x, torch.where(torch.arange(N) % 10 == 0, (y + 1) % logits.shape[1], y)


SLOW = ("C3", "C7")
QUICK = tuple(number for number in CHECKS if number not in SLOW)


def made(
    numbers: Sequence[str] = QUICK, model: nn.Module | None = None, **options: Any
) -> list[Check]:
    """The checks of a small network with a surrogate."""
    model = net() if model is None else model
    asked: dict[str, Any] = {"budget": BUDGET, "surrogates": [net(5)]} | options
    return run_checks(model, *images(), THREAT, numbers=numbers, **asked)


@cache
def all_checks() -> tuple[Check, ...]:
    return tuple(made(tuple(CHECKS)))


@cache
def quick_checks() -> list[Check]:
    return [check for check in all_checks() if check.number in QUICK]


@pytest.mark.parametrize(
    ("value", "threshold", "alarm"),
    [
        (0.1 + 0.2, 0.3, False),
        (0.87 - 0.85, 2 / 100, False),
        (-1, 0, False),
        (0.3 + 1 / 10_000, 0.3, True),
        (float("nan"), 0.3, True),
        (float("inf"), 0.3, True),
    ],
)
def test_an_indicator_rings_above_its_threshold_by_more_than_rounding(
    value: float, threshold: float, alarm: bool
) -> None:
    assert Indicator("a", value, threshold).alarm is alarm


def test_the_worst_indicator_names_the_check_which_rings_if_any_does() -> None:
    found = [Indicator("a", 0.5, 0.9), Indicator("b", 0.02, 0.01)]
    check = verdict("C0", found, "ours", {"more": 1})
    assert (check.name, check.value, check.threshold, check.alarm) == ("C0: b", 0.02, 0.01, True)
    assert check.number == "C0"
    assert [f["alarm"] for f in check.detail["figures"]] == [False, True]
    assert check.detail["more"] == 1
    nan = verdict("C0", [Indicator("a", float("nan"), 0.5), Indicator("b", 9, 0.1)], "ours", {})
    assert nan.name == "C0: a"
    assert nan.alarm


@pytest.mark.parametrize(
    ("m", "percent", "expected"),
    [(10, 1, 0.2), (100, 1, 0.02), (1000, 1, 0.01), (1000, 0.1, 0.002)],
)
def test_no_threshold_is_below_two_images(m: int, percent: float, expected: float) -> None:
    x, y = grey(m)
    ctx = CheckContext.of(Planted(lambda v: v.sum(1) * 0 - 1), x, y, THREAT)
    assert ctx.points(percent) == pytest.approx(expected)
    assert ctx.least == 2 / m


def test_the_context_holds_the_correct_images_and_their_positions() -> None:
    x, y = images()
    ctx = CheckContext.of(net(), x, y, THREAT)
    places = [i for i in range(N) if i % 10]
    assert ctx.index.tolist() == places
    assert torch.equal(ctx.x, x[places])
    assert torch.equal(ctx.y, y[places])
    x, y = grey(5)
    x[2, 0, 0, 0] = 1.0
    model = Planted(lambda v: torch.where(v[:, 0] > 0.9, torch.nan, -1.0))
    assert CheckContext.of(model, x, y, THREAT).index.tolist() == [0, 1, 3, 4]


def test_every_check_is_made_in_order() -> None:
    assert [check.number for check in all_checks()] == list(CHECKS)
    assert [int(number[1:]) for number in CHECKS] == list(range(1, 15))
    for check in all_checks():
        assert check.source
        assert check.alarm is any(figure["alarm"] for figure in check.detail["figures"])
        assert check.value in [figure["value"] for figure in check.detail["figures"]]


def test_the_batch_size_changes_no_check() -> None:
    assert tuple(made(tuple(CHECKS), batch_size=16)) == all_checks()
    assert made(batch_size=64) == quick_checks()


def test_the_seed_alone_changes_what_is_drawn() -> None:
    torch.manual_seed(1)
    assert made() == quick_checks()
    assert made(seed=1) != quick_checks()


@pytest.mark.parametrize("number", ["C1", "C2", "C6", "C8", "C14"])
def test_a_check_alone_is_what_it_is_among_all(number: str) -> None:
    assert made([number]) == [check for check in all_checks() if check.number == number]


def test_the_model_and_its_surrogate_are_left_as_they_were() -> None:
    model, surrogate = net().train(), net(5).train()
    model.conv.weight.requires_grad_(False)
    before = [copy.deepcopy(network.state_dict()) for network in (model, surrogate)]
    found = made(model=model, surrogates=[surrogate])
    for network, state in zip((model, surrogate), before, strict=True):
        assert all(torch.equal(state[k], value) for k, value in network.state_dict().items())
        assert all(module.training for module in network.modules())
        assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert found == quick_checks()


def test_an_unknown_check_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="unknown check 'C15'"):
        made(["C3", "C15"])


def test_what_cannot_be_made_is_left_out_with_its_reason() -> None:
    assert left_out(1, 10) == {}
    assert set(left_out(0, 10)) == {"C2", "C12"}
    assert set(left_out(1, 3)) == {"C1", "C2", "C6", "C7"}
    assert "naturally trained" in left_out(0, 10)["C12"]
    assert "4 classes" in left_out(1, 3)["C7"]


def checked(model: nn.Module, **options: Any) -> Evaluation:
    x, y = images(model)
    return evaluate(model, x, y, THREAT, (), checks=True, effort=BUDGET, **options)


def test_an_evaluation_names_the_checks_that_were_not_made() -> None:
    found = checked(net())
    assert {c.number for c in found.checks} == set(CHECKS) - {"C2", "C12"}
    named = [note for note in found.warnings if note.startswith("check ")]
    assert len(named) == 2
    assert all("naturally trained" in note for note in named)
    whole = checked(net(), surrogates={"natural": net(5)})
    assert tuple(whole.checks) == all_checks()
    assert whole.warnings == []


def test_three_classes_have_fewer_checks() -> None:
    model, x = net(num_classes=3), images()[0]
    y = model(x).argmax(1)
    found = run_checks(model, x, y, THREAT, budget=BUDGET, surrogates=[net(5, num_classes=3)])
    assert {c.number for c in found} == set(CHECKS) - {"C1", "C2", "C6", "C7"}


def test_no_checks_unless_requested_or_without_a_correct_image() -> None:
    x, y = images()
    assert evaluate(net(), x, y, THREAT, ()).checks == []
    wrong = (net()(x).argmax(1) + 1) % 4
    assert run_checks(net(), x, wrong, THREAT, budget=BUDGET) == []
    found = measuring(net()).measure(spec("C9"), x, wrong)
    assert found.values == {"skipped": "no image is correct without an attack"}


class DarkNan(nn.Module):
    """NaN where the first pixel is dark: for some images, and for others under an attack."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits.masked_fill((x[:, 0, 0, 0] < 0.3)[:, None], torch.nan)


@pytest.mark.parametrize("model", [DarkNan(), Noisy(net(), 0.01)])
def test_every_check_is_plain_json_whatever_the_model_returns(model: nn.Module) -> None:
    found = made(model=model)
    assert [check.number for check in found] == list(QUICK)
    for check in found:
        json.dumps(check.to_dict(), allow_nan=False)


def test_a_check_as_json_has_none_for_what_is_no_number() -> None:
    check = Check(
        "C0: a",
        value=float("inf"),
        threshold=0.5,
        alarm=True,
        detail={"losses": [1.0, float("nan")], "figures": [{"value": float("-inf")}], "n": 3},
    )
    assert check.to_dict() == {
        "name": "C0: a",
        "value": None,
        "threshold": 0.5,
        "alarm": True,
        "source": "",
        "detail": {"losses": [1.0, None], "figures": [{"value": None}], "n": 3},
    }


@pytest.mark.parametrize(
    "bad", [{"steps": 19}, {"samples": 0}, {"restarts": 5}, {"steps": 100.5}, {"samples": "9"}]
)
def test_a_budget_out_of_range_is_one_clear_error(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} = .* out of range"):
        CheckBudget(**bad)


def test_a_record_depends_on_the_budget_that_its_check_depends_on() -> None:
    assert check_params("C4", BUDGET) == {"steps": 20}
    assert check_params("C1", BUDGET) == check_params("C6", BUDGET) == {"samples": 20}
    assert check_params("C10", BUDGET) == {"restarts": 6}
    assert check_params("C3", BUDGET) == {}


def spec(number: str, surrogates: Sequence[str] = (), budget: CheckBudget = BUDGET) -> MeasureSpec:
    extra = {"surrogates": list(surrogates)} if surrogates else {}
    return MeasureSpec(
        checkpoint="last",
        name=number,
        params=check_params(number, budget) | extra,
        eps=THREAT.eps,
        n_examples=N,
        data_sha256="",
    )


NETWORKS = {"twin": net(5), "itself": net()}


def measuring(model: nn.Module, batch_size: int = 256) -> Measuring:
    return Measuring(model, batch_size, NETWORKS.__getitem__)


def test_a_measure_is_the_check_of_the_same_name() -> None:
    x, y = images()
    shared = measuring(net().train(), 16)
    for check in quick_checks():
        uses = ["twin"] if CHECKS[check.number].uses_surrogate else []
        assert shared.measure(spec(check.number, uses), x, y).values == check.to_dict()


def test_checks_of_one_model_share_what_they_ask_for_alike() -> None:
    x, y = images()
    shared = measuring(net())
    one = shared.measure(spec("C6", budget=CheckBudget(samples=1)), x, y).values
    many = shared.measure(spec("C6"), x, y).values
    assert (one["detail"]["samples"], many["detail"]["samples"]) == (1, 20)
    by_twin = shared.measure(spec("C2", ["twin"]), x, y).values
    by_itself = shared.measure(spec("C2", ["itself"]), x, y).values
    assert by_twin["detail"]["transfer"] != by_itself["detail"]["transfer"]
    assert by_twin == measuring(net()).measure(spec("C2", ["twin"]), x, y).values


@pytest.mark.parametrize("other", [{"eps": 0.02}, {"seed": 1}, {"n_examples": 20}])
def test_what_was_found_on_other_images_eps_or_seed_is_not_taken(other: dict[str, Any]) -> None:
    x, y = images()
    shared = measuring(net())
    first = shared.measure(spec("C4"), x, y).values
    changed = replace(spec("C4"), **other)
    n = changed.n_examples
    alone = measuring(net()).measure(changed, x[:n], y[:n]).values
    assert shared.measure(changed, x[:n], y[:n]).values == alone
    assert alone != first


def test_a_check_without_its_surrogate_or_classes_is_one_clear_error() -> None:
    x, y = images()
    for number in ("C2", "C12"):
        with pytest.raises(ConfigError, match=rf"check {number} cannot be made.*naturally trained"):
            measuring(net()).measure(spec(number), x, y)
    three = net(num_classes=3)
    with pytest.raises(ConfigError, match=r"check C7 cannot be made.*4 classes"):
        measuring(three).measure(spec("C7"), *images(three))
