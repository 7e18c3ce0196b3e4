"""PGD's own business: restarts, noise by the place in the chunk, and values that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
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
from bench.attacks.blocks import Blocked
from bench.errors import ConfigError
from bench.spec import CHUNK
from bench.threat import Threat
from tests.harness import SmallNet, generator, small_batch, small_net

EPS = Threat(eps=0.1)
LOSS_OF = {"cw": "margin", "pgd-20-dlr": "dlr", "pgd-100x10-mma": "ce+margin"}


def trained(n: int = 48) -> tuple[SmallNet, Tensor, Tensor]:
    """A network in eval mode and the images that it classifies as their labels say."""
    net = small_net(dtype=torch.float32).eval()
    batch = small_batch(n=n, dtype=torch.float32)
    with torch.no_grad():
        y = net(batch.x).argmax(1)
    return net, batch.x, y


def broken(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        wrong: Tensor = model(x_adv).argmax(1) != y
        return wrong


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
    places = torch.arange(CHUNK)[torch.randperm(CHUNK, generator=generator(1))[:20]]
    blocked = Blocked(net, 64)
    whole = attack(blocked, x, y, threat, generator=generator(), rows=places)
    fallen = broken(net, whole, y)
    assert 0 < int(fallen.sum()) < 20
    few = torch.cat([fallen.nonzero()[:3, 0], (~fallen).nonzero()[:3, 0]]).flip(0)
    part = attack(blocked, x[few], y[few], threat, generator=generator(), rows=places[few])
    assert torch.equal(part, whole[few])
    shifted = places.roll(1)[few]
    moved = attack(blocked, x[few], y[few], threat, generator=generator(), rows=shifted)
    if isinstance(attack, PGD):  # the others reach the same corners of the ball
        assert not torch.equal(part, moved)


def test_an_image_that_a_restart_broke_stays_broken() -> None:
    net, x, y = trained()
    weak = Threat(eps=0.03)
    first = PGD(steps=1, relative_step=0.05)
    g = generator()
    runs = [first(net, x, y, weak, generator=g) for _ in range(6)]
    wins = torch.stack([broken(net, x_adv, y) for x_adv in runs])
    found = replace(first, restarts=6)(net, x, y, weak, generator=generator())
    assert torch.equal(broken(net, found, y), wins.any(0))
    assert int(wins[0].sum()) < int(wins.any(0).sum()) < len(x)
    for i in range(len(x)):  # the run that broke it, or the last
        at = int(wins[:, i].float().argmax()) if bool(wins[:, i].any()) else 5
        torch.testing.assert_close(found[i], runs[at][i], rtol=0, atol=1e-6)


def test_restarts_end_when_nothing_is_left() -> None:
    net, x, y = trained()
    calls = []
    hook = net.register_forward_hook(lambda module, args, logits: calls.append(len(args[0])))
    x_adv = PGD(steps=3, relative_step=1.0, restarts=50)(
        Blocked(net, 64), x, y, Threat(eps=0.9), generator=generator()
    )
    hook.remove()
    assert bool(broken(net, x_adv, y).all())
    assert len(calls) < 40
    assert min(calls) >= 16


def test_half_the_restarts_climb_cross_entropy_and_half_the_margin() -> None:
    """What either half breaks by itself, with the noise that it has in the sequence, is broken."""
    net, x, y = trained()
    weak = Threat(eps=0.03)
    mixed = PGD(steps=1, relative_step=0.5, loss="ce+margin", restarts=4)
    g = generator()
    kinds: list[Any] = ["ce", "ce", "margin", "margin"]
    runs = [replace(mixed, loss=kind, restarts=1)(net, x, y, weak, generator=g) for kind in kinds]
    wins = torch.stack([broken(net, x_adv, y) for x_adv in runs])
    found = mixed(net, x, y, weak, generator=generator())
    assert torch.equal(broken(net, found, y), wins.any(0))
    at = torch.where(wins.any(0), wins.float().argmax(0), 3)
    assert set(at.tolist()) >= {0, 1, 3}
    expected = torch.stack(runs)[at, torch.arange(len(x))]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_logits_that_are_not_finite_count_as_broken_and_are_not_tried_again() -> None:
    class Fragile(nn.Module):
        """NaN in a part of the ball, which the arg-max reads as the class of the NaN."""

        def forward(self, x: Tensor) -> Tensor:
            t = (x - 0.5).flatten(1).mean(1)
            return torch.stack([torch.where(t > 0.05, torch.nan, 1 + 0 * t), t], 1)

    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    calls = []
    net = Fragile()
    net.register_forward_hook(lambda *_: calls.append(1))
    x_adv = PGD(steps=1, relative_step=1.0, start="zero", restarts=5)(net, x, y, EPS)
    assert torch.equal(x_adv, x + 0.1)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "name",
    ["pgd-20", "pgd-20x10", "multitargeted", "md", "transfer", "autoattack", "square", "clean"],
)
def test_no_images_are_no_work(name: str) -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("called")

    x = torch.rand(0, 2, 4, 4)
    x_adv = get_attack(name)(Never(), x, torch.zeros(0, dtype=torch.long), EPS)
    assert x_adv.shape == (0, 2, 4, 4)


def test_the_margin_attack_ascends_the_margin_where_cross_entropy_points_elsewhere() -> None:
    """The best other class grows with t, but a close third falls three times as fast."""

    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            t = x.flatten(1).mean(1)
            return torch.stack([0 * t + 2, t, 1.9 - 3 * t], 1)

    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    by_margin = PGD(steps=1, relative_step=1.0, start="zero", loss="margin")(Three(), x, y, EPS)
    by_ce = PGD(steps=1, relative_step=1.0, start="zero", loss="ce")(Three(), x, y, EPS)
    assert torch.equal(by_margin, x + 0.1)
    assert torch.equal(by_ce, x - 0.1)


def test_the_dlr_attack_ascends_the_ratio_where_the_margin_points_elsewhere() -> None:
    """The third class grows faster with t than the second, so that the ratio falls."""

    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            t = (x - 0.5).flatten(1).mean(1)
            return torch.stack([0 * t, t - 1, 30 * t - 2], 1)

    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    one = PGD(steps=1, relative_step=1.0, start="zero", loss="dlr")
    assert torch.equal(one(Three(), x, y, EPS), x - 0.1)
    assert torch.equal(replace(one, loss="margin")(Three(), x, y, EPS), x + 0.1)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        *(
            (name, params, message)
            for name in ("pgd-20", "multitargeted")
            for params, message in (
                ({"steps": 0}, "steps = 0 is out of range: at least 1"),
                ({"restarts": 0}, "restarts = 0 is out of range: at least 1"),
                ({"relative_step": 0.0}, "relative_step = 0.0 is out of range: above 0"),
                ({"relative_step": float("nan")}, "relative_step = nan is out of range: above 0"),
            )
        ),
        ("pgd-20", {"loss": "cw"}, "loss 'cw' is unknown; use ce or margin or dlr or ce+margin"),
        (
            "pgd-20",
            {"loss": "ce+margin", "restarts": 3},
            "restarts = 3 cannot be shared evenly by the losses of 'ce+margin'; "
            "use a multiple of 2",
        ),
        ("pgd-20", {"start": "normal"}, "start 'normal' is unknown; use zero or uniform"),
        ("pgd-20", {"keep": "bset"}, "keep 'bset' is unknown; use last or best or first"),
        ("pgd-20", {"model_mode": "evla"}, "model_mode 'evla' is unknown; use eval or train"),
        ("multitargeted", {"loss": "kl"}, "loss 'kl' is unknown; use margin or dlr or ce"),
        (
            "md",
            {"first_steps": 0},
            "first_steps = 0 is out of range: at least 1 and below steps = 50",
        ),
        ("md", {"steps": 20}, "first_steps = 20 is out of range: at least 1 and below steps = 20"),
        ("md", {"relative_step": 0.0}, "relative_step = 0.0 is out of range: above 0"),
    ],
)
def test_an_impossible_parameter_is_refused(
    name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        get_attack(name, **params)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "steps", "step_at_its_eps", "eps", "start", "restarts"),
    [
        ("pgd-20", 20, 1.6 / 255, 8 / 255, "uniform", 1),
        ("pgd-20x10", 20, 1.6 / 255, 8 / 255, "uniform", 10),
        ("pgd-10", 10, 1.6 / 255, 8 / 255, "uniform", 1),
        ("pgd-50", 50, 1.6 / 255, 8 / 255, "uniform", 1),
        ("pgd-100", 100, 1.6 / 255, 8 / 255, "uniform", 1),
        ("pgd-500", 500, 1.6 / 255, 8 / 255, "uniform", 1),
        ("cw", 20, 1.6 / 255, 8 / 255, "uniform", 1),
        ("fgsm", 1, 8 / 255, 8 / 255, "zero", 1),
        ("pgd-20-cat-code", 20, 0.007, 0.03, "uniform", 1),
        ("pgd-20-trades", 20, 0.003, 0.031, "uniform-unclipped", 1),
        ("pgd-20-mart-wrn", 20, 0.0031, 0.031, "uniform", 1),
        ("pgd-20-dart", 20, 0.00775, 0.031, "uniform", 1),
        ("pgd-20-madry", 20, 2 / 255, 8 / 255, "uniform", 1),
        ("pgd-20-rob", 20, 1 / 255, 8 / 255, "zero", 1),
        ("pgd-50x10-fast", 50, 2 / 255, 8 / 255, "uniform", 10),
        ("pgd-20-dlr", 20, 1.6 / 255, 8 / 255, "uniform", 1),
        ("pgd-100x10-mma", 100, 2 / 255, 8 / 255, "uniform", 10),
        ("pgd-plus", 40, 0.01, 0.031, "uniform-unclipped", 5),
    ],
)
def test_each_name_is_the_definition_of_its_source(
    name: str, steps: int, step_at_its_eps: float, eps: float, start: str, restarts: int
) -> None:
    params = attack_params(name)
    assert params["relative_step"] * eps == pytest.approx(step_at_its_eps, rel=1e-12)
    assert params == {
        "steps": steps,
        "relative_step": params["relative_step"],
        "loss": LOSS_OF.get(name, "ce"),
        "start": start,
        "restarts": restarts,
        "keep": {"pgd-20-rob": "best", "pgd-plus": "first"}.get(name, "last"),
        "model_mode": "eval",
    }


def test_names_have_descriptions_and_a_near_miss_a_suggestion() -> None:
    assert list_attacks() == list(ATTACKS)
    assert len({describe_attack(name) for name in list_attacks()}) == len(ATTACKS)
    with pytest.raises(ConfigError, match=r"unknown attack 'pgd20'\. Did you mean 'pgd-20'\?"):
        get_attack("pgd20")


def test_parameters_replace_those_of_the_name() -> None:
    pgd = get_attack("pgd-20")
    assert isinstance(pgd, PGD)
    assert get_attack("pgd-20", steps=40, loss="margin") == replace(pgd, steps=40, loss="margin")
    assert attack_params("pgd-20", steps=40) == attack_params("pgd-20") | {"steps": 40}
    assert get_attack("pgd-20") == pgd
    with pytest.raises(ConfigError) as caught:
        get_attack("pgd-20", stepz=40)
    assert str(caught.value) == (
        "unknown parameter of attack pgd-20 'stepz'. Did you mean 'steps'? "
        "Known: keep, loss, model_mode, relative_step, restarts, start, steps"
    )
    with pytest.raises(ConfigError, match="steps = 0 is out of range"):
        get_attack("pgd-20", steps=0)
    with pytest.raises(ConfigError, match="unknown parameter of attack fgsm 'surrogate'"):
        get_attack("fgsm", surrogate=nn.Identity())


@pytest.mark.parametrize("name", list_attacks())
def test_parameters_are_plain_json(name: str) -> None:
    params = attack_params(name)
    assert json.loads(json.dumps(params)) == params
    gradients, forwards = get_attack(name).passes
    assert gradients + forwards > 0
