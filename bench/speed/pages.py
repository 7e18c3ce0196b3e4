"""What `bench speed --profile`, `--roofline` and `--scaling` measure and write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from bench.errors import ConfigError, unknown_name
from bench.progress import Reporter
from bench.registry import get_method
from bench.report.published import REFERENCE
from bench.spec import PRECISIONS
from bench.speed.plan import STEP
from bench.speed.profile_figure import LEGEND, profile_tables, write_profiles
from bench.speed.profiling import measure_profiles
from bench.speed.roofline import measure_roofline
from bench.speed.roofline_figure import write_roofline
from bench.speed.scaling import measure_scaling
from bench.speed.scaling_figure import write_scaling
from bench.speed.setting import Setting
from bench.storage import check_writable

BATCH = 32
"""Images of the roofline where nothing else is asked for."""


def profile_into(
    folder: Path, only: Sequence[str], settings: Sequence[Setting], reporter: Reporter, command: str
) -> str:
    """Measure the steps that `only` names, Madry AT's where it names none; write, and show.

    Raises ConfigError for an attack, of which there is no profile, or an unknown method.
    """
    for name in only:
        if not name.startswith(STEP):
            raise ConfigError(f"'{name}' is no step, and a profile is of steps: {STEP}{REFERENCE}")
    methods = [name.removeprefix(STEP) for name in dict.fromkeys(only)] or [REFERENCE]
    for method in methods:
        get_method(method)
    check_writable(folder / "profile.json")
    found = measure_profiles(methods, settings, reporter, command)
    record = write_profiles(found, folder)
    return f"{profile_tables(found)}\n\n{LEGEND}\n\nThe profile is in {record}"


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
    check_writable(folder / "roofline.json")
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
    check_writable(folder / "scaling.json")
    found = measure_scaling(device, reporter, precision=precision)
    return f"The measurements are in {write_scaling(found, folder, command)}"
