"""The measured work: training steps on made images, and a network that is robust on some digits.

The cost of an attack depends on how many images survive: a network that falls at once flatters an
attack that stops early, one that never falls flatters one that does not. So a network is trained on
digits against one long step, and eps is chosen so that about 40% of the images survive PGD-20.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.archs import build
from bench.archs.arch import Arch
from bench.attacks import PGD, get_attack
from bench.data import load_dataset
from bench.data.loader import Loader, loader
from bench.errors import unknown_name
from bench.estimate import UNWRITTEN, made_dataset, made_spec
from bench.losses import cross_entropy
from bench.machine import has_fast_bf16
from bench.records.run_folder import RunFolder
from bench.records.spec import PRECISIONS, TrainSpec
from bench.registry import get_method, list_methods
from bench.seeding import generator_for, seed_for
from bench.threat import Threat
from bench.training.engine import Trainer, initial_model
from benchmarks.loops import LOOPS, plain_sgd

CLASSES, CHANNELS = 10, 3


def specs(
    device: torch.device,
    *,
    methods: Sequence[str],
    arch: Sequence[str],
    precision: Sequence[str],
    batch_size: int | None,
    image_size: int,
) -> Iterator[TrainSpec]:
    """Yield the training on made images of each method, network and precision.

    By default those with a plain loop, the precisions that suit the device, and batches whose
    step takes seconds on a CPU. Raises click.UsageError for an unknown method.
    """
    for method in methods:
        if method not in list_methods():
            raise click.UsageError(str(unknown_name("method", method, list_methods())))
    suitable = PRECISIONS if has_fast_bf16(device) else PRECISIONS[:1]
    for method, name, chosen in product(methods or LOOPS, arch, precision or suitable):
        n = batch_size or (128 if name == "cnn" else 32)
        yield made_spec(method, name, n, image_size=image_size, precision=chosen)


@dataclass(frozen=True)
class Step:
    """One whole update, as a callable."""

    run: Callable[[], object]
    network: Arch

    def __call__(self) -> object:
        return self.run()


def engine_step(spec: TrainSpec, device: torch.device, **params: object) -> Step:
    """Return the engine's step on all images of `spec`; `params` are the method's."""
    n = spec.n_train
    method = get_method(spec.method, **params)
    folder = RunFolder(UNWRITTEN, spec.run_id)
    trainer = Trainer(spec, method, made_dataset(n, spec), folder, device)
    trainer.state.epoch = spec.recipe.epochs // 2  # what some methods do depends on the epoch
    return Step(lambda: trainer.time_batch(n), trainer.network)


def plain_step(spec: TrainSpec, device: torch.device) -> Step:
    """Return the plain loop's step on the same images, from the same weights; fp32, NCHW."""
    data = made_dataset(spec.n_train, spec)
    images = loader(data.train, data.scale, device)
    index = torch.arange(spec.n_train, device=device)
    x, y = images.images(index), images.labels(index)
    network = initial_model(spec).to(device)
    optimiser, loop = plain_sgd(network, spec.recipe.lr), LOOPS[spec.method]
    return Step(lambda: float(loop(network, optimiser, x, y)), network)


@dataclass(frozen=True)
class AttackedModel:
    """A network in eval mode with images and a threat, for attacks."""

    network: Arch
    x: Tensor
    y: Tensor
    threat: Threat

    def first(self, n: int) -> AttackedModel:
        """Return the same with the first n images."""
        return AttackedModel(copy.deepcopy(self.network), self.x[:n], self.y[:n], self.threat)

    def survivors(self, x_adv: Tensor) -> Tensor:
        """Return (n,) bool: still classified correctly."""
        with torch.no_grad():
            right: Tensor = self.network(x_adv).argmax(1) == self.y
        return right.cpu()


def partly_robust(arch: str, n: int, image_size: int, device: torch.device) -> AttackedModel:
    """Train in seconds, then seek eps by bisection on the first 256 of n test digits."""
    digits = load_dataset("digits")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(0, "speed", "weights"))
        network = build(arch, num_classes=CLASSES, in_channels=CHANNELS, image_size=image_size)
    network = network.to(device)
    small = arch == "cnn"
    n_batches, batch, lr, eps = (120, 32, 0.1, 0.05) if small else (20, 16, 0.02, 0.02)
    train = loader(digits.train, digits.scale, device)
    seen = _coloured(train, min(n_batches * batch, len(train)), image_size)
    sgd = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    long_step = PGD(steps=1, relative_step=1.25)
    for number in range(n_batches):
        rows = torch.arange(number * batch, (number + 1) * batch, device=device) % len(seen[0])
        x, y = seen[0][rows], seen[1][rows]
        draw = generator_for(0, "speed", "start", number, device=device)
        x_adv = long_step(network, x, y, Threat(eps=eps), generator=draw)
        sgd.zero_grad()
        torch.autograd.backward(cross_entropy(network.train()(x_adv), y).mean())
        sgd.step()
    with torch.no_grad():  # running averages lag behind so few batches
        for _ in range(20):
            network.train()(seen[0][:64])
    x, y = _coloured(loader(digits.test, digits.scale, device), n, image_size)
    return AttackedModel(network.eval(), x, y, _threat(network, x[:256], y[:256]))


def _coloured(images: Loader, n: int, image_size: int) -> tuple[Tensor, Tensor]:
    """n digits as colour images; with noise, since they repeat."""
    index = torch.arange(n, device=images.y.device) % len(images)
    x = F.interpolate(images.images(index), size=image_size).repeat(1, CHANNELS, 1, 1)
    draw = generator_for(0, "speed", "noise", device=x.device)
    return x.lerp(torch.empty_like(x).uniform_(generator=draw), 0.02), images.labels(index)


def _threat(network: Arch, x: Tensor, y: Tensor) -> Threat:
    low, high = 0.001, 0.5
    found = []
    for _ in range(7):
        threat = Threat(eps=math.sqrt(low * high))
        draw = generator_for(0, "speed", "pgd-20", device=x.device)
        x_adv = get_attack("pgd-20")(network, x, y, threat, generator=draw)
        share = float(AttackedModel(network, x, y, threat).survivors(x_adv).float().mean())
        found.append((abs(share - 0.4), threat))
        low, high = (threat.eps, high) if share > 0.4 else (low, threat.eps)
    return min(found, key=lambda pair: pair[0])[1]
