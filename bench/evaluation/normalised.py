"""Whether a model expects images that were normalised outside of it.

The commonest mistake with a model from elsewhere: it then sees images it was not trained on, its
clean accuracy falls, and every attack is of another problem.

Shapes: n images, C H W image.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from bench.attacks.blocks import Blocked
from bench.attacks.maximise import attack_mode
from bench.errors import ModelError
from bench.evaluation.chunk import exact_arithmetic, predictions
from bench.spec import CHUNK

GAIN = 0.1
GAIN_IMAGES = 3
"""A normalisation is named where it makes more than this share, and number, of images right."""
COMMON = {
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation, per channel, that training scripts write out."""


def expects_normalised(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int, right: Tensor | None = None
) -> list[str]:
    """A warning where a common normalisation makes many more of the first images right.

    x (n, C, H, W) in [0, 1], y (n,). Tried are the images' own mean and standard deviation, 0.5
    and 0.5, and for three channels CIFAR-10's and ImageNet's. right: (n,) bool, whether each is
    right as it is, where that is known.
    """
    first, labels = x[:CHUNK], y[:CHUNK]
    n = len(first)
    with attack_mode(model, "eval"), exact_arithmetic():
        blocked = Blocked(model, batch_size)
        as_they_are = predictions(blocked, first, labels)[0] if right is None else right[:CHUNK]
        n_right = int(as_they_are.sum())
        if n - n_right <= max(GAIN * n, GAIN_IMAGES):
            return []
        tried: dict[str, int] = {}
        for name, (mean, std) in _candidates(first).items():
            with suppress(ModelError):  # a model may refuse pixels outside of [0, 1], and is right
                found, _ = predictions(blocked, (first - mean) / std, labels)
                tried[name] = int(found.sum())
    if not tried:
        return []
    best = max(tried, key=lambda name: tried[name])
    if tried[best] - n_right <= max(GAIN * n, GAIN_IMAGES):
        return []
    mean, std = _candidates(first)[best]
    return [
        f"{n_right} of the first {n} images are right as they are, {tried[best]} once they are "
        f"normalised by {best} mean and standard deviation: if the model expects that, put it "
        f"inside (--mean {_text(mean)} --std {_text(std)})"
    ]


def _candidates(x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> mean and standard deviation (1, C, 1, 1)."""
    n_channels = x.shape[1]
    constants = {"0.5 as": ((0.5,) * n_channels, (0.5,) * n_channels)}
    constants |= {name: pair for name, pair in COMMON.items() if len(pair[0]) == n_channels}
    found = {
        name: (
            torch.tensor(mean, dtype=x.dtype, device=x.device).view(1, -1, 1, 1),
            torch.tensor(std, dtype=x.dtype, device=x.device).view(1, -1, 1, 1),
        )
        for name, (mean, std) in constants.items()
    }
    std, mean = torch.std_mean(x, (0, 2, 3), keepdim=True)
    if len(x) > 1 and bool((std > 0).all()):
        found["the images' own"] = mean, std
    return found


def _text(values: Tensor) -> str:
    return ",".join(f"{value:.4g}" for value in values.flatten().tolist())
