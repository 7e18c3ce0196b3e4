"""The networks of the short runs: tiny, smooth, and the same on every machine.

Methods train one from the engine's own draws. Attacks run on two that were trained once and are
kept as files next to the pins: another machine would train other weights, in the last bits and then
in all.

Shapes: B batch, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.archs import ARCHS
from bench.archs.arch import Arch, ArchSpec, conv3x3
from bench.archs.state_dict import load_state
from bench.archs.weights import read_weights, save_weights
from bench.attacks.maximise import maximise
from bench.data import load_dataset
from bench.data.loader import loader
from bench.errors import RecordError
from bench.losses import cross_entropy
from bench.seeding import generator_for, seed_for
from bench.threat import Threat

THREAT = Threat(eps=0.2)
NETWORKS = {"model": 0, "surrogate": 1}
"""File and seed: the attacked network, and the one that transferred images come from."""
EPOCHS, BATCH, RATE = 60, 64, 0.01
SHARPNESS = 5.0
"""Of softplus: its bend is a fifth of a unit wide."""


@contextmanager
def one_thread(dtype: torch.dtype) -> Iterator[None]:
    """Use one thread, and `dtype` as the default.

    Draws follow the dtype: float64 and float32 take different numbers from one seed.
    """
    threads, before = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)


class TracedNet(Arch):
    """Two convolutions with BatchNorm and softplus, and Linear: 8x8 digits, 1,922 parameters.

    Near ReLU, and smooth: no gradient jumps where two processors differ.
    """

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(spec)
        self.conv1, self.bn1 = conv3x3(spec.in_channels, 8, 2), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = conv3x3(8, 16, 2), nn.BatchNorm2d(16)
        self.fc = nn.Linear(64, spec.num_classes)

    def rest(self, h: Tensor) -> Tensor:
        h = F.softplus(self.bn1(h), beta=SHARPNESS)
        h = F.softplus(self.bn2(self.conv2(h)), beta=SHARPNESS)
        logits: Tensor = self.fc(h.flatten(1))
        return logits


@contextmanager
def traced_arch() -> Iterator[str]:
    """Register TracedNet for the engine, but not for users; yields its name."""
    name = "verify"
    ARCHS[name] = TracedNet, ""
    try:
        yield name
    finally:
        del ARCHS[name]


class PinnedNet(Arch):
    """8x8 digits (B, 1, 8, 8) in [0, 1] to logits (B, 10): 2,410 parameters, 10 kB."""

    def __init__(self) -> None:
        super().__init__(ArchSpec(in_channels=1, image_size=8))
        self.first = nn.Linear(64, 32)
        self.last = nn.Linear(32, 10)

    @property
    def first_layer(self) -> nn.Module:
        return self.first

    def stem(self, x: Tensor) -> Tensor:
        return super().stem(x.flatten(1))

    def rest(self, h: Tensor) -> Tensor:
        logits: Tensor = self.last(F.softplus(h, beta=SHARPNESS))
        return logits


def network_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def load_network(folder: Path, name: str) -> PinnedNet:
    """Return the named network; raise RecordError if its file is missing."""
    path = network_file(folder, name)
    if not path.exists():
        raise RecordError(
            f"{path} is missing: run this in a checkout of the project, or name the folder of its "
            "pins with --pins"
        )
    with torch.random.fork_rng(devices=[]):  # these weights are overwritten
        network = PinnedNet()
    load_state(network, read_weights(path))
    return network


def make_networks(folder: Path) -> list[str]:
    """Train the networks whose files are missing, in seconds; return their names."""
    missing = [name for name in NETWORKS if not network_file(folder, name).exists()]
    for name in missing:
        with one_thread(torch.float32):
            save_weights(_trained(NETWORKS[name]), network_file(folder, name))
    return missing


def _trained(seed: int) -> PinnedNet:
    """PGD training: about half of the test images survive, so that an attack's strength shows."""
    split = loader((digits := load_dataset("digits")).train, digits.scale, "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(seed, "weights"))
        network = PinnedNet()
    generator = generator_for(seed, "train")
    adam = torch.optim.Adam(network.parameters(), lr=RATE)
    for epoch in range(EPOCHS):
        adam.param_groups[0]["lr"] = RATE * (1 - epoch / EPOCHS)
        for index in torch.randperm(len(split), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            y = split.labels(index)
            x_adv = maximise(
                lambda logits, y, _: cross_entropy(logits, y),
                network,
                split.images(index),
                y,
                threat=THREAT,
                radius=THREAT.eps,
                steps=5,
                step_size=0.3 * THREAT.eps,
                start="uniform",
                generator=generator,
            )
            adam.zero_grad()
            torch.autograd.backward(cross_entropy(network(x_adv), y).mean())
            adam.step()
    return network
