"""The least time that a network's convolutions take for an image, measured within a time limit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache

import torch

from bench.archs import build
from bench.speed.layers import PASSES, Layer, Pass, layers_of
from bench.speed.peak import fastest, needed
from bench.training.passes import Passes

MOST_IMAGES = 128
MOST_FLOPS = {"cpu": 1e9, "cuda": 2e11}
"""Of one measured call, by kind of device: a layer is measured on so many images."""


@dataclass(frozen=True)
class Floor:
    """Seconds an image of all layers of a network, at their fastest."""

    forward: float
    gradient: float
    """Back from the logits to the pixels."""
    update: float
    """Back from the logits to the weights."""

    def step(self, passes: Passes) -> float:
        """Of a training step, of whose backward passes one goes to the weights."""
        inputs = max(passes.backward - 1, 0)
        return passes.forward * self.forward + inputs * self.gradient + self.update


@dataclass
class Floors:
    """Measures each network once, while there is time; None afterwards."""

    device: torch.device
    deadline: float
    """Of `time.monotonic`."""
    _found: dict[tuple[str, int, int, str], Floor | None] = field(default_factory=dict)

    @property
    def time_is_up(self) -> bool:
        """Whether nothing more is measured."""
        return time.monotonic() > self.deadline

    def of(self, arch: str, image_size: int, in_channels: int, precision: str) -> Floor | None:
        """Of an arch by name; what was measured before is there at once."""
        key = (arch, image_size, in_channels, precision)
        if self._found.get(key) is None:
            self._found[key] = self._measured(
                layers_of_arch(arch, image_size, in_channels), precision
            )
        return self._found[key]

    def _measured(self, layers: list[Layer], precision: str) -> Floor | None:
        seconds: dict[tuple[Layer, Pass], float] = {}
        for layer in dict.fromkeys(layers):
            for which in PASSES:
                if self.time_is_up:
                    return None
                seconds[layer, which] = self._an_image(layer, which, precision)

        def total(passes: Passes, updates: float) -> float:
            return sum(
                n * seconds[layer, which] for layer, which, n in needed(layers, passes, updates)
            )

        return Floor(
            forward=total(Passes(forward=1, backward=0, first_layer=1), updates=0),
            gradient=total(Passes(forward=0, backward=1, first_layer=0), updates=0),
            update=total(Passes(forward=0, backward=1, first_layer=0), updates=1),
        )

    def _an_image(self, layer: Layer, which: Pass, precision: str) -> float:
        """Seconds, from as many images at once as the limits allow."""
        most = MOST_FLOPS.get(self.device.type, MOST_FLOPS["cpu"])
        n = min(MOST_IMAGES, max(1, int(most / layer.flops)))
        return fastest(layer.on_batch(n), which, precision, self.device, budget=0.0) / n


@cache
def layers_of_arch(arch: str, image_size: int, in_channels: int) -> list[Layer]:
    """On one image; nothing is computed."""
    with torch.device("meta"):
        network = build(arch, in_channels=in_channels, image_size=image_size)
        x = torch.empty(1, in_channels, image_size, image_size)
    return layers_of(network, x)
