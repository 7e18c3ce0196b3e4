"""What `bench speed --roofline` and `--scaling` measure and write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from bench.errors import unknown_name
from bench.progress import Reporter
from bench.spec import PRECISIONS
from bench.speed.roofline import measure_roofline
from bench.speed.roofline_figure import write_roofline
from bench.speed.scaling import measure_scaling
from bench.speed.scaling_figure import write_scaling

BATCH = 32
"""Images of the roofline where nothing else is asked for."""


def roofline_into(
    folder: Path,
    archs: Sequence[str],
    device: torch.device,
    reporter: Reporter,
    command: str,
    *,
    batch_size: int | None = None,
    image_size: int = 32,
) -> str:
    """Measure, write, and say where; raises ConfigError for a network that is not known."""
    found = measure_roofline(
        archs, device, reporter, batch=batch_size or BATCH, image_size=image_size
    )
    return f"The roofline is in {write_roofline(found, folder, command)}"


def scaling_into(
    folder: Path, precisions: Sequence[str], device: torch.device, reporter: Reporter, command: str
) -> str:
    """Measure in the first precision, fp32 where none is named; write, and say where.

    Raises ConfigError for a precision that is not known.
    """
    precision = precisions[0] if precisions else "fp32"
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    found = measure_scaling(device, reporter, precision=precision)
    return f"The measurements are in {write_scaling(found, folder, command)}"
