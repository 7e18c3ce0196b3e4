"""CAT's flags for the rules of the authors' releases: by hand, then each release as a whole."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.experiments.recipe import load_recipe
from bench.method import Batch
from bench.registry import get_method
from bench.threat import REFERENCE_EPS
from tests.harness import make_state, small_batch, small_net
from tests.unit.cat_line import assert_near, falling_at, line_state
from tests.unit.written import dirichlet, one_hot

FIRST = {"eta": 0.0025, "eps_max": 0.03, "step_size": 0.002, "train_where": "right",
         "radius_rule": "distance"}  # fmt: skip
VERSION_1 = {"eta": 0.03, "eps_max": 0.06, "train_where": "wrong", "radius_rule": "distance"}
VERSION_2 = {"eta": 0.0025, "eps_max": 0.035, "radius_rule": "inverted"}
BEYOND_CAP = {"eta": 0.02, "eps_max": 0.01, "radius_rule": "inverted"}
TWO: tuple[list[float], list[float]] = [0.01, 0.01], [0.2, 0.001]
"""Radii of which the first image stays right under attack and the second does not."""
RULES: dict[str, tuple[dict[str, Any], list[float], list[float], list[float], list[float]]] = {
    # ten steps of 0.002 reach 0.02 at most; 0 where the attack succeeds
    "first release": (
        *(FIRST, [0.0, 0.01, 0.01, 0.02, 0.029], [0.2, 0.2, 0.004, 0.2, 0.2]),
        *([0.0025, 0.0125, 0.0, 0.02, 0.02], [0.0025, 0.0125, 0.0, 0.02, 0.02]),
    ),
    # two successes in a row reach the cap of 0.06, beyond eps; 0 where the attack fails
    "version 1": (
        *(VERSION_1, [0.0, 0.0, 0.03, 0.05, 0.06, 0.0], [0.2, 0.01, 0.01, 0.01, 0.2, -0.1]),
        *([0.0, 0.03, 0.06, 0.06, 0.0, 0.03], [0.0, 0.03, 0.06, 0.06, 0.0, 0.03]),
    ),
    # at the cap of 0.035 a failed attack leads down, to 0.0325
    "version 2": (
        *(VERSION_2, [0.0, 0.0, 0.01, 0.01, 0.034, 0.035, 0.035]),
        *([0.2, -0.1, 0.2, 0.001, 0.2, 0.2, 0.001],),
        *([0.0025, 0.0025, 0.0125, 0.0125, 0.035, 0.035, 0.035],),
        *([0.0, 0.0025, 0.01, 0.0125, 0.0325, 0.0325, 0.035],),
    ),
    "never below 0": (BEYOND_CAP, [0.0], [0.2], [0.01], [0.0]),
    # images are replaced and nothing else: radii move as in the paper
    "all": ({"train_where": "all"}, *TWO, [0.015, 0.015], [0.015, 0.01]),
    "right": ({"train_where": "right"}, *TWO, [0.015, 0.0], [0.015, 0.01]),
    "wrong": ({"train_where": "wrong"}, *TWO, [0.0, 0.015], [0.015, 0.01]),
}
"""Parameters, old radii, radii at which the images fall; distances trained at, new radii."""


@pytest.mark.parametrize(
    ("params", "old", "falls", "distances", "radii"), RULES.values(), ids=RULES
)
def test_distances_and_radii_by_hand(
    params: dict[str, Any],
    old: list[float],
    falls: list[float],
    distances: list[float],
    radii: list[float],
) -> None:
    method = get_method("cat-ce", c=0, **params)
    state, batch = line_state(method, old), falling_at(*falls)
    moved = (method.perturb(state, batch) - batch.x).flatten(1).abs()
    assert_near(moved.amax(1), moved.amin(1), 1e-9)  # every pixel by as much
    assert_near(moved.amax(1), distances, 1e-8)
    assert_near(state.examples["radius"][: len(old)], radii, 1e-8)


@pytest.mark.parametrize("eps", [REFERENCE_EPS, 0.1])
def test_the_lengths_of_the_rules_scale_with_eps(eps: float) -> None:
    ratio = eps / REFERENCE_EPS
    method = get_method("cat-ce", c=0, eta=0.0025, eps_max=0.035, radius_rule="inverted")
    state = line_state(method, [0.035 * ratio, 0.01 * ratio], eps=eps)
    method.perturb(state, falling_at(0.3, 0.001))
    assert_near(state.examples["radius"][:2], [0.0325 * ratio, 0.0125 * ratio], 1e-8)


RELEASES = {
    "cat-first-release": {"eta": 0.0025, "cap": 0.03, "step": 0.002, "kappa": 50.0, "divide": 4},
    "cat-version-1": {"eta": 0.03, "cap": 0.06, "step": 0.007, "kappa": 10.0, "divide": 1},
    "cat-version-2": {"eta": 0.0025, "cap": 0.035, "step": 0.007, "kappa": 10.0, "divide": 1},
}


def others_lead(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} Z_j - Z_y, row by row."""
    rows = [
        torch.cat([row[:true], row[true + 1 :]]).max() - row[true]
        for row, true in zip(logits, y.tolist(), strict=True)
    ]
    return torch.stack(rows)


def by_hand(
    name: str, mix: bool, net: Any, batch: Batch, e: Tensor, draws: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step as the release makes it: trained images, radii, labels, loss."""
    values = RELEASES[name]
    x, y, hot = batch.x, batch.y, one_hot(batch.y, 4)

    def label(radius: Tensor, draw: Tensor) -> Tensor:
        share = 10 * radius[:, None]
        return hot * (1 - share) + draw * share / values["divide"]

    grown = (e + values["eta"]).clamp(max=values["cap"])
    q = label(grown if name == "cat-version-2" else e, draws[0])
    net.eval()
    x_adv = x.clone()
    for _ in range(10):
        x_adv.requires_grad_()
        logits = net(x_adv)
        descended = (q * logits.log_softmax(1)).sum() / len(x)
        if mix:
            hinge = (-others_lead(logits, y) + values["kappa"]).clamp(min=0)
            descended = descended + (hinge * grown).sum()
        (gradient,) = torch.autograd.grad(descended, x_adv)
        d = x_adv.detach() - values["step"] * gradient.sign() - x
        bound = grown.view(-1, 1, 1, 1)
        x_adv = (x + torch.min(torch.max(d, -bound), bound)).clamp(0, 1)
    right = net(x_adv).argmax(1) == y
    net.train()
    if name == "cat-version-2":
        new = grown - values["eta"] * right.double()
    else:
        kept = right if name == "cat-first-release" else ~right
        x_adv = torch.where(kept.view(-1, 1, 1, 1), x_adv, x)
        new = (x_adv - x).flatten(1).abs().max(1).values
    q = label(new, draws[1])
    logits = net(x_adv)
    loss = -(q * logits.log_softmax(1)).sum() / len(x)
    if mix:
        hinge = (others_lead(logits, y) + values["kappa"]).clamp(min=0)
        loss = loss + (hinge * new).sum() - values["kappa"] * new.sum()  # ours has no constant
    return x_adv, new, q, loss


@pytest.mark.parametrize("method_name", ["cat-ce", "cat-mix"])
@pytest.mark.parametrize("name", RELEASES)
def test_each_recipe_makes_the_steps_of_its_release(name: str, method_name: str) -> None:
    """Six batches in double precision, with images that stay right and images that do not."""
    _, params = load_recipe(name, arch="cnn", dataset="digits", method=method_name)
    method = get_method(method_name, **params)
    net, twin = small_net(), small_net()
    state = make_state(method, net)
    state.examples["radius"] = state.examples["radius"].double()
    radii = torch.zeros(8, dtype=torch.float64)
    outcomes = set()
    for number in range(6):
        batch = small_batch(n=8, seed=number % 2)
        # half of the images get the label that the network gives them, and so start out right
        twin.eval()
        y = torch.where(torch.arange(8) < 4, twin(batch.x).argmax(1), batch.y)
        twin.train()
        batch = Batch(x=batch.x, y=y, index=batch.index)
        draws = dirichlet(8, 4, draws=2, step=number)
        expected = by_hand(name, method_name == "cat-mix", twin, batch, radii, draws)
        radii = expected[1]
        x_adv = method.perturb(state, batch)
        loss = method.loss(state, batch, x_adv)
        torch.testing.assert_close(x_adv, expected[0], rtol=0, atol=1e-9)
        assert_near(state.examples["radius"][:8], radii, 1e-9)
        torch.testing.assert_close(state.scratch["label"], expected[2], rtol=0, atol=1e-7)
        torch.testing.assert_close(loss, expected[3], rtol=0, atol=1e-7)
        outcomes |= set((radii == 0).tolist())
        state.next_batch()
    assert outcomes == {True, False}
