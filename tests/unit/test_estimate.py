"""The one estimator of time: what it measures, what it scales, and what --dry-run says of it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import estimate
from bench.estimate import (
    Estimator,
    Forecast,
    SecondsPerImage,
    attack_effort,
    describe_plan,
    made_spec,
    training_effort,
)
from bench.experiments.plan import make_plan
from bench.experiments.suite import load_suite
from bench.progress import Reporter
from bench.records.spec import EvalSpec, TrainSpec
from bench.registry import get_method

CPU = torch.device("cpu")


def test_each_method_on_each_network_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = replace(load_suite("digits").only(), methods=("madry",), seeds=(0,), checks=None)
    plan = make_plan(replace(study, attacks=study.attacks[:1]))
    (run,) = plan.runs
    other = replace(run, spec=replace(run.train_spec, arch="linear"))
    measured = []

    def measure(spec: TrainSpec, *_: object) -> SecondsPerImage:
        measured.append(spec.arch)
        return SecondsPerImage(1.0, 0.0, 0.0)

    monkeypatch.setattr(estimate, "_measure", measure)
    with Reporter(quiet=True) as reporter:
        both = replace(plan, runs=(run, other, replace(run, spec=replace(run.train_spec, seed=1))))
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


def test_what_is_left_is_scaled_from_the_most_similar_jobs() -> None:
    forecast = Forecast()
    pgd, cw = ("cnn", "attack", "pgd-20"), ("cnn", "attack", "cw")
    assert forecast.seconds(pgd, 1.0) is None
    forecast.add(pgd, effort=100.0, seconds=10.0)
    assert forecast.seconds(pgd, 50.0) == pytest.approx(5.0)
    assert forecast.seconds(cw, 50.0) == pytest.approx(5.0)
    forecast.add(("cnn", "training", "madry"), effort=100.0, seconds=30.0)
    assert forecast.seconds(cw, 50.0) == pytest.approx(5.0)  # like another attack
    assert forecast.seconds(("cnn", "measure", "C1"), 50.0) == pytest.approx(10.0)
    assert forecast.seconds(("wrn-34-10", "attack", "cw"), 50.0) == pytest.approx(10.0)


def test_longer_jobs_count_more() -> None:
    spec = made_spec("madry", "cnn", 10)
    longer = replace(spec, recipe=replace(spec.recipe, epochs=2 * spec.recipe.epochs))
    assert training_effort(longer) == 2 * training_effort(spec)
    assert training_effort(replace(spec, arch="wrn-34-10")) > 100 * training_effort(spec)
    pgd = EvalSpec(checkpoint="best", attack="pgd-20", eps=0.1, n_examples=9, data_sha256="")
    few, strong = attack_effort(spec, pgd, 9), attack_effort(spec, replace(pgd, attack="cw"), 9)
    assert attack_effort(spec, pgd, 18) == 2 * few
    assert strong == few  # twenty steps both
    assert attack_effort(spec, replace(pgd, attack="autoattack"), 9) > 10 * few
