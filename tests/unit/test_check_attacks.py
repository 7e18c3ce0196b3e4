"""C1, C2, C6, C7, C8, C12, C14: other attacks must not find what the white box missed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from bench.attacks import get_attack
from bench.evaluation.checks import CHECKS, Effort, Lab
from bench.evaluation.checks.black_box import square
from bench.evaluation.checks.lab import WHITE_BOX
from bench.evaluation.checks.losses import STARTS
from bench.threat import Threat
from tests.harness import SmallNet, small_batch, small_net
from tests.masked import Hot, Planted, grey, hill
from tests.short import ShortAutoAttack

EPS = 0.1


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)


def trap(x: Tensor) -> Tensor:
    """No gradient. Where pixel 0 is bright, five others near the rim change the answer."""
    return 2.0 * ((x[:, 0] > 0.5) & (x[:, 5:10] > 0.55).all(1)) - 1


def pointer(x: Tensor) -> Tensor:
    """Its gradient shows where the trap is, and nothing defends it."""
    return 20 * (x[:, 5:10] - 0.5).sum(1) - 1


class Recorder(nn.Module):
    """Keeps the images of every call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[Tensor] = []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.model(x)
        return logits


def trapped(n_weak: int, samples: int = 600) -> tuple[Lab, list[int]]:
    """Of 40 images every fifth is wrong without an attack; `n_weak` others can be trapped."""
    x, y = grey(40)
    y[::5] = 1
    weak = [i for i in range(40) if i % 5][1 : 4 * n_weak : 4]
    x[:, 0, 0, 0] = 0.0
    x[weak, 0, 0, 0] = 1.0
    effort = Effort(samples=samples)
    surrogates = [Planted(pointer)]
    model = Planted(trap)
    return Lab.of(model, x, y, Threat(eps=EPS), effort=effort, surrogates=surrogates), weak


@pytest.mark.parametrize("number", ["C1", "C2", "C6"])
def test_what_the_white_box_missed_is_named_by_its_place(number: str) -> None:
    lab, weak = trapped(3)
    check = CHECKS[number].run(lab)
    assert len(lab.y) == 32
    assert lab.white_box().all()
    assert check.detail["flipped"] == weak
    assert check.value == pytest.approx(3 / 32)
    assert check.threshold == 2 / 32
    assert check.alarm


@pytest.mark.parametrize("number", ["C1", "C2", "C6"])
def test_two_images_are_no_alarm(number: str) -> None:
    lab, weak = trapped(2)
    check = CHECKS[number].run(lab)
    assert check.detail["flipped"] == weak
    assert not check.alarm


def test_c1_is_the_worst_of_square_random_points_and_transfer() -> None:
    """Each is alone in one of the labs; the others found nothing there."""
    lab, weak = trapped(3, samples=1)
    lab.remembered("square", lab.white_box)
    assert CHECKS["C6"].run(lab).detail["flipped"] == []
    assert CHECKS["C1"].run(lab).detail["flipped"] == weak  # by transfer
    lab, weak = trapped(3)
    lab.surrogates = ()
    lab.remembered("square", lab.white_box)
    assert CHECKS["C1"].run(lab).detail["flipped"] == weak  # by random points
    lab, weak = trapped(3, samples=1)
    lab.surrogates = ()
    by_square = lab.index[lab.white_box() & ~square(lab)].tolist()
    assert by_square
    assert CHECKS["C1"].run(lab).detail["flipped"] == by_square


def test_more_samples_are_drawn_where_they_are_asked_for() -> None:
    lab, weak = trapped(3, samples=1)
    assert CHECKS["C6"].run(lab).detail["flipped"] == []
    more = lab.asked(Effort(samples=600), [])
    assert CHECKS["C6"].run(more).detail["flipped"] == weak


@pytest.mark.parametrize("floats", [2**24, 1])
def test_c6_draws_so_many_points_half_of_them_corners(
    floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("bench.evaluation.checks.black_box"), "FLOATS", floats)
    x, y = grey(16)
    recorder = Recorder(Planted(lambda v: v.sum(1) * 0 - 1))
    lab = Lab.of(recorder, x, y, Threat(eps=EPS), effort=Effort(samples=150))
    lab.white_box()
    recorder.seen.clear()
    CHECKS["C6"].run(lab)
    points = torch.cat(recorder.seen)
    far = (points - 0.5).abs().flatten(1)
    corners = (far - EPS).abs().amax(1) < 1e-6
    assert len(points) == 150 * 16
    assert corners.sum() == 75 * 16
    assert float(far.max()) <= EPS + 1e-6
    assert far[~corners].mean() == pytest.approx(EPS / 2, rel=0.02)
    assert (
        len({tuple(row) for row in points.flatten(1).tolist()}) > 140 * 16
    )  # 2^16 corners: a few are drawn twice


def test_c6_counts_logits_that_are_not_finite_as_broken() -> None:
    def score(x: Tensor) -> Tensor:
        return torch.where((x[:, 5:10] > 0.55).all(1), torch.nan, -1.0)

    x, y = grey(20)
    lab = Lab.of(Planted(score), x, y, Threat(eps=EPS), effort=Effort(samples=600))
    assert CHECKS["C6"].run(lab).value == pytest.approx(1, abs=0.1)


def test_the_white_box_is_each_of_its_attacks_and_run_once() -> None:
    lab = conv_lab()
    white = lab.white_box()
    each = torch.stack([lab.survivors(name) for name in WHITE_BOX])
    assert torch.equal(white, each.all(0))
    assert 0 < white.sum() < len(white)
    recorder = Recorder(lab.model.model)
    lab.model.model = recorder
    assert lab.white_box() is white
    assert not recorder.seen


def conv_lab(eps: float = 0.05, n: int = 40) -> Lab:
    """A small network, and images that it gets right."""
    net, x = small_net(dtype=torch.float32).eval(), small_batch(n, dtype=torch.float32).x
    return Lab.of(net, x, net(x).argmax(1), Threat(eps=eps), effort=Effort(samples=10))


def test_transferred_images_are_those_of_both_attacks_on_the_surrogate() -> None:
    lab = conv_lab()
    other = small_net(seed=5, dtype=torch.float32).eval()
    lab = lab.asked(lab.effort, [other])
    by_hand = [
        lab.still_right(
            get_attack(name)(
                other, lab.x, lab.y, lab.threat, generator=lab.generator(f"transfer {name}")
            )
        )
        for name in ("pgd-20", "cw")
    ]
    check = CHECKS["C2"].run(lab)
    assert check.detail["transfer"] == [float((by_hand[0] & by_hand[1]).double().mean())]
    assert not torch.equal(by_hand[0], by_hand[1])


def test_what_was_found_with_one_surrogate_is_not_taken_for_another() -> None:
    lab, weak = trapped(3)
    blind = lab.asked(lab.effort, [Planted(lambda x: -pointer(x) - 2)])
    assert CHECKS["C2"].run(lab).detail["flipped"] == weak
    assert CHECKS["C2"].run(blind).detail["flipped"] == []


def test_c7_is_the_spread_of_losses_with_as_many_restarts() -> None:
    lab = conv_lab()
    found = CHECKS["C7"].run(lab).detail["accuracy"]
    by_hand = {}
    for what, name, params in (
        ("cross entropy", "pgd-20", {"restarts": 3}),
        ("margin", "cw", {"restarts": 3}),
        ("DLR", "pgd-20-dlr", {"restarts": 3}),
        ("targeted DLR", "multitargeted-dlr", {}),
        ("MultiTargeted", "multitargeted", {}),
        ("MD", "md", {}),
    ):
        by_hand[what] = share_under(lab, name, name, **params)
    assert found == by_hand


def test_c7_gives_untargeted_attacks_as_many_starts_as_there_are_targets() -> None:
    found = CHECKS["C7"].run(lab_on(Planted(hill), n=200)).detail["accuracy"]
    for what in ("cross entropy", "margin", "DLR"):
        assert found[what] == pytest.approx(0.9**3, abs=0.07)


def share_under(lab: Lab, name: str, purpose: str, **params: Any) -> float:
    x_adv = get_attack(name, **params)(
        lab.model, lab.x, lab.y, lab.threat, generator=lab.generator(purpose)
    )
    return float((lab.model(x_adv).argmax(1) == lab.y).double().mean())


def lab_on(model: nn.Module, n: int = 20, surrogate: nn.Module | None = None) -> Lab:
    x, y = grey(n)
    surrogates = [] if surrogate is None else [surrogate]
    return Lab.of(model, x, y, Threat(eps=EPS), surrogates=surrogates)


def sum_beyond(reach: float) -> Planted:
    """Linear: broken where the ball is wider than `reach`."""
    return Planted(lambda x: (x - 0.5).sum(1) - reach * 16)


def test_c7_and_c8_ring_for_logits_that_cross_entropy_cannot_climb() -> None:
    hot = lab_on(Hot(sum_beyond(0.05)))
    for number in ("C7", "C8"):
        check = CHECKS[number].run(hot)
        assert check.value == 1
        assert check.alarm
    assert CHECKS["C8"].run(hot).detail["scale"] == [1.0, 0.01, 0.1, 10.0, 100.0]


def test_c8_is_silent_where_only_a_larger_scale_hides_the_gradient() -> None:
    check = CHECKS["C8"].run(lab_on(Planted(lambda x: 10 * (x - 0.5).sum(1) - 8)))
    assert check.detail["accuracy"][0] == 0
    assert check.detail["accuracy"][-1] == 1
    assert not check.alarm


def test_c8_starts_where_pgd_20_does() -> None:
    lab = conv_lab()
    scaled = Hot(lab.model)
    x_adv = get_attack("pgd-20")(
        scaled, lab.x, lab.y, lab.threat, generator=lab.generator("pgd-20")
    )
    check = CHECKS["C8"].run(lab)
    five = share_under(lab, "pgd-20", "pgd-20", restarts=STARTS)
    assert check.detail["accuracy"][0] == five
    assert float((x_adv - lab.x).abs().max()) <= 0.05 + 1e-6


def test_c12_rings_where_the_twin_withstands_and_is_silent_where_it_falls() -> None:
    falls = CHECKS["C12"].run(lab_on(sum_beyond(0.2), surrogate=sum_beyond(0.05)))
    assert falls.value == 0
    assert not falls.alarm
    stands = CHECKS["C12"].run(lab_on(sum_beyond(0.05), surrogate=sum_beyond(0.2)))
    assert stands.value == 1
    assert stands.alarm
    assert stands.threshold == 2 / 20


def test_c12_counts_the_twins_own_errors_and_both_attacks() -> None:
    wrong = CHECKS["C12"].run(lab_on(sum_beyond(0.2), surrogate=sum_beyond(-0.3)))
    assert wrong.value == 0
    hot = CHECKS["C12"].run(lab_on(sum_beyond(0.2), surrogate=Hot(sum_beyond(0.05))))
    assert hot.value == 0  # cross entropy has no gradient there, the margin has


def test_c12_predicts_in_eval_mode_and_leaves_the_twin_as_it_was() -> None:
    twin = small_net(seed=5, dtype=torch.float32)
    lab = conv_lab()
    quiet = CHECKS["C12"].run(lab.asked(lab.effort, [twin.eval()]))
    before = {name: value.clone() for name, value in twin.train().state_dict().items()}
    loud = CHECKS["C12"].run(lab.asked(lab.effort, [twin]))
    assert loud == quiet
    assert twin.training
    assert twin.bn.training
    assert all(torch.equal(before[name], value) for name, value in twin.state_dict().items())


class Liar(nn.Module):
    """Brighter pixels change the answer; until then the gradient says that class 0 gains."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x - 0.5).flatten(1).sum(1)
        logits = Planted(lambda v: 10.0 * (v.sum(1) > 8.8) - 5)(x)
        lie = torch.where(total > 0.8, 0.0, total - total.detach())
        first: Tensor = logits + lie[:, None] * torch.tensor([1.0, 0.0, 0.0, 0.0])
        return first


def test_c14_rings_where_soft_labels_break_more() -> None:
    x, y = grey(20)
    check = CHECKS["C14"].run(Lab.of(Liar().eval(), x, y, Threat(eps=EPS)))
    assert check.detail["hard"] == 1
    assert check.detail["soft"] == 0
    assert check.detail["figures"][0]["alarm"]


def test_c14_starts_where_pgd_20_does() -> None:
    recorder = Recorder(small_net(dtype=torch.float32).eval())
    x = small_batch(20, dtype=torch.float32).x
    lab = Lab.of(recorder, x, recorder.model(x).argmax(1), Threat(eps=0.05))
    assert lab.n_classes == 4
    recorder.seen.clear()
    lab.survivors("pgd-20")
    start = recorder.seen[0]
    recorder.seen.clear()
    CHECKS["C14"].run(lab)
    assert torch.equal(recorder.seen[0], start)
    assert not torch.equal(recorder.seen[1], recorder.seen[0])


def test_c14_compares_targets_with_as_many_restarts() -> None:
    lab = conv_lab()
    detail = CHECKS["C14"].run(lab).detail
    assert detail["hard"] == share_under(lab, "pgd-20", "pgd-20", restarts=STARTS)
    assert detail["hard_restarts"] == share_under(lab, "pgd-20", "pgd-20", restarts=3)
    assert detail["targeted"] == share_under(lab, "multitargeted", "multitargeted", loss="ce")
    hot = CHECKS["C14"].run(lab_on(Hot(sum_beyond(0.05))))
    assert hot.detail["figures"][1]["alarm"]


def test_float64_is_kept() -> None:
    net: SmallNet = small_net().eval()
    x = small_batch(20).x
    lab = Lab.of(net, x, net(x).argmax(1), Threat(eps=0.05), effort=Effort(samples=10))
    for number in ("C7", "C8", "C14"):
        assert CHECKS[number].run(lab).detail
