"""Our AutoAttack beside the package's own evaluation, image by image.

On three models at full length, but for Square's 5000 queries, of which 500 are made; where only
the wiring matters, with few iterations.
"""

import warnings
from functools import cache
from typing import Any

import pyautoattack
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.attacks import AttackWarning, AutoAttackPart, get_attack
from bench.attacks.autoattack import PARTS
from bench.attacks.networks import BatchedModel
from bench.errors import ConfigError
from bench.losses import dlr, targeted_dlr
from bench.threat import Threat
from tests.harness import generator as seeded
from tests.harness import raises_line, right
from tests.short import FewQueries

N = 24
SHAPE = (1, 6, 6)
CLASSES = {"linear": 10, "conv": 6, "five": 5}
SEEDS = {"linear": 3, "conv": 4, "five": 5}
EPS = 0.1


class Stepped(nn.Module):
    """The upper rows of an image in steps of 1/8: no gradient, and work for Square."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        upper = (8 * x[:, :, : self.rows]).round() / 8
        return torch.cat([upper, x[:, :, self.rows :]], 2)


def build(kind: str) -> nn.Module:
    k = CLASSES[kind]
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(36, k))
    first = Stepped(rows=3) if kind == "five" else nn.Identity()
    layers = (nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    return nn.Sequential(first, *layers, nn.Linear(216, k))


def blobs(k: int, n: int) -> tuple[Tensor, Tensor]:
    """Images of k classes around k grey patterns."""
    g = seeded(1)
    centres = 0.5 + 0.2 * torch.randn(k, *SHAPE, generator=g)
    y = torch.arange(n) % k
    return (centres[y] + 0.15 * torch.randn(n, *SHAPE, generator=g)).clamp(0, 1), y


@cache
def subject(kind: str, n: int = N) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in eval mode after a few steps, and images of which one is misclassified."""
    torch.manual_seed(0)
    net = build(kind)
    x, y = blobs(CLASSES[kind], 200)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    x, y = x[:n].clone(), y[:n].clone()
    y[5] = (y[5] + 1) % CLASSES[kind]
    return net.eval(), x, y


def package(
    net: nn.Module, kind: str, seed: int, version: str, eps: float, parts: tuple[str, ...] = ()
) -> Tensor:
    """Images of the package's own evaluation, all in one batch."""
    _, x, y = subject(kind)
    suite = pyautoattack.AutoAttack(net, eps=eps, seed=seed, version=version)
    if CLASSES[kind] < 10:  # the package raises where it wants more targets than there are
        suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = CLASSES[kind] - 1
    assert set(parts) <= set(suite.attacks_to_run)
    suite.attacks_to_run = list(parts) or suite.attacks_to_run
    with torch.random.fork_rng():
        x_adv: Tensor = suite.run_standard_evaluation(x, y, batch_size=N)[0]
    return x_adv


def theirs(kind: str, seed: int, version: str = "standard") -> Tensor:
    """Survivors of the package's own evaluation."""
    net, _, y = subject(kind)
    return right(net, package(net, kind, seed, version, EPS), y)


def ours(kind: str, seed: int, name: str = "autoattack", *, drawn: int = 0) -> Tensor:
    net, x, y = subject(kind)
    generator = seeded(seed)
    torch.rand(drawn, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)
        x_adv = get_attack(name)(net, x, y, Threat(eps=EPS), generator=generator)
    assert float(Threat().distance(x_adv, x).max()) <= EPS + 1e-6
    return right(net, x_adv, y)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.slow
def test_the_survivors_are_the_packages_own(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", FewQueries)
    net, x, y = subject(kind)
    found = ours(kind, SEEDS[kind])
    assert torch.equal(found, theirs(kind, SEEDS[kind]))
    assert 5 < int(found.sum()) < int(right(net, x, y).sum())  # some fall, some stand


@pytest.mark.slow
@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_every_version_has_the_packages_parts(version: str) -> None:
    name = {"standard": "autoattack"}.get(version, f"autoattack-{version}")
    assert torch.equal(ours("five", 7, name), theirs("five", 7, version))


@pytest.mark.slow
@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize(("version", "part"), [(v, part) for v in PARTS for part in PARTS[v]])
def test_every_part_gives_the_packages_images(version: Any, part: str) -> None:
    """To the bit, which tells apart what breaks the same images in another way."""
    net, x, y = subject("conv")
    eps = 2 * EPS  # so that Square breaks some with few queries
    expected = package(net, "conv", 7, version, eps, (part,))
    attack = AutoAttackPart(part=part, version=version)
    found = attack(net, x, y, Threat(eps=eps), generator=seeded(7))
    assert torch.equal(found, expected)
    assert not torch.equal(found, x)
    if version == "standard":
        assert get_attack(part) == attack


@pytest.mark.parametrize("version", ["standard", "plus"])
@pytest.mark.parametrize("part", ["apgd-t", "fab-t"])
@pytest.mark.parametrize(("k", "targets"), [(1000, 9), (10, 9), (9, 8), (4, 3)])
def test_targets_are_nine_where_there_are_as_many(
    version: Any, part: str, k: int, targets: int
) -> None:
    build_part = AutoAttackPart(part=part, version=version)._attack
    attack = build_part(nn.Identity(), Threat(eps=EPS), k, 7, torch.device("cpu"))
    assert (attack.n_target_classes, attack.n_restarts, attack.n_iter) == (targets, 1, 100)


@pytest.mark.usefixtures("short_autoattack")
def test_the_seed_is_the_one_that_the_generator_began_with() -> None:
    first = ours("conv", 7)
    assert torch.equal(first, ours("conv", 7, drawn=50))
    net, x, y = subject("conv")
    attack = AutoAttackPart(part="apgd-ce")
    found = {seed: attack(net, x, y, Threat(eps=0.2), generator=seeded(seed)) for seed in (0, 1)}
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[0], attack(net, x, y, Threat(eps=0.2)))


@pytest.mark.usefixtures("short_autoattack")
def test_blocks_of_the_model_change_nothing() -> None:
    net, x, y = subject("conv")
    blocked = BatchedModel(net, 16)
    generator = seeded(7)
    x_adv = get_attack("autoattack")(blocked, x, y, Threat(eps=EPS), generator=generator)
    expected = package(BatchedModel(net, N), "conv", 7, "standard", EPS)
    assert torch.equal(right(net, x_adv, y), right(net, expected, y))


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize(
    ("name", "k"), [("apgd-ce", 1), ("apgd-t", 2), ("fab-t", 3), ("square", 3), ("autoattack", 3)]
)
def test_fewer_than_four_classes_are_refused(name: str, k: int) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, k))
    x, y = torch.rand(4, *SHAPE), torch.zeros(4, dtype=torch.long)
    message = f"AutoAttack needs at least 4 classes and the model has {k}; use --attacks pgd-20,cw"
    with raises_line(ConfigError, message):
        get_attack(name)(net, x, y, Threat(eps=EPS))
    assert net.training


@pytest.mark.usefixtures("short_autoattack")
def test_what_the_package_notices_is_a_warning() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.5, 0.2, 0.1]]) + 0 * x.flatten(1).sum(1, keepdim=True)

    x, y = torch.rand(3, *SHAPE), torch.zeros(3, dtype=torch.long)
    with pytest.warns(AttackWarning, match="3 points with zero gradient") as caught:
        get_attack("apgd-t")(Flat(), x, y, Threat(eps=EPS))
    assert len(caught) == 1  # once, for three targets


@pytest.mark.usefixtures("short_autoattack")
def test_images_may_be_stored_channels_last_and_logits_be_a_view_of_them() -> None:
    """The package calls `view` on gradients, and Square writes into the logits."""
    g = seeded(0)
    x = torch.rand(8, 6, 2, 2, generator=g).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    net = nn.Sequential(nn.Flatten(), First())
    y = net(x).argmax(1)
    for name in ("apgd-ce", "apgd-t", "fab-t", "square"):
        x_adv = get_attack(name)(net, x, y, Threat(eps=EPS))
        assert torch.equal(x, before)
        assert float(x_adv.min()) >= 0
        assert float(Threat().distance(x_adv, x).max()) <= EPS + 1e-6
        assert not bool(right(net, x_adv, y).all())


class First(nn.Module):
    """The first five values, as a view."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :5]


@pytest.mark.parametrize("k", [3, 4, 10, 100])
def test_the_dlr_losses_are_the_packages(k: int) -> None:
    """Half of the rows are classified as their label says."""
    logits = 5 * torch.randn(64, k, generator=seeded(k))
    y = torch.where(torch.arange(64) % 2 == 0, logits.argmax(1), torch.arange(64) % k)
    package = pyautoattack.AutoAttack(nn.Identity(), eps=0.1, device="cpu")
    expected = package.apgd.dlr_loss(logits, y)
    torch.testing.assert_close(dlr(logits, y), expected, rtol=0, atol=1e-6)
    assert bool((expected > 0).any())
    assert bool((expected < 0).any())
    targeted = package.apgd_targeted
    for place in (1, 2, -1) if k > 3 else ():
        targeted.y_target = logits.argsort(dim=1, descending=True)[:, place]
        expected = targeted.dlr_loss_targeted(logits, y)
        found = targeted_dlr(logits, y, targeted.y_target)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
