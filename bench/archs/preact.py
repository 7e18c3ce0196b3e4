"""PreActResNet-18 for small images, with either of the two shortcuts in circulation.

He et al. 2016 (arXiv 1603.05027), with the BatchNorm and ReLU before the classifier that the
robust-training repositories use. State-dict keys and initialisation (PyTorch's default) are those
of `preactresnet.py` in locuslab/robust_overfitting and locuslab/fast_adversarial.

The trap: where a block changes the width, its 1x1 shortcut reads the activated input (robust
overfitting, AWP, GAIRAT, HAT) or the raw input (fast adversarial training). Both have the same keys
and sizes, so weights of one load into the other without an error and give a wrong accuracy: the
names `preact-resnet-18` and `preact-resnet-18-raw` keep them apart.

Differs from both: the last map is averaged whatever its size, not only where it is 4x4.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.archs.arch import Arch, ArchSpec, conv3x3, global_average


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
        """(B, n_in, H, W) -> (B, n_out, H / stride, W / stride)."""
        h = self.relu1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(x if self.raw_shortcut else h)
        out: Tensor = shortcut + self.conv2(self.relu2(self.bn2(self.conv1(h))))
        return out


class PreActResNet18(Arch):
    """Four groups of two blocks, of width 64, 128, 256, 512."""

    def __init__(self, spec: ArchSpec, *, raw_shortcut: bool) -> None:
        super().__init__(spec)

        def group(n_in: int, n_out: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                PreActBlock(n_in, n_out, stride, raw_shortcut=raw_shortcut),
                PreActBlock(n_out, n_out, 1, raw_shortcut=raw_shortcut),
            )

        self.conv1 = conv3x3(spec.in_channels, 64)
        self.layer1 = group(64, 64, 1)
        self.layer2 = group(64, 128, 2)
        self.layer3 = group(128, 256, 2)
        self.layer4 = group(256, 512, 2)
        self.bn = nn.BatchNorm2d(512)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(512, spec.num_classes)

    @property
    def first_layer(self) -> nn.Conv2d:
        """The first convolution."""
        return self.conv1

    def rest(self, h: Tensor) -> Tensor:
        """(B, 64, H, W) -> logits (B, K)."""
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.linear(global_average(self.relu(self.bn(h))))
        return logits
