"""What `bench speed` measures, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from bench.attacks import get_attack
from bench.errors import unknown_name
from bench.machine import has_fast_bf16
from bench.progress import Reporter
from bench.registry import list_methods
from bench.speed.autoattack import autoattack_rows
from bench.speed.pgd import pgd_rows
from bench.speed.row import Row
from bench.speed.setting import Setting
from bench.speed.steps import step_row

STEP = "step-"
PGD_EVALUATIONS = ("pgd-20", "pgd-20-fast", "pgd-20-fast-fp32")
AUTOATTACKS = ("autoattack", "autoattack-fast", "autoattack-fast-fp32")
Measure = Callable[[Setting], Iterable[Row]]


@dataclass(frozen=True)
class Job:
    """One name on one setting."""

    name: str
    setting: Setting
    measure: Measure

    def __str__(self) -> str:
        return f"{self.name} {self.setting.arch} {self.setting.precision}"


def measures() -> dict[str, Measure]:
    """All that can be asked for: the step of each method, then the attacks that there are."""
    found: dict[str, Measure] = {STEP + name: partial(_step, name) for name in list_methods()}
    found |= {name: partial(pgd_rows, name) for name in PGD_EVALUATIONS}
    found |= {name: partial(autoattack_rows, name) for name in AUTOATTACKS}
    return found


def make_jobs(only: Sequence[str], settings: Sequence[Setting]) -> list[Job]:
    """The jobs of these names on each setting; an attack once a network, whatever the precisions.

    No names: all but what searches in a bf16 that the device emulates.
    Raises ConfigError for a name that is not known.
    """
    known = measures()
    for name in only:
        if name not in known:
            raise unknown_name("measurement", name, known)
    jobs = []
    archs_seen: set[str] = set()
    for setting in settings:
        first = setting.arch not in archs_seen
        archs_seen.add(setting.arch)
        for name in dict.fromkeys(only) or _suitable(known, setting.device):
            if name.startswith(STEP):
                jobs.append(Job(name, setting, known[name]))
            elif first:
                jobs.append(Job(name, replace(setting, precision="fp32"), known[name]))
    return jobs


def _suitable(names: Iterable[str], device: torch.device) -> list[str]:
    fast = has_fast_bf16(device)
    return [n for n in names if n.startswith(STEP) or fast or get_attack(n).search != "bf16"]


def rows_of(jobs: Sequence[Job], reporter: Reporter) -> Iterator[Row]:
    """Measure them one after the other."""
    with reporter.task("measuring", len(jobs)) as task:
        for job in jobs:
            task.advance(0, str(job))
            yield from job.measure(job.setting)
            task.advance()


def _step(method: str, setting: Setting) -> Iterator[Row]:
    yield step_row(method, setting)
