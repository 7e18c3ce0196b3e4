"""Our loop of Square beside the package's: the same images, to the last bit."""

from __future__ import annotations

from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from bench.attacks import AutoAttackPart
from bench.attacks.square import search_squares
from bench.threat import Threat

N_QUERIES = 300


class Net(nn.Module):
    """A convolutional network of images (B, 3, 8, 9)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            conv = nn.Conv2d(3, 6, 3, padding=1)
            self.layers = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(432, 5))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def images(n: int) -> Tensor:
    return torch.rand(n, 3, 8, 9, generator=torch.Generator().manual_seed(1))


def square(net: nn.Module, eps: float, seed: int = 0) -> Any:
    suite = pyautoattack.AutoAttack(
        lambda x: net(x).clone(), eps=eps, seed=seed, version="standard", device="cpu"
    )
    suite.square.n_queries = N_QUERIES
    return suite.square


def both(net: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> tuple[Tensor, Tensor]:
    """What the package's loop and ours return, from the same draws."""
    attack = square(net, eps)
    attack.init_hyperparam(x)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        theirs = attack.attack_single_run(x, y)[1]
        torch.manual_seed(seed)
        ours = search_squares(attack, x, y, layout=torch.preserve_format)[1]
    return ours, theirs


@pytest.mark.parametrize(
    ("eps", "left"), [(0.001, "all"), (0.01, "some"), (0.02, "some"), (0.5, "none")]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_images_are_the_packages_to_the_bit(eps: float, left: str, seed: int) -> None:
    net, x = Net().eval(), images(40)
    y = net(x).argmax(1)
    ours, theirs = both(net, x, y, eps, seed)
    assert torch.equal(ours, theirs)
    n_left = int((net(ours).argmax(1) == y).sum())
    assert {40: "all", 0: "none"}.get(n_left, "some") == left


def test_one_image_is_the_packages_to_the_bit() -> None:
    net, x = Net().eval(), images(1)
    ours, theirs = both(net, x, net(x).argmax(1), 0.005, 0)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, x)


def test_it_asks_the_network_as_often_as_the_package() -> None:
    counts: list[list[int]] = []
    net, x = Net().eval(), images(40)
    y = net(x).argmax(1)
    for replaced in (False, True):
        asked: list[int] = []
        attack = square(net, 0.02)
        attack.init_hyperparam(x)
        attack.predict = lambda x, asked=asked: (asked.append(len(x)), net(x).clone())[1]
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            if replaced:
                search_squares(attack, x, y, layout=torch.preserve_format)
            else:
                attack.attack_single_run(x, y)
        counts.append(asked)
    assert counts[0] == counts[1]
    assert len(set(counts[0])) > 5  # the broken leave


def test_images_keep_the_layout_that_the_network_takes() -> None:
    """A copy whose images are channels last is given them so, and values are the same."""
    seen: set[bool] = set()
    net = nn.Sequential(nn.Flatten(), nn.Linear(216, 5)).eval()
    net.register_forward_pre_hook(
        lambda _, args: seen.add(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    x = images(12)
    y = net(x).argmax(1)
    seen.clear()
    attack = square(net, 0.01)
    attack.init_hyperparam(x)
    found = []
    for layout in (torch.channels_last, torch.preserve_format):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            found.append(search_squares(attack, x, y, layout=layout)[1])
        if layout == torch.channels_last:
            assert seen == {True, False}  # the start is computed from x
    assert torch.equal(*found)


def test_the_part_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> tuple[None, Tensor]:
        calls.append(1)
        return search_squares(*args, **kwargs)

    monkeypatch.setattr("bench.attacks.autoattack.search_squares", counted)
    net, x = Net().eval(), images(20)
    y = net(x).argmax(1)
    x_adv = AutoAttackPart(part="square")(
        net, x, y, Threat(eps=0.02), generator=torch.Generator().manual_seed(7)
    )
    attack = square(net, 0.02, seed=7)
    attack.n_queries = 5000
    with torch.random.fork_rng(), torch.no_grad():
        assert torch.equal(x_adv, attack.perturb(x, y))
    assert calls == [1]
