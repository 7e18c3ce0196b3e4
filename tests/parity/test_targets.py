"""Several target classes at once: which images meet which, and beside the package's one by one."""

from __future__ import annotations

from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from bench.attacks import AutoAttackPart
from bench.attacks import targets as module
from bench.attacks.autoattack import PartOn
from bench.attacks.targets import RUNS, by_groups
from bench.threat import Threat
from tests.parity.test_autoattack import EPS, N, right, subject
from tests.short import ShortAutoAttack

K = 6
ORDER = torch.tensor(
    [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 0, 1, 3, 4, 5], [1, 3, 5, 0, 2, 4]]
)
"""The classes of each image, the likeliest first."""
IMAGES = torch.arange(4.0).view(4, 1, 1, 1)
"""Each is its own number."""
LABELS = torch.tensor([0, 5, 0, 1])
"""Of which the third is not the likeliest."""


class Attack:
    seed = 3
    n_target_classes = 5


class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        falling = torch.arange(K, 0, -1.0).expand(len(x), K)
        return torch.zeros(len(x), K).scatter_(1, ORDER[x.flatten().long()], falling)


def recorded(breaks: set[tuple[int, int]]) -> tuple[Any, list[list[tuple[int, int]]]]:
    """A run that breaks these images with these targets, and what each of its calls was given."""
    seen: list[list[tuple[int, int]]] = []

    def run(attack: Any, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        assert torch.equal(y, LABELS[x.flatten().long()])
        pairs = [(int(i), int(t)) for i, t in zip(x.flatten(), target, strict=True)]
        seen.append(pairs)
        broken = torch.tensor([pair in breaks for pair in pairs])
        return x + (target.view(-1, 1, 1, 1) + 1) / 100, broken

    return run, seen


def test_one_target_at_a_time_is_the_packages_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FULL", 1)
    run, seen = recorded({(1, 4), (0, 2)})
    found = by_groups(run, Attack, Net(), IMAGES, LABELS)
    assert seen == [
        [(0, 1), (1, 4), (3, 3)],
        [(0, 2), (3, 5)],
        *([(3, target)] for target in (0, 2, 4)),
    ]
    assert found.flatten().tolist() == pytest.approx([0.03, 1.05, 2.0, 3.0])


def test_few_images_meet_several_targets_and_the_first_that_breaks_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FULL", 4)  # two each for three images, four for one
    run, seen = recorded({(1, 3), (0, 1), (0, 2)})
    found = by_groups(run, Attack, Net(), IMAGES, LABELS)
    assert seen == [
        [(0, 1), (0, 2), (1, 4), (1, 3), (3, 3), (3, 5)],
        [(3, 0), (3, 2), (3, 4)],
    ]
    assert found.flatten().tolist() == pytest.approx([0.02, 1.04, 2.0, 3.0])


def test_where_all_are_wrong_nothing_runs() -> None:
    run, seen = recorded(set())
    assert torch.equal(by_groups(run, Attack, Net(), IMAGES, LABELS * 0 + 3), IMAGES)
    assert seen == []


@pytest.mark.parametrize("full", [1, 64])
@pytest.mark.parametrize("part", RUNS)
def test_the_images_that_break_are_the_packages(
    part: str, full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One target at a time APGD draws what the package draws; several at once it does not."""
    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)
    monkeypatch.setattr(module, "FULL", full)
    net, x, y = subject("conv")
    survived, found = [], []
    for attack in (AutoAttackPart(part=part), PartOn(part=part, search="fp32")):
        generator = torch.Generator().manual_seed(7)
        x_adv = attack(net, x, y, Threat(eps=EPS), generator=generator)
        assert float(Threat().distance(x_adv, x).max()) <= EPS + 1e-6
        survived.append(right(net, x_adv, y))
        found.append(x_adv)
    assert int((survived[0] != survived[1]).sum()) <= (0 if full == 1 else 1)
    assert 0 < int(survived[0].sum()) < N - 1
    if part == "apgd-t" and full == 1:
        assert torch.equal(*found)
    assert torch.equal(found[1][survived[1]], x[survived[1]])


def test_only_a_search_on_a_copy_takes_several(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def run(attack: Any, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(x))
        return x, torch.zeros(len(x), dtype=torch.bool)

    monkeypatch.setitem(RUNS, "fab-t", run)
    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)
    net, x, y = subject("conv")
    AutoAttackPart(part="fab-t")(net, x, y, Threat(eps=EPS))
    PartOn(part="fab-t", search="network")(net, x, y, Threat(eps=EPS))
    assert seen == []
    PartOn(part="fab-t", search="fp32")(net, x, y, Threat(eps=EPS))
    n_right = int(right(net, x, y).sum())
    assert seen == [n_right * 3, n_right * 2]  # of five targets
