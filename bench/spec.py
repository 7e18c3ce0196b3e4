"""What is asked: a training, or an evaluation of its outcome. Frozen, validated, with an id.

A training's id hashes what can change the weights and nothing else, so that another attack,
another folder or another name never trains a model again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bench.errors import ConfigError
from bench.recipe import Recipe

PRECISIONS = ("fp32", "bf16")
CHECKPOINTS = ("best", "last")
GIVEN = "given"
"""The checkpoint of a model that was not trained here."""
SPLITS = ("train", "val", "test")
CHUNK = 256
"""Images of one evaluation chunk: chunk c holds those of the indices [256 c, 256 c + 256)."""


def digest(value: Any, length: int) -> str:
    """The first hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def slug(text: str) -> str:
    """`text` as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", text).strip("-.") or "x"


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """One training run. Fields marked `label` name things and do not enter the id."""

    method: str
    params: Mapping[str, Any]
    """Every hyper-parameter of the method, defaults included."""
    method_sha256: str | None = None
    """Of the method's file, where that is not part of an installed package."""
    arch: str
    num_classes: int
    in_channels: int
    image_size: int
    """Pixels a side."""
    mean: tuple[float, ...] | None = None
    """Normalisation inside the model, a value per channel; None is the identity."""
    std: tuple[float, ...] | None = None
    dataset: str = field(metadata={"label": True})
    """The data variant's name in every table."""
    data_sha256: str
    """Of the training and validation images, their scale, and their labels."""
    n_train: int
    n_val: int
    norm: str = "linf"
    eps: float
    """Radius of the training."""
    study_eps: float | None = field(default=None, metadata={"label": True})
    """Radius of the study, at which it is attacked, where the recipe trains at another."""
    seed: int
    precision: str = "fp32"
    recipe: Recipe
    recipe_name: str = field(metadata={"label": True})

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision '{self.precision}' is unknown; use {' or '.join(PRECISIONS)}"
            )

    @property
    def attacked_eps(self) -> float:
        """Radius at which the model is attacked unless something else is asked for."""
        return self.eps if self.study_eps is None else self.study_eps

    @property
    def run_id(self) -> str:
        """Readable head, hashed tail."""
        hashed = {
            f.name: getattr(self, f.name) for f in fields(self) if not f.metadata.get("label")
        }
        hashed["recipe"] = self.recipe.identity()
        head = f"{slug(self.method)}-{self.arch}-{slug(self.dataset)}-s{self.seed}"
        return f"{head}-{digest(hashed, 10)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSpec:
        """The specification that `to_dict` wrote."""
        plain: dict[str, Any] = {name: _tuples(value) for name, value in values.items()}
        recipe: dict[str, Any] = {k: _tuples(v) for k, v in values["recipe"].items()}
        return cls(**(plain | {"recipe": Recipe(**recipe)}))


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model that was not trained here."""

    model: str
    """Where it comes from: FILE.py:FACTORY, or a package and a name: timm:NAME."""
    weights_sha256: str
    """Of the network's state dict as it is attacked, wherever that came from."""
    source_sha256: str | None
    """Of the factory's file, with those beside it that it imports; None for a model of an
    installed package."""
    num_classes: int
    dataset: str
    """The data variant's name: images of two data sets never share a record."""
    mean: Sequence[float] | None = None
    """Normalisation that was put in front of it, a value per channel; None for none."""
    std: Sequence[float] | None = None
    variant: int = 0
    """Counts the models that have all of the above in common, and other outputs."""

    @property
    def run_id(self) -> str:
        """Readable head, hashed tail."""
        hashed = (
            *(self.model, self.weights_sha256, self.source_sha256),
            *(self.num_classes, self.dataset),
            # Ids from before there was a normalisation stay as they were.
            *(() if self.mean is None else (self.mean, self.std)),
            *((self.variant,) if self.variant else ()),
        )
        return f"model-{slug(self.model.rpartition('/')[2])}-{digest(hashed, 10)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `ModelSpec(**values)` is the inverse."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """One attack on one checkpoint over one set of images."""

    checkpoint: str
    """best, last, or given for a model that was not trained here."""
    attack: str
    params: Mapping[str, Any] = field(default_factory=dict)
    """The attack's parameters, defaults included."""
    norm: str = "linf"
    eps: float
    split: str = "test"
    n_examples: int
    """The images are the first n of the split."""
    data_sha256: str
    """Of those images and labels."""
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("checkpoint", self.checkpoint, (*CHECKPOINTS, GIVEN)),
            ("split", self.split, SPLITS),
        ):
            if value not in known:
                raise ConfigError(f"{name} '{value}' is unknown; use {', '.join(known)}")

    @property
    def eval_id(self) -> str:
        """Readable head, hashed tail."""
        head = f"{slug(self.attack)}-{self.checkpoint}-{self.split}{self.n_examples}"
        return f"{head}-eps{self.eps:.4f}-{digest(self.to_dict(), 8)}"

    @property
    def surrogates(self) -> tuple[str, ...]:
        """Run ids of the models that the attack was crafted on, where it is a transfer."""
        return tuple(self.params.get("surrogates", ()))

    def chunks(self) -> list[list[int]]:
        """The index lists of the chunks, in order; they are never merged or split."""
        n = self.n_examples
        return [list(range(c, min(c + CHUNK, n))) for c in range(0, n, CHUNK)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `EvalSpec(**values)` is the inverse."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


@dataclass(frozen=True, kw_only=True)
class MeasureSpec:
    """One property of one checkpoint, measured on the first images: a masking check, say."""

    checkpoint: str
    """best, last, or given for a model that was not trained here."""
    name: str
    """Of the measure or check."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Its parameters, defaults included."""
    norm: str = "linf"
    eps: float
    split: str = "test"
    n_examples: int
    """The images are the first n of the split."""
    data_sha256: str
    """Of those images and labels."""
    seed: int = 0

    @property
    def measure_id(self) -> str:
        """Readable head, hashed tail."""
        head = f"{slug(self.name)}-{self.checkpoint}-{self.split}{self.n_examples}"
        return f"{head}-eps{self.eps:.4f}-{digest(self.to_dict(), 8)}"

    @property
    def surrogates(self) -> tuple[str, ...]:
        """Run ids of the models that it needs beside the measured one."""
        return tuple(self.params.get("surrogates", ()))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `MeasureSpec(**values)` is the inverse."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values
