"""Networks without shortcuts: the small cnn, and VGG-16 with BatchNorm for small images."""

from typing import ClassVar

from torch import Tensor, nn

from bench.archs.arch import Arch, ArchSpec, conv3x3, global_average


class _Features(Arch):
    features: nn.Sequential
    classifier_name: ClassVar[str]

    @property
    def first_layer(self) -> nn.Module:
        return self.features[0]

    def rest(self, h: Tensor) -> Tensor:
        for layer in list(self.features)[1:]:
            h = layer(h)
        logits: Tensor = getattr(self, self.classifier_name)(global_average(h))
        return logits


class Cnn(_Features):
    """Four blocks of 3x3 convolution, BatchNorm and ReLU; average; Linear. PyTorch's init.

    Our own, for quick studies on a CPU: about 8 million multiplications for a 32x32 image. Narrow
    where the map is large and wide where it is small, for speed.
    """

    classifier_name = "fc"

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(spec)
        blocks: list[nn.Module] = []
        n_in = spec.in_channels
        for width, stride in ((16, 1), (32, 2), (64, 2), (128, 1)):
            blocks += [conv3x3(n_in, width, stride), nn.BatchNorm2d(width), nn.ReLU()]
            n_in = width
        self.features = nn.Sequential(*blocks)
        self.fc = nn.Linear(n_in, spec.num_classes)


class Vgg16(_Features):
    """13 convolutions 3x3 with bias, each with BatchNorm and ReLU; five poolings by two.

    Simonyan and Zisserman 2015 (arXiv 1409.1556), in the form that the robust-training repositories
    share: one Linear(512, K) after the convolutions, no dropout. State-dict keys are theirs
    (`features.{i}`, `classifier`), as is the initialisation, PyTorch's default.

    Differs from theirs: poolings round up and the last map is averaged, so that any image size
    works; at multiples of 32 the first, and at 32 both, change nothing.
    """

    classifier_name = "classifier"

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(spec)
        layers: list[nn.Module] = []
        n_in = spec.in_channels
        for width, n_convs in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(n_convs):
                conv = nn.Conv2d(n_in, width, 3, padding=1)
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
                n_in = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(n_in, spec.num_classes)
