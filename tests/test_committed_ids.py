"""Committed records keep their ids: a field's default or the hash must never change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.records.load import Damage, load_evaluations, load_measures
from bench.records.spec import EvalSpec, MeasureSpec, ModelSpec, Recipe, TrainSpec
from bench.storage import read_json

RESULTS = Path(__file__).parent.parent / "results"
FOLDERS = [RESULTS / name for name in ("digits", "smoke", "precision")]


def _computed_ids(run: Path) -> Iterator[tuple[str, str]]:
    """Yield the stored and the computed id of a run, its evaluations and its measures."""
    head = read_json(run / "spec.json")
    spec: dict[str, Any] = head["spec"]
    computed = (TrainSpec.from_dict(spec) if head["kind"] == "train" else ModelSpec(**spec)).run_id
    yield run.name, computed
    yield head["run_id"], computed
    damaged: list[Damage] = []
    for evaluation in load_evaluations(run, damaged):
        yield evaluation.eval_id, evaluation.spec.eval_id
    for measure in load_measures(run, damaged):
        yield measure.measure_id, measure.spec.measure_id
    assert damaged == []


@pytest.mark.parametrize("results", FOLDERS, ids=lambda path: path.name)
def test_every_committed_id_is_reproduced_from_its_spec(results: Path) -> None:
    runs = [path.parent for path in sorted(results.glob("*/spec.json"))]
    assert runs
    ids = [pair for run in runs for pair in _computed_ids(run)]
    assert [stored for stored, _ in ids] == [computed for _, computed in ids]


# A committed spec states every value, so a changed default does not show in the test above;
# these specs state only what has no default.
TRAIN = TrainSpec(
    method="madry", params={}, arch="cnn", dataset="digits", data_sha256="ab", num_classes=10,
    in_channels=1, image_size=8, n_train=90, n_val=10, eps=0.2, seed=0,
    recipe=Recipe(epochs=2, batch_size=8, lr=0.1), recipe_name="common",
)  # fmt: skip
IMAGES: dict[str, Any] = {"eps": 0.2, "n_examples": 600, "data_sha256": "cd"}


def test_the_defaults_of_a_spec_are_those_of_the_first_records() -> None:
    assert (TRAIN.run_id, TRAIN.attacked_eps) == ("madry-cnn-digits-s0-8cf339bcc1", 0.2)
    evaluation = EvalSpec(checkpoint="best", attack="pgd-20", **IMAGES)
    assert evaluation.eval_id == "pgd-20-best-test600-eps0.2000-73df72c1"
    measure = MeasureSpec(checkpoint="best", name="C1", **IMAGES)
    assert measure.measure_id == "C1-best-test600-eps0.2000-0bc08085"
    model = ModelSpec(
        model="a.py:make", weights_sha256="1", source_sha256="2", num_classes=10, dataset="digits"
    )
    assert model.run_id == "model-a.py-make-9afd4bd153"
