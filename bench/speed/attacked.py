"""An attack by us and by another package on the same network and images: seconds and survivors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.attacks import get_attack
from bench.evaluation import evaluate
from bench.speed.counting import Counted
from bench.speed.peers import quietly
from bench.speed.rounds import in_rounds
from bench.speed.row import Row
from bench.speed.setting import Setting
from bench.speed.subject import Subject

Attacked = Callable[[], Tensor]
"""-> (n,) bool: which images survived."""


def evaluated(subject: Subject, attack: str) -> Attacked:
    """A whole `evaluate` with one attack, as a user calls it.

    It also looks at what it is given and checks each adversarial image again.
    """

    def run() -> Tensor:
        s = subject
        return evaluate(s.network, s.x, s.y, s.threat, attacks=(attack,)).survivors[attack]

    return run


def compared(
    what: str,
    setting: Setting,
    subject: Subject,
    ours: Attacked,
    theirs: Attacked | None,
    *,
    reference: str,
    note: str | None = None,
    warm_up: bool = True,
) -> Row:
    """The row of one attack; alone where `theirs` is None."""
    sides = [_Side(run, subject) for run in (ours, theirs) if run is not None]
    other = sides[1] if len(sides) > 1 else None
    with quietly():
        rounds = in_rounds(sides[0], other, setting.n_rounds, setting.device, warm_up=warm_up)
    n, seconds = len(subject.y), rounds.reference_seconds
    searched = get_attack(what).search
    return Row(
        what=what,
        arch=setting.arch,
        precision="fp32" if searched == "network" else searched,
        ours_images_per_second=n / rounds.seconds,
        reference=reference,
        reference_images_per_second=n / seconds if seconds else None,
        ratio=rounds.ratio,
        ratios=rounds.ratios,
        n_rounds=setting.n_rounds,
        image_size=setting.image_size,
        n_images=n,
        passes=sides[0].counted.passes,
        reference_passes=other.counted.passes if other else None,
        robust_share=sides[0].share,
        reference_robust_share=other.share if other else None,
        n_apart=int((sides[0].survived != other.survived).sum()) if other else None,
        note=note,
    )


class _Side:
    """One side's attack; it keeps who survived last."""

    def __init__(self, run: Attacked, subject: Subject) -> None:
        self.run = run
        self.counted = Counted(self._attack, subject.network, len(subject.y))
        self.survived = torch.zeros(0, dtype=torch.bool)

    def __call__(self) -> None:
        self.counted()

    def _attack(self) -> None:
        self.survived = self.run().cpu()

    @property
    def share(self) -> float:
        return float(self.survived.float().mean())
