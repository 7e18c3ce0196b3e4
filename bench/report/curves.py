"""Robust accuracy against eps, as numbers: what the figure draws and its .csv holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.records import EvaluationRecord
from bench.report.aggregate import CW, MOST, PGD, Section, by_robustness, evaluations_of
from bench.report.groups import Group
from bench.report.joins import Cell, Flags, clean_flags, mean_accuracy, survivors
from bench.spec import CHECKPOINTS, GIVEN

PANELS = {PGD: "PGD-20", CW: "C&W"}
"""Attacks with a panel of their own, where any run has them, and the panel's title."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Accuracy at one radius; at eps 0 nothing attacks."""

    eps: float
    cell: Cell


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One method under one attack, by rising eps."""

    label: str
    method: str
    attack: str
    checkpoint: str
    points: tuple[Point, ...]


def curves(section: Section) -> list[Curve]:
    """Every method that has the attack at any eps above 0, attack by attack."""
    found = [
        _curve(group, attack, section.setting.norm) for attack in PANELS for group in section.groups
    ]
    return [curve for curve in found if curve is not None]


def drawn(section: Section, found: Sequence[Curve]) -> list[Curve]:
    """Those of the MOST most robust methods: more lines are a tangle."""
    labels = {curve.label for curve in found}
    most = [label for label in by_robustness(section) if label in labels][:MOST]
    return [curve for curve in found if curve.label in most]


def _curve(group: Group, attack: str, norm: str) -> Curve | None:
    """The best checkpoint's curve; the last one's where only that was attacked."""
    for checkpoint in (*CHECKPOINTS, GIVEN):
        runs = [evaluations_of(run, checkpoint, norm) for run in group.runs]
        attacked = [[e for e in run if e.spec.attack == attack] for run in runs]
        radii = sorted({round(e.spec.eps, 9) for run in attacked for e in run if e.spec.eps > 0})
        if not radii:
            continue
        # Runs that were never attacked this way would move only the point at eps 0.
        clean = [clean_flags(run) for run, own in zip(runs, attacked, strict=True) if own]
        points = [_point(0.0, clean), *(_point(eps, _at(attacked, eps)) for eps in radii)]
        return Curve(
            label=group.label,
            method=group.method,
            attack=attack,
            checkpoint=checkpoint,
            points=tuple(point for point in points if point.cell.value is not None),
        )
    return None


def _at(attacked: Sequence[Sequence[EvaluationRecord]], eps: float) -> list[Flags]:
    found = [[e for e in run if round(e.spec.eps, 9) == eps] for run in attacked]
    return [survivors(evaluations) for evaluations in found if evaluations]


def _point(eps: float, seeds: Sequence[Flags]) -> Point:
    return Point(eps=eps, cell=mean_accuracy(seeds))
