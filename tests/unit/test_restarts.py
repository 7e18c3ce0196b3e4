"""PGD, margin decomposition and multi-targeted PGD: their runs, starts, steps and parameters."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.attacks import (
    ATTACKS,
    MD,
    PGD,
    Attack,
    MultiTargeted,
    attack_params,
    describe_attack,
    get_attack,
    list_attacks,
)
from bench.attacks.margins import other_classes
from bench.attacks.networks import BatchedModel
from bench.errors import ConfigError
from bench.records.spec import CHUNK
from bench.threat import Threat
from tests.harness import (
    Counted,
    Grey,
    SmallNet,
    generator,
    raises_line,
    right,
    small_batch,
    small_net,
)

EPS = 0.1
THREAT = Threat(eps=EPS)


def trained(n: int = 48) -> tuple[SmallNet, Tensor, Tensor]:
    """A network in eval mode and the images that it classifies as their labels say."""
    net = small_net(dtype=torch.float32).eval()
    x = small_batch(n=n, dtype=torch.float32).x
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def grey(n: int = 1) -> tuple[Tensor, Tensor]:
    return torch.full((n, 1, 4, 4), 0.5), torch.zeros(n, dtype=torch.long)


@pytest.mark.parametrize(
    ("attack", "eps"),
    [
        (PGD(steps=2, relative_step=0.2, start="uniform", restarts=2), 0.1),
        (PGD(steps=2, relative_step=0.2, start="uniform-unclipped", restarts=2), 0.1),
        (PGD(steps=2, relative_step=0.2, start="gaussian", restarts=2), 0.1),
        (MD(steps=6, first_steps=2), 0.03),
        (MultiTargeted(steps=2, restarts=2), 0.1),
    ],
    ids=str,
)
def test_noise_belongs_to_the_place_in_the_chunk(attack: Attack, eps: float) -> None:
    """So that an image's result does not depend on the rest of the batch."""
    net, x, y = trained(20)
    x[0], x[1], threat = 0.0, 1.0, Threat(eps=eps)
    places = torch.randperm(CHUNK, generator=generator(1))[:20]
    blocked = BatchedModel(net, 64)
    whole = attack(blocked, x, y, threat, generator=generator(), rows=places)
    left = right(net, whole, y)
    assert 0 < int(left.sum()) < 20
    few = torch.cat([(~left).nonzero()[:3, 0], left.nonzero()[:3, 0]]).flip(0)
    part = attack(blocked, x[few], y[few], threat, generator=generator(), rows=places[few])
    assert torch.equal(part, whole[few])
    shifted = places.roll(1)[few]
    moved = attack(blocked, x[few], y[few], threat, generator=generator(), rows=shifted)
    if isinstance(attack, PGD):  # the others reach the same corners of the ball
        assert not torch.equal(part, moved)


@pytest.mark.parametrize(
    ("attack", "kinds"),
    [
        (PGD(steps=1, relative_step=0.05, restarts=6), ["ce"] * 6),
        (
            PGD(steps=1, relative_step=0.5, restarts=4, loss="ce+margin"),
            ["ce", "ce", "margin", "margin"],
        ),
    ],
)
def test_an_image_is_left_by_the_first_run_that_breaks_it_or_the_last(
    attack: PGD, kinds: list[Any]
) -> None:
    """Each run with the noise that it has in the sequence."""
    net, x, y = trained()
    weak, g = Threat(eps=0.03), generator()
    runs = [replace(attack, loss=kind, restarts=1)(net, x, y, weak, generator=g) for kind in kinds]
    wins = torch.stack([~right(net, x_adv, y) for x_adv in runs])
    found = attack(net, x, y, weak, generator=generator())
    assert torch.equal(~right(net, found, y), wins.any(0))
    assert int(wins[0].sum()) < int(wins.any(0).sum()) < len(x)
    at = torch.where(wins.any(0), wins.float().argmax(0), len(runs) - 1)
    assert len(set(at.tolist())) >= 3
    expected = torch.stack(runs)[at, torch.arange(len(x))]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_restarts_end_when_nothing_is_left() -> None:
    net, x, y = trained()
    counted = Counted(net)
    attack = PGD(steps=3, relative_step=1.0, restarts=50)
    x_adv = attack(BatchedModel(counted, 64), x, y, Threat(eps=0.9), generator=generator())
    assert not bool(right(net, x_adv, y).any())
    assert len(counted.rows) < 40
    assert min(counted.rows) >= 16


def test_logits_that_are_not_finite_count_as_broken_and_are_not_tried_again() -> None:
    """NaN in a part of the ball, which the arg-max reads as the class of the NaN."""
    net = Counted(Grey(lambda t: torch.where(t > 0.05, torch.nan, 1 + 0 * t), lambda t: t))
    x, y = grey()
    x_adv = PGD(steps=1, relative_step=1.0, start="zero", restarts=5)(net, x, y, THREAT)
    assert torch.equal(x_adv, x + 0.1)
    assert net.rows == [1, 1]


@pytest.mark.parametrize(
    "name",
    ["pgd-20", "pgd-20x10", "multitargeted", "md", "transfer", "autoattack", "square", "clean"],
)
def test_no_images_are_no_work(name: str) -> None:
    counted, x = Counted(nn.Flatten()), torch.rand(0, 2, 4, 4)
    x_adv = get_attack(name)(counted, x, torch.zeros(0, dtype=torch.long), THREAT)
    assert x_adv.shape == (0, 2, 4, 4)
    assert counted.rows == []


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        *(
            (name, {field: value}, f"{field} = {value} is out of range: {bound}")
            for name in ("pgd-20", "multitargeted")
            for field, value, bound in (
                ("steps", 0, "at least 1"),
                ("restarts", 0, "at least 1"),
                ("relative_step", 0.0, "above 0"),
                ("relative_step", float("nan"), "above 0"),
            )
        ),
        ("pgd-20", {"loss": "cw"}, "loss 'cw' is unknown; use ce or margin or dlr or ce+margin"),
        ("pgd-20", {"loss": "ce+margin", "restarts": 3}, "use a multiple of 2"),
        ("pgd-20", {"start": "normal"}, "start 'normal' is unknown; use zero or uniform"),
        ("pgd-20", {"keep": "bset"}, "keep 'bset' is unknown; use last or best or first"),
        ("pgd-20", {"model_mode": "evla"}, "model_mode 'evla' is unknown; use eval or train"),
        ("multitargeted", {"loss": "kl"}, "loss 'kl' is unknown; use margin or dlr or ce"),
        ("md", {"first_steps": 0}, "first_steps = 0 is out of range: at least 1 and below steps ="),
        ("md", {"steps": 20}, "first_steps = 20 is out of range: at least 1 and below steps = 20"),
        ("md", {"relative_step": 0.0}, "relative_step = 0.0 is out of range: above 0"),
        ("pgd-20", {"stepz": 40}, "unknown parameter of attack pgd-20 'stepz'. Did you mean 'ste"),
        ("fgsm", {"surrogate": nn.Identity()}, "unknown parameter of attack fgsm 'surrogate'"),
        ("pgd20", {}, "unknown attack 'pgd20'. Did you mean 'pgd-20'?"),
    ],
)
def test_what_is_unknown_or_impossible_is_refused(
    name: str, params: dict[str, Any], message: str
) -> None:
    with raises_line(ConfigError, message):
        get_attack(name, **params)


def test_every_attack_has_a_description_a_search_and_parameters_of_plain_json() -> None:
    assert list_attacks() == list(ATTACKS)
    assert len({describe_attack(name) for name in list_attacks()}) == len(ATTACKS)
    for name in list_attacks():
        params = attack_params(name)
        assert json.loads(json.dumps(params)) == params
        gradients, forwards = get_attack(name).passes
        assert gradients + forwards > 0
        assert get_attack(name).search in ("network", "fp32", "bf16")


def test_parameters_replace_those_of_the_name() -> None:
    pgd = get_attack("pgd-20")
    assert isinstance(pgd, PGD)
    assert get_attack("pgd-20", steps=40, loss="margin") == replace(pgd, steps=40, loss="margin")
    assert attack_params("pgd-20", steps=40) == attack_params("pgd-20") | {"steps": 40}
    assert get_attack("pgd-20") == pgd


# Margin decomposition


def test_both_runs_of_md_equal_a_loop_written_out() -> None:
    """In double precision; images of which one run, the other, or neither breaks some."""
    net, x, eps = small_net(seed=3).eval(), small_batch(n=64).x, 0.1
    with torch.no_grad():
        y = net(x).argmax(1)
    steps, first, g = 6, 3, generator(5)
    attack = MD(steps=steps, first_steps=first, relative_step=0.2)
    found = attack(net, x, y, Threat(eps=eps), generator=generator(5))
    expected, fallen = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    fallen_to = []
    for run in range(2):
        x_adv = x + eps * torch.empty_like(x).uniform_(-1, 1, generator=g)
        taken = torch.zeros_like(fallen)
        kept = x_adv.clone()
        for step in range(steps + 1):
            x_adv = x_adv.detach().requires_grad_()
            logits = net(x_adv)
            wrong = (logits.argmax(1) != y) & (x_adv >= 0).flatten(1).all(1)
            wrong &= (x_adv <= 1).flatten(1).all(1) & ~taken
            kept = torch.where((wrong | ~taken)[:, None, None, None], x_adv.detach(), kept)
            taken |= wrong
            if step == steps:
                break
            true = logits[torch.arange(len(y)), y]
            other = logits.masked_fill(F.one_hot(y, 4).bool(), -math.inf).amax(1)
            if step < first:
                value, phase = (other if run else -true), step / first
            else:
                value, phase = other - true, (step - first) / (steps - first)
            value.sum().backward()
            assert x_adv.grad is not None
            size = 0.2 * eps * 0.5 * (1 + math.cos(math.pi * phase))
            moved = (x_adv + size * x_adv.grad.sign()).detach()
            x_adv = (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
        expected = torch.where(fallen[:, None, None, None], expected, kept)
        fallen_to.append(int((taken & ~fallen).sum()))
        fallen |= taken
    assert min(fallen_to) > 0
    assert int(fallen.sum()) < len(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


# Every other class is a target


@pytest.mark.parametrize(
    ("k", "attack"),
    [
        (2, MD(steps=50, first_steps=20)),
        (5, MultiTargeted(loss="margin")),
        (5, MultiTargeted(loss="dlr")),
        (5, MultiTargeted(loss="ce")),
    ],
    ids=str,
)
def test_on_a_linear_model_exactly_the_images_fall_that_can(k: int, attack: Attack) -> None:
    """By targets of every rank, some images by one alone; the others reach the last optimum.

    The ratio and the cross entropy bend the way there, not the sign of their gradient's end.
    """
    torch.manual_seed(27)
    head, eps = nn.Linear(12, k).double(), EPS if k == 5 else 0.02
    with torch.no_grad():  # classes of unequal reach, so that each is decisive somewhere
        head.weight.mul_(torch.logspace(-1, 1, k, dtype=torch.float64)[:, None] if k == 5 else 1)
    x = 0.3 + 0.4 * torch.rand(200, 3, 2, 2, generator=generator(1), dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), head).eval()
    with torch.no_grad():
        if k == 2:
            head.bias.sub_(model(x).mean(0))
        z = model(x)
        y = z.argmax(1)
        targets = other_classes(model, x, y)
        norms = torch.cdist(head.weight, head.weight, p=1)
        gains = (z - z.gather(1, y[:, None]) + eps * norms[y]).gather(1, targets)
        can = (gains > 0).any(1)
        assert bool((gains > 0)[(gains > 0).sum(1) == 1].any(0).all())
        assert 20 < int(can.sum()) < 180
    x_adv = attack(model, x, y, Threat(eps=eps), generator=generator())
    with torch.no_grad():
        found = model(x_adv)
    fell = found.argmax(1) != y
    if isinstance(attack, MultiTargeted) and attack.loss != "margin":
        assert not bool(fell[~can].any())
        assert int(fell.sum()) >= 0.9 * int(can.sum())
    else:
        assert torch.equal(fell, can)
        lead = found.gather(1, targets[:, -1:]) - found.gather(1, y[:, None])
        torch.testing.assert_close(lead[~can], gains[:, -1:][~can], rtol=0, atol=1e-12)


def test_targets_are_the_other_classes_from_the_most_likely_down() -> None:
    logits = torch.tensor(
        [[3.0, 1, 2, 0], [3, 1, 2, 0], [torch.nan, -torch.inf, 2, 5], [-1e30, -1e30, -1e30, -1e30]]
    )
    found = other_classes(nn.Identity(), logits, torch.tensor([0, 3, 2, 1]))
    assert found.tolist() == [[2, 1, 3], [0, 2, 1], [3, 0, 1], [0, 2, 3]]


def test_each_target_has_its_restarts_and_broken_images_no_more_of_them() -> None:
    net, x, y = trained(8)
    attack = MultiTargeted(steps=4, restarts=3)
    attack(counted := Counted(net), x, y, Threat(eps=1e-4), generator=generator())
    # the clean logits; nine runs of four steps; eight looks at who is left
    assert counted.rows == [8] * (1 + 9 * 4 + 8)
    attack(counted := Counted(net), x, y, Threat(eps=0.9), generator=generator())
    assert len(counted.rows) < 30
    assert min(counted.rows[1:]) < 8 or len(counted.rows) == 7
