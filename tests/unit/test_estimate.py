"""The one estimator of time: what it measures, what it scales, and what --dry-run says of it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import estimate
from bench.estimate import Estimator, SecondsPerImage, describe_plan, made_spec
from bench.plan import make_plan
from bench.progress import Reporter
from bench.registry import get_method
from bench.spec import TrainSpec
from bench.suite import load_suite

CPU = torch.device("cpu")


def test_each_method_on_each_network_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = replace(load_suite("digits").only(), methods=("madry",), seeds=(0,), checks=None)
    plan = make_plan(replace(study, attacks=study.attacks[:1]))
    (cell,) = plan.cells
    other = replace(cell, spec=replace(cell.spec, arch="linear"))
    measured = []

    def measure(spec: TrainSpec, *_: object) -> SecondsPerImage:
        measured.append(spec.arch)
        return SecondsPerImage(1.0, 0.0, 0.0)

    monkeypatch.setattr(estimate, "_measure", measure)
    with Reporter(quiet=True) as reporter:
        both = replace(plan, cells=(cell, other, replace(cell, spec=replace(cell.spec, seed=1))))
        text = describe_plan(both, tmp_path, CPU, reporter)
    assert measured == ["cnn", "linear"]
    assert "masking checks and other measures come on top" in text


def test_time_is_linear_in_epochs_and_images() -> None:
    seconds = SecondsPerImage(2.0, 0.0, 0.0)
    spec = made_spec("madry", "cnn", 10)
    twice = replace(spec, n_train=20)
    longer = replace(spec, recipe=replace(spec.recipe, epochs=3 * spec.recipe.epochs))
    assert seconds.training(spec) == 2.0 * 10 * spec.recipe.epochs
    assert seconds.training(twice) == 2 * seconds.training(spec)
    assert seconds.training(longer) == 3 * seconds.training(spec)


def test_a_real_step_is_measured_and_another_method_scaled_when_time_is_up() -> None:
    spec = made_spec("madry", "cnn", 4, image_size=8)
    estimator = Estimator(CPU)
    madry, trades = get_method("madry"), get_method("trades")
    measured = estimator.per_image(spec, madry)
    assert measured is not None
    assert measured.train_step > measured.gradient > 0 < measured.forward
    estimator.deadline = time.monotonic() - 1
    scaled = estimator.per_image(replace(spec, method="trades"), trades)
    assert scaled is not None
    # TRADES: 13 forward and 12 backward passes per image; Madry AT: 11 and 11
    assert scaled.train_step == pytest.approx(measured.train_step * 25 / 22)
    assert scaled.gradient == measured.gradient
    assert estimator.per_image(replace(spec, arch="linear"), madry) is None
