"""What each layer reaches beside what the machine can: arithmetic against memory.

Every pass of every distinct layer is timed alone, as the floor of a step is; the machine's peak is
that of one large product of matrices, its memory bandwidth that of one large copy.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from bench.archs import build
from bench.machine import describe_machine, has_fast_bf16
from bench.progress import Reporter
from bench.speed.layers import PASSES, Layer, Pass, layers_of
from bench.speed.peak import BUDGET, DTYPES, fastest, shortest, tuned

N_MATMUL = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the product of matrices, by kind of device."""
SIDE = 32
"""Pixels a row of the image that stands for a matrix."""
COPY_BYTES = 2**28
"""More than a cache holds."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One pass of one layer, alone."""

    arch: str
    layer: str
    which: Pass
    precision: str
    calls: int
    """Times that the network has this layer."""
    flops: int
    """On the whole batch."""
    intensity: float
    """FLOP for each byte that must move."""
    seconds: float

    @property
    def gflops_per_second(self) -> float:
        """10^9 FLOP a second."""
        return self.flops / self.seconds / 1e9


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """All layers of some networks on one machine."""

    machine: Mapping[str, Any]
    batch: int
    image_size: int
    peaks: Mapping[str, float]
    """Precision -> FLOP a second of a large product of matrices."""
    bandwidth: float
    """Bytes a second that a large copy reads and writes."""
    kernels: tuple[Kernel, ...]

    def to_json(self) -> str:
        """`from_json` is the inverse."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Roofline:
        """What `to_json` wrote."""
        values = json.loads(text)
        kernels = tuple(Kernel(**kernel) for kernel in values.pop("kernels"))
        return cls(**values, kernels=kernels)


def measure_roofline(
    archs: Sequence[str],
    device: torch.device,
    reporter: Reporter,
    *,
    batch: int,
    image_size: int = 32,
    budget: float = BUDGET,
) -> Roofline:
    """Time every pass of every distinct layer; bf16 where the hardware multiplies it."""
    precisions = ["fp32", *(["bf16"] if has_fast_bf16(device) else [])]
    counts: dict[str, Counter[Layer]] = {}
    for arch in archs:
        network = build(arch, image_size=image_size).to(device)
        x = torch.rand(batch, 3, image_size, image_size, device=device)
        counts[arch] = Counter(layers_of(network, x))
    kernels = []
    with reporter.task("layers", sum(map(len, counts.values())) * len(precisions)) as task:
        for arch, layers in counts.items():
            for precision in precisions:
                for layer, calls in layers.items():
                    kernels += _kernels(arch, layer, calls, precision, device, budget)
                    task.advance(detail=arch)
    return Roofline(
        machine=describe_machine(device),
        batch=batch,
        image_size=image_size,
        peaks={precision: matmul_peak(device, precision, budget) for precision in precisions},
        bandwidth=copy_bandwidth(device, budget),
        kernels=tuple(kernels),
    )


def _kernels(
    arch: str, layer: Layer, calls: int, precision: str, device: torch.device, budget: float
) -> list[Kernel]:
    return [
        Kernel(
            arch=arch,
            layer=str(layer),
            which=which,
            precision=precision,
            calls=calls,
            flops=layer.flops,
            intensity=layer.intensity(DTYPES[precision]),
            seconds=fastest(layer, which, precision, device, budget),
        )
        for which in PASSES
    ]


def matmul_peak(device: torch.device, precision: str, budget: float = BUDGET) -> float:
    """FLOP a second of one large product of square matrices, whose sides are multiples of 32.

    The faster of two ways: as such, and as a 1x1 convolution, which is one and may be another
    library's. On CUDA fp32 is what torch makes of it for each of them, which may be TF32: by
    default it is for convolutions, those of the steps that are set beside it included.
    """
    n = N_MATMUL.get(device.type, N_MATMUL["cpu"])
    a = torch.ones(n, n, device=device, dtype=DTYPES[precision])
    image, kernel = (
        values.to(memory_format=torch.channels_last)
        for values in (a.reshape(1, n, n // SIDE, SIDE), a.reshape(n, n, 1, 1))
    )
    ways = (lambda: a @ a, lambda: F.conv2d(image, kernel))
    with torch.no_grad(), tuned(device):
        return 2 * n**3 / min(shortest(way, device, budget / len(ways)) for way in ways)


def copy_bandwidth(device: torch.device, budget: float = BUDGET) -> float:
    """Bytes a second of one large copy: those read and those written."""
    source = torch.ones(COPY_BYTES, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / shortest(lambda: target.copy_(source), device, budget)
