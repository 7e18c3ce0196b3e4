"""A small convolutional network for quick studies on a CPU: 8x8 digits first, 32x32 images too.

Our own: about 8 million multiplications for a 32x32 image. Narrow where the map is large and wide
where it is small, for speed.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.archs.arch import Arch, ArchSpec, conv3x3, global_average

LAYERS = ((16, 1), (32, 2), (64, 2), (128, 1))
"""(width, stride) of each convolution."""


class Cnn(Arch):
    """Four blocks of 3x3 convolution, BatchNorm and ReLU; average; Linear. PyTorch's init."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(spec)
        blocks: list[nn.Module] = []
        n_in = spec.in_channels
        for width, stride in LAYERS:
            blocks += [conv3x3(n_in, width, stride), nn.BatchNorm2d(width), nn.ReLU()]
            n_in = width
        self.features = nn.Sequential(*blocks)
        self.fc = nn.Linear(n_in, spec.num_classes)

    @property
    def first_layer(self) -> nn.Module:
        return self.features[0]

    def rest(self, h: Tensor) -> Tensor:
        for layer in list(self.features)[1:]:
            h = layer(h)
        logits: Tensor = self.fc(global_average(h))
        return logits
