"""ResNet-18 for small images, post-activation.

He et al. 2016 (arXiv 1512.03385) with a 3x3 first convolution and no max-pooling, as in the code of
TRADES, MART and the RobustBench zoo, whose state-dict keys and initialisation (PyTorch's default)
this keeps. Differs from them: the last map is averaged whatever its size, not only where it is 4x4.
"""

from __future__ import annotations

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
        """(B, n_in, H, W) -> (B, n_out, H / stride, W / stride)."""
        h = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(h + self.shortcut(x))
        return out


class ResNet18(Arch):
    """Four groups of two blocks, of width 64, 128, 256, 512."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(spec)
        self.conv1 = conv3x3(spec.in_channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.linear = nn.Linear(512, spec.num_classes)

    @property
    def first_layer(self) -> nn.Conv2d:
        """The first convolution."""
        return self.conv1

    def rest(self, h: Tensor) -> Tensor:
        """(B, 64, H, W) -> logits (B, K)."""
        h = self.layer1(self.relu(self.bn1(h)))
        h = self.layer4(self.layer3(self.layer2(h)))
        logits: Tensor = self.linear(global_average(h))
        return logits
