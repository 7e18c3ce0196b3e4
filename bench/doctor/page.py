"""What `bench doctor` prints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.doctor.floors import Floors
from bench.doctor.hardware import hardware
from bench.doctor.recorded import FOLDER, machine_name, recorded_steps
from bench.doctor.software import missing, software
from bench.doctor.speeds import largest_share, speeds, table
from bench.doctor.suite import Needed, at_a_record, at_the_floor, cells_of, needed
from bench.listing import aligned
from bench.machine import describe_machine, has_fast_bf16
from bench.plan import Cell
from bench.precision import automatic, evidence
from bench.progress import Reporter, duration
from bench.report.published import REFERENCE
from bench.suite import Suite


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command was given."""

    device: torch.device
    seconds: float
    """For measuring; 0 measures nothing."""
    data_root: Path
    results: Path
    suite: Suite | None = None


def diagnosis(asked: Asked, reporter: Reporter) -> str:
    """The whole page; a suite's networks are measured first, since time is short."""
    floors = Floors(asked.device, time.monotonic() + asked.seconds)
    precision, _ = automatic(has_fast_bf16(asked.device), evidence())  # as `bench run` takes it
    cells = cells_of(asked.suite, str(asked.data_root), precision) if asked.suite else ()
    here = needed(cells, at_the_floor(floors))
    found = speeds(floors, reporter)
    lacking = missing(asked.data_root)
    sections = [
        ("This machine", aligned(hardware(asked.device))),
        ("Builds", aligned(software())),
        ("Missing", "\n".join(f"{what}\n  -> {do}" for what, do in lacking) or "nothing"),
        (f"Speed to expect on {asked.device}", table(found)),
    ]
    if asked.suite:
        title = f"Suite {asked.suite.name}, size {asked.suite.size}"
        sections.append((title, _suite(asked, cells, here, largest_share(found))))
    return "\n\n".join(f"{title}\n{_indented(text)}" for title, text in sections)


def _suite(
    asked: Asked, cells: Sequence[Cell], here: Needed, share: tuple[str, float] | None
) -> str:
    n_attacks = sum(len(cell.evaluations) for cell in cells)
    least = f"{here}: convolutions alone, a share of 100%"
    unmeasured = f"not measured: no time was left for {', '.join(here.unknown)} (--seconds)"
    rows = [("here, at least", least if here.total else unmeasured)]
    if share and here.total:
        arch, reached = share
        about = f"{duration(here.total / reached)}, at the {reached:.0%} that {arch} reaches above"
        rows.append(("here, about", about))
    return "\n".join(
        [
            f"{len(cells)} trainings in {cells[0].spec.precision}, {n_attacks} attacks on their "
            "checkpoints",
            aligned([*rows, *_elsewhere(asked, cells)]),
            "Attacks are counted as if no image broke; masking checks and measures come on top.",
        ]
    )


def _elsewhere(asked: Asked, cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """From the steps that `bench speed` measured, on whatever machine."""
    steps = recorded_steps(asked.results, REFERENCE)
    own = machine_name(describe_machine(asked.device))
    rows = []
    for name in dict.fromkeys(step.device for step in steps):
        found = needed(cells, at_a_record(steps, name))
        known = found if found.total else f"no step of {', '.join(found.unknown)} is on record"
        rows.append((f"on record, {name}{' (this machine)' if name == own else ''}", str(known)))
    if any(name != own for name in (step.device for step in steps)):
        return rows
    return [*rows, ("elsewhere", f"no other machine is on record in {asked.results / FOLDER}")]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
