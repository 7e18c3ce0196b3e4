"""Residual networks: ResNet-18, PreActResNet-18 and WRN for small images, ResNet-50 for large ones.

State-dict keys and initialisation are those of the public code. The networks for small images begin
with a 3x3 convolution, without max-pooling; differs from the public code: the last map is averaged
whatever its size, not only if it is 4x4 (WRN: 8x8).

Shapes: B batch, C H W image, K classes.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from bench.archs.arch import Arch, ArchSpec, conv3x3, global_average

LAYERS = ("layer1", "layer2", "layer3", "layer4")


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


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus the shortcut, which reads the activated or the raw input."""

    def __init__(self, n_in: int, n_out: int, stride: int, *, raw_shortcut: bool = False) -> None:
        super().__init__()
        self.raw_shortcut = raw_shortcut
        self.bn1 = nn.BatchNorm2d(n_in)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(n_in, n_out, stride)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU()
        self.conv2 = conv3x3(n_out, n_out)
        projects = stride != 1 or n_in != n_out
        self.project(nn.Conv2d(n_in, n_out, 1, stride, bias=False) if projects else None)

    def project(self, projection: nn.Conv2d | None) -> None:
        """Keep the shortcut's convolution, under the key of the public code."""
        self.shortcut = None if projection is None else nn.Sequential(projection)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(x if self.raw_shortcut else h)
        out: Tensor = shortcut + self.conv2(self.relu2(self.bn2(self.conv1(h))))
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

    def rest(self, h: Tensor) -> Tensor:
        h = self.layer1(self.relu(self.bn1(h)))
        h = self.layer4(self.layer3(self.layer2(h)))
        logits: Tensor = self.linear(global_average(h))
        return logits


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

    def rest(self, h: Tensor) -> Tensor:
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.linear(global_average(self.relu(self.bn(h))))
        return logits


class WideBlock(PreActBlock):
    """PreActBlock with the keys of TRADES."""

    def project(self, projection: nn.Conv2d | None) -> None:
        self.convShortcut = projection

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(h)
        out: Tensor = shortcut + self.conv2(self.relu2(self.bn2(self.conv1(h))))
        return out


class WideGroup(nn.Module):
    """Blocks of one width. A module of its own for the `layer` in the keys."""

    def __init__(self, n_blocks: int, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        others = (WideBlock(n_out, n_out, 1) for _ in range(n_blocks - 1))
        self.layer = nn.Sequential(WideBlock(n_in, n_out, stride), *others)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(Arch):
    """WRN-depth-widen: three groups of (depth - 4) / 6 blocks, of width 16, 32, 64 times widen.

    Zagoruyko and Komodakis 2016 (arXiv 1605.07146); state-dict keys, layer order and initialisation
    of `models/wideresnet.py` of github.com/yaodongyu/TRADES, which the RobustBench zoo shares.
    Convolutions are drawn from N(0, 2 / (k * k * out)), the classifier's bias is zero, no dropout.

    Differs from that file: its `sub_block1` is left out. It is built and saved there but never
    called, so it adds 2,102,112 dead parameters to WRN-34-10; `bench.archs.state_dict` ignores its
    keys on loading.
    """

    def __init__(self, spec: ArchSpec, *, depth: int, widen: int) -> None:
        super().__init__(spec)
        n_blocks, left_over = divmod(depth - 4, 6)
        assert left_over == 0, depth
        widths = (16 * widen, 32 * widen, 64 * widen)
        self.conv1 = conv3x3(spec.in_channels, 16)
        self.block1 = WideGroup(n_blocks, 16, widths[0], 1)
        self.block2 = WideGroup(n_blocks, widths[0], widths[1], 2)
        self.block3 = WideGroup(n_blocks, widths[1], widths[2], 2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU()
        self.fc = nn.Linear(widths[2], spec.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def rest(self, h: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(h)))
        logits: Tensor = self.fc(global_average(self.relu(self.bn1(h))))
        return logits


class ResNet50(Arch):
    """torchvision's ResNet-50: 7x7 first convolution of stride 2, max-pooling, any image size.

    He et al. 2016 (arXiv 1512.03385), the stride on the 3x3 convolutions. Differs from torchvision:
    no ReLU works in place, and `in_channels` other than 3 redraws the first convolution alike.
    """

    fc: nn.Linear

    def __init__(self, spec: ArchSpec) -> None:
        # Imported here: it takes as long as torch, and no other architecture needs it.
        from torchvision.models import resnet50

        super().__init__(spec)
        net = resnet50(num_classes=spec.num_classes)
        if spec.in_channels != 3:
            net.conv1 = nn.Conv2d(spec.in_channels, 64, 7, 2, padding=3, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        # The layers themselves, not the net, so that the keys are torchvision's.
        for name in (*("conv1", "bn1", "relu", "maxpool"), *LAYERS, "fc"):
            self.add_module(name, getattr(net, name))
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # a folded BatchNorm would let it overwrite its caller's h

    def rest(self, h: Tensor) -> Tensor:
        for name in ("bn1", "relu", "maxpool", *LAYERS):
            h = getattr(self, name)(h)
        logits: Tensor = self.fc(global_average(h))
        return logits
