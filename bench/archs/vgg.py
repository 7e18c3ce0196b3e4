"""VGG-16 with BatchNorm for small images.

Simonyan and Zisserman 2015 (arXiv 1409.1556), in the form that the robust-training repositories
share: one Linear(512, K) after the convolutions, no dropout. State-dict keys are theirs
(`features.{i}`, `classifier`), as is the initialisation, PyTorch's default.

Differs from theirs: poolings round up and the last map is averaged, so that any image size works;
at multiples of 32 the first, and at 32 both, change nothing.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.archs.arch import Arch, ArchSpec, global_average

GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(width, convolutions) between two poolings."""


class Vgg16(Arch):
    """13 convolutions 3x3 with bias, each with BatchNorm and ReLU; five poolings by two."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(spec)
        layers: list[nn.Module] = []
        n_in = spec.in_channels
        for width, n_convs in GROUPS:
            for _ in range(n_convs):
                conv = nn.Conv2d(n_in, width, 3, padding=1)
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
                n_in = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(n_in, spec.num_classes)

    @property
    def first_layer(self) -> nn.Module:
        return self.features[0]

    def rest(self, h: Tensor) -> Tensor:
        for layer in list(self.features)[1:]:
            h = layer(h)
        logits: Tensor = self.classifier(global_average(h))
        return logits
