"""Every other class is a target, each in its turn, and what one of them broke stays broken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import MultiTargeted, get_attack
from bench.attacks.multitargeted import other_classes
from bench.errors import ConfigError
from bench.threat import Threat
from tests.harness import generator, small_batch, small_net

EPS = 0.1
THREAT = Threat(eps=EPS)
K = 5


def linear() -> tuple[nn.Linear, nn.Module, Tensor, Tensor]:
    """A linear head, its model, images that the box does not bind, and its own labels."""
    torch.manual_seed(27)
    head = nn.Linear(12, K).double()
    with torch.no_grad():  # classes of unequal reach, so that each is decisive somewhere
        head.weight.mul_(torch.logspace(-1, 1, K, dtype=torch.float64)[:, None])
    x = 0.3 + 0.4 * torch.rand(200, 3, 2, 2, generator=generator(1), dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), head).eval()
    with torch.no_grad():
        return head, model, x, model(x).argmax(1)


def best_gains(head: nn.Linear, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(B, K): the largest Z_t - Z_y within the ball; -inf for t = y."""
    with torch.no_grad():
        z = model(x)
        norms = torch.cdist(head.weight, head.weight, p=1)
        lead = z - z.gather(1, y[:, None]) + EPS * norms[y]
        gains: Tensor = lead.scatter(1, y[:, None], -torch.inf)
        return gains


@pytest.mark.parametrize("loss", ["margin", "dlr", "ce"])
def test_on_a_linear_model_exactly_the_images_fall_that_can(loss: Any) -> None:
    """By targets of every rank, some images by one alone; the others reach the last optimum.

    The ratio and the cross entropy bend the way there, not the sign of their gradient's end.
    """
    head, model, x, y = linear()
    gains = best_gains(head, model, x, y)
    can = (gains > 0).any(1)
    targets = other_classes(model, x, y)
    by_rank = gains.gather(1, targets) > 0
    alone = by_rank[by_rank.sum(1) == 1]
    assert bool(alone.any(0).all())
    assert 20 < int(can.sum()) < 180
    x_adv = MultiTargeted(loss=loss)(model, x, y, THREAT, generator=generator())
    with torch.no_grad():
        found = model(x_adv)
    if loss == "margin":
        assert torch.equal(found.argmax(1) != y, can)
        last = targets[:, -1:]
        lead = found.gather(1, last) - found.gather(1, y[:, None])
        expected = gains.gather(1, last)
        torch.testing.assert_close(lead[~can], expected[~can], rtol=0, atol=1e-12)
    else:
        assert not bool((found.argmax(1) != y)[~can].any())
        assert int((found.argmax(1) != y).sum()) >= 0.9 * int(can.sum())


def test_one_target_at_a_time_is_what_falls_to_it() -> None:
    """Each class is decisive for an image of its own, so none may be left out."""
    for target in range(1, K):

        class Only(nn.Module):
            """Class 0, whom just one other can overtake; the rest stay behind."""

            def __init__(self, rival: int) -> None:
                super().__init__()
                self.rival = rival

            def forward(self, x: Tensor) -> Tensor:
                t = (x - 0.5).flatten(1).mean(1)
                z = torch.stack([0.5 + 0 * t, *[-0.1 * t - j for j in range(1, K)]], 1)
                lift = 5.6 + 0.1 * t + (self.rival + 10) * (t - 0.1)
                return z + nn.functional.one_hot(torch.tensor(self.rival), K) * lift[:, None]

        x, y = torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, dtype=torch.long)
        x_adv = get_attack("multitargeted")(Only(target), x, y, THREAT, generator=generator())
        assert int(Only(target)(x_adv).argmax(1)) == target


def test_the_leader_on_the_way_is_not_the_one_that_overtakes() -> None:
    """The margin follows class 1, which never gets there; class 2 does, the other way."""

    class Trap(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            t = (x - 0.5).flatten(1).mean(1)
            return torch.stack([0 * t, -0.05 - 0.1 * t, t - 0.09, t - 5], 1)

    x, y = torch.full((8, 1, 4, 4), 0.5), torch.zeros(8, dtype=torch.long)
    for name, falls in (("cw", False), ("multitargeted", True), ("multitargeted-dlr", True)):
        x_adv = get_attack(name)(Trap(), x, y, THREAT, generator=generator())
        assert (Trap()(x_adv).argmax(1) != y).tolist() == [falls] * 8, name


def test_targets_are_the_other_classes_from_the_most_likely_down() -> None:
    logits = torch.tensor(
        [[3.0, 1, 2, 0], [3, 1, 2, 0], [torch.nan, -torch.inf, 2, 5], [-1e30, -1e30, -1e30, -1e30]]
    )
    y = torch.tensor([0, 3, 2, 1])
    found = other_classes(nn.Identity(), logits, y)
    assert found.tolist() == [[2, 1, 3], [0, 2, 1], [3, 0, 1], [0, 2, 3]]


def test_each_target_has_its_restarts_and_broken_images_no_more_of_them() -> None:
    net = small_net(dtype=torch.float32).eval()
    x = small_batch(n=8, dtype=torch.float32).x
    with torch.no_grad():
        y = net(x).argmax(1)
    rows: list[int] = []
    net.register_forward_hook(lambda module, args, logits: rows.append(len(args[0])))
    MultiTargeted(steps=4, restarts=3)(net, x, y, Threat(eps=1e-4), generator=generator())
    # the clean logits; nine runs of four steps; eight looks at who is left
    assert rows == [8] * (1 + 9 * 4 + 8)
    rows.clear()
    MultiTargeted(steps=4, restarts=3)(net, x, y, Threat(eps=0.9), generator=generator())
    assert len(rows) < 30
    assert min(rows[1:]) < 8 or len(rows) == 7


def test_the_targeted_ratio_needs_four_classes_and_the_margin_two() -> None:
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.long)
    three = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ConfigError, match="needs at least 4 classes and the model has 3"):
        get_attack("multitargeted-dlr")(three, x, y, THREAT, generator=generator())
    two = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x_adv = get_attack("multitargeted")(two, x, y, Threat(eps=0.5), generator=generator())
    assert bool((two(x_adv).argmax(1) == 1).all())
