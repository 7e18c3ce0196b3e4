"""C9, C11, C13: gradients that vanish, attacks that did not converge, models that are not fixed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.attacks.maximise import attack_mode
from bench.evaluation.checks import CHECKS, Lab
from bench.evaluation.checks.gradients import fosc
from bench.threat import Threat
from tests.harness import small_batch, small_net
from tests.masked import Hot, Masked, Noisy, Planted, Shattered, grey

EPS = 0.1


def flat_where_bright(x: Tensor) -> Tensor:
    """No gradient where pixel 0 is bright."""
    return torch.where(x[:, 0] > 0.5, -1.0, x.sum(1) - 9)


@pytest.mark.parametrize(("n_flat", "alarm"), [(2, False), (3, True)])
def test_c9_names_the_images_without_a_gradient(n_flat: int, alarm: bool) -> None:
    x, y = grey(40)
    y[::5] = 1  # wrong without an attack
    places = [3, 17, 38][:n_flat]
    x[:, 0, 0, 0] = 0.0
    x[places, 0, 0, 0] = 1.0
    check = CHECKS["C9"].run(Lab.of(Planted(flat_where_bright), x, y, Threat(eps=EPS)))
    assert check.detail["flipped"] == places
    assert check.value == n_flat / 32
    assert check.threshold == 2 / 32
    assert check.alarm is alarm


def flat_at_grey(x: Tensor) -> Tensor:
    return torch.where((x - 0.5).abs().amax(1) < 1e-3, -1.0, x.sum(1) - 11)


def flat_but_at_grey(x: Tensor) -> Tensor:
    return torch.where((x - 0.5).abs().amax(1) < 1e-3, x.sum(1) - 11, -1.0)


def root(x: Tensor) -> Tensor:
    """Infinite times zero at one grey."""
    return (x - 0.5).abs().sqrt().sum(1) - 9


@pytest.mark.parametrize("score", [flat_at_grey, flat_but_at_grey, root])
def test_c9_looks_at_the_image_and_at_a_start_and_nan_is_no_gradient(
    score: nn.Module,
) -> None:
    x, y = grey(20)
    check = CHECKS["C9"].run(Lab.of(Planted(score), x, y, Threat(eps=EPS)))
    assert check.value == 1
    assert check.alarm


def test_c9_takes_a_small_gradient_for_a_gradient() -> None:
    x, y = grey(20)
    check = CHECKS["C9"].run(Lab.of(Planted(lambda v: 1e-6 * v.sum(1) - 9), x, y, Threat(eps=EPS)))
    assert check.detail["flipped"] == []
    assert 0 < check.detail["median_l1"] < 1e-8


def linear_lab(reach: float) -> Lab:
    """Broken where the ball is wider than `reach`; the weights have both signs, and a zero."""
    weight = torch.linspace(-1, 1, 17)[:16]
    x, y = grey(20)
    x[:, 0, 0, :2] = torch.tensor([0.03, 0.98])  # the pixel range cuts the ball here
    total = float(weight.abs().sum())

    def score(v: Tensor) -> Tensor:
        return (v - x[0].flatten()) @ weight - reach * total

    return Lab.of(Planted(score), x, y, Threat(eps=EPS))


def test_fosc_of_a_linear_model_is_one_at_x_and_zero_at_the_optimum() -> None:
    lab = linear_lab(0.5)
    weight = torch.linspace(-1, 1, 17)[:16].view(1, 1, 4, 4)
    best = lab.threat.project(lab.x + EPS * weight.sign(), lab.x)
    assert fosc(lab, lab.x).tolist() == pytest.approx([1.0] * 20, abs=1e-5)
    assert fosc(lab, best).tolist() == pytest.approx([0.0] * 20, abs=1e-5)
    assert fosc(lab, (lab.x + best) / 2).tolist() == pytest.approx([0.5] * 20, abs=1e-5)
    hot = Lab.of(Hot(lab.model.model), lab.x, lab.y, lab.threat)  # its cross entropy is flat
    assert fosc(hot, lab.x).tolist() == pytest.approx([1.0] * 20, abs=1e-5)


def test_c11_is_silent_on_a_linear_model_and_rings_where_no_step_helps() -> None:
    quiet = CHECKS["C11"].run(linear_lab(0.5))
    assert quiet.value == pytest.approx(0, abs=1e-5)
    assert quiet.detail == {**quiet.detail, "n_robust": 20, "accuracy": 1.0}
    lab = linear_lab(0.5)
    loud = CHECKS["C11"].run(Lab.of(Shattered(lab.model.model), lab.x, lab.y, lab.threat))
    assert loud.alarm
    assert loud.value == pytest.approx(1, abs=0.2)


def test_c11_is_of_what_survives() -> None:
    fallen = CHECKS["C11"].run(linear_lab(0.05))
    assert fallen.value == 0
    assert fallen.detail["n_robust"] == 0


def net_lab(model: nn.Module) -> Lab:
    x = small_batch(40, dtype=torch.float32).x
    return Lab.of(model, x, model(x).argmax(1), Threat(eps=0.05))


def test_c13_rings_where_repeated_calls_differ() -> None:
    check = CHECKS["C13"].run(net_lab(Noisy(small_net(dtype=torch.float32).eval())))
    assert check.alarm
    assert check.name == "C13: repeated calls: logits apart by"
    assert check.value > 1


class Shy(Masked):
    """Shows its gradient in train mode alone, and to sixteen images at once."""

    def before(self, x: Tensor) -> Tensor:
        return x if self.training and len(x) == 16 else x.detach() + 0 * x


class Dropping(Masked):
    """In train mode three gradients of ten, drawn at random, are shown."""

    def before(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shown = torch.rand(len(x)).view(-1, 1, 1, 1) < 0.3
        return torch.where(shown, x, x.detach())


def sum_beyond(reach: float) -> Planted:
    """Linear: broken where the ball is wider than `reach`."""
    return Planted(lambda v: (v - 0.5).sum(1) - reach * 16)


@pytest.mark.parametrize("batch_size", [16, 256])
def test_c13_rings_where_train_mode_shows_a_gradient(batch_size: int) -> None:
    x, y = grey(32)
    lab = Lab.of(Shy(sum_beyond(0.05)), x, y, Threat(eps=EPS), batch_size=batch_size)
    check = CHECKS["C13"].run(lab)
    assert check.detail["eval"] == 1
    assert check.detail["train"] == 0
    assert check.alarm
    assert [figure["alarm"] for figure in check.detail["figures"]] == [False, True]


def test_c13_depends_on_the_seed_alone_and_leaves_the_global_generator() -> None:
    x, y = grey(100)
    found = []
    for seed, chance in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(chance)
        before = torch.get_rng_state()
        lab = Lab.of(Dropping(sum_beyond(0.06)), x, y, Threat(eps=EPS), seed=seed)
        found.append(CHECKS["C13"].run(lab).detail["train"])
        assert torch.equal(torch.get_rng_state(), before)
    assert 0.1 < found[0] < 0.9
    assert found[0] == found[1] != found[2]


def test_c13_changes_no_statistics_of_the_model() -> None:
    model = small_net(dtype=torch.float32).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with attack_mode(model, "eval"):
        CHECKS["C13"].run(net_lab(model))
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_c13_is_silent_on_a_fixed_model() -> None:
    check = CHECKS["C13"].run(net_lab(Hot(Planted(lambda x: x.sum(1) - 16))))
    assert check.detail["figures"][0]["value"] == 0
    assert not check.alarm
