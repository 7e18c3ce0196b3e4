"""A network that is robust on some images and not on others, made quickly and the same every time.

Attacks cost what is left to attack: a network that falls at once flatters what stops early, one
that never falls flatters what does not. So it is trained on digits against one long step, and then
the radius is sought at which it is right on about 40% of the attacked images.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.archs import build
from bench.archs.arch import Arch
from bench.attacks import PGD, get_attack
from bench.data import load_dataset
from bench.data.loader import Loader, loader
from bench.losses import cross_entropy
from bench.seeding import generator_for, seed_for
from bench.speed.setting import CHANNELS, CLASSES, Fitting, Setting
from bench.threat import Threat, rowwise

AIM = 0.4
"""Share of the images that should survive."""
JUDGE = "pgd-20"
ATTACK = PGD(steps=1, relative_step=1.25)
BETWEEN = (0.001, 0.5)
"""Where the radius is sought."""
N_HALVINGS = 7
N_JUDGED = 256
"""Images that the radius is chosen on."""
NOISE = 0.05
"""Share of it in an image that comes again."""
N_NORMALISED = 64
"""Images that BatchNorm's statistics are taken from: running averages lag behind so few batches."""


@dataclass(frozen=True)
class Subject:
    """What the attacks are measured on."""

    network: Arch
    """In eval mode."""
    x: Tensor
    """(n, C, H, W) in [0, 1]."""
    y: Tensor
    threat: Threat
    robust_share: float
    """Of the images, under the judge, at the radius that was chosen."""


def make_subject(setting: Setting) -> Subject:
    """Train, then choose the radius for the first test digits; once for all rows that share it."""
    sizes = setting.sizes
    made = _made(setting.arch, setting.image_size, sizes.n_attacked, sizes.fitting, setting.device)
    return replace(made, network=copy.deepcopy(made.network))  # what counts its passes stays on it


@cache
def _made(arch: str, image_size: int, n: int, fitting: Fitting, device: torch.device) -> Subject:
    dataset = load_dataset("digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(0, "speed", "weights"))
        network = build(arch, num_classes=CLASSES, in_channels=CHANNELS, image_size=image_size)
    network = network.to(device)
    n_seen = min(fitting.n_batches * fitting.batch_size, len(dataset.train))
    seen = _enlarged(loader(dataset.train, dataset.scale, device), n_seen, image_size)
    _train(network, *seen, fitting)
    _normalise(network, seen[0][:N_NORMALISED])
    x, y = _enlarged(loader(dataset.test, dataset.scale, device), n, image_size)
    eps, share = _radius(network.eval(), x[:N_JUDGED], y[:N_JUDGED])
    return Subject(network, x, y, Threat(eps=eps), share)


def _enlarged(images: Loader, n: int, image_size: int) -> tuple[Tensor, Tensor]:
    """The first n digits in the size and with the channels of a colour image.

    Where there are fewer, they come again with some noise.
    """
    place = torch.arange(n, device=images.y.device)
    index = place % len(images)
    x = F.interpolate(images.images(index), size=image_size).repeat(1, CHANNELS, 1, 1)
    noise = torch.empty_like(x).uniform_(
        generator=generator_for(0, "speed", "noise", device=x.device)
    )
    again = rowwise(place >= len(images), x)
    return torch.where(again, x.lerp(noise, NOISE), x), images.labels(index)


def _train(network: Arch, x: Tensor, y: Tensor, fitting: Fitting) -> None:
    sgd = torch.optim.SGD(network.parameters(), lr=fitting.lr, momentum=0.9)
    threat = Threat(eps=fitting.eps)
    for number in range(fitting.n_batches):
        first = number * fitting.batch_size
        rows = torch.arange(first, first + fitting.batch_size, device=x.device) % len(x)
        generator = generator_for(0, "speed", "start", number, device=x.device)
        x_adv = ATTACK(network, x[rows], y[rows], threat, generator=generator)
        sgd.zero_grad()
        torch.autograd.backward(cross_entropy(network.train()(x_adv), y[rows]).mean())
        sgd.step()


def _normalise(network: Arch, x: Tensor) -> None:
    """BatchNorm's statistics become those of x."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    with torch.no_grad():
        network.train()(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _radius(network: Arch, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The radius at which the share of survivors is nearest to the aim; and that share."""
    low, high = BETWEEN
    found: list[tuple[float, float, float]] = []
    for _ in range(N_HALVINGS):
        eps = math.sqrt(low * high)
        share = float(survivors(network, _attacked(network, x, y, eps), y).float().mean())
        found.append((abs(share - AIM), eps, share))
        low, high = (eps, high) if share > AIM else (low, eps)
    _, eps, share = min(found)
    return eps, share


def _attacked(network: Arch, x: Tensor, y: Tensor, eps: float) -> Tensor:
    generator = generator_for(0, "speed", JUDGE, device=x.device)
    return get_attack(JUDGE)(network, x, y, Threat(eps=eps), generator=generator)


def survivors(network: Arch, x_adv: Tensor, y: Tensor) -> Tensor:
    """(n,) bool: still right."""
    with torch.no_grad():
        right: Tensor = network(x_adv).argmax(1) == y
    return right
