"""C3, C4, C5, C10 on planted models: what they compute, and what makes them ring."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import PGD
from bench.evaluation.checks import CHECKS, Check, Effort, Lab
from bench.evaluation.checks.budget import expected_accuracy
from bench.threat import Threat
from tests.harness import small_batch, small_net
from tests.masked import Hot, Planted, grey, hill

EPS = 0.1


def lab_on(model: nn.Module, n: int = 20, effort: Effort | None = None) -> Lab:
    x, y = grey(n, 6)
    return Lab.of(model, x, y, Threat(eps=EPS), effort=effort or Effort())


def conv_lab(eps: float, effort: Effort | None = None) -> Lab:
    """A small network, and images that it gets right."""
    net, x = small_net(dtype=torch.float32).eval(), small_batch(60, dtype=torch.float32).x
    return Lab.of(net, x, net(x).argmax(1), Threat(eps=eps), effort=effort or Effort())


def figures(check: Check) -> dict[str, dict[str, Any]]:
    """By what each is."""
    return {str(figure["what"]): figure for figure in check.detail["figures"]}


def accuracy(lab: Lab, attack: PGD, purpose: str, eps: float) -> float:
    x_adv = attack(lab.model, lab.x, lab.y, Threat(eps=eps), generator=lab.generator(purpose))
    return float((lab.model(x_adv).argmax(1) == lab.y).double().mean())


def mean_loss(lab: Lab, attack: PGD) -> float:
    x_adv = attack(lab.model, lab.x, lab.y, lab.threat, generator=lab.generator("iterations"))
    return float(nn.functional.cross_entropy(lab.model(x_adv), lab.y).detach())


def test_c3_takes_the_worse_of_cross_entropy_and_margin() -> None:
    lab = lab_on(Hot(Planted(lambda x: (x - 0.5).sum(1) - 5)))
    attack = PGD(steps=200, relative_step=2.5 / 200)
    assert accuracy(lab, attack, "unbounded 0.25", 0.25) == 1  # no gradient
    assert CHECKS["C3"].run(lab).detail["accuracy"] == [0.0, 0.0, 0.0]


def test_c3_rings_where_grey_or_anything_at_all_is_still_right() -> None:
    never = CHECKS["C3"].run(lab_on(Planted(lambda x: x.sum(1) * 0 - 1)))
    assert [f["alarm"] for f in never.detail["figures"]] == [True, True]
    assert [f["threshold"] for f in never.detail["figures"]] == [pytest.approx(1 / 4 + 2 / 20), 0]
    steep = CHECKS["C3"].run(lab_on(Planted(lambda x: (x - 0.5).sum(1) - 0.3 * 36)))
    assert not steep.alarm
    assert steep.detail["accuracy"] == [1.0, 0.0, 0.0]


def chain(x: Tensor) -> Tensor:
    """Pixel k has a gradient once all before it are at the rim: 36 times about five steps."""
    d = (x - 0.5) / EPS
    at_rim = (d > 0.9).float().cumprod(1)
    open_ = torch.cat([torch.ones_like(d[:, :1]), at_rim[:, :-1]], 1)
    return (d * open_).sum(1) - 35.5


def pocket(x: Tensor) -> Tensor:
    """One pixel whose gradient says up; the answer changes between 0.58 and 0.65 alone."""
    pixel = x[:, 0]
    value = ((pixel > 0.58) & (pixel < 0.65)).float() - 0.5
    return value + pixel - pixel.detach()


def half_safe(x: Tensor) -> Tensor:
    """No attack helps where pixel 1 is bright; elsewhere any does."""
    return torch.where(x[:, 1] > 0.5, -1.0, 20 * (x[:, 0] - 0.505))


def test_c4_reads_one_run_as_separate_runs_of_so_many_steps() -> None:
    lab = conv_lab(0.05, Effort(steps=60))
    detail = CHECKS["C4"].run(lab).detail
    assert detail["steps"] == [1, 10, 20, 50, 60]
    separate = [
        accuracy(lab, PGD(steps=m, relative_step=1 / 5), "iterations", 0.05)
        for m in detail["steps"]
    ]
    assert detail["accuracy"] == separate
    assert len(set(separate)) > 1
    fgsm = PGD(steps=1, relative_step=1.0, start="zero")
    assert detail["fgsm"] == accuracy(lab, fgsm, "fgsm", 0.05)
    assert detail["mean_loss"] == pytest.approx(
        [mean_loss(lab, PGD(steps=m, relative_step=1 / 5)) for m in detail["steps"]]
    )
    assert detail["mean_loss"][0] < detail["mean_loss"][-1]


def test_c4_rings_where_a_right_gradient_needs_more_than_a_hundred_steps() -> None:
    check = CHECKS["C4"].run(lab_on(Planted(chain), effort=Effort(steps=300)))
    assert check.detail["steps"] == [1, 10, 20, 50, 100, 200, 300]
    assert check.detail["accuracy"][4] == 1
    late = figures(check)["more than 100 steps break"]
    assert late["alarm"]
    assert late["value"] == 1
    assert not figures(check)["one step beats twenty by"]["alarm"]


def test_c4_makes_no_such_verdict_of_a_hundred_steps() -> None:
    check = CHECKS["C4"].run(lab_on(Planted(chain), effort=Effort(steps=100)))
    assert list(figures(check)) == ["one step beats twenty by"]


def test_c4_rings_where_one_step_beats_many() -> None:
    check = CHECKS["C4"].run(lab_on(Planted(hill), n=200, effort=Effort(steps=20)))
    assert check.alarm
    assert check.value == pytest.approx(0.9, abs=0.08)  # a tenth of the starts is beyond the dip
    assert check.detail["fgsm"] == 0


def test_c4_counts_logits_that_are_not_finite_as_broken() -> None:
    model = Planted(lambda x: torch.where(x[:, 0] > 0.55, torch.nan, x[:, 0] - 1))
    check = CHECKS["C4"].run(lab_on(model, effort=Effort(steps=20)))
    assert check.detail["accuracy"][-1] == 0
    assert check.to_dict()["detail"]["mean_loss"][-1] is None


def test_c5_sweeps_the_multiples_of_eps_and_ends_at_one() -> None:
    lab = conv_lab(0.04)
    detail = CHECKS["C5"].run(lab).detail
    multiples = (0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 8, 16)
    assert detail["eps"] == pytest.approx([*(m * 0.04 for m in multiples), 1.0])
    attack = PGD(steps=20, relative_step=1 / 5)
    assert detail["accuracy"] == [
        1.0,
        *(accuracy(lab, attack, "sweep", eps) for eps in detail["eps"][1:]),
    ]
    assert len(set(detail["accuracy"])) > 2
    assert CHECKS["C5"].run(conv_lab(0.3)).detail["eps"] == pytest.approx(
        [0, 0.075, 0.15, 0.3, 0.45, 0.6, 0.9, 1.0]
    )


def test_c5_rings_where_a_larger_ball_is_safer() -> None:
    found = figures(CHECKS["C5"].run(lab_on(Planted(pocket))))
    assert found["a larger ball is safer: by"]["value"] == 1
    assert found["a larger ball is safer: by"]["alarm"]


def test_c5_rings_for_a_plateau_and_where_eps_one_leaves_something() -> None:
    x, y = grey(40)
    x[::2, 0, 0, 1], x[1::2, 0, 0, 1] = 1.0, 0.0
    check = CHECKS["C5"].run(Lab.of(Planted(half_safe), x, y, Threat(eps=0.02)))
    found = figures(check)
    assert found["accuracy that a doubled eps keeps"]["value"] == 1
    assert found["accuracy that a doubled eps keeps"]["alarm"]
    assert not found["a larger ball is safer: by"]["alarm"]
    never = figures(CHECKS["C5"].run(lab_on(Planted(lambda x: x.sum(1) * 0 - 1))))
    assert never["accuracy at eps 1"] == {
        "what": "accuracy at eps 1",
        "value": 1.0,
        "threshold": 0.0,
        "alarm": True,
    }
    assert "accuracy that a doubled eps keeps" not in never  # nothing between 20% and 90%


def test_c10_averages_over_all_choices_of_starts() -> None:
    n_starts, broken = 8, [0, 1, 3, 8]
    for n in (1, 5, 8):
        by_hand = [
            sum(all(start >= k for start in chosen) for chosen in combinations(range(n_starts), n))
            / len(list(combinations(range(n_starts), n)))
            for k in broken
        ]
        assert expected_accuracy(broken, n, n_starts) == pytest.approx(sum(by_hand) / 4)


def test_c10_rings_where_success_depends_on_the_start() -> None:
    check = CHECKS["C10"].run(lab_on(Planted(hill), n=100))
    assert check.detail["restarts"] == [1, 5, 20]
    one, five, twenty = check.detail["accuracy"]
    assert (one, five) == pytest.approx((0.9, 0.9**5), abs=0.05)
    assert check.alarm
    assert check.value == pytest.approx(five - twenty)
    assert twenty < 0.3


def test_c10_makes_as_many_starts_as_it_is_told() -> None:
    check = CHECKS["C10"].run(lab_on(Planted(hill), effort=Effort(restarts=30)))
    assert check.detail["restarts"] == [1, 5, 30]
    assert check.name == "C10: 30 restarts break more than 5: by"


def test_c10_is_silent_where_every_start_ends_alike() -> None:
    check = CHECKS["C10"].run(lab_on(Planted(lambda x: (x - 0.5).sum(1) - 0.05 * 36)))
    assert check.detail["accuracy"] == [0.0, 0.0, 0.0]
    assert not check.alarm
