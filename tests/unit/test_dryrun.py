"""The estimate of --dry-run: each network is measured for itself; what is left out is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import dryrun
from bench.dryrun import describe_plan
from bench.estimate import Speed
from bench.plan import make_plan
from bench.progress import Reporter
from bench.suite import load_suite


def test_the_same_method_on_another_network_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = replace(load_suite("digits").only(), methods=("madry",), checks=None)
    plan = make_plan(replace(study, attacks=study.attacks[:1]))
    (cell,) = plan.cells
    other = replace(cell, spec=replace(cell.spec, arch="linear"))
    measured = []

    def measure(cell: Any, *_: Any) -> Speed:
        measured.append(cell.spec.arch)
        return Speed(1.0, 0.0, 0.0)

    monkeypatch.setattr(dryrun, "measure", measure)
    with Reporter(quiet=True) as reporter:
        both = replace(plan, cells=(cell, other, replace(cell, spec=replace(cell.spec, seed=1))))
        text = describe_plan(both, tmp_path, torch.device("cpu"), reporter)
    assert measured == ["cnn", "linear"]
    assert "masking checks and other measures come on top" in text
