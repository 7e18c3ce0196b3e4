"""Records of evaluations: the outcome of every image under an attack, chunk by chunk. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from bench.spec import EvalSpec


@dataclass(frozen=True)
class Chunk:
    """The outcome of one attack on one chunk of images."""

    index: np.ndarray
    """(n,) dataset indices."""
    clean: np.ndarray
    """(n,) bool: correct without an attack."""
    survived: np.ndarray
    """(n,) bool: correct without and under the attack."""
    broken_by: np.ndarray
    """(n,) int8: which part broke it, an index into `parts`; -1 where none did."""
    parts: tuple[str, ...]
    """Names of the attack's parts, in the order in which they ran."""
    seconds: float
    warnings: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    """Versions and hardware."""
    label: np.ndarray | None = None
    """(n,) class indices; None in records from before labels were stored."""
    after: np.ndarray | None = None
    """(n,) bool: correct under the attack, whether or not correct without it; transfer only."""
    package_checks: tuple[Mapping[str, Any], ...] = ()
    """AutoAttack's own checks: name, value, threshold, alarm of each."""

    def on(self, index: np.ndarray) -> Chunk:
        """Restrict it to the images `index` (n,)."""
        kept = np.isin(self.index, index)
        names = ("index", "clean", "survived", "broken_by", "label", "after")
        arrays = {name: getattr(self, name) for name in names}
        return replace(self, **{k: v[kept] for k, v in arrays.items() if v is not None})


SQUARE_CHECK = "AA square breaks: share of images"
SQUARE_SHARE = 0.002
"""AutoAttack's own threshold of that check; here it is at least two images."""


def _excess(check: Mapping[str, Any]) -> float:
    """Distance above the threshold; infinite if the value is not a number."""
    value = check["value"]
    return float("inf") if value is None else float(value) - float(check["threshold"])


@dataclass(frozen=True)
class EvaluationRecord:
    """One attack on one checkpoint: specification and the chunks that exist."""

    eval_id: str
    spec: EvalSpec
    chunks: tuple[Chunk, ...]

    @cached_property
    def index(self) -> np.ndarray:
        """(n,) dataset indices that have an outcome, ascending; the other arrays go with it."""
        return _joined([chunk.index for chunk in self.chunks], np.int64)

    @cached_property
    def clean(self) -> np.ndarray:
        return _joined([chunk.clean for chunk in self.chunks], np.bool_)

    @cached_property
    def survived(self) -> np.ndarray:
        return _joined([chunk.survived for chunk in self.chunks], np.bool_)

    @cached_property
    def label(self) -> np.ndarray | None:
        """(n,) class indices; None if a chunk has no labels."""
        labels = [chunk.label for chunk in self.chunks if chunk.label is not None]
        return _joined(labels, np.int64) if len(labels) == len(self.chunks) else None

    @cached_property
    def after(self) -> np.ndarray | None:
        """(n,) bool: correct under a transferred image, clean or not; None if a chunk has none."""
        afters = [chunk.after for chunk in self.chunks if chunk.after is not None]
        return _joined(afters, np.bool_) if len(afters) == len(self.chunks) else None

    @property
    def package_checks(self) -> list[dict[str, Any]]:
        """AutoAttack's own checks, each from its worst chunk; Square's is counted over all."""
        worst: dict[str, dict[str, Any]] = {}
        for check in (check for chunk in self.chunks for check in chunk.package_checks):
            name = str(check["name"])
            if name not in worst or _excess(check) > _excess(worst[name]):
                worst[name] = dict(check)
        if SQUARE_CHECK in worst and self.n_examples:
            share = self.broken_by().get("square", 0) / self.n_examples
            limit = max(SQUARE_SHARE, 2 / self.n_examples)
            worst[SQUARE_CHECK] |= {"value": share, "threshold": limit, "alarm": share > limit}
        return list(worst.values())

    def class_accuracies(self, *, clean: bool = False) -> dict[int, float] | None:
        """Map each class to its accuracy, under the attack or `clean`; None without labels."""
        if self.label is None:
            return None
        right = self.clean if clean else self.survived
        return {int(k): float(right[self.label == k].mean()) for k in np.unique(self.label)}

    def balanced_accuracy(self, *, clean: bool = False) -> float | None:
        """Mean of the class accuracies, which large classes do not dominate.

        Restricted ImageNet is mostly dogs, and so is its accuracy. None without labels or images.
        """
        accuracies = self.class_accuracies(clean=clean)
        return sum(accuracies.values()) / len(accuracies) if accuracies else None

    @property
    def complete(self) -> bool:
        return len(self.index) == self.spec.n_examples

    @property
    def n_examples(self) -> int:
        return len(self.index)

    @property
    def n_correct(self) -> int:
        return int(self.survived.sum())

    @property
    def seconds(self) -> float:
        return sum(chunk.seconds for chunk in self.chunks)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(w for chunk in self.chunks for w in chunk.warnings))

    def on(self, index: np.ndarray) -> EvaluationRecord:
        """Restrict it to the images `index` (n,)."""
        return replace(self, chunks=tuple(chunk.on(index) for chunk in self.chunks))

    def broken_by(self) -> dict[str, int]:
        """Count the images that each part of the attack broke."""
        counts: dict[str, int] = {}
        for chunk in self.chunks:
            for number, part in enumerate(chunk.parts):
                counts[part] = counts.get(part, 0) + int((chunk.broken_by == number).sum())
        return counts


def _joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)
