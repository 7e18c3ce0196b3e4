"""Speeds on record: what `bench speed` measured, here or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.storage import read_json
from bench.training.passes import Passes

FOLDER = "speed"
"""Below the folder of results."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A training step on one machine."""

    device: str
    """A GPU's name, or the processor with its threads."""
    arch: str
    precision: str
    image_size: int
    images_per_second: float
    passes: Passes

    @property
    def seconds_per_pass(self) -> float:
        """An image, forward or back."""
        return 1 / self.images_per_second / (self.passes.forward + self.passes.backward)


def recorded_steps(results: Path, method: str) -> list[Recorded]:
    """Steps of that method on record below `results`; raises RecordError for a damaged file."""
    found = []
    for path in sorted((results / FOLDER).glob("*.json")):
        rows = read_json(path)
        found += [_step(row) for row in rows if _is_step(row, method)] if _is_list(rows) else []
    return found


def machine_name(machine: Mapping[str, Any]) -> str:
    """As it is told apart from others."""
    if machine["device"] != "cpu":
        return str(machine["device"])
    threads = machine["threads"]
    return f"{machine['processor']}, {threads} thread{'' if threads == 1 else 's'}"


def _is_list(rows: object) -> bool:
    """Other records in that folder, such as a roofline, are no lists of rows."""
    return isinstance(rows, list)


def _is_step(row: Mapping[str, Any], method: str) -> bool:
    return row["what"] == f"step-{method}" and bool(row["passes"])


def _step(row: Mapping[str, Any]) -> Recorded:
    return Recorded(
        device=machine_name(row["machine"]),
        arch=row["arch"],
        precision=row["precision"],
        image_size=row["image_size"],
        images_per_second=row["ours_images_per_second"],
        passes=Passes(**row["passes"]),
    )
