"""Records of measures: masking checks, margins, landscapes. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import RecordError, one_line
from bench.records.spec import MeasureSpec
from bench.storage import DAMAGE, Entry, pair_files, read_pair


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The outcome of one measure."""

    values: Mapping[str, Any]
    """Plain JSON: numbers, texts, lists; None for a number that does not exist."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MeasureRecord:
    """One measure on one checkpoint: specification and outcome."""

    measure_id: str
    spec: MeasureSpec
    values: Mapping[str, Any]
    seconds: float
    info: Mapping[str, Any]
    """Versions and hardware."""
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, measure_id: str, entry: Entry) -> MeasureRecord:
        """Read what `entry` wrote; raises one of DAMAGE for anything else."""
        facts = dict(entry.facts)
        spec, seconds = MeasureSpec(**facts.pop("spec")), float(facts.pop("seconds"))
        return cls(measure_id=measure_id, spec=spec, seconds=seconds, arrays=entry.arrays, **facts)

    def entry(self) -> Entry:
        """Return the measure as it is stored."""
        facts = {
            "spec": self.spec.to_dict(),
            "values": self.values,
            "seconds": self.seconds,
            "info": self.info,
        }
        return Entry(facts, self.arrays)


def load_measure(path: Path) -> MeasureRecord:
    """Read a measure that is not in its checkpoint's archive yet; raises RecordError."""
    try:
        return MeasureRecord.of(path.stem, read_pair(path))
    except DAMAGE as error:
        raise RecordError(f"{path} is damaged: {one_line(error)}") from None


def measure_files(
    spec: MeasureSpec, measured: Measured, seconds: float, info: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return the files of a measure, below the run's folder, in the order to write them."""
    record = MeasureRecord(
        measure_id=spec.measure_id, spec=spec, values=measured.values, seconds=seconds, info=info,
        arrays=measured.arrays,
    )  # fmt: skip
    return pair_files(f"measures/{spec.measure_id}", record.entry())
