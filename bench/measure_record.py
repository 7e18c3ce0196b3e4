"""Records of measures: masking checks, margins, landscapes. No torch.

<measure_id>.json has the specification and the numbers, <measure_id>.npz the arrays, if any.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import RecordError
from bench.spec import MeasureSpec
from bench.storage import paired_arrays, read_json, write_pair


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The outcome of one measure."""

    values: Mapping[str, Any]
    """Plain JSON: numbers, texts, lists; None for a number that does not exist."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MeasureRecord:
    """One measure on one checkpoint: specification and outcome."""

    path: Path
    spec: MeasureSpec
    values: Mapping[str, Any]
    seconds: float
    info: Mapping[str, Any]
    """Versions and hardware."""
    npz_sha256: str | None
    """Hash of the file of arrays; None without arrays."""

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name, read on first use; raises RecordError if they are damaged."""
        return {} if self.npz_sha256 is None else paired_arrays(self.path, self.npz_sha256)


def load_measure(path: Path) -> MeasureRecord:
    facts = read_json(path)
    try:
        return MeasureRecord(
            path=path,
            spec=MeasureSpec(**facts["spec"]),
            values=dict(facts["values"]),
            seconds=float(facts["seconds"]),
            info=facts["info"],
            npz_sha256=facts["npz_sha256"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} is damaged: {error!r}") from None


def write_measure(
    path: Path, spec: MeasureSpec, measured: Measured, seconds: float, info: Mapping[str, Any]
) -> None:
    facts = {
        "spec": spec.to_dict(),
        "values": dict(measured.values),
        "seconds": seconds,
        "info": dict(info),
    }
    write_pair(path, facts, measured.arrays)


def whole(path: Path) -> bool:
    """Whether the measure in `path` exists and is undamaged, arrays included."""
    with suppress(RecordError):
        return path.exists() and load_measure(path).arrays is not None
    return False
