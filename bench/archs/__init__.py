"""Architectures by name: a dict of factories, one file per family."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.archs.arch import Arch, ArchSpec
from bench.archs.feedforward import Cnn, Vgg16
from bench.archs.resnet import PreActResNet18, ResNet18, ResNet50, WideResNet
from bench.errors import unknown_name
from bench.papers import plugins

__all__ = ["ALIASES", "ARCHS", "Arch", "ArchSpec", "build", "describe", "list_archs", "resolve"]

ARCHS: dict[str, tuple[Callable[[ArchSpec], Arch], str]] = {
    "cnn": (Cnn, "small convolutional network for digits and quick studies; 98,970 parameters"),
    "vgg-16": (Vgg16, "VGG-16 with BatchNorm for 32x32 images; 14,728,266 parameters"),
    "wrn-34-10": (
        partial(WideResNet, depth=34, widen=10),
        "wide residual network of TRADES; 46,160,474 parameters",
    ),
    "wrn-28-10": (
        partial(WideResNet, depth=28, widen=10),
        "wide residual network of depth 28; 36,479,194 parameters",
    ),
    "resnet-18": (
        ResNet18,
        "post-activation ResNet-18 for 32x32 images; 11,173,962 parameters",
    ),
    "preact-resnet-18": (
        partial(PreActResNet18, raw_shortcut=False),
        "PreActResNet-18 of robust overfitting and AWP, whose shortcut reads the activated input; "
        "11,172,170 parameters",
    ),
    "preact-resnet-18-raw": (
        partial(PreActResNet18, raw_shortcut=True),
        "PreActResNet-18 of fast adversarial training, whose shortcut reads the raw input; "
        "11,172,170 parameters",
    ),
    "resnet-50": (
        ResNet50,
        "torchvision's ResNet-50 for large images; 23,528,522 parameters",
    ),
}
"""Name -> factory, and a line that describes it."""
ALIASES = {"wrn": "wrn-34-10", "vgg": "vgg-16"}


def build(
    name: str,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int = 32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Arch:
    """Return a new network by name or alias, initialised from torch's global generator.

    Input (B, in_channels, H, W) in [0, 1], output logits (B, num_classes). `mean` and `std`, one
    value per channel, normalise inside the network and are saved with its weights. Only `linear`
    needs `image_size`. Raises ConfigError for an unknown name or an impossible value.
    """
    fit: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    factory, _ = _known()[resolve(name)]
    return factory(ArchSpec(**fit, image_size=image_size, mean=mean, std=std))


def resolve(name: str) -> str:
    """Return the canonical name, which records use; raises ConfigError for an unknown one."""
    canonical = ALIASES.get(name, name)
    if canonical not in _known():
        raise unknown_name("arch", name, [*_known(), *ALIASES])
    return canonical


def list_archs() -> list[str]:
    return sorted(_known())


def describe(name: str) -> str:
    """Return one line; parameters are counted for 10 classes and 32x32 colour images."""
    canonical = resolve(name)
    aliases = [alias for alias, target in ALIASES.items() if target == canonical]
    return _known()[canonical][1] + "".join(f"; alias {alias}" for alias in aliases)


def _known() -> dict[str, tuple[Callable[[ArchSpec], Arch], str]]:
    return ARCHS | plugins("archs")
