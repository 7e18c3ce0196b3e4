"""Residual networks: ResNet-18 and PreActResNet-18 for small images, ResNet-50 for large ones.

State-dict keys and initialisation are those of the public code. The networks for small images begin
with a 3x3 convolution, without max-pooling; differs from the public code: the last map is averaged
whatever its size, not only if it is 4x4.

Shapes: B batch, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from bench.archs.arch import Arch, ArchSpec, conv3x3, global_average


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus the shortcut, then ReLU."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(n_in, n_out, stride)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(n_out, n_out)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or n_in != n_out:
            projection = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(h + self.shortcut(x))
        return out


def groups(block: Callable[[int, int, int], nn.Module]) -> list[nn.Sequential]:
    """Return four groups of two blocks, of width 64, 128, 256, 512."""
    sizes = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
    return [nn.Sequential(block(n, m, stride), block(m, m, 1)) for n, m, stride in sizes]


class ResNet18(Arch):
    """Post-activation ResNet-18 of TRADES, MART and the RobustBench zoo (arXiv 1512.03385)."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(spec)
        self.conv1 = conv3x3(spec.in_channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1, self.layer2, self.layer3, self.layer4 = groups(BasicBlock)
        self.linear = nn.Linear(512, spec.num_classes)

    @property
    def first_layer(self) -> nn.Conv2d:
        return self.conv1

    def rest(self, h: Tensor) -> Tensor:
        h = self.layer1(self.relu(self.bn1(h)))
        h = self.layer4(self.layer3(self.layer2(h)))
        logits: Tensor = self.linear(global_average(h))
        return logits


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus the shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int, *, raw_shortcut: bool) -> None:
        super().__init__()
        self.raw_shortcut = raw_shortcut
        self.bn1 = nn.BatchNorm2d(n_in)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(n_in, n_out, stride)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU()
        self.conv2 = conv3x3(n_out, n_out)
        projects = stride != 1 or n_in != n_out
        projection = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if projects else None
        self.shortcut = None if projection is None else nn.Sequential(projection)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(x if self.raw_shortcut else h)
        out: Tensor = shortcut + self.conv2(self.relu2(self.bn2(self.conv1(h))))
        return out


class PreActResNet18(Arch):
    """PreActResNet-18 (arXiv 1603.05027), with either of the two shortcuts in circulation.

    Like in locuslab/robust_overfitting and locuslab/fast_adversarial, BatchNorm and ReLU precede
    the classifier. The trap: where a block changes the width, its 1x1 shortcut reads the activated
    input (robust overfitting, AWP, GAIRAT, HAT) or the raw input (fast adversarial training). Both
    have the same keys and sizes, so weights of one load into the other without an error and give a
    wrong accuracy; the names `preact-resnet-18` and `preact-resnet-18-raw` keep them apart.
    """

    def __init__(self, spec: ArchSpec, *, raw_shortcut: bool) -> None:
        super().__init__(spec)
        self.conv1 = conv3x3(spec.in_channels, 64)
        block = partial(PreActBlock, raw_shortcut=raw_shortcut)
        self.layer1, self.layer2, self.layer3, self.layer4 = groups(block)
        self.bn = nn.BatchNorm2d(512)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(512, spec.num_classes)

    @property
    def first_layer(self) -> nn.Conv2d:
        return self.conv1

    def rest(self, h: Tensor) -> Tensor:
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.linear(global_average(self.relu(self.bn(h))))
        return logits


class ResNet50(Arch):
    """torchvision's ResNet-50: 7x7 first convolution of stride 2, max-pooling, any image size.

    He et al. 2016 (arXiv 1512.03385), the stride on the 3x3 convolutions. Differs from torchvision:
    no ReLU works in place, and `in_channels` other than 3 redraws the first convolution alike.
    """

    def __init__(self, spec: ArchSpec) -> None:
        # Imported here: it takes as long as torch, and no other architecture needs it.
        from torchvision.models import resnet50

        super().__init__(spec)
        net = resnet50(num_classes=spec.num_classes)
        # The layers themselves, not the net, so that the keys are torchvision's.
        self.conv1: nn.Conv2d = net.conv1
        if spec.in_channels != 3:
            self.conv1 = nn.Conv2d(spec.in_channels, 64, 7, 2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1: nn.BatchNorm2d = net.bn1
        self.relu: nn.ReLU = net.relu
        self.maxpool: nn.MaxPool2d = net.maxpool
        self.layer1: nn.Sequential = net.layer1
        self.layer2: nn.Sequential = net.layer2
        self.layer3: nn.Sequential = net.layer3
        self.layer4: nn.Sequential = net.layer4
        self.fc: nn.Linear = net.fc
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # a folded BatchNorm would let it overwrite its caller's h

    @property
    def first_layer(self) -> nn.Conv2d:
        return self.conv1

    def rest(self, h: Tensor) -> Tensor:
        h = self.maxpool(self.relu(self.bn1(h)))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.fc(global_average(h))
        return logits
