"""Each masking check by itself: what it computes, what raises its alarm, and what does not."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import get_attack
from bench.evaluation.checks import CHECKS, Check, CheckBudget, CheckContext, black_box
from bench.evaluation.checks.context import WHITE_BOX
from bench.evaluation.checks.gradients import fosc
from bench.evaluation.checks.white_box import STARTS, expected_accuracy
from bench.threat import Threat
from tests.harness import small_batch, small_net
from tests.masked import Masked, Planted, grey, hill, hot, shattered

EPS = 0.1
LOOP: dict[str, Any] = {"steps": 20, "relative_step": 1 / 5}


pytestmark = pytest.mark.usefixtures("short_autoattack")


def planted(model: nn.Module, n: int = 20, size: int = 4, **options: Any) -> CheckContext:
    """Grey images of class 0."""
    options = {"threat": Threat(eps=EPS)} | options
    return CheckContext.of(model, *grey(n, size), **options)


def convolution(
    eps: float = 0.05, n: int = 40, model: nn.Module | None = None, **options: Any
) -> CheckContext:
    """A small network, and images that it gets right."""
    net, x = model or small_net(dtype=torch.float32).eval(), small_batch(n, dtype=torch.float32).x
    options = {"budget": CheckBudget(samples=10)} | options
    return CheckContext.of(net, x, net(x).argmax(1), Threat(eps=eps), **options)


def run(number: str, ctx: CheckContext) -> Check:
    return CHECKS[number].run(ctx)


def indicators(check: Check) -> dict[str, dict[str, Any]]:
    return {str(found["what"]): found for found in check.detail["figures"]}


def accuracy(
    ctx: CheckContext, name: str, purpose: str, *, eps: float | None = None, **params: Any
) -> float:
    x_adv = ctx.attack(get_attack(name, **params), purpose, eps=eps)
    return float((ctx.model(x_adv).argmax(1) == ctx.y).double().mean())


def sum_beyond(reach: float, n_pixels: int = 16) -> Planted:
    """Linear: broken where the ball is wider than `reach`."""
    return Planted(lambda x: (x - 0.5).sum(1) - reach * n_pixels)


def never(x: Tensor) -> Tensor:
    return x.sum(1) * 0 - 1


class Recorder(Masked):
    """Keeps the images of every call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return super().forward(x)


# --- C1, C2, C6, C12: black box and transfer ---


def trap(x: Tensor) -> Tensor:
    """No gradient. Where pixel 0 is bright, five others near the rim change the answer."""
    return 2.0 * ((x[:, 0] > 0.5) & (x[:, 5:10] > 0.55).all(1)) - 1


def pointer(x: Tensor) -> Tensor:
    """Its gradient shows where the trap is, and nothing defends it."""
    return 20 * (x[:, 5:10] - 0.5).sum(1) - 1


def trapped(n_weak: int, samples: int = 600) -> tuple[CheckContext, list[int]]:
    """Of 40 images every fifth is wrong without an attack; `n_weak` others can be trapped."""
    x, y = grey(40)
    y[::5] = 1
    weak = [i for i in range(40) if i % 5][1 : 4 * n_weak : 4]
    x[:, 0, 0, 0] = 0.0
    x[weak, 0, 0, 0] = 1.0
    options: Any = {"budget": CheckBudget(samples=samples), "surrogates": [Planted(pointer)]}
    return CheckContext.of(Planted(trap), x, y, Threat(eps=EPS), **options), weak


@pytest.mark.parametrize("number", ["C1", "C2", "C6"])
@pytest.mark.parametrize(("n_weak", "state"), [(2, "pass"), (3, "watch"), (8, "alarm")])
def test_what_the_white_box_missed_is_named_and_many_more_than_two_images_ring(
    number: str, n_weak: int, state: str
) -> None:
    ctx, weak = trapped(n_weak)
    check = run(number, ctx)
    assert len(ctx.y) == 32
    assert ctx.white_box().all()
    assert check.detail["flipped"] == weak
    assert check.value == pytest.approx(n_weak / 32)
    assert check.threshold == 2 / 32
    assert check.state == state


def test_c1_is_the_worst_of_square_random_points_and_transfer() -> None:
    ctx, weak = trapped(3, samples=1)
    by_square = ctx.index[ctx.white_box() & ~black_box.square(ctx)].tolist()
    assert by_square
    for samples, surrogates, square, expected in (
        (1, True, False, weak),
        (600, False, False, weak),
        (1, False, True, by_square),
    ):
        ctx, _ = trapped(3, samples)
        if not surrogates:
            ctx.surrogates = ()
        if not square:
            ctx.remembered("square", ctx.white_box)
        assert run("C1", ctx).detail["flipped"] == expected


@pytest.mark.parametrize("floats", [2**24, 1])
def test_c6_draws_so_many_points_half_of_them_corners_and_nan_is_broken(
    floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(black_box, "FLOATS", floats)
    recorder = Recorder(Planted(never))
    ctx = planted(recorder, 16, budget=CheckBudget(samples=150))
    ctx.white_box()
    recorder.seen.clear()
    run("C6", ctx)
    points = torch.cat(recorder.seen)
    far = (points - 0.5).abs().flatten(1)
    corners = (far - EPS).abs().amax(1) < 1e-6
    assert len(points) == 150 * 16
    assert corners.sum() == 75 * 16
    assert float(far.max()) <= EPS + 1e-6
    assert far[~corners].mean() == pytest.approx(EPS / 2, rel=0.02)
    # 2^16 corners: a few are drawn twice
    assert len({tuple(row) for row in points.flatten(1).tolist()}) > 140 * 16
    nan = Planted(lambda x: torch.where((x[:, 5:10] > 0.55).all(1), torch.nan, -1.0))
    assert run("C6", planted(nan, budget=CheckBudget(samples=600))).value > 0.9


def test_the_white_box_and_transfer_are_each_of_their_attacks_and_run_once() -> None:
    other, ctx = small_net(seed=5, dtype=torch.float32).eval(), convolution()
    white = ctx.white_box()
    assert torch.equal(white, torch.stack([ctx.survivors(name) for name in WHITE_BOX]).all(0))
    assert 0 < white.sum() < len(white)
    by_hand = [
        ctx.still_right(ctx.attack(get_attack(name), f"transfer {name}", on=other))
        for name in ("pgd-20", "cw")
    ]
    assert not torch.equal(by_hand[0], by_hand[1])
    expected = [float((by_hand[0] & by_hand[1]).double().mean())]
    assert run("C2", ctx.sharing(ctx.budget, [other])).detail["transfer"] == expected
    ctx.model.model = recorder = Recorder(ctx.model.model)
    assert ctx.white_box() is white
    assert not recorder.seen


@pytest.mark.parametrize(
    ("twin", "kept"),
    [
        (sum_beyond(0.05), 0),
        (sum_beyond(0.2), 1),
        (sum_beyond(-0.3), 0),  # wrong without an attack
        (hot(sum_beyond(0.05)), 0),  # cross entropy has no gradient there, the margin has
    ],
)
def test_c12_rings_where_the_undefended_network_withstands(twin: nn.Module, kept: int) -> None:
    check = run("C12", planted(sum_beyond(0.2), surrogates=[twin]))
    assert (check.value, check.alarm, check.threshold) == (kept, bool(kept), 2 / 20)


# --- C3, C4, C5, C10: larger balls, more steps, more restarts ---


@pytest.mark.slow
def test_c3_takes_the_worse_loss_and_rings_where_grey_or_anything_is_still_right() -> None:
    ctx = planted(hot(Planted(lambda x: (x - 0.5).sum(1) - 5)), size=6)
    params: dict[str, Any] = {"steps": 200, "relative_step": 2.5 / 200}
    # cross entropy has no gradient
    assert accuracy(ctx, "pgd-20", "unbounded 0.25", eps=0.25, **params) == 1
    assert run("C3", ctx).detail["accuracy"] == [0.0, 0.0, 0.0]
    loud = run("C3", planted(Planted(never))).detail["figures"]
    assert [f["state"] for f in loud] == ["alarm", "alarm"]
    assert [f["threshold"] for f in loud] == [pytest.approx(1 / 4 + 2 / 20), 0]
    steep = run("C3", planted(sum_beyond(0.3, 36), size=6))
    assert not steep.alarm
    assert steep.detail["accuracy"] == [1.0, 0.0, 0.0]


def chain(x: Tensor) -> Tensor:
    """Pixel k has a gradient once all before it are at the rim: 36 times about five steps."""
    d = (x - 0.5) / EPS
    at_rim = (d > 0.9).float().cumprod(1)
    open_ = torch.cat([torch.ones_like(d[:, :1]), at_rim[:, :-1]], 1)
    return (d * open_).sum(1) - 35.5


def test_c4_reads_one_run_as_separate_runs_of_so_many_steps() -> None:
    ctx = convolution(n=60, budget=CheckBudget(steps=60))
    detail = run("C4", ctx).detail
    assert detail["steps"] == [1, 10, 20, 50, 60]
    losses = []
    for steps, found in zip(detail["steps"], detail["accuracy"], strict=True):
        assert found == accuracy(ctx, "pgd-20", "iterations", **(LOOP | {"steps": steps}))
        attack = get_attack("pgd-20", **(LOOP | {"steps": steps}))
        logits = ctx.model(ctx.attack(attack, "iterations"))
        losses.append(float(nn.functional.cross_entropy(logits, ctx.y).detach()))
    assert len(set(detail["accuracy"])) > 1
    one_step: dict[str, Any] = {"steps": 1, "relative_step": 1.0, "start": "zero"}
    assert detail["fgsm"] == accuracy(ctx, "pgd-20", "fgsm", **one_step)
    assert detail["mean_loss"] == pytest.approx(losses)
    assert losses[0] < losses[-1]


def test_c4_rings_where_a_right_gradient_needs_more_than_a_hundred_steps() -> None:
    check = run("C4", planted(Planted(chain), size=6, budget=CheckBudget(steps=300)))
    assert check.detail["steps"] == [1, 10, 20, 50, 100, 200, 300]
    assert check.detail["accuracy"][4] == 1
    late = indicators(check)["more than 100 steps break"]
    assert (late["state"], late["value"], late["tries"]) == ("alarm", 1, 2)
    assert indicators(check)["one step beats twenty by"]["state"] == "pass"
    short = run("C4", planted(Planted(chain), size=6, budget=CheckBudget(steps=100)))
    assert list(indicators(short)) == ["one step beats twenty by"]


def test_c4_rings_where_one_step_beats_many_and_counts_nan_as_broken() -> None:
    budget = CheckBudget(steps=20)
    check = run("C4", planted(Planted(hill), 200, 6, budget=budget))
    assert check.alarm
    assert check.value == pytest.approx(0.9, abs=0.08)  # a tenth of the starts is beyond the dip
    assert check.detail["fgsm"] == 0
    model = Planted(lambda x: torch.where(x[:, 0] > 0.55, torch.nan, x[:, 0] - 1))
    detail = run("C4", planted(model, budget=budget)).to_dict()["detail"]
    assert detail["accuracy"][-1] == 0
    assert detail["mean_loss"][-1] is None


def test_c5_sweeps_the_multiples_of_eps_and_ends_at_one() -> None:
    ctx = convolution(0.04, 60)
    detail = run("C5", ctx).detail
    multiples = (0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 8, 16)
    assert detail["eps"] == pytest.approx([*(m * 0.04 for m in multiples), 1.0])
    by_hand = [accuracy(ctx, "pgd-20", "sweep", eps=eps, **LOOP) for eps in detail["eps"][1:]]
    assert detail["accuracy"] == [1.0, *by_hand]
    assert len(set(by_hand)) > 1
    wide = run("C5", convolution(0.3, 60)).detail["eps"]
    assert wide == pytest.approx([0, 0.075, 0.15, 0.3, 0.45, 0.6, 0.9, 1.0])


def pocket(x: Tensor) -> Tensor:
    """One pixel whose gradient says up; the answer changes between 0.58 and 0.65 only."""
    pixel = x[:, 0]
    return ((pixel > 0.58) & (pixel < 0.65)).float() - 0.5 + pixel - pixel.detach()


def half_safe(x: Tensor) -> Tensor:
    """No attack helps where pixel 1 is bright; elsewhere any does."""
    return torch.where(x[:, 1] > 0.5, -1.0, 20 * (x[:, 0] - 0.505))


def test_c5_rings_where_a_larger_ball_is_safer_for_a_plateau_and_at_eps_one() -> None:
    safer = indicators(run("C5", planted(Planted(pocket), size=6)))["a larger ball is safer: by"]
    assert (safer["value"], safer["state"]) == (1, "alarm")
    x, y = grey(240)
    x[::2, 0, 0, 1], x[1::2, 0, 0, 1] = 1.0, 0.0
    found = indicators(run("C5", CheckContext.of(Planted(half_safe), x, y, Threat(eps=0.02))))
    kept = "accuracy that a doubled eps keeps"
    assert (found[kept]["value"], found[kept]["n"], found[kept]["state"]) == (1, 120, "alarm")
    assert found["a larger ball is safer: by"]["state"] == "pass"
    found = indicators(run("C5", planted(Planted(never))))
    at_one = found["accuracy at eps 1"]
    assert (at_one["value"], at_one["threshold"], at_one["state"]) == (1, 0, "alarm")
    assert kept not in found  # nothing between 20% and 90%


def test_c10_averages_over_all_choices_of_starts() -> None:
    broken = [0, 1, 3, 8]
    for n in (1, 5, 8):
        choices = list(combinations(range(8), n))
        by_hand = [sum(min(chosen) >= k for chosen in choices) / len(choices) for k in broken]
        assert expected_accuracy(broken, n, 8) == pytest.approx(sum(by_hand) / 4)


def test_c10_rings_where_success_depends_on_the_start() -> None:
    check = run("C10", planted(Planted(hill), 100, 6))
    assert check.detail["restarts"] == [1, 5, 20]
    one, five, twenty = check.detail["accuracy"]
    assert (one, five) == pytest.approx((0.9, 0.9**5), abs=0.05)
    assert check.alarm
    assert check.value == pytest.approx(five - twenty)
    assert twenty < 0.3
    more = run("C10", planted(Planted(hill), budget=CheckBudget(restarts=30)))
    assert more.detail["restarts"] == [1, 5, 30]
    assert more.name == "C10: 30 restarts break more than 5: by"
    quiet = run("C10", planted(sum_beyond(0.05)))
    assert quiet.detail["accuracy"] == [0.0, 0.0, 0.0]
    assert not quiet.alarm


# --- C7, C8, C14: losses, scales, labels ---


@pytest.mark.slow
def test_c7_is_the_spread_of_losses_with_as_many_restarts_as_targets() -> None:
    ctx, three = convolution(), {"restarts": 3}
    assert run("C7", ctx).detail["accuracy"] == {
        "cross entropy": accuracy(ctx, "pgd-20", "pgd-20", **three),
        "margin": accuracy(ctx, "cw", "cw", **three),
        "DLR": accuracy(ctx, "pgd-20-dlr", "pgd-20-dlr", **three),
        "targeted DLR": accuracy(ctx, "multitargeted-dlr", "multitargeted-dlr"),
        "MultiTargeted": accuracy(ctx, "multitargeted", "multitargeted"),
        "MD": accuracy(ctx, "md", "md"),
    }
    found = run("C7", planted(Planted(hill), n=200)).detail["accuracy"]
    for what in ("cross entropy", "margin", "DLR"):
        assert found[what] == pytest.approx(0.9**3, abs=0.07)


def test_c8_is_silent_where_only_a_larger_scale_hides_the_gradient() -> None:
    check = run("C8", planted(Planted(lambda x: 10 * (x - 0.5).sum(1) - 8)))
    assert check.detail["accuracy"][0] == 0
    assert check.detail["accuracy"][-1] == 1
    assert not check.alarm
    ctx = convolution()
    unscaled = accuracy(ctx, "pgd-20", "pgd-20", restarts=STARTS)
    assert run("C8", ctx).detail["accuracy"][0] == unscaled


class Liar(nn.Module):
    """Brighter pixels change the answer; until then the gradient says that class 0 gains."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x - 0.5).flatten(1).sum(1)
        logits = Planted(lambda v: 10.0 * (v.sum(1) > 8.8) - 5)(x)
        lie = torch.where(total > 0.8, 0.0, total - total.detach())
        first: Tensor = logits + lie[:, None] * torch.tensor([1.0, 0.0, 0.0, 0.0])
        return first


def test_c14_rings_where_soft_labels_break_more() -> None:
    check = run("C14", planted(Liar().eval()))
    assert (check.detail["hard"], check.detail["soft"]) == (1, 0)
    assert check.detail["figures"][0]["state"] == "alarm"


def test_c14_starts_where_pgd_20_does() -> None:
    recorder = Recorder(small_net(dtype=torch.float32).eval())
    ctx = convolution(n=20, model=recorder)
    assert ctx.n_classes == 4
    recorder.seen.clear()
    ctx.survivors("pgd-20")
    start = recorder.seen[0]
    recorder.seen.clear()
    run("C14", ctx)
    assert torch.equal(recorder.seen[0], start)
    assert not torch.equal(recorder.seen[1], recorder.seen[0])


@pytest.mark.slow
def test_c14_compares_targets_with_as_many_restarts() -> None:
    ctx = convolution()
    detail = run("C14", ctx).detail
    assert detail["hard"] == accuracy(ctx, "pgd-20", "pgd-20", restarts=STARTS)
    assert detail["hard_restarts"] == accuracy(ctx, "pgd-20", "pgd-20", restarts=3)
    assert detail["targeted"] == accuracy(ctx, "multitargeted", "multitargeted", loss="ce")
    assert run("C14", planted(hot(sum_beyond(0.05)))).detail["figures"][1]["state"] == "alarm"
    net, x = small_net().eval(), small_batch(20).x
    double = CheckContext.of(net, x, net(x).argmax(1), Threat(eps=0.05))
    for number in ("C7", "C8", "C14"):
        assert run(number, double).detail


# --- C9, C11, C13: gradients, convergence, fixed models ---


@pytest.mark.parametrize(("n_flat", "state"), [(2, "pass"), (3, "watch"), (8, "alarm")])
def test_c9_names_the_images_without_a_gradient(n_flat: int, state: str) -> None:
    x, y = grey(40)
    y[::5] = 1  # wrong without an attack
    places = [3, 17, 18, 19, 21, 22, 23, 38][:n_flat]
    x[:, 0, 0, 0] = 0.0
    x[places, 0, 0, 0] = 1.0
    model = Planted(lambda v: torch.where(v[:, 0] > 0.5, -1.0, v.sum(1) - 9))
    check = run("C9", CheckContext.of(model, x, y, Threat(eps=EPS)))
    assert check.detail["flipped"] == places
    assert (check.value, check.threshold, check.state) == (n_flat / 32, 2 / 32, state)
    small = run("C9", planted(Planted(lambda v: 1e-6 * v.sum(1) - 9))).detail
    assert small["flipped"] == []
    assert 0 < small["median_l1"] < 1e-8


def at_grey(x: Tensor) -> Tensor:
    return (x - 0.5).abs().amax(1) < 1e-3


@pytest.mark.parametrize(
    "score",
    [
        lambda x: torch.where(at_grey(x), -1.0, x.sum(1) - 11),  # flat at the image
        lambda x: torch.where(at_grey(x), x.sum(1) - 11, -1.0),  # flat at the start
        lambda x: (x - 0.5).abs().sqrt().sum(1) - 9,  # infinite times zero
    ],
)
def test_c9_looks_at_the_image_and_at_a_start_and_nan_is_no_gradient(
    score: Callable[[Tensor], Tensor],
) -> None:
    check = run("C9", planted(Planted(score)))
    assert (check.value, check.alarm) == (1, True)


WEIGHT = torch.linspace(-1, 1, 17)[:16]
"""Both signs, and a zero."""


def linear(reach: float) -> CheckContext:
    """Broken where the ball is wider than `reach`; the pixel range cuts the ball."""
    x, y = grey(20)
    x[:, 0, 0, :2] = torch.tensor([0.03, 0.98])
    total = float(WEIGHT.abs().sum())
    model = Planted(lambda v: (v - x[0].flatten()) @ WEIGHT - reach * total)
    return CheckContext.of(model, x, y, Threat(eps=EPS))


def test_fosc_of_a_linear_model_is_one_at_x_and_zero_at_the_optimum() -> None:
    ctx = linear(0.5)
    best = ctx.threat.project(ctx.x + EPS * WEIGHT.view(1, 1, 4, 4).sign(), ctx.x)
    steep = CheckContext.of(hot(ctx.model.model), ctx.x, ctx.y, ctx.threat)  # flat cross entropy
    for context, x_adv, expected in (
        (ctx, ctx.x, 1.0),
        (ctx, best, 0.0),
        (ctx, (ctx.x + best) / 2, 0.5),
        (steep, ctx.x, 1.0),
    ):
        assert fosc(context, x_adv).tolist() == pytest.approx([expected] * 20, abs=1e-5)


def test_c11_is_of_what_survives_and_rings_where_no_step_helps() -> None:
    ctx = linear(0.5)
    quiet = run("C11", ctx)
    assert quiet.value == pytest.approx(0, abs=1e-5)
    assert quiet.detail == {**quiet.detail, "n_robust": 20, "accuracy": 1.0}
    loud = run("C11", CheckContext.of(shattered(ctx.model.model), ctx.x, ctx.y, ctx.threat))
    assert loud.alarm
    assert loud.value == pytest.approx(1, abs=0.2)
    fallen = run("C11", linear(0.05))
    assert (fallen.value, fallen.detail["n_robust"]) == (0, 0)


class Shy(Masked):
    """Shows its gradient in train mode only, and to sixteen images at once."""

    def forward(self, x: Tensor) -> Tensor:
        shown = self.training and len(x) == 16
        return super().forward(x if shown else x.detach() + 0 * x)


class Dropping(Masked):
    """In train mode three gradients of ten, drawn at random, are shown."""

    def forward(self, x: Tensor) -> Tensor:
        shown = torch.rand(len(x)).view(-1, 1, 1, 1) < 0.3 if self.training else torch.tensor(True)
        return super().forward(torch.where(shown, x, x.detach()))


@pytest.mark.parametrize("batch_size", [16, 256])
def test_c13_rings_where_train_mode_shows_a_gradient(batch_size: int) -> None:
    check = run("C13", planted(Shy(sum_beyond(0.05)), 32, batch_size=batch_size))
    assert (check.detail["eval"], check.detail["train"], check.alarm) == (1, 0, True)
    assert [found["state"] for found in check.detail["figures"]] == ["pass", "alarm"]


def test_c13_depends_only_on_the_seed_and_leaves_the_global_generator() -> None:
    found = []
    for seed, chance in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(chance)
        before = torch.get_rng_state()
        found.append(
            run("C13", planted(Dropping(sum_beyond(0.06)), 100, seed=seed)).detail["train"]
        )
        assert torch.equal(torch.get_rng_state(), before)
    assert 0.1 < found[0] < 0.9
    assert found[0] == found[1] != found[2]
