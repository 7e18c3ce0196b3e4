"""Wide residual networks, as in TRADES.

Zagoruyko and Komodakis 2016 (arXiv 1605.07146); state-dict keys, layer order and initialisation
of `models/wideresnet.py` of github.com/yaodongyu/TRADES, which the RobustBench zoo shares.
Convolutions are drawn from N(0, 2 / (k * k * out)), the classifier's bias is zero, no dropout.

Differs from that file: its `sub_block1` is left out. It is built and saved there but never called,
so it adds 2,102,112 dead parameters to WRN-34-10; `bench.archs.weights` drops its keys on loading.
The last map is averaged whatever its size; there it must be 8x8, that is, a 32x32 image.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.archs.arch import Arch, ArchSpec, conv3x3, global_average


class WideBlock(nn.Module):
    """Pre-activation block; where the width changes, the shortcut reads the activated input."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(n_in, n_out, stride)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU()
        self.conv2 = conv3x3(n_out, n_out)
        projects = n_in != n_out
        self.convShortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(h)
        out: Tensor = shortcut + self.conv2(self.relu2(self.bn2(self.conv1(h))))
        return out


class WideGroup(nn.Module):
    """Blocks of one width. A module of its own for the `layer` in the keys."""

    def __init__(self, n_blocks: int, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(n_in, n_out, stride)
        self.layer = nn.Sequential(
            first, *(WideBlock(n_out, n_out, 1) for _ in range(n_blocks - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(Arch):
    """WRN-depth-widen: three groups of (depth - 4) / 6 blocks, of width 16, 32, 64 times widen."""

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
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    @property
    def first_layer(self) -> nn.Conv2d:
        return self.conv1

    def rest(self, h: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(h)))
        logits: Tensor = self.fc(global_average(self.relu(self.bn1(h))))
        return logits
