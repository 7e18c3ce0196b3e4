"""CAT-CE and CAT-MIX: labels and radii by hand, attack and losses written out, and the flags."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.estimate import made_spec
from bench.experiments.plan import RunPlan
from bench.method import Batch
from bench.registry import get_method, parameters
from bench.threat import REFERENCE_EPS, Threat
from methods.cat import CatCE
from tests.harness import Grey, make_state, small_batch, small_net
from tests.unit.cat_line import (
    CAP,
    ETA,
    SHAPE,
    Seen,
    assert_near,
    batch_of,
    falling_at,
    images_that_fall_at,
    labels,
    line_state,
)
from tests.unit.written import (
    attacked,
    dirichlet,
    one_hot,
    soft_ce,
    uniform,
)


def test_labels_before_and_after_the_attack_are_eq_4() -> None:
    """(1 - c e) y + c e v: the old radius with the first draw, the new with the second."""
    method = get_method("cat-ce")
    old = [0.0, 0.01, 0.02, 0.005, CAP]
    state, batch = line_state(method, old), falling_at(0.2, 0.2, 0.0, -0.1, 0.2)
    seen = Seen(method, state, batch)
    first, second = dirichlet(5, 3, draws=2)
    assert_near(seen.label, labels([10 * e for e in old], batch.y, first), 1e-7)
    new = [ETA, 0.015, 0.02, 0.005, CAP]
    assert_near(state.scratch["label"], labels([10 * e for e in new], batch.y, second), 1e-7)
    assert_near(state.scratch["radius"], new, 1e-8)
    assert_near(state.scratch["label"].sum(1), [1.0], 1e-7)  # draws are in single precision


@pytest.mark.parametrize(("reuse", "draws"), [(False, 2), (True, 1)])
def test_reuse_draw_keeps_the_draw_of_the_label_before(reuse: bool, draws: int) -> None:
    method = get_method("cat-ce", reuse_draw=reuse)
    state, batch = line_state(method, [0.02] * 3), falling_at(0.2, 0.0, 0.2)
    seen = Seen(method, state, batch)
    drawn = dirichlet(3, 3, draws=2)
    assert_near(seen.label, labels([0.2] * 3, batch.y, drawn[0]), 2e-7)
    after = labels([0.25, 0.2, 0.25], batch.y, drawn[draws - 1])
    assert_near(state.scratch["label"], after, 2e-7)


def test_dir_beta_concentrates_the_draw() -> None:
    spread = {}
    for beta in (0.01, 1.0, 100.0):
        method = get_method("cat-ce", dir_beta=beta, adaptive=False)
        state = make_state(method, small_net(), n=400)
        batch = small_batch(n=400)
        method.perturb(state, batch)
        label = state.scratch["label"]
        assert_near(label.sum(1), [1.0], 1e-6)
        assert float(label.min()) >= 0
        share = 10 * CAP
        draw = one_hot(batch.y, 4) + (label - one_hot(batch.y, 4)) / share
        assert_near(draw.mean(0), [0.25], 0.08)
        spread[beta] = float(draw.var(0).mean())
    # variance of a coordinate: (1/K)(1 - 1/K) / (K beta + 1)
    for beta, found in spread.items():
        assert found == pytest.approx(0.1875 / (4 * beta + 1), rel=0.2)


def saturated(fall: float) -> float:
    """The largest of 0, eta, 2 eta, ... and the cap up to which every attack fails."""
    reached = 0.0
    for k in range(1, math.ceil(CAP / ETA) + 1):
        if min(k * ETA, CAP) > fall:
            break
        reached = min(k * ETA, CAP)
    return reached


FALLS = (0.2, 0.0323, 0.0312, 0.0301, 0.0299, 0.0251, 0.0249, 0.0101, 0.0052, 0.0048, 0.001,
         -0.01, -0.1)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_radii_grow_by_eta_until_the_attack_succeeds(dtype: torch.dtype) -> None:
    """Ten epochs in shuffled batches of 4, 4, 4 and 1; c = 0, so that the attack is exact."""
    method = get_method("cat-ce", c=0)
    state = line_state(method, n=20)
    state.model.to(dtype)
    place = torch.randperm(20, generator=torch.Generator().manual_seed(0))[: len(FALLS)]
    x = images_that_fall_at(*FALLS).to(dtype)
    g = torch.Generator().manual_seed(1)
    expected = [0.0] * len(FALLS)
    for _ in range(10):
        order = torch.randperm(len(FALLS), generator=g)
        sizes = [len(part) for part in torch.split(order, 4)]
        assert sizes == [4, 4, 4, 1]
        for part in torch.split(order, 4):
            x_adv = method.perturb(state, batch_of(x[part], place[part]))
            for i, moved in zip(part.tolist(), (x_adv - x[part]).flatten(1), strict=True):
                attempt = min(expected[i] + ETA, CAP)
                assert_near(moved.abs(), [attempt], 1e-6)
                if attempt <= FALLS[i]:
                    expected[i] = attempt
            state.next_batch()
        assert_near(state.examples["radius"][place], expected, 1e-6)
    assert expected == pytest.approx([saturated(fall) for fall in FALLS], abs=1e-12)
    assert expected[:6] == pytest.approx([CAP, CAP, 0.03, 0.03, 0.025, 0.025])
    others = torch.ones(20, dtype=torch.bool)
    others[place] = False
    assert bool((state.examples["radius"][others] == 0).all())


@pytest.mark.parametrize(("cap_before", "reach"), [(True, CAP), (False, CAP + ETA)])
def test_cap_before_bounds_the_radius_of_the_attack(cap_before: bool, reach: float) -> None:
    method = get_method("cat-ce", c=0, cap_before=cap_before)
    state, batch = line_state(method, [CAP] * 2), falling_at(0.2, 0.034)
    x_adv = method.perturb(state, batch)
    assert_near((x_adv - batch.x).abs(), [reach], 1e-8)
    assert_near(state.examples["radius"][:2], [CAP], 1e-8)


def test_per_view_starts_each_visit_at_radius_0() -> None:
    method = get_method("cat-ce", per_view=True)
    state, batch = line_state(method), falling_at(0.2, 0.001)
    for _ in range(3):
        seen = Seen(method, state, batch)
        assert_near(seen.radius, [ETA], 0)
        assert_near(seen.label, one_hot(batch.y, 3), 0)
        assert_near(state.scratch["radius"], [ETA, 0.0], 1e-12)
        state.next_batch()


@pytest.mark.parametrize("eps", [0.1, REFERENCE_EPS / 2])
def test_lengths_scale_with_eps_and_c_against_it(eps: float) -> None:
    """eta grows as eps and c shrinks as 1/eps: the label at the cap is the same."""
    ratio = eps / REFERENCE_EPS
    method = get_method("cat-ce", steps=1, step_size=0.001)
    state, batch = line_state(method, [0.01 * ratio, eps], eps=eps), falling_at(0.3, 0.3)
    seen = Seen(method, state, batch)
    assert_near(seen.radius, [0.015 * ratio, eps], 1e-8)
    assert_near((seen.x_adv - batch.x).abs(), [0.001 * ratio], 1e-12)
    first, second = dirichlet(2, 3, draws=2)
    assert_near(seen.label, labels([0.1, 10 * CAP], batch.y, first), 1e-7)
    assert_near(state.scratch["label"], labels([0.15, 10 * CAP], batch.y, second), 1e-7)
    fixed = get_method("cat-ce", adaptive=False).example_state(2, Threat(eps=eps))
    assert_near(fixed["radius"], [eps], 1e-8)


def test_the_attack_ascends_the_soft_label_cross_entropy_from_the_image_itself() -> None:
    """The whole attack written out: zero start, step 0.007, ball of each image's radius."""
    net, batch, method = small_net(), small_batch(n=8), get_method("cat-ce")
    batch.x[0], batch.x[1] = 0.0, 1.0
    state = make_state(method, net)
    old = torch.linspace(0, CAP, 8).double()
    state.examples["radius"][:8] = old.float()
    found = method.perturb(state, batch)
    (draw, _), share = dirichlet(8, 4, draws=2), 10 * old[:, None]
    q = (1 - share) * one_hot(batch.y, 4) + share * draw
    r = (old + ETA).clamp(max=CAP)
    expected = attacked(net, lambda x_adv: soft_ce(net(x_adv), q), batch.x, batch.x,
                        radius=r, step=0.007, steps=10)  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_start(start: str) -> None:
    method = get_method("cat-ce", start=start)
    state, batch = line_state(method, [0.0, 0.01, 0.02]), falling_at(0.2, 0.2, 0.2)
    noise = Seen(method, state, batch).inputs[0] - batch.x
    radius = torch.tensor([0.005, 0.015, 0.025], dtype=torch.float64).view(-1, 1, 1, 1)
    drawn = uniform(batch.x) * radius
    assert_near(noise, drawn if start == "uniform" else torch.zeros_like(noise), 1e-9)


@pytest.mark.parametrize("rule", ["fixed", "radius"])
def test_step_rule(rule: str) -> None:
    method = get_method("cat-ce", step_rule=rule, steps=5)
    state, batch = line_state(method, [0.009, 0.015, 0.02]), falling_at(0.2, 0.2, 0.2)
    step = Seen(method, state, batch).inputs[1] - batch.x
    radius = torch.tensor([0.014, 0.02, 0.025], dtype=torch.float64)
    expected = 2.5 * radius / 5 if rule == "radius" else torch.full_like(radius, 0.007)
    assert_near(step.abs(), expected.view(-1, 1, 1, 1).expand_as(step), 1e-8)


def ridge(t: Tensor) -> Tensor:
    """Above 0 only where the mean grey has moved by 0.006 to 0.009."""
    return 0.0015 - (t - 0.0075).abs()


@pytest.mark.parametrize(
    ("steps", "any_iterate", "after"),
    [(2, False, 0.025), (2, True, 0.02), (1, False, 0.02), (1, True, 0.02)],
)
def test_any_iterate_counts_a_success_on_the_way(
    steps: int, any_iterate: bool, after: float
) -> None:
    """One step of 0.007: onto the ridge; two: down behind it. The last counts either way."""
    method = get_method("cat-ce", c=0, steps=steps, any_iterate=any_iterate)
    net = Grey(lambda t: 0, ridge, lambda t: ridge(t) - 1)
    state = make_state(method, net, num_classes=3)
    state.examples["radius"].fill_(0.02)
    batch = batch_of(torch.full((1, *SHAPE), 0.5, dtype=torch.float64))
    x_adv = method.perturb(state, batch)
    assert_near(x_adv - batch.x, [0.007 * steps], 1e-9)
    assert_near(state.examples["radius"][:1], [after], 1e-8)


def grey(n: int) -> Batch:
    """Images of class 0, inside the box."""
    return batch_of(torch.full((n, *SHAPE), 0.5, dtype=torch.float64))


class Fixed(nn.Module):
    """The same logits for every image, and one parameter that adds to them all."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float64)
        self.shift = nn.Parameter(torch.zeros_like(self.logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits + self.shift + 0 * x.flatten(1).sum(1, keepdim=True)


LEADS = [[-1.0, -2.5, -3.0], [-30.0, -15.0, -40.0], [12.0, 0.0, 1.0], [0.0, -4.0, -9.9]]
"""Margins -1.5, 15, -11 and -4, two rows with negative logits only."""


def mixed_value(logits: Tensor, q: Tensor, y: Tensor, weight: Tensor, kappa: float) -> Tensor:
    """Eq. 6 by plain sums, the mean over images."""
    total = torch.zeros((), dtype=torch.float64)
    for row, label, true, w in zip(logits, q, y.tolist(), weight, strict=True):
        ce = -(label * (row - row.exp().sum().log())).sum()
        others = torch.cat([row[:true], row[true + 1 :]])
        total = total + ce + w * torch.clamp(others.max() - row[true], min=-kappa)
    return total / len(y)


@pytest.mark.parametrize("kappa", [10.0, 2.0, 0.0])
@pytest.mark.parametrize("mix_weight", ["mean", "eps_sum"])
def test_the_mixed_loss_is_eq_6(kappa: float, mix_weight: str) -> None:
    method = get_method("cat-mix", kappa=kappa, mix_weight=mix_weight)
    net = Fixed(LEADS)
    state = make_state(method, net, num_classes=3)
    batch = grey(4)
    radius = torch.tensor([0.0, 0.01, 0.02, 0.03], dtype=torch.float64)
    q = torch.tensor([[0.8, 0.1, 0.1]], dtype=torch.float64).expand(4, 3)
    state.scratch |= {"label": q, "radius": radius}
    loss = method.loss(state, batch, batch.x)
    weight = torch.ones(4) if mix_weight == "mean" else 4 * radius
    expected = mixed_value(net.logits + net.shift, q, batch.y, weight, kappa)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    (found,) = torch.autograd.grad(loss, net.shift)
    (wanted,) = torch.autograd.grad(expected, net.shift)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def ascended(lead: float, **params: Any) -> float:
    """Where one step of the attack moves the grey: 1 up, -1 down; by the margin up.

    Class 1 gains on class 0, which begins with `lead`, where the grey rises. A third class, close
    behind class 1, falls three times as fast, so that cross entropy and the margin point in
    opposite directions.
    """
    method = get_method("cat-mix", c=0, steps=1, **params)
    net = Grey(lambda t: 0, lambda t: t - lead, lambda t: -3 * t - lead - 0.05)
    state = make_state(method, net, num_classes=3)
    state.examples["radius"].fill_(0.02)
    batch = grey(1)
    return float((method.perturb(state, batch) - batch.x).sign().mean())


@pytest.mark.parametrize(
    ("clamp", "led", "lost"),
    [
        ("none", 1.0, 1.0),
        ("paper", -1.0, 1.0),  # no margin left where the model leads by more than kappa
        ("official", 1.0, -1.0),  # no margin left where the other class does
    ],
)
def test_mix_attack_clamp(clamp: str, led: float, lost: float) -> None:
    """kappa = 0.1: the lead is 0.5 in one case and -0.5 in the other."""
    assert ascended(0.5, kappa=0.1, mix_attack_clamp=clamp) == led
    assert ascended(-0.5, kappa=0.1, mix_attack_clamp=clamp) == lost
    assert ascended(0.05, kappa=0.1, mix_attack_clamp=clamp) == 1.0


@pytest.mark.parametrize("mix_weight", ["mean", "eps_sum"])
@pytest.mark.parametrize("eps", [REFERENCE_EPS, 0.1])
def test_the_attack_weighs_the_margin_as_the_update_does(mix_weight: str, eps: float) -> None:
    """eps_sum: by B times the radius of the attack, in units of eps = 8/255."""
    method = get_method("cat-mix", mix_weight=mix_weight, eta=0.0)
    state = make_state(method, Fixed(LEADS), num_classes=3, eps=eps)
    radius = torch.tensor([0.0, 0.01, 0.02, 0.03], dtype=torch.float64)
    state.examples["radius"] = state.examples["radius"].double()
    state.examples["radius"][:4] = radius * eps / REFERENCE_EPS
    logits, batch = Fixed(LEADS).logits, grey(4)
    seen = Seen(method, state, batch)
    weight = torch.ones(4) if mix_weight == "mean" else 4 * radius
    expected = mixed_value(logits, seen.label, batch.y, weight, kappa=math.inf)
    value = seen.objective(logits, seen.label, 0)
    torch.testing.assert_close(value.mean(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "epochs", "warning"),
    [
        (CatCE(), 4, "cat-ce reaches 0.64 of its radius in 4 epochs; 7 are the least"),
        (CatCE(), 7, ""),
        (CatCE(eps_max=4 / 255), 4, ""),
        (CatCE(eta=0.0), 100, "cat-ce reaches 0.00 of its radius in 100 epochs; it never grows"),
        (CatCE(adaptive=False), 1, ""),
    ],
)
def test_a_training_too_short_for_its_radius_is_warned_of(
    method: CatCE, epochs: int, warning: str
) -> None:
    spec = made_spec("cat-ce", "cnn", 8)
    spec = replace(spec, recipe=replace(spec.recipe, epochs=epochs))
    spec = replace(spec, params={name: getattr(method, name) for name in parameters(CatCE)})
    assert RunPlan(spec, "cat-ce").warning == warning
    assert RunPlan(spec).warning == ""
