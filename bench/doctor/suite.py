"""What a suite takes, from its own numbers: images, epochs, counted passes. No data are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bench.doctor.floors import Floors
from bench.doctor.recorded import Recorded
from bench.doctor.standin import stand_in
from bench.estimate import Speed
from bench.plan import Cell, make_plan
from bench.progress import duration
from bench.suite import Suite
from bench.training.passes import passes

PerImage = Callable[[Cell], Speed | None]
"""Seconds an image of a cell's steps and attacks; None where they are not known."""


@dataclass(frozen=True, kw_only=True)
class Needed:
    """Seconds of a whole suite."""

    training: float
    attacks: float
    unknown: tuple[str, ...]
    """Networks whose cells are left out."""

    @property
    def total(self) -> float:
        """Of what is known."""
        return self.training + self.attacks

    def __str__(self) -> str:
        parts = f"{duration(self.training)} training, {duration(self.attacks)} attacks"
        left_out = f"; without {', '.join(self.unknown)}" if self.unknown else ""
        return f"{duration(self.total)} ({parts}{left_out})"


def cells_of(
    suite: Suite, data_root: str | None = None, precision: str = "fp32"
) -> tuple[Cell, ...]:
    """Every training of a suite once, in that precision, with all that is asked of it."""
    cells: dict[str, Cell] = {}
    for study in suite.studies:
        dataset = stand_in(study.dataset, data_root, study.train_size, study.test_size)
        for cell in make_plan(replace(study, precision=precision), dataset).cells:
            run_id = cell.spec.run_id
            cells[run_id] = cells[run_id].joined(cell) if run_id in cells else cell
    return tuple(cells.values())


def needed(cells: Iterable[Cell], per_image: PerImage) -> Needed:
    """Trainings from the beginning, and attacks as if every image survived them."""
    training = attacks = 0.0
    unknown = []
    for cell in cells:
        speed = per_image(cell)
        if speed is None:
            unknown.append(cell.spec.arch)
            continue
        training += speed.training(cell)
        attacks += sum(speed.evaluation(spec) for spec in cell.evaluations)
    return Needed(training=training, attacks=attacks, unknown=tuple(dict.fromkeys(unknown)))


def at_the_floor(floors: Floors) -> PerImage:
    """Convolutions alone, at the fastest that was measured here: nothing is faster."""

    def speed(cell: Cell) -> Speed | None:
        spec = cell.spec
        shape = (spec.arch, spec.image_size, spec.in_channels)
        floor, attacked = floors.of(*shape, spec.precision), floors.of(*shape, "fp32")
        if floor is None or attacked is None or cell.method is None:
            return None
        step = floor.step(passes(cell.method))
        return Speed(step, attacked.forward + attacked.gradient, attacked.forward)

    return speed


def at_a_record(rows: Sequence[Recorded], device: str) -> PerImage:
    """A measured step of another machine, in proportion to the passes."""
    known = {
        (row.arch, row.image_size, row.precision): row.seconds_per_pass
        for row in rows
        if row.device == device
    }

    def speed(cell: Cell) -> Speed | None:
        spec = cell.spec
        shape = (spec.arch, spec.image_size)
        step, attack = known.get((*shape, spec.precision)), known.get((*shape, "fp32"))
        if step is None or attack is None or cell.method is None:
            return None
        count = passes(cell.method)
        return Speed(step * (count.forward + count.backward), 2 * attack, attack)

    return speed
