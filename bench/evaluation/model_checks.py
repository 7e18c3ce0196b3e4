"""What is wrong with a model's output: warnings on the first images, and AutoAttack's own checks.

Shapes: n images, C H W image, K classes.
"""

import sys
from contextlib import suppress
from itertools import combinations
from types import SimpleNamespace

import torch
from pyautoattack import checks as package
from torch import Tensor, nn

from bench.attacks.networks import MIN_ROWS, BatchedModel, fitted
from bench.errors import ConfigError, ModelError
from bench.evaluation.checks.context import LEAST_IMAGES, Check
from bench.evaluation.inputs import ExternalNetwork
from bench.evaluation.prediction import evaluating, is_right, predictions
from bench.indicator import Indicator
from bench.losses import dlr
from bench.records.spec import CHUNK

SAME = 1e-4
"""Largest difference of logits, relative to their size, between two batchings of an image.

AutoAttack's threshold for logits scaled to length 1 is the same.
"""
GAIN = 0.1
GAIN_IMAGES = 3
"""A normalisation is reported if it corrects more than this share, and number, of images."""
COMMON = {
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation, per channel, that training scripts contain."""
REPEATS = 5
SQUARE = 0.002


def inspect_model(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> list[str]:
    """Return warnings about the model's output on the first images.

    batch_size: most rows per call; fewer if the memory runs out. Raises ConfigError if the output
    cannot be logits of these labels.
    """
    return fitted(model, batch_size, x.device, lambda rows: _inspected(model, x, y, rows))


def _inspected(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> list[str]:
    notes = []
    if model.training:
        notes.append("the model was in train mode; it is evaluated in eval mode")
    first, labels = x[:CHUNK], y[:CHUNK]
    with evaluating(model), torch.no_grad():
        if isinstance(model, ExternalNetwork):
            notes += model.probe(first)
        blocked = BatchedModel(model, batch_size)
        logits = blocked(first)
        unsteady = _unsteady(blocked, first, logits)
    if logits.ndim != 2 or len(logits) != len(first):
        raise ConfigError(
            f"the model returns {tuple(logits.shape)} for {len(first)} images; "
            "it must return logits (n, K)"
        )
    n_classes = logits.shape[1]
    if int(y.max()) >= n_classes or int(y.min()) < 0:
        raise ConfigError(
            f"labels are in {int(y.min())}..{int(y.max())} and the model has {n_classes} classes"
        )
    finite = logits.isfinite().all(1)
    if not finite.all():
        notes.append(f"{int((~finite).sum())} of the first {len(first)} images: logits not finite")
    good = logits[finite]
    if len(good) and bool((good >= 0).all()) and bool(((good.sum(1) - 1).abs() < 1e-4).all()):
        notes.append(
            "the model seems to return probabilities; attacks need logits: remove its softmax"
        )
    notes += unsteady
    if bool((logits.argmax(1)[finite] == labels[finite]).float().mean() < 1.5 / n_classes):
        notes.append(
            "clean accuracy is near chance: are labels, channels and normalisation the model's own?"
        )
    return notes


def _unsteady(model: nn.Module, x: Tensor, logits: Tensor) -> list[str]:
    """Return a warning if an image's logits (n, K), of x all at once, depend on anything else.

    The images are predicted again in other batches: few of them, only one, and a part that begins
    elsewhere. Only rounding may change.
    """

    def differ(logits: Tensor, others: Tensor) -> bool:
        if logits.shape != others.shape:
            return True
        known = (logits.isfinite() & others.isfinite()).all(1)
        apart, size = (logits - others)[known].abs(), logits[known].abs()
        return bool(known.any()) and bool(apart.amax() > SAME * size.amax())

    relied = "; no attack's result on this model can be relied on"
    if differ(logits, model(x)):
        what = "the model's logits are random, or change from call to call"
        return [f"{what}: two calls on the same images differ{relied}"]
    n = len(x)
    parts = [slice(0, MIN_ROWS), slice(0, 1), slice(n // 3, n)]
    if any(differ(logits[part], model(x[part])) for part in parts) or (
        n == 1 and differ(logits, model(torch.cat([x, 1 - x]))[:1])
    ):
        return [f"an image's logits depend on the other images of its batch{relied}"]
    return []


def expects_normalised(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int, right: Tensor | None = None
) -> list[str]:
    """Return a warning if a common normalisation corrects many more of the first images.

    The most common mistake with external models: a model that expects normalised images sees
    others than it was trained on, and every attack solves another problem. Candidates are the
    images' own mean and standard deviation, 0.5 and 0.5, and for three channels CIFAR-10's and
    ImageNet's. x: (n, C, H, W) in [0, 1]; y: (n,); right: (n,) bool, correct without a
    normalisation, if known.
    """
    return fitted(model, batch_size, x.device, lambda n: _expects_normalised(model, x, y, n, right))


def _expects_normalised(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int, right: Tensor | None
) -> list[str]:
    first, labels = x[:CHUNK], y[:CHUNK]
    n, candidates = len(first), _candidates(first)
    with evaluating(model):
        blocked = BatchedModel(model, batch_size)
        as_they_are = predictions(blocked, first, labels)[0] if right is None else right[:CHUNK]
        n_right = int(as_they_are.sum())
        enough = n_right + max(GAIN * n, GAIN_IMAGES)
        tried = {"": n_right}
        for name, (mean, std) in candidates.items() if n > enough else ():
            with suppress(ModelError):  # a model may refuse pixels outside [0, 1]
                found, _ = predictions(blocked, (first - mean) / std, labels)
                tried[name] = int(found.sum())
    best = max(tried, key=lambda name: tried[name])
    if tried[best] <= enough:
        return []
    mean, std = candidates[best]
    return [
        f"{n_right} of the first {n} images are right as they are, {tried[best]} once they are "
        f"normalised by {best} mean and standard deviation: if the model expects that, put it "
        f"inside (--mean {as_option(mean)} --std {as_option(std)})"
    ]


def as_option(values: Tensor) -> str:
    """Return `0.4914,0.4822,0.4465`."""
    return ",".join(f"{value:.4g}" for value in values.flatten().tolist())


def _candidates(x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return name -> mean and standard deviation, both (1, C, 1, 1)."""
    half = (0.5,) * x.shape[1]
    found = {
        name: (x.new_tensor(mean).view(1, -1, 1, 1), x.new_tensor(std).view(1, -1, 1, 1))
        for name, (mean, std) in {"0.5 as": (half, half), **COMMON}.items()
        if len(mean) == len(half)
    }
    std, mean = torch.std_mean(x, (0, 2, 3), keepdim=True)
    if len(x) > 1 and bool((std > 0).all()):
        found["the images' own"] = mean, std
    return found


def package_checks(
    model: nn.Module, x: Tensor, y: Tensor, n_square: int | None
) -> tuple[Check, ...]:
    """Return AutoAttack's own checks on the images (n, C, H, W) of a chunk, as numbers.

    Definitions and thresholds are the package's (checks.py of fra31/auto-attack), which only
    prints them. The last threshold is at least two images, since 0.2 points are less than one
    image of a hundred. The check on the number of classes is left out: too few are refused.

    n_square: images that Square broke after the gradient attacks; None if it did not follow any.
    """
    with torch.no_grad():
        calls = [torch.nn.functional.normalize(model(x), dim=1) for _ in range(REPEATS)]
        logits = model(x)
    is_distribution = ((logits > -1e-5) & (logits < 1 + 1e-5)).all(1)
    is_distribution &= (logits.sum(1) - 1).abs() < 1e-5
    apart = torch.stack([_apart(a, b) for a, b in combinations(calls, 2)]).max()
    read = torch.stack(  # at once, for a GPU is waited for at every read
        [value.double() for value in (apart, is_distribution.all(), *_zero_gradients(model, x, y))]
    ).tolist()
    largest, distribution, n_zero, n_attacked = read
    found = [
        ("repeated calls: logits apart by", largest, SAME, 0),
        ("output is a probability vector", distribution, 0.0, 0),
        ("gradients taken in a forward pass", float(_n_gradients_inside(model, x)), 0.0, 0),
        ("zero gradients of DLR: share of images", n_zero / max(n_attacked, 1), 0.0, 0),
    ]
    if n_square is not None:
        most = max(SQUARE, LEAST_IMAGES / len(y))
        found.append(("square breaks: share of images", n_square / len(y), most, len(y)))
    return tuple(
        Check(
            *(f"AA {name}", value, most, Indicator(name, value, most, n).alarm),
            source="AutoAttack, checks.py",
        )
        for name, value, most, n in found
    )


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Largest distance of two rows; 2, that of opposites, if only one of them is NaN."""
    difference = (a - b).masked_fill(a.isnan() & b.isnan(), 0.0)
    largest: Tensor = difference.norm(dim=1).nan_to_num(nan=2.0).max()
    return largest


def _n_gradients_inside(model: nn.Module, x: Tensor) -> int:
    """Count calls of autograd inside a forward pass; the package never resets its counter."""
    tracer = sys.gettrace()  # of a debugger or of coverage; the package removes it
    package.funcs.update(dict.fromkeys(package.funcs, 0))
    silent = SimpleNamespace(warning=lambda message: None)  # the number says it
    try:
        with torch.no_grad():
            package.check_dynamic(model, x[:1], logger=silent)
    finally:
        sys.settrace(tracer)
    n_calls = int(sum(package.funcs.values()))
    package.funcs.update(dict.fromkeys(package.funcs, 0))
    return n_calls


def _zero_gradients(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Count the correct images whose gradient of the DLR loss is zero in every pixel, and all.

    Only these are attacked; where y ranks third, the loss is constant in any model.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        loss = dlr(logits, y).sum()
        gradient = torch.zeros_like(x)
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, x, materialize_grads=True)
    attacked = is_right(logits, y)
    zero = (gradient.flatten(1).abs().amax(1) == 0) & attacked
    return zero.sum(), attacked.sum()
