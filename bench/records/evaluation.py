"""Records of attacks: the outcome of every image of a chunk, and of an evaluation. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import RecordError, one_line
from bench.indicator import Indicator
from bench.records.spec import CHUNK, EvalSpec
from bench.storage import DAMAGE, Entry, read_pair

SQUARE_CHECK = "AA square breaks: share of images"
SQUARE_SHARE = 0.002
"""AutoAttack's own threshold of that check; here it is at least two images."""


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

    @classmethod
    def of(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Chunk:
        """Read what `entry` wrote; raises one of DAMAGE for anything else."""
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in facts.items() if name in known}
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        return cls(**values | lists | dict(arrays))

    def entry(self) -> Entry:
        """Return the chunk as it is stored."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
        facts = {name: v for name, v in values.items() if name not in arrays and v is not None}
        return Entry(json.loads(json.dumps(facts)), arrays)

    def on(self, index: np.ndarray) -> Chunk:
        kept = np.isin(self.index, index)
        arrays: dict[str, Any] = {k: v[kept] for k, v in self.entry().arrays.items()}
        return replace(self, **arrays)


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

    @classmethod
    def of(cls, eval_id: str, entry: Entry) -> EvaluationRecord:
        """Read what `entry` wrote; raises one of DAMAGE for anything else."""
        facts, arrays = entry
        spec = EvalSpec(**facts["spec"])
        if {len(array) for array in arrays.values()} != {spec.n_examples}:
            raise ValueError(f"its arrays are not of {spec.n_examples} images")
        index = np.arange(spec.n_examples)
        chunks = []
        for first, own in zip(range(0, len(index), CHUNK), facts["chunks"], strict=True):
            rows = slice(first, first + CHUNK)
            parts = {name: array[rows] for name, array in arrays.items()}
            chunks.append(Chunk.of(facts["common"] | own, {"index": index[rows], **parts}))
        return cls(eval_id, spec, tuple(chunks))

    def entry(self) -> Entry | None:
        """Return a finished evaluation as it is stored; None if it cannot be, or is unfinished.

        What all chunks agree on is stored once, and no index, which the specification implies.
        """
        stored = [chunk.entry() for chunk in self.chunks]
        names = {tuple(arrays) for _, arrays in stored}
        if [chunk.index.tolist() for chunk in self.chunks] != self.spec.chunks() or len(names) > 1:
            return None
        first = stored[0].facts
        common = {k: v for k, v in first.items() if all(facts[k] == v for facts, _ in stored)}
        own = [{k: v for k, v in facts.items() if k not in common} for facts, _ in stored]
        joined = {
            name: np.concatenate([arrays[name] for _, arrays in stored])
            for name in names.pop()
            if name != "index"
        }
        return Entry({"spec": self.spec.to_dict(), "common": common, "chunks": own}, joined)

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
            alarm = Indicator(SQUARE_CHECK, share, limit, self.n_examples).alarm
            worst[SQUARE_CHECK] |= {"value": share, "threshold": limit, "alarm": alarm}
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


def load_chunk(path: Path) -> Chunk:
    """Return the chunk in `path` (JSON) and the .npz file next to it.

    Raises RecordError if either is missing or damaged, or if they do not match.
    """
    try:
        return Chunk.of(*read_pair(path))
    except DAMAGE as error:
        raise RecordError(f"{path} is damaged: {one_line(error)}") from None
