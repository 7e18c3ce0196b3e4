"""The masking checks together: what they share, what is left out, what their records hold."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.errors import ConfigError
from bench.evaluation import evaluate
from bench.evaluation.checks import (
    CHECKS,
    Check,
    CheckBudget,
    CheckContext,
    check_params,
    left_out,
    run_checks,
)
from bench.evaluation.checks.context import masking_check
from bench.evaluation.measuring import Measuring
from bench.indicator import Indicator
from bench.records.spec import MeasureSpec
from bench.threat import Threat
from tests.harness import SmallNet, small_batch, small_net
from tests.masked import Planted, grey, noisy

BUDGET = CheckBudget(steps=20, samples=20, restarts=6)
THREAT = Threat(eps=0.05)
N = 40
SLOW = ("C3", "C7")
QUICK = tuple(number for number in CHECKS if number not in SLOW)


@pytest.fixture(autouse=True)
def _short(short_autoattack: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.evaluation.checks.white_box.UNBOUNDED", (0.5, 1.0))


def net(seed: int = 0, num_classes: int = 4) -> SmallNet:
    return small_net(seed=seed, dtype=torch.float32, num_classes=num_classes).eval()


def images(model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Images, a tenth of which the network gets wrong."""
    x = small_batch(N, dtype=torch.float32).x
    logits = (net() if model is None else model)(x)
    y = logits.argmax(1)
    return x, torch.where(torch.arange(N) % 10 == 0, (y + 1) % logits.shape[1], y)


def made(
    numbers: Sequence[str] = QUICK, model: nn.Module | None = None, **options: Any
) -> list[Check]:
    """The checks of a small network with a surrogate."""
    model = net() if model is None else model
    options = {"budget": BUDGET, "surrogates": [net(5)], **options}
    return run_checks(model, *images(), THREAT, numbers=numbers, **options)


@cache
def all_checks() -> tuple[Check, ...]:
    return tuple(made(tuple(CHECKS)))


@cache
def quick_checks() -> list[Check]:
    return [check for check in all_checks() if check.number in QUICK]


def test_the_worst_indicator_names_the_check_and_its_json_has_none_for_no_number() -> None:
    def check(*indicators: Indicator, **detail: Any) -> Check:
        words = {"looks_for": "", "compute": "", "raises": "", "source": "ours"}
        x, y = grey(2)
        ctx = CheckContext.of(Planted(lambda v: v.sum(1) * 0 - 1), x, y, THREAT)
        return masking_check("C0", **words)(lambda _: (indicators, detail)).run(ctx)

    found = check(Indicator("a", 0.5, 0.9), Indicator("b", 0.02, 0.01), more=[1.0, float("nan")])
    assert found.number == "C0"
    fact = {"n": 0, "lost": None, "tries": 1, "top": 1.0, "limit": None}
    assert found.to_dict() == {
        "name": "C0: b",
        "value": 0.02,
        "threshold": 0.01,
        "alarm": True,
        "state": "alarm",
        "source": "ours",
        "detail": {
            "figures": [
                {"what": "a", "value": 0.5, "threshold": 0.9, "state": "pass"} | fact,
                {"what": "b", "value": 0.02, "threshold": 0.01, "state": "alarm"} | fact,
            ],
            "more": [1.0, None],
        },
    }
    # an alarm names the check before a larger excess that chance explains
    few, sure = Indicator("a", 0.5, 0.1, n=2), Indicator("b", 0.2, 0.1, n=1000)
    assert (check(few).state, check(few).alarm) == ("watch", False)
    assert (check(few, sure).name, check(few, sure).state) == ("C0: b", "alarm")
    nan = check(Indicator("a", float("nan"), 0.5), Indicator("b", 9, 0.1))
    assert (nan.name, nan.alarm, nan.to_dict()["value"]) == ("C0: a", True, None)


@pytest.mark.parametrize(
    ("m", "percent", "expected"),
    [(10, 1, 0.2), (100, 1, 0.02), (1000, 1, 0.01), (1000, 0.1, 0.002)],
)
def test_no_threshold_is_below_two_images(m: int, percent: float, expected: float) -> None:
    x, y = grey(m)
    ctx = CheckContext.of(Planted(lambda v: v.sum(1) * 0 - 1), x, y, THREAT)
    assert ctx.points(percent) == pytest.approx(expected)
    assert ctx.least == 2 / m


def test_the_largest_difference_counts_what_speaks_against_it_and_how_many_it_is_of() -> None:
    x, y = grey(4)
    ctx = CheckContext.of(Planted(lambda v: v.sum(1) * 0 - 1), x, y, THREAT)
    a, b, c = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]]).bool()
    found = ctx.largest("more by", 0.1, [(b, c), (a, b), (c, a)])
    assert found == Indicator("more by", 0.25, 0.1, n=4, lost=1, tries=3)
    assert ctx.share("a", a, 0.1) == Indicator("a", 0.75, 0.1, n=4)


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


@pytest.mark.slow
def test_every_check_is_made_in_order_and_alone_like_among_all() -> None:
    assert list(CHECKS) == [f"C{n}" for n in range(1, 15)]
    assert [check.number for check in all_checks()] == list(CHECKS)
    for check in all_checks():
        assert check.source
        assert check.alarm is any(figure["state"] == "alarm" for figure in check.detail["figures"])
        assert check.value in [figure["value"] for figure in check.detail["figures"]]
    for number in ("C1", "C2", "C6", "C8", "C14"):
        assert made([number]) == [check for check in all_checks() if check.number == number]


@pytest.mark.slow
def test_only_the_seed_changes_what_is_drawn_and_the_networks_are_left_as_they_were() -> None:
    model, surrogate = net().train(), net(5).train()
    model.conv.weight.requires_grad_(False)
    before = [copy.deepcopy(network.state_dict()) for network in (model, surrogate)]
    torch.manual_seed(1)
    assert made(model=model, surrogates=[surrogate]) == quick_checks()
    for network, state in zip((model, surrogate), before, strict=True):
        assert all(torch.equal(state[k], value) for k, value in network.state_dict().items())
        assert all(module.training for module in network.modules())
        assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert made(seed=1) != quick_checks()


@pytest.mark.slow
def test_what_cannot_be_made_is_left_out_with_its_reason() -> None:
    assert left_out(1, 10) == {}
    assert set(left_out(0, 10)) == {"C2", "C12"}
    assert set(left_out(1, 3)) == {"C1", "C2", "C6", "C7"}
    assert "4 classes" in left_out(1, 3)["C7"]
    x, y = images()
    options: dict[str, Any] = {"checks": True, "effort": BUDGET}
    found = evaluate(net(), x, y, THREAT, (), **options)
    assert {c.number for c in found.checks} == set(CHECKS) - {"C2", "C12"}
    named = [note for note in found.warnings if note.startswith("check ")]
    assert len(named) == 2
    assert all("naturally trained" in note for note in named)
    whole = evaluate(net(), x, y, THREAT, (), surrogates={"natural": net(5)}, **options)
    assert tuple(whole.checks) == all_checks()
    assert whole.warnings == []
    three = net(num_classes=3)
    checks = run_checks(
        *(three, x, three(x).argmax(1), THREAT), budget=BUDGET, surrogates=[net(5, num_classes=3)]
    )
    assert {c.number for c in checks} == set(CHECKS) - {"C1", "C2", "C6", "C7"}
    with pytest.raises(ConfigError, match="unknown check 'C15'"):
        made(["C3", "C15"])


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


@pytest.mark.slow
@pytest.mark.parametrize("model", [DarkNan(), noisy(net(), 0.01)])
def test_every_check_is_plain_json_whatever_the_model_returns(model: nn.Module) -> None:
    found = made(model=model)
    assert [check.number for check in found] == list(QUICK)
    json.dumps([check.to_dict() for check in found], allow_nan=False)


def test_a_budget_out_of_range_is_one_clear_error_and_a_record_depends_on_its_own() -> None:
    for name, value in (("steps", 19), ("samples", 0), ("restarts", 5)):
        with pytest.raises(ConfigError, match=f"{name} = .* out of range"):
            CheckBudget(**{name: value})
    assert check_params("C4", BUDGET) == {"steps": 20}
    assert check_params("C1", BUDGET) == check_params("C6", BUDGET) == {"samples": 20}
    assert check_params("C10", BUDGET) == {"restarts": 6}
    assert check_params("C3", BUDGET) == {}


# --- their records ---


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


@pytest.mark.slow
def test_a_measure_is_the_check_of_the_same_name_in_batches_of_any_size() -> None:
    x, y = images()
    shared = measuring(net().train(), 16)
    for check in quick_checks():
        uses = ["twin"] if CHECKS[check.number].uses_surrogate else []
        assert shared.measure(spec(check.number, uses), x, y).values == check.to_dict()


def test_checks_of_one_model_share_only_what_is_equal() -> None:
    x, y = images()
    shared = measuring(net())
    one = shared.measure(spec("C6", budget=CheckBudget(samples=1)), x, y).values
    many = shared.measure(spec("C6"), x, y).values
    assert (one["detail"]["samples"], many["detail"]["samples"]) == (1, 20)
    by_twin = shared.measure(spec("C2", ["twin"]), x, y).values
    by_itself = shared.measure(spec("C2", ["itself"]), x, y).values
    assert by_twin["detail"]["transfer"] != by_itself["detail"]["transfer"]
    assert by_twin == measuring(net()).measure(spec("C2", ["twin"]), x, y).values
    first, others = spec("C4"), ({"eps": 0.02}, {"seed": 1}, {"n_examples": 20})
    found = [shared.measure(first, x, y).values]
    for other in others:
        changed: MeasureSpec = replace(first, **other)
        part = x[: changed.n_examples], y[: changed.n_examples]
        found.append(measuring(net()).measure(changed, *part).values)
        assert shared.measure(changed, *part).values == found[-1] != found[0]


def test_a_check_without_its_surrogate_or_classes_is_one_clear_error() -> None:
    for number in ("C2", "C12"):
        with pytest.raises(ConfigError, match=rf"check {number} cannot be made.*naturally trained"):
            measuring(net()).measure(spec(number), *images())
    three = net(num_classes=3)
    with pytest.raises(ConfigError, match=r"check C7 cannot be made.*4 classes"):
        measuring(three).measure(spec("C7"), *images(three))
