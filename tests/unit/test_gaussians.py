"""Figure 1's points: where they lie, and what radii on either side of their margin do."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from bench.archs.weights import read_weights
from bench.cli import main
from bench.data import Split, load_dataset
from bench.data.loader import loader
from bench.papers.cat.gaussians import MARGIN, MEANS, SPREADS, UNIT, load_two_gaussians, to_points
from bench.records import RunRecord, load_records
from bench.records.spec import TrainSpec
from bench.training.engine import initial_model


def points(part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(n, 2) in their own units, (n,)."""
    split = getattr(load_two_gaussians(), part)
    assert isinstance(split, Split)
    return to_points(split.x).reshape(-1, 2), split.y


@pytest.mark.parametrize(("part", "n"), [("train", 500), ("test", 1000)])
def test_a_line_separates_the_classes_with_the_margin(part: str, n: int) -> None:
    x, y = points(part)
    assert x.shape == (n, 2)
    distance = np.where(y == 0, -1, 1) * x[:, 0]
    for label in (0, 1):
        assert (y == label).sum() == n // 2
        assert MARGIN <= distance[y == label].min() < MARGIN + 0.1


@pytest.mark.parametrize("label", [0, 1])
def test_the_classes_are_gaussians_cut_off_at_the_margin(label: int) -> None:
    x, y = points("test")
    x, spread = x[y == label], SPREADS[label]
    normal, side = NormalDist(), 1 if label else -1
    edge = (MARGIN - side * MEANS[label]) / spread
    mean = MEANS[label] + side * spread * normal.pdf(edge) / (1 - normal.cdf(edge))
    error = spread / len(x) ** 0.5
    assert abs(x[:, 0].mean() - mean) < 4 * error
    assert abs(x[:, 1].mean()) < 4 * error
    assert abs(x[:, 1].std() / spread - 1) < 0.15
    within = (np.abs(x[:, 1]) < spread).mean()
    assert abs(within - (normal.cdf(1) - normal.cdf(-1))) < 0.1


def test_the_box_never_binds_and_nothing_is_rounded() -> None:
    data = load_dataset("two-gaussians")
    assert (data.in_channels, data.image_size, data.num_classes) == (2, 1, 2)
    assert (len(data.train), len(data.val), len(data.test)) == (450, 50, 1000)
    for split in (data.train, data.val, data.test):
        assert isinstance(split, Split)
        index = torch.arange(len(split))
        x = loader(split, data.scale, "cpu").images(index)
        assert x.shape == (len(split), 2, 1, 1)
        assert torch.equal(x.flatten(1), torch.from_numpy(split.x.reshape(-1, 2)))
        assert x.min() > 4 / UNIT
        assert x.max() < 1 - 4 / UNIT
        grid = to_points(split.x) * 1024
        assert np.array_equal(grid, np.round(grid))


def test_the_points_are_pinned() -> None:
    """Other points would be another data set under the same name."""
    source = load_two_gaussians()
    assert source.train.sha256 == "ac3b40d111e03e7fd656d0816a74898b1ecb6eb02b61ba39ddfd82f21253f2e9"
    assert source.test.sha256 == "73e12ffd994ffe0c0268027c7e3842045d29f966324b5658eeb67ad8f8462f04"


def run(results: Path, *arguments: str) -> tuple[int, str]:
    fixed = ["--results", str(results), "--dataset", "two-gaussians", "--arch", "linear"]
    result = CliRunner().invoke(main, ["run", *fixed, *arguments, "--quiet", "--device", "cpu"])
    return result.exit_code, result.stderr


def crossing(record: RunRecord) -> float:
    """x_0 where the learnt line meets the axis x_1 = 0."""
    weights = read_weights(record.path / "last.safetensors")
    slope, bias = weights["fc.weight"], weights["fc.bias"]
    return float((bias[0] - bias[1]) / (slope[1, 0] - slope[0, 0]))


@pytest.mark.slow
def test_a_radius_beyond_the_margin_moves_the_line_off_the_classes(tmp_path: Path) -> None:
    for methods, eps, epochs in (("natural,madry,cat-ce", "1/64", "12"), ("madry", "4/64", "50")):
        results = tmp_path / eps[0]
        asked = ["--methods", methods, "--attacks", "pgd-20", "--eps", eps, "--epochs", epochs]
        code, errors = run(results, *asked)
        assert code == 0, errors
    one = {record.method: record for record in load_records(tmp_path / "1")}
    assert set(one) == {"natural", "madry", "cat-ce"}
    for record in one.values():
        assert {e.spec.checkpoint for e in record.evaluations} == {"best", "last"}
        assert all(e.clean.all() for e in record.evaluations)
    assert all(e.survived.mean() > 0.99 for e in one["madry"].evaluations)
    assert abs(crossing(one["madry"])) < 0.3
    (four,) = load_records(tmp_path / "4")
    assert crossing(four) < -1.5
    (last,) = (e for e in four.evaluations if e.spec.checkpoint == "last")
    assert last.clean.mean() < 0.97
    accuracies = last.class_accuracies(clean=True)
    assert accuracies is not None
    assert accuracies[1] == 1.0 > accuracies[0]


def test_the_network_works_in_the_points_own_units(tmp_path: Path) -> None:
    code, errors = run(tmp_path, "--methods", "natural", "--attacks", "clean", "--epochs", "1")
    assert code == 0, errors
    (record,) = load_records(tmp_path)
    model = initial_model(TrainSpec.from_dict(record.spec))
    x = torch.tensor([[1.75, -3.0]])
    pixels = ((x + 32) / 64).view(1, 2, 1, 1)
    assert torch.equal(model(pixels), model.first_layer(x))
