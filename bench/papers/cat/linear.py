"""A linear classifier of pixels: attacks on it have a closed form."""

from torch import Tensor, nn

from bench.archs.arch import Arch, ArchSpec


class Linear(Arch):
    """Flatten, then one Linear layer, which is the whole network. PyTorch's default init."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(spec)
        self.fc = nn.Linear(spec.in_channels * spec.image_size**2, spec.num_classes)

    @property
    def first_layer(self) -> nn.Linear:
        return self.fc

    def stem(self, x: Tensor) -> Tensor:
        """Return the logits, (B, C, H, W) -> (B, K)."""
        return (
            super().stem(x.flatten(1))
            if self.mean is None
            else self.fc(self.normalise(x).flatten(1))
        )

    def rest(self, h: Tensor) -> Tensor:
        return h


ARCHS = {"linear": (Linear, "one linear layer on the pixels; 30,730 parameters")}
