"""CAT-CE: labels and radii by hand, and the flags that change them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bench.errors import ConfigError
from bench.registry import get_method
from bench.threat import REFERENCE_EPS, Threat
from methods import cat
from tests.harness import make_state, small_batch, small_net
from tests.unit.cat_line import (
    CAP,
    ETA,
    Seen,
    assert_near,
    batch_of,
    dirichlet,
    images_that_fall_at,
    line_state,
    one_hot,
)


def test_labels_before_and_after_the_attack_are_eq_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """(1 - c e) y + c e v: the old radius with the first draw, the new with the second."""
    method = get_method("cat-ce")
    state = line_state(method)
    old = torch.tensor([0.0, 0.01, 0.02, 0.005, CAP], dtype=torch.float64)
    state.examples["radius"][:5] = old.float()
    batch = batch_of(images_that_fall_at(0.2, 0.2, 0.0, -0.1, 0.2))
    seen = Seen(method, state, batch, monkeypatch)
    first, second = dirichlet(5, 3, draws=2)
    y = one_hot(batch.y, 3)
    share = 10 * old[:, None]
    assert_near(seen.labels[0], (1 - share) * y + share * first, 1e-7)
    new = torch.tensor([ETA, 0.015, 0.02, 0.005, CAP], dtype=torch.float64)
    share = 10 * new[:, None]
    assert_near(state.scratch["label"], (1 - share) * y + share * second, 1e-7)
    assert_near(state.scratch["radius"], new, 1e-8)
    assert_near(state.scratch["label"].sum(1), [1.0], 1e-7)  # draws are in single precision


def test_the_loss_is_the_cross_entropy_with_the_new_label() -> None:
    net, batch, method = small_net(), small_batch(), get_method("cat-ce")
    state = make_state(method, net)
    state.examples["radius"].fill_(0.02)
    x_adv = method.perturb(state, batch)
    q = state.scratch["label"]
    assert float(q.max(1).values.max()) < 0.999
    logits = net(x_adv)
    expected = -(q * (logits - logits.exp().sum(1, keepdim=True).log())).sum() / len(q)
    torch.testing.assert_close(method.loss(state, batch, x_adv), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("reuse", "draws"), [(False, 2), (True, 1)])
def test_reuse_draw_keeps_the_draw_of_the_label_before(
    reuse: bool, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = get_method("cat-ce", reuse_draw=reuse)
    state = line_state(method)
    state.examples["radius"].fill_(0.02)
    batch = batch_of(images_that_fall_at(0.2, 0.0, 0.2))
    seen = Seen(method, state, batch, monkeypatch)
    y = one_hot(batch.y, 3)
    before = y + (seen.labels[0] - y) / 0.2
    share = torch.tensor([[0.25], [0.2], [0.25]], dtype=torch.float64)
    after = y + (state.scratch["label"] - y) / share
    drawn = dirichlet(3, 3, draws=2)
    assert_near(before, drawn[0], 1e-6)
    assert_near(after, drawn[draws - 1], 1e-6)


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


def grid(cap: float = CAP) -> list[float]:
    """0, eta, 2 eta, ... and the cap."""
    return [min(k * ETA, cap) for k in range(math.ceil(cap / ETA) + 1)]


def saturated(fall: float, cap: float = CAP) -> float:
    """The largest radius of the grid below which every attack fails."""
    reached = 0.0
    for radius in grid(cap)[1:]:
        if radius > fall:
            break
        reached = radius
    return reached


FALLS = (
    0.2,
    0.0323,
    0.0312,
    0.0301,
    0.0299,
    0.0251,
    0.0249,
    0.0101,
    0.0052,
    0.0048,
    0.001,
    -0.01,
    -0.1,
)


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


def test_seven_failed_attacks_reach_the_cap() -> None:
    method = get_method("cat-ce")
    state = line_state(method)
    batch = batch_of(images_that_fall_at(0.5))
    radii = []
    for _ in range(9):
        method.perturb(state, batch)
        radii.append(float(state.examples["radius"][0]))
        state.next_batch()
    assert radii[:6] == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.025, 0.03], abs=1e-8)
    assert radii[6:] == pytest.approx([CAP] * 3, abs=1e-8)


@pytest.mark.parametrize(("cap_before", "reach"), [(True, CAP), (False, CAP + ETA)])
def test_cap_before_bounds_the_radius_of_the_attack(cap_before: bool, reach: float) -> None:
    method = get_method("cat-ce", c=0, cap_before=cap_before)
    state = line_state(method)
    state.examples["radius"].fill_(CAP)
    batch = batch_of(images_that_fall_at(0.2, 0.034))
    x_adv = method.perturb(state, batch)
    assert_near((x_adv - batch.x).abs(), [reach], 1e-8)
    assert_near(state.examples["radius"][:2], [CAP], 1e-8)


def test_without_adaptive_every_radius_is_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    method = get_method("cat-ce", adaptive=False)
    state = line_state(method)
    assert_near(state.examples["radius"], [CAP], 1e-8)
    batch = batch_of(images_that_fall_at(0.2, 0.01, -0.1))
    seen = Seen(method, state, batch, monkeypatch)
    assert_near(seen.radii[0], [CAP], 0)
    assert_near(state.examples["radius"], [CAP], 1e-8)
    assert_near(state.scratch["radius"], [CAP], 0)
    first, second = dirichlet(3, 3, draws=2)
    share, y = 10 * CAP, one_hot(batch.y, 3)
    assert_near(seen.labels[0], (1 - share) * y + share * first)
    assert_near(state.scratch["label"], (1 - share) * y + share * second)


def test_per_view_starts_each_visit_at_radius_0(monkeypatch: pytest.MonkeyPatch) -> None:
    method = get_method("cat-ce", per_view=True)
    state = line_state(method)
    batch = batch_of(images_that_fall_at(0.2, 0.001))
    for _ in range(3):
        seen = Seen(method, state, batch, monkeypatch)
        assert_near(seen.radii[0], [ETA], 0)
        assert_near(seen.labels[0], one_hot(batch.y, 3), 0)
        assert_near(state.scratch["radius"], [ETA, 0.0], 1e-12)
        state.next_batch()


@pytest.mark.parametrize("eps", [0.1, REFERENCE_EPS / 2])
def test_lengths_scale_with_eps_and_c_against_it(
    eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """eta grows as eps and c shrinks as 1/eps: the label at the cap is the same."""
    ratio = eps / REFERENCE_EPS
    method = get_method("cat-ce", steps=1, step_size=0.001)
    state = line_state(method, eps=eps)
    batch = batch_of(images_that_fall_at(0.3, 0.3))
    state.examples["radius"][:2] = torch.tensor([0.01 * ratio, eps])
    seen = Seen(method, state, batch, monkeypatch)
    assert_near(seen.radii[0], [0.015 * ratio, eps], 1e-8)
    assert_near((seen.x_adv - batch.x).abs(), [0.001 * ratio], 1e-12)
    y, (first, second) = one_hot(batch.y, 3), dirichlet(2, 3, draws=2)
    share = torch.tensor([[0.1], [10 * CAP]], dtype=torch.float64)
    assert_near(seen.labels[0], (1 - share) * y + share * first, 1e-7)
    share[0] = 0.15
    assert_near(state.scratch["label"], (1 - share) * y + share * second, 1e-7)
    fixed = get_method("cat-ce", adaptive=False).example_state(2, Threat(eps=eps))
    assert_near(fixed["radius"], [eps], 1e-8)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"c": 40}, "c * eps_max = 1.2549 is above 1: no label is left; c may be at most 31.87"),
        ({"c": 31.88}, "c * eps_max = 1.00016 is above 1"),
        ({"c": 128, "eps_max": "2/255"}, "c may be at most 127.50"),
        ({"c": -1}, "c = -1.0 is out of range: at least 0"),
        ({"eta": -0.001}, "eta = -0.001 is out of range: at least 0"),
        ({"eps_max": 0}, "eps_max = 0.0 is out of range: above 0 and at most 8/255"),
        ({"eps_max": "9/255"}, "above 0 and at most 8/255"),
        ({"steps": 0}, "steps = 0 is out of range: at least 1"),
        ({"step_size": 0}, "step_size = 0.0 is out of range: above 0"),
        ({"dir_beta": 0}, "dir_beta = 0.0 is out of range: above 0"),
    ],
)
@pytest.mark.parametrize("name", ["cat-ce", "cat-mix"])
def test_values_out_of_range(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_method(name, **params)
    assert message in str(caught.value)


def test_the_bound_that_a_message_names_is_accepted() -> None:
    assert get_method("cat-ce", c=31.87) == cat.CatCE(c=31.87)
    assert get_method("cat-ce", c=127.5, eps_max=2 / 255) == cat.CatCE(c=127.5, eps_max=2 / 255)
    with pytest.raises(ConfigError, match="kappa = -1"):
        get_method("cat-mix", kappa=-1)


def test_defaults_are_the_papers() -> None:
    for make in (cat.CatCE, cat.CatMix):
        method: cat.CatCE = make()
        assert (method.c, method.eta, method.eps_max) == (10, 0.005, 8 / 255)
        assert (method.steps, method.step_size) == (10, 0.007)
        assert method.c * method.eps_max == pytest.approx(0.3137, abs=1e-4)
    assert cat.CatMix().kappa == 10
