"""ResNet-50 for large images: torchvision's, with its state-dict keys and initialisation."""

from __future__ import annotations

from torch import Tensor, nn

from bench.archs.arch import Arch, ArchSpec, global_average


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
        """The first convolution."""
        return self.conv1

    def rest(self, h: Tensor) -> Tensor:
        """(B, 64, H / 2, W / 2) -> logits (B, K)."""
        h = self.maxpool(self.relu(self.bn1(h)))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.fc(global_average(h))
        return logits
