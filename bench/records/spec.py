"""Specifications of trainings, attacks and measures: frozen, validated, with an id.

A training's id hashes only what can change the weights, so adding an attack, moving the folder or
renaming the data does not retrain. Never change a default: it is hashed. A new field of a recipe is
named in `LATER`, so that old ids stay valid.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from bench.errors import ConfigError, refuse_unknown
from bench.param import Range, check_ranges, param

PRECISIONS = ("fp32", "bf16")
CHECKPOINTS = ("best", "last")
GIVEN = "given"
"""The checkpoint of a model from outside."""
SPLITS = ("train", "val", "test")
CHUNK = 256
"""Images per evaluation chunk: chunk c holds the indices [256 c, 256 c + 256)."""
LATER = ("micro_batch", "decay", "fresh_momentum", "time_decay", "eps")
"""Values of a recipe that are not hashed at their default: older ids are without them."""


def digest(value: Any, length: int) -> str:
    """Return the first hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", text).strip("-.") or "x"


class _Json:
    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the class called with them, or its `from_dict`, inverts it."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]
        return values


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, whatever its method; every value can change the weights."""

    epochs: int = field(metadata={"range": Range(ge=1)})
    batch_size: int = field(metadata={"range": Range(ge=1)})
    micro_batch: int | None = param(None, ge=2)
    """Images per forward pass of a step, whose gradients are summed over the batch; BatchNorm takes
    the statistics of these images. None takes the whole batch at once."""
    lr: float = field(metadata={"range": Range(gt=0)})
    """Peak learning rate of SGD."""
    momentum: float = param(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = param(5e-4, ge=0)
    decay: Literal["all", "weights"] = "all"
    """What it applies to: all parameters, or only the weights of convolutions and linear layers."""
    schedule: Literal["multistep", "cosine", "onecycle"] = "multistep"
    """The rate changes per iteration."""
    milestones: tuple[float, ...] = param((), gt=0, le=1)
    """For multistep: fractions of the training at which the rate drops."""
    drop: float | tuple[float, ...] = param(0.1, gt=0)
    """For multistep: the factor at each milestone; or one fraction of `lr` per milestone."""
    fresh_momentum: bool = False
    """For multistep: whether each drop also clears the momentum, like a new optimiser."""
    time_decay: float = param(0.0, ge=0)
    """The rate is divided by 1 + time_decay t, where t is the completed fraction of training."""
    warmup: float = param(0.3, ge=0, lt=1)
    """For onecycle: the fraction of training in which the rate rises."""
    clip: float | None = param(None, gt=0)
    """Largest norm of the whole gradient; None does not clip."""
    pad: int | None = param(None, ge=0)
    """Padding of the random crop, in pixels; None takes the data set's."""
    pad_mode: Literal["constant", "reflect"] = "constant"
    """constant (zeros) or reflect."""
    flip: bool | None = None
    """Random horizontal flips; None takes the data set's."""
    eps: float | None = param(None, gt=0, le=1)
    """Training radius for a study at 8/255, scaled in proportion for others; None takes the
    study's. In a TrainSpec it is None: the spec's own eps holds the result."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.micro_batch is not None and self.micro_batch >= self.batch_size:
            raise ConfigError(
                f"micro_batch = {self.micro_batch} must be below batch_size = {self.batch_size}"
            )
        if isinstance(self.drop, tuple) and len(self.drop) != len(self.milestones):
            raise ConfigError(f"drop = {self.drop}: give one number, or one for each milestone")

    def identity(self) -> dict[str, Any]:
        """Return the values that enter the run id."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in LATER or getattr(self, f.name) != f.default
        }


@dataclass(frozen=True, kw_only=True)
class TrainSpec(_Json):
    """One training run. Fields marked `label` are only names and do not enter the id."""

    method: str
    params: Mapping[str, Any]
    """Every hyper-parameter of the method, defaults included."""
    method_sha256: str | None = None
    """Of the method's file, unless it belongs to an installed package."""
    arch: str
    num_classes: int
    in_channels: int
    image_size: int
    mean: tuple[float, ...] | None = None
    """Normalisation inside the model, one value per channel; None is the identity."""
    std: tuple[float, ...] | None = None
    dataset: str = field(metadata={"label": True})
    data_sha256: str
    """Of the training and validation images, their scale, and their labels."""
    n_train: int
    n_val: int
    norm: str = "linf"
    eps: float
    study_eps: float | None = field(default=None, metadata={"label": True})
    """Radius of the study and its attacks, where the recipe trains at another radius."""
    seed: int
    precision: str = "fp32"
    recipe: Recipe
    recipe_name: str = field(metadata={"label": True})

    def __post_init__(self) -> None:
        refuse_unknown("precision", [self.precision], PRECISIONS)

    @property
    def attacked_eps(self) -> float:
        """Radius at which the model is attacked by default."""
        return self.eps if self.study_eps is None else self.study_eps

    @cached_property
    def run_id(self) -> str:
        hashed = {
            f.name: getattr(self, f.name) for f in fields(self) if not f.metadata.get("label")
        }
        hashed["recipe"] = self.recipe.identity()
        head = f"{slug(self.method)}-{self.arch}-{slug(self.dataset)}-s{self.seed}"
        return f"{head}-{digest(hashed, 10)}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSpec:
        recipe = Recipe(**_tuples(values["recipe"]))
        return cls(**_tuples({**values, "recipe": recipe}))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


@dataclass(frozen=True, kw_only=True)
class ModelSpec(_Json):
    """A model from outside."""

    model: str
    """FILE.py:FACTORY, or a package and a name: timm:NAME."""
    weights_sha256: str
    """Of the network's state dict as it is attacked."""
    source_sha256: str | None
    """Of the factory's file and its neighbours that it imports; None for an installed package."""
    num_classes: int
    dataset: str
    """The data variant's name: results on two data sets never share a record."""
    mean: Sequence[float] | None = None
    """Normalisation added in front of it, one value per channel; None for none."""
    std: Sequence[float] | None = None
    variant: int = 0
    """Numbers models that share all of the above but have different outputs."""

    @property
    def run_id(self) -> str:
        hashed = (
            *(self.model, self.weights_sha256, self.source_sha256),
            *(self.num_classes, self.dataset),
            # Left out at its default, so that older ids stay valid.
            *(() if self.mean is None else (self.mean, self.std)),
            *((self.variant,) if self.variant else ()),
        )
        return f"model-{slug(self.model.rpartition('/')[2])}-{digest(hashed, 10)}"


@dataclass(frozen=True, kw_only=True)
class _OnImages(_Json):
    """What specifications of attacks and of measures have in common."""

    checkpoint: str
    """best, last, or given for a model from outside."""
    params: Mapping[str, Any] = field(default_factory=dict)
    norm: str = "linf"
    eps: float
    split: str = "test"
    n_examples: int
    """The images are the first n of the split."""
    data_sha256: str
    seed: int = 0

    @property
    def surrogates(self) -> tuple[str, ...]:
        """Run ids of the other models that it needs, such as the source of a transfer."""
        return tuple(self.params.get("surrogates", ()))

    def _id(self, name: str) -> str:
        head = f"{slug(name)}-{self.checkpoint}-{self.split}{self.n_examples}"
        return f"{head}-eps{self.eps:.4f}-{digest(self.to_dict(), 8)}"


@dataclass(frozen=True, kw_only=True)
class EvalSpec(_OnImages):
    """One attack on one checkpoint over one set of images."""

    attack: str
    precision: str = "fp32"

    def __post_init__(self) -> None:
        refuse_unknown("checkpoint", [self.checkpoint], (*CHECKPOINTS, GIVEN))
        refuse_unknown("split", [self.split], SPLITS)

    @cached_property
    def eval_id(self) -> str:
        return self._id(self.attack)

    @property
    def title(self) -> str:
        return f"{self.attack} at {self.eps:.4g}"

    def chunks(self) -> list[list[int]]:
        """Return the index lists of the chunks, in order; they are never merged or split."""
        n = self.n_examples
        return [list(range(c, min(c + CHUNK, n))) for c in range(0, n, CHUNK)]


@dataclass(frozen=True, kw_only=True)
class MeasureSpec(_OnImages):
    """One property of one checkpoint, measured on the first images: a masking check, say."""

    name: str

    @property
    def measure_id(self) -> str:
        return self._id(self.name)

    @property
    def title(self) -> str:
        return self.name
