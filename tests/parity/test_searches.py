"""Our loops of Square, FAB and target batching beside the package's."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pyautoattack
import pytest
import torch
from pyautoattack.fab_projections import projection_linf
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from bench.attacks import AutoAttackPart, FastAutoAttackPart
from bench.attacks import searches as module
from bench.attacks.searches import (
    RUNS,
    by_groups,
    nearest_by_linearising,
    search_squares,
    step_to_hyperplane,
)
from bench.threat import Threat
from tests.harness import Counted, generator, right
from tests.parity.test_autoattack import EPS, N, subject
from tests.short import ShortAutoAttack

# Square: the same images, to the last bit.


@cache
def square_net() -> nn.Module:
    """A convolutional network of images (B, 3, 8, 9)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 6, 3, padding=1)
        return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(432, 5)).eval()


def square_images(n: int) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 3, 8, 9, generator=generator(1))
    with torch.no_grad():
        return x, square_net()(x).argmax(1)


def square(net: nn.Module, eps: float, x: Tensor, seed: int = 0) -> Any:
    suite = pyautoattack.AutoAttack(
        lambda x: net(x).clone(), eps=eps, seed=seed, version="standard", device="cpu"
    )
    suite.square.n_queries = 300
    suite.square.init_hyperparam(x)
    return suite.square


def drawn(seed: int, run: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The images that a loop returns, from the draws of this seed."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        found: Tensor = run(*args, **kwargs)[1]
        return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("eps", "left", "n"),
    [(0.001, 1, 40), (0.01, 0.5, 40), (0.02, 0.5, 40), (0.5, 0, 40), (0.5, 0, 1)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_squares_images_and_queries_are_the_packages_to_the_bit(
    eps: float, left: float, n: int, seed: int
) -> None:
    x, y = square_images(n)
    nets = [Counted(square_net()) for _ in range(2)]
    ours, theirs = (square(net, eps, x) for net in nets)
    found = drawn(seed, search_squares, ours, x, y, layout=torch.preserve_format)
    assert torch.equal(found, drawn(seed, theirs.attack_single_run, x, y))
    assert nets[0].rows == nets[1].rows
    n_left = int(right(square_net(), found, y).sum())
    assert n_left == left * n or (left == 0.5 and 0 < n_left < n)
    if left == 0.5:
        assert len(set(nets[0].rows)) > 5  # the broken leave


def test_square_gives_the_network_the_layout_that_it_takes() -> None:
    """A copy whose images are channels last is given them so, and values are the same."""
    seen: set[bool] = set()
    torch.manual_seed(0)  # most images withstand the start
    net, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(216, 5)).eval(), square_images(12)
    attack = square(net, 0.01, x)
    plain = drawn(0, search_squares, attack, x, y, layout=torch.preserve_format)
    net.register_forward_pre_hook(
        lambda _, args: seen.add(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    assert torch.equal(plain, drawn(0, search_squares, attack, x, y, layout=torch.channels_last))
    assert seen == {True, False}  # the start is computed from x


# FAB: its projection, which the package does by sorting, and its images.

DISTANCES = (0.0, 1e-6, 0.01, 0.5, 3.0, 100.0)
"""Of the largest, no point of the box is on the hyperplane."""


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_fabs_step_is_the_packages_and_ends_on_the_hyperplane_or_as_near_as_the_box_allows(
    distance: float, dtype: torch.dtype, tolerance: float
) -> None:
    """From points with coordinates at an end of the box, along normals some of which are 0."""
    g = generator()
    points = torch.rand(20, 300, generator=g, dtype=dtype)
    normals = 0.05 * torch.randn(20, 300, generator=g, dtype=dtype)
    points[:, ::7], points[:, ::11], normals[:, ::5] = 0, 1, 0
    side = torch.where(torch.arange(20) % 2 == 0, 1.0, -1.0)
    offsets = (normals * points).sum(1) - side * distance
    step = step_to_hyperplane(points, normals, offsets)
    assert step.dtype == dtype
    theirs = projection_linf(points, normals, offsets)
    torch.testing.assert_close(step, theirs, rtol=0, atol=tolerance, check_dtype=False)
    if dtype == torch.float32 or distance == 0:
        return
    end = points + step
    assert end.min() >= 0
    assert end.max() <= 1
    missed = (normals * end).sum(1) - offsets
    if distance < 100:
        assert missed.abs().max() < 1e-6 * distance
    else:
        far = torch.where(normals * missed.sign().unsqueeze(1) > 0, 0.0, 1.0)
        assert torch.equal(end[normals != 0], far.to(dtype)[normals != 0])


def test_a_plane_without_direction_moves_nothing() -> None:
    zeros = torch.zeros(2, 30)
    step = step_to_hyperplane(torch.rand(2, 30), zeros, torch.tensor([1.0, -1.0]))
    assert torch.equal(step, zeros)


def fab_subject() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network, images, their labels as it sees them, and the likeliest other class."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(216, 7))
    net = nn.Sequential(*layers).double().requires_grad_(False).eval()
    x = torch.rand(12, 1, 6, 6, dtype=torch.float64, generator=generator(1))
    order = net(x).argsort(1, descending=True)
    return net, x, order[:, 0], order[:, 1]


def nearest(*subject: Any, eps: float, n_iter: int) -> tuple[Tensor, Tensor]:
    """With the package's settings."""
    return nearest_by_linearising(
        *subject, eps=eps, n_iter=n_iter, alpha_max=0.1, eta=1.05, beta=0.9
    )


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package makes float32 of what it is given."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("n_iter", [1, 2, 20])
def test_fabs_images_are_the_packages(n_iter: int) -> None:
    net, x, y, target = fab_subject()
    theirs = FABAttack_PT(net, eps=0.0, n_iter=n_iter, targeted=True, device=x.device)
    theirs.target_class = 2
    found, distance = nearest(net, x, y, target, eps=0.0, n_iter=n_iter)
    with torch.no_grad():
        expected = theirs.attack_single_run(x, y, is_targeted=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    is_found = distance.isfinite()
    assert torch.equal(is_found, ~right(net, found, y))
    assert is_found.any()
    away = (found - x).flatten(1).abs().amax(1)
    assert torch.equal(distance[is_found], away[is_found])


def test_an_image_that_is_near_enough_leaves_and_changes_no_other() -> None:
    net, *given = fab_subject()
    whole, far = nearest(net, *given, eps=0.0, n_iter=20)
    counted, eps = Counted(net), float(far.median())
    found, distance = nearest(counted, *given, eps=eps, n_iter=20)
    assert counted.rows[0] == 12
    assert 0 < counted.rows[-1] < 12
    assert torch.equal(distance <= eps, far <= eps)
    stayed = distance > eps
    assert stayed.any()
    torch.testing.assert_close(found[stayed], whole[stayed], rtol=0, atol=1e-9)


# Several target classes at once: which images meet which.

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


class Ordered(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        falling = torch.arange(6, 0, -1.0).expand(len(x), 6)
        return torch.zeros(len(x), 6).scatter_(1, ORDER[x.flatten().long()], falling)


@pytest.mark.parametrize(
    ("full", "labels", "breaks", "calls", "levels"),
    [
        (  # one target at a time: the package's order
            *(1, LABELS, {(1, 4), (0, 2)}),
            [[(0, 1), (1, 4), (3, 3)], [(0, 2), (3, 5)], [(3, 0)], [(3, 2)], [(3, 4)]],
            [0.03, 1.05, 2.0, 3.0],
        ),
        (  # two each for three images, four for one; the first that breaks an image counts
            *(4, LABELS, {(1, 3), (0, 1), (0, 2)}),
            [[(0, 1), (0, 2), (1, 4), (1, 3), (3, 3), (3, 5)], [(3, 0), (3, 2), (3, 4)]],
            [0.02, 1.04, 2.0, 3.0],
        ),
        (4, LABELS * 0 + 3, set(), [], [0.0, 1.0, 2.0, 3.0]),  # all are wrong: nothing runs
    ],
)
def test_which_images_meet_which_targets(
    full: int,
    labels: Tensor,
    breaks: set[tuple[int, int]],
    calls: list[list[tuple[int, int]]],
    levels: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FULL", full)
    seen: list[list[tuple[int, int]]] = []

    def run(attack: Any, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        assert torch.equal(y, labels[x.flatten().long()])
        pairs = [(int(i), int(t)) for i, t in zip(x.flatten(), target, strict=True)]
        seen.append(pairs)
        broken = torch.tensor([pair in breaks for pair in pairs])
        return x + (target.view(-1, 1, 1, 1) + 1) / 100, broken

    found = by_groups(run, Attack, Ordered(), IMAGES, labels)
    assert seen == calls
    assert found.flatten().tolist() == pytest.approx(levels)


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
    for attack in (AutoAttackPart(part=part), FastAutoAttackPart(part=part, search="fp32")):
        x_adv = attack(net, x, y, Threat(eps=EPS), generator=generator(7))
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
    FastAutoAttackPart(part="fab-t", search="network")(net, x, y, Threat(eps=EPS))
    assert seen == []
    FastAutoAttackPart(part="fab-t", search="fp32")(net, x, y, Threat(eps=EPS))
    n_right = int(right(net, x, y).sum())
    assert seen == [n_right * 3, n_right * 2]  # of five targets
